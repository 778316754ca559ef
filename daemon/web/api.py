"""The HTTP side of a controller: read-only JSON under /api/v1, health, metrics and the page.

It shows what the board holds. It commands nothing: operator verbs go over MQTT, where they are
signed and audited. The schema under /api/v1/openapi.json is made from the very types that are sent.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from daemon.web.board import (
    EVENTS_MAX,
    HISTORY_S,
    Board,
    HistoryPoint,
    RunView,
    Snapshot,
    TrafficView,
)
from daemon.web.metrics import metrics_router
from daemon.web.page import Live, live, page_router
from daemon.web.views import (
    SEVERITIES,
    DecisionView,
    DomainView,
    ErrorView,
    HealthView,
    NodeView,
    ReadyView,
    SiteView,
    domain_view,
    domain_views,
    node_view,
    site_view,
)
from facility.compiler import did_you_mean
from facility.wire import Event

Readiness = Callable[[], Mapping[str, str]]
"""Each thing that the controller needs, such as `broker`, `snapshot`, `store`, with the reason why
it cannot work, empty when it can."""

HEALTHY_CYCLES: Final = 3.0
HEALTHY_S_MIN: Final = 1.0
"""A fast demo's three cycles may be shorter than an ordinary pause of the machine."""

REF: Final = "#/components/schemas/{name}"

Name = Annotated[str, Path(max_length=64, description="A name of the site file.")]
Severity = Literal["info", "warning", "critical"]


class NotYet(Exception):
    """There is nothing to show yet; the text says what is missing."""


class Unknown(Exception):
    """The thing asked for does not exist; the text says what does."""


def reply(body: object, status: int = 200) -> Response:
    """A JSON answer that nobody may keep: the next one will differ."""
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type="application/json",
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )


class Api:
    """The handlers. All are coroutines, so that they run between cycles and see no half of one."""

    def __init__(self, board: Board, readiness: Readiness) -> None:
        self._board = board
        self._readiness = readiness
        self._started = board.snapshot()

    def _decided(self) -> Snapshot:
        snapshot = self._board.snapshot()
        if snapshot.decision is None:
            raise NotYet("no control cycle has been completed yet")
        return snapshot

    def _known(self, name: str, known: Mapping[str, object], what: str) -> None:
        if name not in known:
            raise Unknown(f"no {what} is named {name!r}{did_you_mean(name, known)}")

    async def site(self) -> Response:
        """The site as its file has it."""
        return reply(site_view(self._board.site))

    async def domains(self) -> Response:
        """All domains after the last cycle, in the order of the site file."""
        return reply(domain_views(self._decided()))

    async def domain(self, name: Name) -> Response:
        """One domain after the last cycle."""
        self._known(name, self._board.site.domains, "domain")
        snapshot = self._decided()
        if name not in snapshot.domains:
            raise NotYet(f"the last cycle said nothing about {name}")
        return reply(domain_view(snapshot, name))

    async def history(
        self,
        name: Name,
        seconds: Annotated[
            float, Query(gt=0, le=HISTORY_S, description="How far back, controller's clock.")
        ] = HISTORY_S,
    ) -> Response:
        """One domain's cycles, oldest first: at most the last ten minutes."""
        self._known(name, self._board.site.domains, "domain")
        since_s = self._board.snapshot().now_s - seconds
        return reply(tuple(self._board.history(name, since_s=since_s)))

    async def nodes(self) -> Response:
        """All nodes after the last cycle, in the order of the site file."""
        snapshot = self._decided()
        return reply(tuple(node_view(snapshot, name) for name in snapshot.site.nodes))

    async def node(self, name: Name) -> Response:
        """One node after the last cycle, with its lease and its GPUs."""
        self._known(name, self._board.site.nodes, "node")
        return reply(node_view(self._decided(), name))

    async def events(
        self,
        limit: Annotated[int, Query(ge=1, le=EVENTS_MAX, description="At most so many.")] = 50,
        severity: Annotated[Severity, Query(description="This severity and above.")] = "info",
    ) -> Response:
        """The latest events, newest first. The store has the older ones."""
        wanted = SEVERITIES[SEVERITIES.index(severity) :]
        events = [event for event in self._board.snapshot().events if event.severity in wanted]
        return reply(events[:limit])

    async def decision(self) -> Response:
        """The last decision in full: modes, leases, routing, and a sentence for each."""
        snapshot = self._decided()
        assert snapshot.decision is not None
        return reply(
            DecisionView(
                age_s=snapshot.age_s,
                stale_after_s=snapshot.stale_after_s,
                contingencies=snapshot.contingencies,
                decision=snapshot.decision,
            )
        )

    async def traffic(self) -> Response:
        """Requests and latencies by priority, where a router or a demo reports them."""
        traffic = self._board.snapshot().traffic
        if traffic is None:
            raise Unknown("nobody reports traffic to this controller")
        return reply(traffic)

    async def run(self) -> Response:
        """Where a demo's run stands. A controller of a real site has none."""
        run = self._board.snapshot().run
        if run is None:
            raise Unknown("this controller is not part of a demo")
        return reply(run)

    async def live(
        self,
        since_s: Annotated[
            float | None, Query(ge=0, description="Only history after this, controller's clock.")
        ] = None,
    ) -> Response:
        """One picture of everything for the live page, with the history since the last one."""
        return reply(live(self._board, self._decided(), since_s=since_s))

    async def health(self) -> Response:
        """200 while cycles keep coming: the last one is at most three cycles old. Else 503."""
        snapshot = self._board.snapshot()
        age_s_max = max(HEALTHY_CYCLES * snapshot.cycle_real_s, HEALTHY_S_MIN)
        first = not math.isfinite(snapshot.age_s)
        age_s = snapshot.real_s - self._started.real_s if first else snapshot.age_s
        well = age_s <= age_s_max
        reason = (
            f"no control cycle has ended for {age_s:.1f} s, at most {age_s_max:.1f} s is allowed"
        )
        view = HealthView(
            status="ok" if well else "failing",
            reason="" if well else reason,
            age_s=None if first else age_s,
            age_s_max=age_s_max,
        )
        return reply(view, 200 if well else 503)

    async def ready(self) -> Response:
        """200 when everything that the controller needs is there. Else 503 and what is not."""
        checks = dict(self._readiness())
        ready = not any(checks.values())
        return reply(ReadyView(ready=ready, checks=checks), 200 if ready else 503)


@dataclass(frozen=True, slots=True)
class Door:
    """One path of the API: its handler, what it answers, and with which other statuses."""

    path: str
    handler: Callable[..., Awaitable[Response]]
    answer: Any
    title: str
    also: tuple[int, ...] = ()


def doors(api: Api) -> tuple[Door, ...]:
    """Every path of the API."""
    v1 = "/api/v1"
    return (
        Door(f"{v1}/site", api.site, SiteView, "The site"),
        Door(f"{v1}/domains", api.domains, tuple[DomainView, ...], "All domains", (503,)),
        Door(f"{v1}/domains/{{name}}", api.domain, DomainView, "One domain", (404, 503)),
        Door(
            f"{v1}/domains/{{name}}/history",
            api.history,
            tuple[HistoryPoint, ...],
            "One domain's last minutes",
            (404, 422),
        ),
        Door(f"{v1}/nodes", api.nodes, tuple[NodeView, ...], "All nodes", (503,)),
        Door(f"{v1}/nodes/{{name}}", api.node, NodeView, "One node", (404, 503)),
        Door(f"{v1}/events", api.events, tuple[Event, ...], "The latest events", (422,)),
        Door(f"{v1}/decision", api.decision, DecisionView, "The last decision", (503,)),
        Door(f"{v1}/traffic", api.traffic, TrafficView, "What users get", (404,)),
        Door(f"{v1}/run", api.run, RunView, "A demo's run", (404,)),
        Door(f"{v1}/live", api.live, Live, "What the live page shows", (422, 503)),
        Door("/healthz", api.health, HealthView, "Does the control cycle run", (503,)),
        Door("/readyz", api.ready, ReadyView, "Can the controller work", (503,)),
    )


def make_app(board: Board, *, readiness: Readiness, version: str) -> FastAPI:
    """The whole HTTP side over one board; `version` is Ampacity's."""
    # Without FastAPI's own documentation pages: they load scripts from elsewhere.
    app = FastAPI(
        title="Ampacity controller",
        version=version,
        description="Read-only: what the controller sees and decided. Operator verbs go over MQTT.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    table = doors(Api(board, readiness))
    failing = {"/healthz": HealthView, "/readyz": ReadyView}
    schemas, components = msgspec.json.schema_components(
        [door.answer for door in table] + [ErrorView], ref_template=REF
    )
    error = {"description": "What is wrong", "content": _json(schemas[-1])}
    for door, schema in zip(table, schemas, strict=False):
        other = {"description": "Why not", "content": _json(schema)}
        refusal = other if door.path in failing else error
        app.add_api_route(
            door.path,
            door.handler,
            summary=door.title,
            response_class=Response,
            responses={
                200: {"description": door.title, "content": _json(schema)},
                **dict.fromkeys(door.also, refusal),
            },
        )
    app.include_router(metrics_router(board, version=version))
    app.include_router(page_router())
    _answer_errors(app)
    _document(app, components)
    return app


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _document(app: FastAPI, components: dict[str, Any]) -> None:
    """Add the types to the schema that FastAPI makes of the paths."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            known = schema.setdefault("components", {}).setdefault("schemas", {})
            known.update(components)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _answer_errors(app: FastAPI) -> None:
    """Every refusal is JSON with one sentence."""
    paths = [getattr(route, "path", "") for route in app.routes]

    async def unknown(_: Request, error: Exception) -> Response:
        return reply(ErrorView(str(error)), 404)

    async def not_yet(_: Request, error: Exception) -> Response:
        return reply(ErrorView(str(error)), 503)

    async def bad_input(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return reply(ErrorView("; ".join(_problem(item) for item in error.errors())), 422)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path[:200]
        if error.status_code == 404:
            text = f"nothing is at {path}{did_you_mean(path, paths)}"
        elif error.status_code == 405:
            text = f"{path} can only be read: operator verbs go over MQTT, see `ampacity --help`"
        else:
            text = str(error.detail)
        return reply(ErrorView(text), error.status_code)

    app.add_exception_handler(Unknown, unknown)
    app.add_exception_handler(NotYet, not_yet)
    app.add_exception_handler(RequestValidationError, bad_input)
    app.add_exception_handler(HTTPException, refused)


def _problem(item: Mapping[str, Any]) -> str:
    """One validation error as where, what, and what was given."""
    where = ".".join(str(step) for step in item["loc"][1:])
    return f"{where}: {item['msg']}, got {str(item['input'])[:80]!r}"
