"""The live page is served from this process alone, and its document carries all that it draws."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any

import httpx
import msgspec
import pytest

from daemon.web.api import make_app
from daemon.web.board import Board, PriorityTraffic, RunView
from daemon.web.page import Live, LiveNode
from daemon.web.server import PortTaken, WebError, WebServer
from daemon.web.views import DomainView
from facility.wire import Event
from tests import boards
from tests.boards import CONTINGENCY, EXPIRED, HOT, MISSING, Story

STOP_S = 1.0
SCRIPTS = ("page.js", "draw.js", "parts.js")


def server_of(board: Board, port: int = 0) -> WebServer:
    return WebServer(make_app(board, readiness=dict, version="0"), "127.0.0.1", port)


@pytest.fixture
async def row() -> AsyncIterator[tuple[Story, httpx.AsyncClient]]:
    """A row seven seconds into a UPS loss, and somebody who looks at it over real HTTP."""
    story = Story()
    story.clock.now_s = 50.0
    story.until(79.0)
    server = server_of(story.board)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        yield story, client
    await server.stop()


async def live(client: httpx.AsyncClient, query: str = "") -> Any:
    answer = await client.get(f"/api/v1/live{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def script() -> str:
    """All that runs in the browser."""
    return "".join(source(name) for name in SCRIPTS)


def source(name: str) -> str:
    return (resources.files("daemon.web") / name).read_text()


# The files.


async def test_the_page_and_what_it_loads_are_served(
    row: tuple[Story, httpx.AsyncClient],
) -> None:
    _, client = row
    page = await client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    loads = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert loads == ["page.css", "page.js"]
    imports = set(re.findall(r'from "\./([^"]+)"', script()))
    assert imports == set(SCRIPTS) - {"page.js"}
    for name in (*loads, *imports):
        answer = await client.get(f"/{name}")
        assert answer.status_code == 200
        kind = "text/css" if name.endswith("css") else "text/javascript"
        assert answer.headers["content-type"].startswith(kind)
        assert answer.text == source(name)


async def test_the_browser_is_told_to_load_from_nowhere_else(
    row: tuple[Story, httpx.AsyncClient],
) -> None:
    _, client = row
    policy = (await client.get("/")).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    for name in ("page.html", "page.css", *SCRIPTS):
        text = source(name).replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"(^|\s)//.*", "", text), name
        assert "@import" not in text


def test_text_from_the_wire_can_never_become_markup() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script())


@pytest.mark.parametrize(
    ("variable", "kind", "also"),
    [
        ("data", Live, {"error"}),
        ("domain", DomainView, set()),
        ("node", LiveNode, set()),
        ("run", RunView, set()),
        ("event", Event, set()),
        ("each", PriorityTraffic, {"join"}),
    ],
)
def test_the_page_reads_only_what_the_document_carries(
    variable: str, kind: type[msgspec.Struct], also: set[str]
) -> None:
    read = set(re.findall(rf"\b{variable}\.([a-z_A-Z]\w*)", script()))
    assert read
    assert read - also <= {field.name for field in msgspec.structs.fields(kind)}


def test_the_page_finds_every_element_that_it_fills() -> None:
    wanted = set(re.findall(r'\$\("#([a-z]+)', script()))
    there = set(re.findall(r'id="([a-z]+)"', source("page.html")))
    assert wanted <= there
    assert len(wanted) > 10


# The document.


async def test_one_document_carries_the_whole_picture(row: tuple[Story, httpx.AsyncClient]) -> None:
    story, client = row
    data = await live(client)
    msgspec.convert(data, Live)
    assert (data["mode"], data["contingencies"]) == ("emergency", [CONTINGENCY])
    assert [domain["domain"] for domain in data["domains"]] == list(story.site.domains)
    assert len(data["nodes"]) == 40
    assert data["events"][0]["event"] == "deviation"
    assert [each["priority"] for each in data["traffic"]["priorities"]] == ["high", "low"]
    assert data["run"]["failure"] == CONTINGENCY
    assert set(data["history"]) == set(story.site.domains)


async def test_each_node_shows_its_temperatures_and_its_lease(
    row: tuple[Story, httpx.AsyncClient],
) -> None:
    _, client = row
    nodes = {node["node"]: node for node in (await live(client))["nodes"]}
    assert (nodes["n01"]["rack"], nodes["n40"]["rack"]) == ("rack-01", "rack-10")
    assert all(len(node["temperatures_c"]) == 8 for node in nodes.values())
    assert (nodes["n01"]["ceiling_mhz"], nodes["n01"]["remaining_s"]) == (1410, 4.0)
    assert (nodes[EXPIRED]["state"], nodes[EXPIRED]["remaining_s"]) == ("expired", 0.0)
    assert nodes["n20"]["temperatures_c"][3] is None


async def test_a_missing_node_shows_no_temperature(row: tuple[Story, httpx.AsyncClient]) -> None:
    _, client = row
    node = next(node for node in (await live(client))["nodes"] if node["node"] == MISSING)
    assert node["missing"] is True
    assert node["temperatures_c"] == [None] * 8
    assert node["ceiling_mhz"] is None


async def test_a_gpu_near_its_threshold_is_called_hot() -> None:
    story = Story().until(30.0)
    server = server_of(story.board)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        nodes = (await live(client))["nodes"]
    await server.stop()
    assert [node["node"] for node in nodes if node["hot"]] == [HOT]
    limit_c = story.site.domains["aisle-2"].margin_c_min
    assert all(node["hot"] is (node["margin_c_min"] < limit_c) for node in nodes)


async def test_history_comes_whole_once_and_then_only_what_is_new(
    row: tuple[Story, httpx.AsyncClient],
) -> None:
    story, client = row
    first = await live(client)
    assert len(first["history"]["row-1"]["at_s"]) == 29
    assert (await live(client, f"?since_s={first['at_s']}"))["history"]["row-1"]["at_s"] == []
    story.cycle()
    more = (await live(client, f"?since_s={first['at_s']}"))["history"]
    assert {name: column["at_s"] for name, column in more.items()} == {
        name: [80.0] for name in story.site.domains
    }
    assert all(len(values) == 1 for values in more["row-1"].values())


async def test_the_document_tells_its_age_and_when_it_is_too_old(
    row: tuple[Story, httpx.AsyncClient],
) -> None:
    story, client = row
    assert (await live(client))["age_s"] == 0.0
    story.clock.now_s += 2.75
    data = await live(client)
    assert data["age_s"] == 2.75
    assert data["stale_after_s"] == 2.5


async def test_before_the_first_cycle_there_is_no_picture() -> None:
    server = server_of(Board(boards.example()))
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        answer = await client.get("/api/v1/live")
        assert (await client.get("/")).status_code == 200
    await server.stop()
    assert answer.status_code == 503
    assert answer.json() == {"error": "no control cycle has been completed yet"}


# The server.


async def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = server_of(Board(boards.example()), port)
        with pytest.raises(PortTaken, match=rf"127\.0\.0\.1:{port} is taken"):
            await server.start()
        await server.stop()


async def test_two_servers_do_not_share_a_port() -> None:
    first = server_of(Board(boards.example()))
    await first.start()
    with pytest.raises(PortTaken):
        await server_of(Board(boards.example()), first.port).start()
    await first.stop()


async def test_a_host_that_is_not_ours_is_named() -> None:
    app = make_app(Board(boards.example()), readiness=dict, version="0")
    with pytest.raises(WebError, match=r"192\.0\.2\.1:0"):
        await WebServer(app, "192.0.2.1", 0).start()


async def test_a_stopped_port_is_free_again_at_once() -> None:
    first = server_of(Board(boards.example()))
    await first.start()
    async with httpx.AsyncClient(base_url=first.url, trust_env=False) as client:
        assert (await client.get("/api/v1/site")).status_code == 200
        await first.stop()
    second = server_of(Board(boards.example()), first.port)
    await second.start()
    await second.stop()


async def test_a_stop_waits_for_nobody() -> None:
    """Not for an idle browser, nor half a request, nor one who does not take his answers."""
    server = server_of(Story().until(200.0).board)
    await server.start()
    half = await asyncio.open_connection("127.0.0.1", server.port)
    half[1].write(b"GET /api/v1/live HTTP/1.1\r\nHost: x\r\n")
    deaf_socket = socket.socket()
    deaf_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    deaf_socket.setblocking(False)
    await asyncio.get_running_loop().sock_connect(deaf_socket, ("127.0.0.1", server.port))
    await asyncio.get_running_loop().sock_sendall(
        deaf_socket, b"GET /api/v1/live HTTP/1.1\r\nHost: x\r\n\r\n" * 60
    )
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await client.get("/")).status_code == 200
        async with asyncio.timeout(STOP_S):
            await server.stop()
    assert await half[0].read() == b""
    half[1].close()
    deaf_socket.close()
    with pytest.raises(OSError, match=str(server.port)):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_signals_stay_with_the_process() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server = server_of(Board(boards.example()))
    await server.start()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    await server.stop()
