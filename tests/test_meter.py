"""What a power meter says: brake, release, silence and disagreement. No clock, no network."""

from __future__ import annotations

from typing import Any

import pytest

from controllers.meter import DISAGREES_COUNT, MeterWatch
from facility.config import MeterConfig
from facility.nut import NutReading

CAPACITY_W = 10_000.0
GONE = NutReading("unreachable", detail="refused")


def reads(power_w: float | None) -> NutReading:
    return NutReading("fresh", power_w=power_w)


class Bench:
    """A watch, and what it told."""

    def __init__(self, **changes: Any) -> None:
        keys: dict[str, Any] = {"name": "pdu-1", "source": "pdu-1@h", "domain": "rack-01"}
        self.watch = MeterWatch(MeterConfig(**(keys | changes)))
        self.told: list[str] = []

    def see(
        self,
        now_s: float,
        reading: NutReading,
        capacity_w: float = CAPACITY_W,
        nodes_w: float | None = None,
    ) -> None:
        notices = self.watch.see(now_s, reading, capacity_w=capacity_w, nodes_w=nodes_w)
        self.told += [notice.event for notice in notices]


def test_two_readings_in_a_row_above_the_capacity_brake() -> None:
    bench = Bench()
    bench.see(0.0, reads(10_001.0))
    assert not bench.watch.is_on
    bench.see(2.0, reads(10_001.0))
    assert bench.watch.is_on
    assert bench.told == ["meter-over"]
    assert bench.watch.trips_count == 1


def test_a_reading_at_the_capacity_is_within_it_and_starts_the_count_anew() -> None:
    bench = Bench()
    for second, power_w in enumerate([10_001.0, 10_000.0, 10_001.0, 10_000.0]):
        bench.see(second, reads(power_w))
    assert not bench.watch.is_on


def test_a_reading_that_is_missing_does_not_start_the_count_anew() -> None:
    bench = Bench()
    bench.see(0.0, reads(10_001.0))
    bench.see(2.0, GONE)
    bench.see(4.0, reads(10_001.0))
    assert bench.watch.is_on


@pytest.mark.parametrize(("power_w", "brakes"), [(11_000.0, False), (11_001.0, True)])
def test_one_reading_far_above_is_enough(power_w: float, brakes: bool) -> None:
    bench = Bench()
    bench.see(0.0, reads(power_w))
    assert bench.watch.is_on is brakes


def test_it_lets_go_after_a_quiet_while_well_below() -> None:
    bench = Bench()
    bench.see(0.0, reads(12_000.0))
    bench.see(1.0, reads(9_200.0))  # the ratio itself is not below it
    bench.see(10.0, reads(9_199.0))
    bench.see(20.0, reads(9_300.0))
    bench.see(30.0, reads(9_199.0))
    bench.see(59.9, reads(9_199.0))
    assert bench.watch.is_on
    bench.see(60.0, reads(9_199.0))
    assert not bench.watch.is_on
    assert bench.told == ["meter-over", "meter-clear"]


def test_silence_neither_brakes_nor_lets_go_and_is_an_alarm() -> None:
    bench = Bench()
    bench.see(0.0, reads(12_000.0))
    bench.see(1.0, reads(5_000.0))
    bench.see(20.0, GONE)
    bench.see(29.9, reads(None))
    assert bench.told == ["meter-over"]
    bench.see(30.0, GONE)
    assert bench.told == ["meter-over", "meter-missing"]
    bench.see(40.0, reads(5_000.0))
    bench.see(69.9, reads(5_000.0))
    assert bench.watch.is_on
    bench.see(70.0, reads(5_000.0))
    assert not bench.watch.is_on
    assert bench.told == ["meter-over", "meter-missing", "meter-back", "meter-clear"]


def test_a_capacity_that_has_just_fallen_counts_once_the_nodes_had_time_to_act() -> None:
    bench = Bench(settle_s=4.0)
    bench.see(0.0, reads(9_000.0))
    bench.see(1.0, reads(9_000.0), capacity_w=5_000.0)
    bench.see(3.0, reads(9_000.0), capacity_w=5_000.0)
    assert not bench.watch.is_on
    bench.see(5.0, reads(5_400.0), capacity_w=5_000.0)
    assert not bench.watch.is_on
    bench.see(6.0, reads(5_400.0), capacity_w=5_000.0)
    assert bench.watch.is_on


def test_a_capacity_that_has_just_fallen_excuses_nothing_above_the_one_before() -> None:
    bench = Bench(settle_s=4.0)
    bench.see(0.0, reads(9_000.0))
    bench.see(1.0, reads(11_001.0), capacity_w=5_000.0)
    assert bench.watch.is_on


def test_a_domain_that_is_declared_lost_is_not_braked_for_what_is_left_on_it() -> None:
    bench = Bench()
    for second in range(20):
        bench.see(second, reads(50.0), capacity_w=0.0)
    assert not bench.watch.is_on


def test_after_an_operators_release_it_judges_anew() -> None:
    bench = Bench()
    bench.see(0.0, reads(12_000.0))
    bench.watch.lifted()
    bench.see(1.0, reads(10_500.0))
    assert not bench.watch.is_on
    bench.see(2.0, reads(10_500.0))
    assert bench.watch.is_on


@pytest.mark.parametrize(("nodes_w", "differs"), [(9_000.0, False), (8_999.0, True)])
def test_meter_and_nodes_that_differ_for_a_while_are_told_once(
    nodes_w: float, differs: bool
) -> None:
    bench = Bench()
    for second in range(DISAGREES_COUNT - 1):
        bench.see(second, reads(10_000.0), nodes_w=nodes_w)
    assert bench.told == []
    for second in range(DISAGREES_COUNT - 1, 3 * DISAGREES_COUNT):
        bench.see(second, reads(10_000.0), nodes_w=nodes_w)
    assert bench.told == ["meter-differs"] * differs
    for second in range(3 * DISAGREES_COUNT, 5 * DISAGREES_COUNT):
        bench.see(second, reads(10_000.0), nodes_w=10_000.0)
    assert bench.told == ["meter-differs", "meter-agrees"] * differs


def test_nodes_that_are_not_all_heard_are_not_compared() -> None:
    bench = Bench()
    for second in range(2 * DISAGREES_COUNT):
        bench.see(second, reads(10_000.0), nodes_w=None)
    assert bench.told == []
