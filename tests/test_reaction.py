"""Reaction times: what is promised, what is measured, and which of them counts."""

from __future__ import annotations

import msgspec
import pytest

from controllers.alarms import REPEAT_S, EnvelopeAlarms
from controllers.reaction import OBSERVATIONS_MIN, ReactionMeter
from controllers.snapshot import Snapshot
from facility.config import ControlConfig
from facility.wire import Event, NodeTelemetry
from tests.row import Row, domain, site_of


def meter() -> ReactionMeter:
    return ReactionMeter(ControlConfig())


def test_a_few_slow_hops_are_no_measurement_yet() -> None:
    found = meter()
    found.observe("act", [9.0] * (OBSERVATIONS_MIN - 1))
    assert found.reaction == found.bounds
    assert found.slow == ()


def test_a_hop_that_is_slower_than_its_bound_counts_as_measured() -> None:
    found = meter()
    found.observe("act", [0.9] * OBSERVATIONS_MIN)
    assert found.reaction.act_s == 0.9
    assert found.reaction.message_s == pytest.approx(found.bounds.message_s + 0.6)
    assert found.slow == ("act took 0.90 s (99.9th percentile), the site file promises 0.30 s",)


def test_a_hop_that_is_faster_keeps_its_bound() -> None:
    found = meter()
    found.observe("act", [0.001] * OBSERVATIONS_MIN)
    assert found.measured_s["act"] == 0.001
    assert found.reaction == found.bounds


@pytest.mark.parametrize(("slow_count", "counts"), [(0, False), (2, True)])
def test_one_in_a_thousand_is_what_counts(slow_count: int, counts: bool) -> None:
    found = meter()
    found.observe("report", [0.1] * (OBSERVATIONS_MIN - slow_count) + [5.0] * slow_count)
    assert (found.reaction.report_s == 5.0) is counts


def test_what_is_no_duration_is_no_observation() -> None:
    found = meter()
    found.observe("expire", [float("nan"), float("inf"), -1.0] * OBSERVATIONS_MIN)
    assert "expire" not in found.measured_s


def test_a_running_row_is_timed_and_within_its_bounds() -> None:
    row = Row(site_of(nodes=10), load_ratio=0.3)
    row.run(150)
    measured = row.cycle.reactions.measured_s
    assert set(measured) == {"report", "decide", "expire"}
    assert measured["report"] == pytest.approx(row.site.control.telemetry_s)
    assert row.cycle.reactions.slow == ()


def test_slow_cycles_are_measured_and_alarmed_once() -> None:
    row = Row(site_of(nodes=10), load_ratio=0.3)
    events: list[Event] = []
    for _ in range(200):
        row.cycle.took(1.5)
        events += row.step().events
    slow = [event for event in events if event.event == "reaction-slow"]
    assert [event.subject for event in slow] == ["decide"]
    assert slow[0].severity == "critical"
    assert row.cycle.reactions.reaction.decide_s > row.cycle.reactions.bounds.decide_s


def test_a_full_row_is_leased_no_higher_than_the_survivor_of_a_feed_tolerates() -> None:
    row = Row(site_of(nodes=10), load_ratio=0.3)
    decision = row.run(120)
    state = domain(decision, "row-1")
    survivor_w = row.site.capacity_w("ups-b", frozenset({"ups-a-lost"}))
    assert 1.4 * survivor_w < state.exposure_w <= 1.5 * survivor_w
    assert "leased no higher for ups-" in state.sentence
    low = next(node for node in decision.nodes if "no higher lease" in node.sentence)
    assert low.ceiling_mhz < 1980


def snapshot(now_s: float) -> Snapshot:
    return Snapshot(now_s, now_s, {}, frozenset())


def told(alarms: EnvelopeAlarms, now_s: float, *exceeded: str) -> list[str]:
    found = alarms.step(snapshot(now_s), exceeded=exceeded, slow=())
    return [event.subject for event in found]


def test_an_exposure_that_leases_in_force_explain_is_no_alarm_until_they_are_over() -> None:
    alarms = EnvelopeAlarms(grace_s=8.0)
    assert told(alarms, 0.0, "row-1") == []
    assert told(alarms, 7.9, "row-1") == []
    assert told(alarms, 8.0, "row-1") == ["row-1"]


def test_an_exposure_that_ends_and_comes_again_starts_anew() -> None:
    alarms = EnvelopeAlarms(grace_s=8.0)
    told(alarms, 0.0, "row-1")
    assert told(alarms, 5.0) == []
    assert told(alarms, 9.0, "row-1") == []


def test_an_alarm_that_lasts_is_repeated_and_not_each_cycle() -> None:
    alarms = EnvelopeAlarms(grace_s=0.0)
    assert told(alarms, 0.0, "row-1") == ["row-1"]
    assert told(alarms, REPEAT_S - 1.0, "row-1") == []
    assert told(alarms, REPEAT_S, "row-1") == ["row-1"]


def late(row: Row, nodes: set[str], late_s: float) -> None:
    """From now on these nodes say that their timers are late."""
    frame = row.frame

    def changed(name: str) -> NodeTelemetry:
        telemetry = frame(name)
        return msgspec.structs.replace(telemetry, late_s=late_s) if name in nodes else telemetry

    row.frame = changed  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize(("liars_count", "counts"), [(1, False), (2, True)])
def test_one_node_alone_does_not_slow_the_site(liars_count: int, counts: bool) -> None:
    row = Row(site_of(nodes=10), load_ratio=0.3)
    late(row, set(list(row.site.nodes)[:liars_count]), 1e6)
    row.run(150)
    measured_s = row.cycle.reactions.reaction.expire_s
    assert (measured_s > row.cycle.reactions.bounds.expire_s) is counts
    assert measured_s <= row.site.control.lease_s


def test_nothing_is_raised_while_an_earlier_leaders_leases_may_hold() -> None:
    row = Row(site_of(nodes=10), load_ratio=0.3)
    row.run(100)
    row.cycle.lead_as(99, now_s=row.now_s)
    before = [node.ceiling_mhz for node in row.step().nodes]
    during = [node.ceiling_mhz for node in row.run(3).nodes]
    assert all(now <= then for now, then in zip(during, before, strict=True))
