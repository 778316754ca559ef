"""The HTTP side under hostile clients: bounded requests, no connection that stays for nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from daemon.web.api import make_app
from daemon.web.board import Board
from daemon.web.server import CONNECTIONS_MAX, HEAD_BYTES_MAX, WebServer
from tests.boards import example
from tests.servers import HOST, until

SWEEP_S = 0.05


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[WebServer]:
    server = WebServer(
        make_app(Board(example()), readiness=dict, version="1"), HOST, 0, sweep_s=SWEEP_S
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def answer(server: WebServer, request: bytes) -> bytes:
    """What comes back until the server is done with us, a cut included."""
    reader, writer = await asyncio.open_connection(HOST, server.port)
    heard = b""
    with contextlib.suppress(ConnectionError):
        writer.write(request)
        await writer.drain()
        while chunk := await asyncio.wait_for(reader.read(65_536), 5.0):
            heard += chunk
    writer.close()
    return heard


def request(*, pad: int = 0, body: bytes = b"") -> bytes:
    head = f"GET /api/v1/site HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Pad: {'x' * pad}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(("pad", "status"), [(HEAD_BYTES_MAX // 2, b"200"), (1_000_000, b"400")])
async def test_a_head_within_the_limit_is_answered_and_a_longer_one_refused(
    pad: int, status: bytes
) -> None:
    async with serving() as server:
        heard = await answer(server, request(pad=pad))
    # Refused while it still sends, a client may only see that it was cut.
    assert heard[9:12] == status or (status == b"400" and not heard)


async def test_a_body_that_nobody_reads_is_not_collected() -> None:
    async with serving() as server:
        heard = await answer(server, request(body=b"x" * 4_000_000))
        assert heard[9:12] in (b"200", b"")  # answered unread; a client that still sends is cut
        assert (await answer(server, request()))[9:12] == b"200"


@pytest.mark.parametrize("said", [b"", b"GET /api/v1/site HTTP/1.1\r\nHost:"])
async def test_those_who_never_finish_a_request_do_not_lock_others_out(said: bytes) -> None:
    async with serving() as server:
        idle = [await asyncio.open_connection(HOST, server.port) for _ in range(CONNECTIONS_MAX)]
        for _, writer in idle:
            writer.write(said)
        assert (await answer(server, request()))[9:12] == b"503"
        for reader, writer in idle:
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 10.0) == b""
            writer.close()
        await until(lambda: not server.connections_count, "all are gone")
        assert (await answer(server, request()))[9:12] == b"200"


async def test_a_client_that_asks_again_and_again_keeps_its_connection() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection(HOST, server.port)
        ask = request().replace(b"Connection: close\r\n", b"")
        for _ in range(12):
            await asyncio.sleep(SWEEP_S)
            writer.write(ask)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5.0)
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
            await reader.readexactly(length)
            assert head[9:12] == b"200"
        writer.close()
