"""Steers requests with a real HAProxy, through the runtime socket that it already has.

Reads what HAProxy holds, sends only what differs, and reports what was refused as sentences. It
decides no weight, never edits HAProxy's configuration, and never undoes an operator's `maint`.

HAProxy itself keeps a weight and a `maxconn` for ever, and forgets what was configured: a steering
process that dies leaves them, and the next one sets what its own file says. Where that matters,
give the servers an agent-check (`agent-check agent-port P agent-inter 1s`) whose answer, `up 50%`
or `drain`, stops counting when nobody answers any more.
"""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from facility.config import HaproxyConfig
from facility.crosscheck import ROUTER_NAME
from facility.wire import EndpointRoute, Routing

COMMAND_BYTES_MAX: Final = 8_192
"""Longest batch in one line; HAProxy reads 16 kB by default."""
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""Largest answer accepted: the state of about 30,000 servers."""
COARSE_RATIO: Final = 0.05
"""How far a weight may be off what was asked before it is worth a sentence."""

_FORCED_MAINT: Final = 0x01  # srv_admin_state bits, HAProxy's server-t.h
_FORCED_DRAIN: Final = 0x08
_STAT_SERVERS: Final = 4  # `show stat` of servers alone, HAProxy's management guide 9.3


class _Refused(Exception):
    """HAProxy did not answer, or answered no; the text is the sentence for the operator."""


@dataclass(frozen=True, slots=True)
class _Server:
    """A server as HAProxy holds it: its weight now, as configured, and its forced states.

    `requests_max` is its `maxconn`, 0 for no limit; None where nobody wants to know.
    """

    weight: int
    weight_configured: int
    maint: bool
    drain: bool
    requests_max: int | None = None

    def percent_for(self, route: EndpointRoute) -> int:
        """The share to ask for. HAProxy cuts the product down, and a live share must not be 0."""
        percent = round(100 * route.weight_ratio)
        if route.weight_ratio > 0.0 and self.weight_configured * percent < 100:
            return -(-100 // max(self.weight_configured, 1))
        return percent

    def weight_for(self, percent: int) -> int:
        """What HAProxy makes of a share of the configured weight."""
        return self.weight_configured * percent // 100


class HaproxyRouter:
    """Weights, drains and batch limits of one HAProxy; a `RouterPort`.

    Every call reads the state of the backend first. Hence nothing is sent twice, and an HAProxy
    that restarted with the weights of its configuration is corrected by the next call.
    """

    def __init__(self, config: HaproxyConfig, *, timeout_s: float = 1.0) -> None:
        """Remember where HAProxy listens; nothing is opened before the first call."""
        self._socket = config.socket
        self._backends = dict(config.backends)
        self._requests_max = dict(config.requests_per_server_max)
        self._timeout_s = timeout_s
        self._steered: dict[str, Routing] = {}
        self._busy = asyncio.Lock()

    async def apply(self, routing: Routing) -> Sequence[str]:
        """Set weights, drains and limits; a service without a backend here is left to others.

        Servers that the routing does not name are left alone, and so is `maxconn` where no
        `requests_per_server_max` says what it should be.

        Returns:
            One sentence per endpoint that refused, or one for all when HAProxy cannot be reached.
        """
        if routing.service not in self._backends:
            return ()
        async with self._busy:
            self._steered[routing.service] = routing
            return await self._steer(routing.service, routing.endpoints)

    async def expire(self, now_s: float) -> Sequence[str]:
        """Give equal weights and full batches back where a routing ended by `now_s` unrenewed.

        `now_s` is on the clock of `Routing.at_s`. What could not be given back is tried again on
        the next call.
        """
        complaints: list[str] = []
        async with self._busy:
            for service, routing in list(self._steered.items()):
                if now_s < routing.at_s + routing.valid_s:
                    continue
                equal = [
                    EndpointRoute(endpoint=route.endpoint, weight_ratio=1.0)
                    for route in routing.endpoints
                ]
                refused = await self._steer(service, equal)
                complaints += refused
                if not refused:
                    del self._steered[service]
        return complaints

    async def close(self) -> None:
        """Let go: no connection is kept between calls. What was steered decays by `expire`."""
        self._steered.clear()

    async def _steer(self, service: str, routes: Sequence[EndpointRoute]) -> list[str]:
        backend, normal = self._backends[service], self._requests_max.get(service)
        try:
            servers = await self._state(backend)
            if normal is not None:
                servers = await self._with_limits(backend, servers)
        except _Refused as refused:
            return [str(refused)]
        complaints: list[str] = []
        commands: list[tuple[str, str]] = []
        for route in routes:
            server = servers.get(route.endpoint)
            if server is None:
                complaints.append(_no_server(backend, route.endpoint, servers))
                continue
            changes = _changes(backend, route, server) + _limit(backend, route, server, normal)
            commands += [(route.endpoint, text) for text in changes]
            complaints += _coarse(backend, route, server)
        for batch in _batches(commands):
            complaints += await self._send(backend, batch)
        return complaints

    async def _state(self, backend: str) -> dict[str, _Server]:
        if not ROUTER_NAME.fullmatch(backend):
            raise _Refused(f"backend {backend!r} is no HAProxy name, so nothing was sent")
        answer = await self._ask(f"show servers state {backend}")
        lines = answer.splitlines()
        if len(lines) < 2 or not lines[1].startswith("# "):
            said = answer.strip() or "nothing"
            raise _Refused(f"HAProxy does not show backend {backend!r}; it says: {said[:200]}")
        columns = lines[1][2:].split()
        rows = (dict(zip(columns, line.split(), strict=False)) for line in lines[2:] if line)
        try:
            return {row["srv_name"]: _server(row) for row in rows}
        except (KeyError, ValueError) as error:
            raise _Refused(f"HAProxy's servers state of {backend!r} is unreadable") from error

    async def _with_limits(
        self, backend: str, servers: Mapping[str, _Server]
    ) -> dict[str, _Server]:
        """The servers with their `maxconn`, which only the statistics tell (column `slim`)."""
        answer = await self._ask(f"show stat {backend} {_STAT_SERVERS} -1")
        rows = list(csv.DictReader(answer.removeprefix("# ").splitlines()))
        try:
            limits = {row["svname"]: int(row["slim"] or 0) for row in rows}
            return {
                name: dataclasses.replace(server, requests_max=limits[name])
                for name, server in servers.items()
            }
        except (KeyError, ValueError, TypeError) as error:
            raise _Refused(f"HAProxy's statistics of {backend!r} are unreadable") from error

    async def _send(self, backend: str, batch: Sequence[tuple[str, str]]) -> list[str]:
        try:
            answer = await self._ask(";".join(text for _, text in batch))
        except _Refused as refused:
            return [str(refused)]
        said = _answers(answer, len(batch))
        return [
            f"HAProxy refuses {text!r} for {backend}/{endpoint}: {word}"
            for (endpoint, text), word in zip(batch, said, strict=True)
            if word
        ]

    async def _ask(self, command: str) -> str:
        """One command line on a connection of its own; HAProxy closes it after the answer."""
        where = f"HAProxy's socket {self._socket}"
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(command)
        except TimeoutError as error:
            raise _Refused(f"{where} did not answer within {self._timeout_s:g} s") from error
        except FileNotFoundError as error:
            raise _Refused(f"{where} is not there: is HAProxy running?") from error
        except PermissionError as error:
            raise _Refused(f"no permission to open {where}") from error
        except (OSError, ValueError) as error:
            raise _Refused(f"{where} failed: {error}") from error

    async def _exchange(self, command: str) -> str:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            writer.write(command.encode("ascii") + b"\n")
            await writer.drain()
            answer = b""
            while chunk := await reader.read(65_536):
                answer += chunk
                if len(answer) > ANSWER_BYTES_MAX:
                    raise ValueError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
            return answer.decode("utf-8", "replace")
        finally:
            writer.close()


def _server(row: Mapping[str, str]) -> _Server:
    admin = int(row["srv_admin_state"])
    return _Server(
        weight=int(row["srv_uweight"]),
        weight_configured=int(row["srv_iweight"]),
        maint=bool(admin & _FORCED_MAINT),
        drain=bool(admin & _FORCED_DRAIN),
    )


def _changes(backend: str, route: EndpointRoute, server: _Server) -> list[str]:
    """The commands that bring one server from what it is to what it should be."""
    where = f"set server {backend}/{route.endpoint}"
    percent = server.percent_for(route)
    commands = []
    if server.weight != server.weight_for(percent):
        commands.append(f"{where} weight {percent}%")
    # Any state command would end an operator's maintenance, in which no request comes anyway.
    if route.drain != server.drain and not server.maint:
        commands.append(f"{where} state {'drain' if route.drain else 'ready'}")
    return commands


def _limit(backend: str, route: EndpointRoute, server: _Server, normal: int | None) -> list[str]:
    """The command for the batch, if any. A limit of 0 would be none at all to HAProxy."""
    if normal is None:
        return []
    wanted = max(1, round(normal * route.batch_ratio))
    if server.requests_max == wanted:
        return []
    return [f"set maxconn server {backend}/{route.endpoint} {wanted}"]


def _coarse(backend: str, route: EndpointRoute, server: _Server) -> list[str]:
    if server.weight_configured == 0:
        return []
    got = server.weight_for(server.percent_for(route)) / server.weight_configured
    if abs(got - route.weight_ratio) <= COARSE_RATIO:
        return []
    return [
        f"{backend}/{route.endpoint} has weight {server.weight_configured} in HAProxy's"
        f" configuration, so {route.weight_ratio:.0%} became {got:.0%}: give it weight 100"
    ]


def _no_server(backend: str, name: str, servers: Mapping[str, _Server]) -> str:
    near = difflib.get_close_matches(name, servers, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else f" among its {len(servers)} servers"
    return f"HAProxy's backend {backend!r} has no server {name!r}{guess}"


def _batches(commands: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Commands in order, cut so that each line stays within what HAProxy reads."""
    batches: list[list[tuple[str, str]]] = []
    room = 0
    for command in commands:
        size = len(command[1]) + 1
        if size > room:
            batches.append([])
            room = COMMAND_BYTES_MAX
        batches[-1].append(command)
        room -= size
    return batches


def _answers(answer: str, count: int) -> list[str]:
    """What HAProxy said to each of `count` commands: a lone line end is consent.

    A refusal is text and an empty line. An answer cut short counts as a refusal of the rest.
    """
    said = []
    rest = answer
    for _ in range(count):
        if rest.startswith("\n"):
            said.append("")
            rest = rest[1:]
        else:
            word, _, rest = rest.partition("\n\n")
            said.append(" ".join(word.split())[:200] or "no answer")
    return said
