"""A request to the controllers and the answer that belongs to it.

It sends once and waits; it never repeats a command by itself and never guesses what became of one.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from daemon.exit_codes import EX_UNAVAILABLE
from daemon.operator.place import Place
from daemon.operator.session import Session, Signal
from facility.signing import Signer
from facility.topics import COMMAND, STATE
from facility.wire import Codec, ControllerStatus, Emergency, Request, Response, WireError, encode


class NoAnswer(Exception):
    """The broker is there and no controller answered. Commands exit with `exit_code`."""

    exit_code: Final = EX_UNAVAILABLE


def who(environ: Mapping[str, str] = os.environ) -> str:
    """Who asks, for the audit: user@host, and behind `sudo` the one who called it."""
    try:
        user = environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        user = str(os.geteuid())
    return f"{user}@{socket.gethostname()}"


async def ask(
    place: Place, request: Request, *, timeout_s: float, signer: Signer | None = None
) -> Response:
    """Send `request` under a transaction of its own and return the answer to it.

    Args:
        place: the site and its broker.
        request: what is asked for; it goes out with the time of day as its time of issue.
        timeout_s: longest wait for the answer.
        signer: signs the request, which goes unsigned without one.

    Raises:
        BusUnavailable: the broker is not there or refuses us, with the reason.
        NoAnswer: no controller answered within `timeout_s`.
    """
    waiting = _Waiting(request.transaction)
    session = Session(place, timeout_s=timeout_s)
    topics = session.topics
    session.listen(topics.response(request.verb), waiting.take, qos=1)
    session.listen(topics.controller_status("+"), waiting.note)
    async with session:
        topic = topics.request(request.verb)
        body = encode(msgspec.structs.replace(request, issued_at_s=time.time()))
        session.bus.publish(topic, signer.seal(topic, body) if signer else body, COMMAND)
        await waiting.signal.until(lambda: waiting.answer is not None, timeout_s=timeout_s)
        if waiting.answer is not None:
            return waiting.answer
        if session.bus.unconfirmed_count or session.bus.queued_count:
            raise NoAnswer(f"the broker at {place.where} did not take the request: no answer")
        raise NoAnswer(
            f"the broker at {place.where} took the request, but no controller of site"
            f" {place.site!r} answered within {timeout_s:g} s: {waiting.guess}."
            " Look at `ampacity status` before you repeat it"
        )


async def brake_directly(
    place: Place, domain: str, *, by: str, timeout_s: float, signer: Signer
) -> Response:
    """Declare the brake of a domain to its nodes, without any controller.

    What comes back says that the broker has the message; whether nodes obey, their status shows.

    Raises:
        BusUnavailable: the broker is not there or refuses us, with the reason.
        NoAnswer: the broker did not take the message within `timeout_s`.
    """
    session = Session(place, timeout_s=timeout_s)
    topic = session.topics.domain(domain, "emergency")
    now_s = time.time()
    emergency = Emergency(
        domain=domain,
        active=("brake",),
        epoch=0,
        # Grows from message to message of one key, which is what tells a replay.
        sequence=int(now_s * 1_000),
        issued_at_s=now_s,
        by=by,
    )
    told: list[bytes] = []
    session.listen(session.topics.domain(domain, "state"), lambda _t, data, _r: told.append(data))
    async with session:
        session.bus.publish(topic, signer.seal(topic, encode(emergency)), STATE, urgent=True)
        if not await session.bus.flush(timeout_s=timeout_s):
            raise NoAnswer(f"the broker at {place.where} did not take the message")
        await session.settle()
    data: dict[str, str | int | float | bool] = {"domain": domain, "direct": True}
    return Response(verb="brake", status="ok", data=data | {"known": bool(told)})


def transaction() -> str:
    """A name for one request that no other has."""
    return secrets.token_hex(8)


class _Waiting:
    """What has come back so far; handlers only store."""

    def __init__(self, wanted: str) -> None:
        self.answer: Response | None = None
        self.signal = Signal()
        self._wanted = wanted
        self._codec = Codec()
        self._controllers: dict[str, ControllerStatus] = {}

    def take(self, _topic: str, payload: bytes, _retained: bool) -> None:
        try:
            response = self._codec.decode(payload, Response)
        except WireError:
            return  # somebody else's mistake; ours is still to come
        if response.transaction == self._wanted and self.answer is None:
            self.answer = response
            self.signal.ring()

    def note(self, _topic: str, payload: bytes, _retained: bool) -> None:
        try:
            status = self._codec.decode(payload, ControllerStatus)
        except WireError:
            return
        self._controllers[status.controller] = status

    @property
    def guess(self) -> str:
        """Why there is no answer, as far as the controllers' retained status tells."""
        if not self._controllers:
            return "none has ever been on this broker (is the site's name right?)"
        ready = sorted(name for name, one in self._controllers.items() if one.state == "ready")
        if ready and not any(self._controllers[name].leader for name in ready):
            return f"{', '.join(ready)} stands by: no controller leads at the moment"
        if ready:
            return f"{', '.join(ready)} should: it hangs, or this account may not send requests"
        return ", ".join(f"{name} is {one.state}" for name, one in self._controllers.items())
