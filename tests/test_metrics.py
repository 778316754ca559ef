"""What Prometheus scrapes parses, follows the naming rules, and leaves gaps, never zeros."""

from __future__ import annotations

import functools
import math
import re

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from daemon.web.api import make_app
from daemon.web.board import Board
from tests import boards
from tests.boards import CONTINGENCY, EXPIRED, MISSING, Story

UNITS = {"watts", "joules", "celsius", "hertz", "seconds", "bytes"}
QUANTITIES = {"power", "energy", "temperature", "clock", "ceiling", "capacity", "age", "ttft"}
NOT_BASE = re.compile(r"milli|kilo|mega|micro|_mhz|_kw|_mw|_ms|minutes|hours|percent")

Key = tuple[str, frozenset[tuple[str, str]]]


@functools.cache
def app_of(board: Board) -> FastAPI:
    """One app per board: making its schema takes longer than most tests."""
    return make_app(board, readiness=dict, version="1.2.3")


async def scrape(board: Board, accept: str = "text/plain") -> str:
    transport = httpx.ASGITransport(app=app_of(board))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    return answer.text


async def families(board: Board) -> dict[str, Metric]:
    return {family.name: family for family in parse(await scrape(board))}


async def values(board: Board) -> dict[Key, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in (await families(board)).values()
        for sample in family.samples
    }


def key(name: str, **labels: str) -> Key:
    return f"ampacity_{name}", frozenset(labels.items())


@pytest.fixture(scope="module")
def emergency() -> Board:
    return Story().until(79.0).board


async def test_names_end_in_base_units_and_counters_in_total(emergency: Board) -> None:
    found = [
        family for name, family in (await families(emergency)).items() if "process" not in name
    ]
    assert len(found) > 25
    for family in found:
        assert family.name.startswith("ampacity_")
        assert not NOT_BASE.search(family.name), family.name
        assert family.documentation.endswith("."), family.name
        for sample in family.samples:
            assert sample.name.endswith("_total") is (family.type == "counter"), sample.name
            assert (
                not set(sample.labels) & {"site", "decision_id", "time"} or "build" in family.name
            )
        if QUANTITIES & set(family.name.split("_")):
            assert family.name.rsplit("_", 1)[1] in UNITS, family.name


async def test_units_are_declared_where_the_format_has_a_place_for_them(emergency: Board) -> None:
    text = await scrape(emergency, "application/openmetrics-text; version=1.0.0")
    found = {family.name: family for family in parse_open(text)}  # type: ignore[no-untyped-call]
    assert found["ampacity_gpu_power_watts"].unit == "watts"
    assert found["ampacity_gpu_energy_joules"].unit == "joules"
    assert found["ampacity_node_ceiling_hertz"].unit == "hertz"


async def test_megahertz_become_hertz(emergency: Board) -> None:
    found = await values(emergency)
    assert found[key("node_ceiling_hertz", node="n01")] == 1410e6
    labels = {"node": "n01", "gpu": "0", "uuid": "GPU-00-0"}
    assert found[key("gpu_clock_limit_hertz", **labels)] == 1410e6
    assert found[key("gpu_sm_clock_hertz", **labels)] == 1395e6


async def test_a_domain_is_in_exactly_one_mode(emergency: Board) -> None:
    found = await values(emergency)
    for domain in emergency.site.domains:
        flags = {
            mode: found[key("domain_mode", domain=domain, mode=mode)]
            for mode in ("normal", "shaving", "emergency", "brake")
        }
        assert sorted(flags.values()) == [0.0, 0.0, 0.0, 1.0]
    assert found[key("domain_mode", domain="ups-a", mode="emergency")] == 1.0


async def test_a_domain_shows_power_against_todays_capacity(emergency: Board) -> None:
    found = await values(emergency)
    assert found[key("domain_capacity_watts", domain="ups-a")] == 0.0
    assert found[key("domain_capacity_watts", domain="ups-b")] == 206_800.0
    assert 150e3 < found[key("domain_power_watts", domain="ups-b")] < 206_800.0
    assert key("domain_forecast_watts", domain="row-1", quantile="0.99") in found
    assert found[key("contingency_active", contingency=CONTINGENCY)] == 1.0
    assert found[key("contingency_active", contingency="ups-b-lost")] == 0.0


async def test_a_silent_node_leaves_a_gap_and_a_growing_age(emergency: Board) -> None:
    found = await values(emergency)
    assert found[key("telemetry_age_seconds", node=MISSING)] == 20.0
    assert found[key("node_missing", node=MISSING)] == 1.0
    shown = {
        dict(labels).get("node") for name, labels in found if name == "ampacity_gpu_power_watts"
    }
    assert MISSING not in shown
    assert len(shown) == 39


async def test_a_gpu_without_a_reading_leaves_a_gap(emergency: Board) -> None:
    found = await values(emergency)
    place = list(emergency.site.nodes).index("n20")
    labels = {"node": "n20", "uuid": f"GPU-{place}-3", "gpu": "3"}
    assert key("gpu_power_watts", **labels) not in found
    assert key("gpu_power_watts", **{**labels, "uuid": f"GPU-{place}-2", "gpu": "2"}) in found


async def test_a_node_never_heard_is_infinitely_old() -> None:
    found = await values(Board(boards.example()))
    assert math.isinf(found[key("telemetry_age_seconds", node="n01")])
    assert key("node_power_watts", node="n01") not in found
    assert key("decision_age_seconds") not in found


async def test_an_ended_lease_has_no_time_left(emergency: Board) -> None:
    found = await values(emergency)
    assert found[key("node_lease_remaining_seconds", node=EXPIRED)] == 0.0
    assert found[key("node_lease_remaining_seconds", node="n01")] == 4.0


async def test_cycle_durations_are_a_histogram(emergency: Board) -> None:
    found = await values(emergency)
    name = "control_cycle_duration_seconds"
    assert found[key(f"{name}_bucket", le="0.01")] == 0.0
    assert found[key(f"{name}_bucket", le="0.02")] == 79.0
    assert found[key(f"{name}_bucket", le="+Inf")] == 79.0
    assert found[key(f"{name}_count")] == 79.0
    assert math.isclose(found[key(f"{name}_sum")], 79 * 0.012)


async def test_the_controllers_own_counts_are_shown_whatever_they_are() -> None:
    board = Board(boards.example())
    board.counters({"messages_refused": 3.0})
    board.counters({"messages_dropped": 2.0, "audit_rows": 7.0})
    found = await values(board)
    assert found[key("messages_refused_total")] == 3.0
    assert found[key("messages_dropped_total")] == 2.0
    assert found[key("audit_rows_total")] == 7.0
    assert found[key("control_cycle_overruns_total")] == 0.0
    board.counters({"control_cycle_overruns": 5.0})
    assert (await values(board))[key("control_cycle_overruns_total")] == 5.0


async def test_requests_are_counted_by_priority(emergency: Board) -> None:
    found = await values(emergency)
    assert found[key("requests_served_total", priority="high")] == 79 * 38
    assert found[key("requests_lost_total", priority="low")] == 2.0
    assert found[key("request_ttft_seconds", priority="high", quantile="0.5")] == 0.182


async def test_the_build_says_version_site_and_policy(emergency: Board) -> None:
    labels = {"version": "1.2.3", "site": "demo", "policy": "ampacity"}
    assert (await values(emergency))[key("build_info", **labels)] == 1.0
