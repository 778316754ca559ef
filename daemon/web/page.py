"""The live page: its files, and the one document that it fetches again and again.

The page is plain HTML with its own script and style, served from this package: it needs no network
but the controller itself, and a content policy forbids it any other. It never shows old data as
live: the document carries its own age.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Final, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from msgspec import Struct

from daemon.web.board import Board, RunView, Snapshot, TrafficView
from daemon.web.views import (
    DomainView,
    domain_views,
    is_missing,
    lease_view,
    rack_of,
    telemetry_age_s,
    worst_mode,
)
from facility.topology import Node
from facility.wire import Event, Mode, Quality

SHOWN_S: Final = 180.0
"""How much of the past the page draws."""
EVENTS_SHOWN: Final = 60

_FILES: Final = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "draw.js": "text/javascript",
    "parts.js": "text/javascript",
}
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LiveNode(Struct, frozen=True, kw_only=True):
    """A node on the page. `ceiling_mhz` is what it last asked of its GPUs; null when missing.

    `temperatures_c` has one place per GPU of the site file. `hot` says that a GPU is closer to its
    slowdown threshold than its zone allows.
    """

    node: str
    rack: str
    zone: str | None
    service: str | None
    priority: str
    missing: bool
    controllable: bool
    age_s: float | None
    temperatures_c: tuple[float | None, ...]
    margin_c_min: float | None
    hot: bool
    ceiling_mhz: int | None
    granted_mhz: int | None
    remaining_s: float | None
    state: Literal["valid", "expired", "none"]
    reason: str
    cause: str


class LiveHistory(Struct, frozen=True, kw_only=True):
    """One domain's cycles, oldest first, as columns of the same length."""

    at_s: tuple[float, ...]
    power_w: tuple[float, ...]
    forecast_w: tuple[float, ...]
    capacity_w: tuple[float, ...]


class Live(Struct, frozen=True, kw_only=True):
    """One picture of everything that the page shows.

    `at_s` is the controller's monotonic clock at the last cycle, `wall_s` its time of day. `age_s`
    and `stale_after_s` are real seconds.
    """

    site: str
    policy: str
    shadow: bool
    at_s: float
    wall_s: float
    age_s: float
    stale_after_s: float
    lease_s: float
    clock_mhz_min: int
    clock_mhz_max: int
    mode: Mode
    sentence: str
    contingencies: tuple[str, ...]
    domains: tuple[DomainView, ...]
    nodes: tuple[LiveNode, ...]
    history: dict[str, LiveHistory]
    events: tuple[Event, ...]
    traffic: TrafficView | None
    run: RunView | None


def live(board: Board, snapshot: Snapshot, *, since_s: float | None = None) -> Live:
    """The picture at `snapshot`, with the board's history after `since_s`, or all that is drawn."""
    decision, site = snapshot.decision, snapshot.site
    assert decision is not None, "there is no picture before the first decision"
    oldest_s = max(decision.at_s - SHOWN_S, since_s if since_s is not None else 0.0)
    gpus = [node.model.gpu for node in site.nodes.values()]
    return Live(
        site=site.name,
        policy=snapshot.run.policy if snapshot.run else site.control.policy,
        shadow=site.control.shadow,
        at_s=decision.at_s,
        wall_s=decision.wall_s,
        age_s=snapshot.age_s,
        stale_after_s=snapshot.stale_after_s,
        lease_s=site.control.lease_s,
        clock_mhz_min=min(gpu.clock_mhz_min for gpu in gpus),
        clock_mhz_max=max(gpu.clock_mhz_max for gpu in gpus),
        mode=worst_mode(snapshot),
        sentence=decision.sentence,
        contingencies=snapshot.contingencies,
        domains=domain_views(snapshot),
        nodes=tuple(_live_node(snapshot, node) for node in site.nodes.values()),
        history={name: _live_history(board, name, oldest_s) for name in site.domains},
        events=snapshot.events[:EVENTS_SHOWN],
        traffic=snapshot.traffic,
        run=snapshot.run,
    )


def _live_node(snapshot: Snapshot, node: Node) -> LiveNode:
    missing = is_missing(snapshot, node.name)
    decided, heard = snapshot.nodes.get(node.name), snapshot.frames.get(node.name)
    gpus = () if missing or heard is None else heard.frame.gpus
    readable = [gpu if gpu.quality is not Quality.MISSING else None for gpu in gpus]
    readable += [None] * (node.model.gpu_count - len(readable))
    margins_c = [gpu.margin_c for gpu in readable if gpu and gpu.margin_c is not None]
    lease = lease_view(snapshot, node.name)
    zone = snapshot.site.domains[node.zone] if node.zone else None
    return LiveNode(
        node=node.name,
        rack=rack_of(snapshot.site, node),
        zone=node.zone,
        service=node.service,
        priority=node.priority,
        missing=missing,
        controllable=decided is not None and decided.controllable,
        age_s=telemetry_age_s(snapshot, node.name),
        temperatures_c=tuple(gpu.temperature_c if gpu else None for gpu in readable),
        margin_c_min=min(margins_c, default=None),
        hot=zone is not None and min(margins_c, default=1e9) < zone.margin_c_min,
        ceiling_mhz=max((gpu.ceiling_mhz for gpu in gpus), default=0) or None,
        granted_mhz=lease.granted_mhz,
        remaining_s=lease.remaining_s,
        state=lease.state,
        reason=lease.reason,
        cause=lease.cause,
    )


def _live_history(board: Board, domain: str, since_s: float) -> LiveHistory:
    points = tuple(board.history(domain, since_s=since_s))
    return LiveHistory(
        at_s=tuple(point.at_s for point in points),
        power_w=tuple(point.power_w for point in points),
        forecast_w=tuple(point.forecast_w for point in points),
        capacity_w=tuple(point.capacity_w for point in points),
    )


def page_router() -> APIRouter:
    """The page at `/` and the files that it needs."""
    router = APIRouter(include_in_schema=False)
    files = resources.files("daemon.web")
    for name, kind in _FILES.items():
        path = "/" if name == "page.html" else f"/{name}"
        router.add_api_route(path, _serve((files / name).read_bytes(), kind))
    router.add_api_route("/favicon.ico", _serve(b"", "image/x-icon"))
    return router


def _serve(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def file() -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return file
