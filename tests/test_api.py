"""The board remembers within bounds, and the API shows it: read-only, typed, clear in refusal."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
from fastapi import FastAPI

from daemon.web.api import make_app
from daemon.web.board import EVENTS_MAX, Board
from facility.wire import Emergency, Event
from tests import boards
from tests.boards import CONTINGENCY, EXPIRED, FAILURE_S, MISSING, READ_ONLY, Clock, Story

EMERGENCY_S = 79.0


@functools.cache
def app_of(board: Board) -> FastAPI:
    """One app per board: making its schema takes longer than most tests."""
    return make_app(board, readiness=dict, version="1.2.3")


async def ask(board: Board, path: str, app: FastAPI | None = None) -> httpx.Response:
    transport = httpx.ASGITransport(app=app or app_of(board))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path)


async def ok(board: Board, path: str) -> Any:
    answer = await ask(board, path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refusal(board: Board, path: str, status: int) -> str:
    answer = await ask(board, path)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    return str(answer.json()["error"])


@pytest.fixture(scope="module")
def emergency() -> Board:
    """A row seven seconds into a UPS loss."""
    return Story().until(EMERGENCY_S).board


def fact(number: int) -> Event:
    return Event(event="tick", severity="info", at_s=float(number), source="test")


# The board.


def test_a_board_remembers_ten_minutes_of_each_domain_and_no_more() -> None:
    story = Story().until(1.0)
    decision = story.board.snapshot().decision
    assert decision is not None
    for number in range(2, 606):
        later = dataclasses.replace(decision, at_s=float(number))
        story.board.update(later, duration_s=0.01)
    points = list(story.board.history("row-1"))
    assert len(points) == 600
    assert (points[0].at_s, points[-1].at_s) == (6.0, 605.0)


def test_history_after_a_time_excludes_that_time(emergency: Board) -> None:
    assert [point.at_s for point in emergency.history("row-1", since_s=77.0)] == [78.0, 79.0]


def test_the_latest_events_stay_and_older_ones_go() -> None:
    board = Board(boards.example())
    for number in range(EVENTS_MAX + 1):
        board.event(fact(number))
    times = [event.at_s for event in board.snapshot().events]
    assert len(times) == EVENTS_MAX
    assert (times[0], times[-1]) == (float(EVENTS_MAX), 1.0)


def test_a_snapshot_does_not_change_when_the_board_does() -> None:
    story = Story().until(5.0)
    before = story.board.snapshot()
    frame_before = before.frames["n01"].frame
    story.cycle()
    assert before.decision is not None
    assert (before.decision.at_s, before.frames["n01"].frame) == (5.0, frame_before)


def test_a_frame_of_an_unknown_node_is_not_shown() -> None:
    story = Story().until(1.0)
    stranger = story.board.snapshot().frames["n01"].frame
    other = Board(story.site)
    other.telemetry(type(stranger)(node="n99", session="s", seq=1, sampled_at_s=0.0, gpus=()))
    assert not other.snapshot().frames


async def test_a_lease_is_counted_from_the_frame_that_it_answers() -> None:
    story = Story().until(1.0)
    story.clock.now_s = 3.5  # frame and lease came at 1 s, for 4 s
    lease = (await ok(story.board, "/api/v1/nodes/n01"))["lease"]
    assert (lease["state"], lease["reason"], lease["remaining_s"]) == ("valid", "lease", 1.5)


@pytest.mark.parametrize(("now_s", "state"), [(4.99, "valid"), (5.0, "expired"), (60.0, "expired")])
async def test_a_lease_that_nobody_renews_expires(now_s: float, state: str) -> None:
    story = Story().until(1.0)
    story.clock.now_s = now_s
    assert (await ok(story.board, "/api/v1/nodes/n01"))["lease"]["state"] == state


def test_a_contingency_lasts_until_it_is_off_in_every_domain() -> None:
    board = Board(boards.example())

    def declared(domain: str, *active: str) -> None:
        board.emergency(
            Emergency(domain=domain, active=active, epoch=1, sequence=1, issued_at_s=0.0)
        )

    for domain in ("row-1", "aisle-1"):
        declared(domain, CONTINGENCY)
    declared("row-1")
    assert board.snapshot().contingencies == (CONTINGENCY,)
    declared("aisle-1")
    assert board.snapshot().contingencies == ()


def test_a_cycle_longer_than_a_cycle_is_an_overrun() -> None:
    story = Story().until(1.0)
    decision = story.board.snapshot().decision
    assert decision is not None
    story.board.update(decision, duration_s=1.0)
    assert story.board.snapshot().overruns_count == 0
    story.board.update(decision, duration_s=1.01)
    assert story.board.snapshot().overruns_count == 1


@pytest.mark.parametrize("name", ["Messages", "a b", "", "9x", "messages_total"])
def test_a_counter_that_cannot_be_a_metric_is_refused(name: str) -> None:
    board = Board(boards.example())
    with pytest.raises(ValueError, match="is no counter"):
        board.counters({"good": 1.0, name: 1.0})
    assert not board.snapshot().counters


def test_counters_have_a_named_maximum() -> None:
    with pytest.raises(ValueError, match="more than 128 counters"):
        Board(boards.example()).counters({f"c{number}": 0.0 for number in range(129)})


# The API.


async def test_the_site_is_shown_as_its_file_has_it(emergency: Board) -> None:
    site = await ok(emergency, "/api/v1/site")
    assert (site["site"], site["policy"], len(site["nodes"])) == ("demo", "ampacity", 40)
    assert CONTINGENCY in site["contingencies"]
    assert {"n01", "n40"} <= {node["node"] for node in site["nodes"]}


async def test_a_domain_shows_todays_and_its_nominal_capacity(emergency: Board) -> None:
    feed = await ok(emergency, "/api/v1/domains/ups-a")
    assert (feed["capacity_w"], feed["power_w"], feed["mode"]) == (0.0, 0.0, "emergency")
    assert feed["nominal_capacity_w"] == 206_800.0


async def test_domains_keep_the_order_of_the_site_file(emergency: Board) -> None:
    names = [domain["domain"] for domain in await ok(emergency, "/api/v1/domains")]
    assert names == list(emergency.site.domains)


async def test_history_goes_back_as_far_as_asked(emergency: Board) -> None:
    points = await ok(emergency, "/api/v1/domains/row-1/history?seconds=3")
    assert [point["at_s"] for point in points] == [77.0, 78.0, 79.0]


@pytest.mark.parametrize("seconds", ["0", "600.1", "nan", "soon"])
async def test_history_out_of_bounds_is_refused(emergency: Board, seconds: str) -> None:
    error = await refusal(emergency, f"/api/v1/domains/row-1/history?seconds={seconds}", 422)
    assert error.startswith("seconds: ")
    assert repr(seconds) in error


async def test_a_missing_node_shows_no_reading_as_current(emergency: Board) -> None:
    node = await ok(emergency, f"/api/v1/nodes/{MISSING}")
    assert node["missing"] is True
    assert node["telemetry_age_s"] == EMERGENCY_S - 59.0
    assert node["power_w"] == emergency.site.nodes[MISSING].model.power_w_max


async def test_a_node_that_was_never_heard_is_missing_without_an_age() -> None:
    story = Story().until(1.0)
    board = Board(story.site, clock=story.clock, real_clock=story.clock)
    decision = story.board.snapshot().decision
    assert decision is not None
    board.update(decision, duration_s=0.01)
    node = await ok(board, "/api/v1/nodes/n01")
    assert (node["missing"], node["telemetry_age_s"], node["gpus"]) == (True, None, [])


async def test_a_lease_shows_what_was_asked_what_was_seen_and_why(emergency: Board) -> None:
    lease = (await ok(emergency, f"/api/v1/nodes/{boards.CLAMPED}"))["lease"]
    assert lease["reason"] == f"contingency:{CONTINGENCY}"
    assert (lease["requested_mhz"], lease["cause"]) == (1155, "silent-clamp")
    expired = (await ok(emergency, f"/api/v1/nodes/{EXPIRED}"))["lease"]
    assert (expired["state"], expired["reason"]) == ("expired", "lease-expired")
    never = await ok(emergency, f"/api/v1/nodes/{READ_ONLY}")
    assert (never["controllable"], never["lease"]["state"]) == (False, "none")


async def test_the_node_list_shows_every_node(emergency: Board) -> None:
    nodes = await ok(emergency, "/api/v1/nodes")
    assert [node["node"] for node in nodes] == list(emergency.site.nodes)


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/api/v1/domains/rwo-1", "no domain is named 'rwo-1'; did you mean 'row-1'?"),
        ("/api/v1/domains/rwo-1/history", "no domain is named 'rwo-1'; did you mean 'row-1'?"),
        ("/api/v1/nodes/zzz", "no node is named 'zzz'"),
        ("/api/v1/domainz", "nothing is at /api/v1/domainz; did you mean '/api/v1/domains'?"),
    ],
)
async def test_an_unknown_name_is_refused_with_the_nearest(
    emergency: Board, path: str, near: str
) -> None:
    assert await refusal(emergency, path, 404) == near


async def test_a_name_longer_than_any_is_refused(emergency: Board) -> None:
    assert "name: " in await refusal(emergency, "/api/v1/nodes/" + "n" * 65, 422)


@pytest.mark.parametrize(
    ("severity", "kinds"),
    [
        ("info", {"info", "warning", "critical"}),
        ("warning", {"warning", "critical"}),
        ("critical", {"critical"}),
    ],
)
async def test_events_of_a_severity_and_above_newest_first(
    emergency: Board, severity: str, kinds: set[str]
) -> None:
    events = await ok(emergency, f"/api/v1/events?severity={severity}")
    assert {event["severity"] for event in events} == kinds
    times = [event["at_s"] for event in events]
    assert times == sorted(times, reverse=True)


async def test_events_are_at_most_as_many_as_asked(emergency: Board) -> None:
    assert len(await ok(emergency, "/api/v1/events?limit=2")) == 2
    for limit in ("0", str(EVENTS_MAX + 1)):
        assert "limit: " in await refusal(emergency, f"/api/v1/events?limit={limit}", 422)
    assert "severity: " in await refusal(emergency, "/api/v1/events?severity=loud", 422)


async def test_the_decision_is_shown_in_full_with_its_age(emergency: Board) -> None:
    view = await ok(emergency, "/api/v1/decision")
    assert (view["age_s"], view["contingencies"]) == (0.0, [CONTINGENCY])
    assert view["decision"]["decision_id"] == f"c-{EMERGENCY_S:.0f}"
    assert len(view["decision"]["leases"]) == 37


@pytest.mark.parametrize("path", ["domains", "domains/row-1", "nodes", "nodes/n01", "decision"])
async def test_before_the_first_cycle_nothing_is_made_up(path: str) -> None:
    board = Board(boards.example())
    error = await refusal(board, f"/api/v1/{path}", 503)
    assert error == "no control cycle has been completed yet"


async def test_traffic_and_run_are_shown_where_there_are_any(emergency: Board) -> None:
    traffic = await ok(emergency, "/api/v1/traffic")
    assert [each["priority"] for each in traffic["priorities"]] == ["high", "low"]
    run = await ok(emergency, "/api/v1/run")
    assert (run["failure"], run["failure_at_s"], run["verdict"]) == (CONTINGENCY, FAILURE_S, None)
    bare = Board(boards.example())
    assert "nobody reports traffic" in await refusal(bare, "/api/v1/traffic", 404)
    assert "not part of a demo" in await refusal(bare, "/api/v1/run", 404)


@pytest.mark.parametrize("path", ["/api/v1/domains", "/api/v1/nodes/n01", "/healthz", "/metrics"])
async def test_nothing_can_be_commanded_here(emergency: Board, path: str) -> None:
    transport = httpx.ASGITransport(app=app_of(emergency))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = await client.request(method, path)
            assert answer.status_code == 405
            assert "over MQTT" in answer.json()["error"]


async def test_answers_may_not_be_kept(emergency: Board) -> None:
    answer = await ask(emergency, "/api/v1/domains")
    assert answer.headers["cache-control"] == "no-store"


async def test_every_answer_is_what_the_schema_promises(emergency: Board) -> None:
    schema = await ok(emergency, "/api/v1/openapi.json")
    assert schema["info"]["version"] == "1.2.3"
    names = {"{name}": "row-1", "nodes/row-1": "nodes/n01"}
    paths = [path for path in schema["paths"] if path != "/metrics"]
    assert len(paths) == 13
    for path in paths:
        get = schema["paths"][path]["get"]
        assert get["summary"]
        assert get["description"]
        real = path
        for old, new in names.items():
            real = real.replace(old, new)
        promised = get["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(
            await ok(emergency, real), {**promised, "components": schema["components"]}
        )


async def test_a_refusal_is_what_the_schema_promises(emergency: Board) -> None:
    schema = await ok(emergency, "/api/v1/openapi.json")
    get = schema["paths"]["/api/v1/domains/{name}"]["get"]
    promised = get["responses"]["404"]["content"]["application/json"]["schema"]
    answer = await ask(emergency, "/api/v1/domains/nowhere")
    jsonschema.validate(answer.json(), {**promised, "components": schema["components"]})


# Health.


@pytest.mark.parametrize(("silent_s", "status"), [(0.0, 200), (3.0, 200), (3.01, 503)])
async def test_a_cycle_stuck_for_more_than_three_is_unhealthy(silent_s: float, status: int) -> None:
    story = Story().until(5.0)
    story.clock.now_s += silent_s
    answer = await ask(story.board, "/healthz")
    assert answer.status_code == status
    assert bool(answer.json()["reason"]) is (status == 503)


@pytest.mark.parametrize(("silent_s", "status"), [(3.0, 200), (3.01, 503)])
async def test_a_first_cycle_that_never_comes_is_unhealthy(silent_s: float, status: int) -> None:
    clock = Clock()
    app = app_of(Board(boards.example(), clock=clock, real_clock=clock))
    clock.now_s += silent_s
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/healthz")
    assert answer.status_code == status
    assert answer.json()["age_s"] is None


async def test_a_simulated_clock_that_stands_still_does_not_hide_a_stuck_cycle() -> None:
    real = Clock()
    story = Story(real).until(5.0)
    real.now_s = 3.01
    assert (await ask(story.board, "/healthz")).status_code == 503
    assert math.isclose(story.board.snapshot().age_s, 3.01)


async def test_a_fast_demo_is_judged_by_its_own_cycles() -> None:
    real = Clock()
    story = Story(real).until(5.0)
    run = story.board.snapshot().run
    assert run is not None
    story.board.run(type(run)(policy="ampacity", simulated_s=5.0, duration_s=60.0, speed=2.0))
    real.now_s = 1.5
    assert (await ask(story.board, "/healthz")).status_code == 200
    real.now_s = 1.51
    assert (await ask(story.board, "/healthz")).status_code == 503


async def test_ready_only_when_nothing_is_in_the_way(emergency: Board) -> None:
    good = {"broker": "", "snapshot": "", "store": ""}
    checks = dict(good)
    app = make_app(emergency, readiness=lambda: checks, version="0")
    answer = await ask(emergency, "/readyz", app)
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "checks": good})
    for name in good:
        checks |= good | {name: "not there"}
        answer = await ask(emergency, "/readyz", app)
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "checks": checks})
