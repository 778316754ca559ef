"""What other programs say to the controller, and what it writes: HAProxy, NUT, InfluxDB, HTTP.

HAProxy's answers are mutated and never raise. Names and texts from messages never forge a line of
line protocol. Any path and query gets an answer with a status below 500, or 503 while not ready.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, Final
from urllib.parse import unquote

from fastapi import FastAPI
from msgspec.structs import replace

from actuators.haproxy import HaproxyRouter
from collectors.nut import LINE_BYTES_MAX, POWER_W_MAX, NutClient, NutDevice
from daemon.store.lineprotocol import Lines
from daemon.web.api import make_app
from facility.config import HaproxyConfig
from facility.nut import NutAddress
from facility.wire import Codec, EndpointRoute, Event, NodeTelemetry, Routing, WireError, encode
from tests.boards import Story
from tests.fuzz.messages import EVENT, WALL_S, small_site
from tests.fuzz.target import ACCEPTED, Plain, through
from tests.row import Row
from tests.test_lineprotocol import parsed

CHANGE: Final = b"\x1e"
"""Between HAProxy's answer to the question and its answers to the commands."""
ROUTING: Final = Routing(
    service="chat", decision_id="d", at_s=1.0, valid_s=5.0,
    endpoints=(
        EndpointRoute(endpoint="n01", weight_ratio=0.5),
        EndpointRoute(endpoint="n02", weight_ratio=0.0, drain=True),
        EndpointRoute(endpoint="n03", weight_ratio=0.004),
    ),
)  # fmt: skip


class _SayingRouter(HaproxyRouter):
    """The router with an HAProxy at the other end that says whatever it was given."""

    answers: list[bytes]

    async def _exchange(self, command: str) -> str:
        del command
        return (self.answers.pop(0) if self.answers else b"").decode("utf-8", "replace")


class HaproxyTarget(Plain):
    """HAProxy's runtime replies, the servers' state first and then the answers to commands."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        self._loop.close()

    def feed(self, data: bytes) -> str:
        router = _SayingRouter(HaproxyConfig(socket="x", backends={"chat": "llm"}))
        router.answers = data[1:].split(CHANGE)
        complaints = self._loop.run_until_complete(router.apply(ROUTING))
        assert all(0 < len(text) < 2_000 for text in complaints)
        self._loop.run_until_complete(router.close())
        return "refused" if complaints else ACCEPTED


def haproxy_seeds() -> list[bytes]:
    """The state of three servers, with consent and with refusals after it."""
    columns = (
        "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight"
        " srv_iweight srv_time_since_last_change"
    )
    rows = [
        f"3 llm {n} n0{n} 127.0.0.1 2 {state} {weight} 100 9"
        for n, state, weight in ((1, 0, 100), (2, 8, 0), (3, 1, 256))
    ]
    state = "\n".join(["1", columns, *rows, ""]).encode()
    return [
        through(0, state + CHANGE + b"\n\n\n"),
        through(0, state + CHANGE + b"No such server.\n\n\n"),
        through(0, state),
    ]


class _Deaf:
    """The writing half of a connection to an upsd that answers without listening."""

    def write(self, data: bytes) -> None:
        """Ignore it."""

    async def drain(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""


class _ToldClient(NutClient):
    """The client with an upsd at the other end that says whatever it was given."""

    said = b""

    async def _connect(self) -> None:
        reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        reader.feed_data(self.said)
        reader.feed_eof()
        self._streams = (reader, _Deaf())  # type: ignore[assignment]


class NutTarget(Plain):
    """What upsd answers: a reading in any case, with figures that can be true."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        self._loop.close()

    def feed(self, data: bytes) -> str:
        client = _ToldClient(NutAddress("ups", "x"))
        client.said = data[1:]
        device = NutDevice(client, has_status=data[0] % 2 == 0)
        reading = self._loop.run_until_complete(device.look())
        device.close()
        assert reading.power_w is None or 0.0 <= reading.power_w <= POWER_W_MAX
        assert reading.load_ratio is None or math.isfinite(reading.load_ratio)
        assert sum(len(flag) for flag in reading.flags) <= LINE_BYTES_MAX
        assert len(reading.detail) <= 2 * LINE_BYTES_MAX
        assert 0.0 < device.wait_s(reading, 1.0) <= 5.0
        return ACCEPTED if reading.state == "fresh" else reading.state


def nut_seeds() -> list[bytes]:
    """A UPS on line and one on battery, a meter, and errors."""
    return [
        through(0, b'VAR ups ups.status "OL CHRG"\nVAR ups ups.realpower "812"\n'
                   b'VAR ups ups.load "41.5"\n'),
        through(0, b'VAR ups ups.status "OB LB OVER"\nERR VAR-NOT-SUPPORTED\n'
                   b'VAR ups ups.load "-1"\n'),
        through(0, b"ERR DATA-STALE\n"),
        through(1, b'VAR ups ups.realpower "8\\"12"\n'),
    ]  # fmt: skip


class LinesTarget(Plain):
    """Events and frames whose texts anybody chose, as lines for InfluxDB."""

    def __init__(self) -> None:
        self._codec = Codec()

    def feed(self, data: bytes) -> str:
        lines = Lines(site="lab")
        try:
            if data[0] % 2:
                frame = self._codec.decode(data[1:], NodeTelemetry)
                written = [*lines.telemetry(frame), *lines.gpu_samples(frame)]
            else:
                written = [lines.event(self._codec.decode(data[1:], Event))]
        except WireError:
            return "garbage"
        for line in written:
            assert "\n" not in line
            measurement, tags, fields, _ = parsed(line)
            assert measurement in ("event", "gpu", "node")
            assert tags["site"] == "lab"
            assert set(tags) <= {
                "site", "event", "severity", "source", "subject", "node", "gpu"
            }  # fmt: skip
            assert fields
        return ACCEPTED


def lines_seeds() -> list[bytes]:
    """An event and a frame with samples."""
    frame = Row(small_site()).frame("n01")
    gpus = tuple(replace(gpu, power_samples_w=(1.5, 2.5)) for gpu in frame.gpus)
    event = replace(EVENT, subject="n01, a=b", sentence='he said "no"\\')
    return [
        through(0, encode(event)),
        through(1, encode(replace(frame, gpus=gpus, sampled_at_s=WALL_S))),
    ]


class HttpTarget(Plain):
    """Any method, path, query and body to the API, at the door that the web server calls."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._app: FastAPI = make_app(Story().until(3.0).board, readiness=dict, version="1")

    def close(self) -> None:
        self._loop.close()

    def feed(self, data: bytes) -> str:
        head, _, body = data[1:].partition(b"\n\n")
        method, _, target = head.partition(b" ")
        # As the server does: a target has printable ASCII only, a method has capitals.
        target = b"".join(b"%c" % c if 0x21 <= c <= 0x7E else b"%%%02X" % c for c in target)
        path, _, query = target.partition(b"?")
        status, answer = self._loop.run_until_complete(self._ask(method, path, query, body))
        assert status < 500 or status == 503, answer
        if status >= 400 and method != b"HEAD":
            assert list(json.loads(answer)) == ["error"], answer
        return ACCEPTED if status < 400 else f"status-{status}"

    async def _ask(
        self, method: bytes, path: bytes, query: bytes, body: bytes
    ) -> tuple[int, bytes]:
        sent: list[dict[str, Any]] = []
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return given.pop() if given else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
            "method": method.decode("latin-1").upper() or "GET", "scheme": "http",
            "path": unquote(path.decode()) or "/", "raw_path": path,
            "query_string": query, "root_path": "", "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
            "headers": [(b"host", b"x"), (b"content-length", b"%d" % len(body))],
        }  # fmt: skip
        await self._app(scope, receive, send)
        answer = b"".join(message.get("body", b"") for message in sent)
        return int(sent[0]["status"]), answer


def http_seeds() -> list[bytes]:
    """A request for each sort of path."""
    paths = (
        b"GET /api/v1/domains/row-1/history?seconds=60", b"GET /api/v1/events?limit=5",
        b"GET /api/v1/events?severity=warning&limit=200", b"GET /api/v1/nodes/n01",
        b"GET /api/v1/live?since_s=1.5", b"GET /healthz", b"POST /api/v1/decision\n\n{}",
        b"GET /api/v1/domains/ups-a",
    )  # fmt: skip
    return [through(0, path) for path in paths]
