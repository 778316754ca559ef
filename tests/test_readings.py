"""Readings that contradict each other: when it is told, when it is not, and what then counts."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from controllers.fleet import Fleet
from controllers.readings import DIFFERS_COUNT, METER_LAG_S, MeterCheck
from facility.wire import NodeTelemetry, Quality
from tests.row import Row, site_of

ALARM_S = 30
LOOKS = int(METER_LAG_S) + DIFFERS_COUNT


class Metered:
    """A row whose servers have meters; the GPUs of n01 show a share of the truth."""

    def __init__(self) -> None:
        self.row = Row(site_of(), load_ratio=0.5)
        self.shows_ratio = 1.0
        self.meter_ratio = 1.0
        self.quality = Quality.GOOD
        self.power_w = 0.0
        self.truth = self.row.frame
        self.row.frame = self.frame  # type: ignore[method-assign]

    def frame(self, node: str) -> NodeTelemetry:
        frame = self.truth(node)
        model = self.row.site.nodes[node].model
        gpus_w = model.gpu_power_factor * sum(gpu.power_w for gpu in frame.gpus)
        meter_w = 0.8 * model.overhead_w + gpus_w
        if node != "n01":
            return msgspec.structs.replace(frame, node_power_w=meter_w)
        gpus = tuple(
            msgspec.structs.replace(
                gpu, power_w=self.shows_ratio * gpu.power_w, quality=self.quality
            )
            for gpu in frame.gpus
        )
        return msgspec.structs.replace(frame, gpus=gpus, node_power_w=self.meter_ratio * meter_w)

    def run(self, seconds: int) -> list[tuple[str, str]]:
        """What was told of readings meanwhile, and of whom."""
        told = []
        for _ in range(seconds):
            decision = self.row.step()
            self.power_w = next(item.power_w for item in decision.nodes if item.node == "n01")
            told += [(event.event, event.subject) for event in decision.events]
        return [item for item in told if item[0].startswith("reading")]


def test_sensors_and_meters_that_agree_are_not_spoken_of() -> None:
    case = Metered()
    assert not case.run(ALARM_S)
    case.row.load_ratio = 1.0
    assert not case.run(ALARM_S)
    case.row.load_ratio = 0.1
    assert not case.run(ALARM_S)


def test_a_meter_that_reads_too_much_or_too_little_is_told_once_and_when_it_is_over() -> None:
    for meter_ratio in (1.5, 0.5):
        case = Metered()
        case.run(10)
        case.meter_ratio = meter_ratio
        assert case.run(ALARM_S) == [("readings-differ", "n01")]
        assert not case.run(ALARM_S)
        case.meter_ratio = 1.0
        assert case.run(ALARM_S) == [("readings-agree", "n01")]


@pytest.mark.parametrize(("shows_ratio", "told"), [(0.6, True), (0.95, False)])
def test_gpus_that_show_a_part_of_their_power_are_told_if_the_meter_shows_it(
    shows_ratio: float, told: bool
) -> None:
    case = Metered()
    case.row.load_ratio = 0.9
    case.run(10)
    case.shows_ratio = shows_ratio
    assert (case.run(ALARM_S) == [("readings-differ", "n01")]) is told


def check_of(gpus_w: float, meter_w: float, *, looks: int = LOOKS) -> bool:
    fleet = Fleet(site_of(nodes=1))
    check = MeterCheck(fleet)
    for _ in range(looks):
        check.see(np.array([gpus_w]), np.array([meter_w]))
    return bool(check.differs[0])


def overhead_w() -> float:
    return float(Fleet(site_of(nodes=1)).overhead_w[0])


@pytest.mark.parametrize(("above_ratio", "differs"), [(0.052, False), (0.053, True)])
def test_a_meter_may_be_five_percent_above_the_most_that_is_explained(
    above_ratio: float, differs: bool
) -> None:
    most_w = 4_000.0 + overhead_w()
    assert check_of(4_000.0, (1.0 + above_ratio) * most_w) is differs


@pytest.mark.parametrize(("more_w", "differs"), [(1.0, False), (-1.0, True)])
def test_a_meter_may_be_as_much_below_its_gpus_alone(more_w: float, differs: bool) -> None:
    least_w = 4_000.0 - 0.05 * (4_000.0 + overhead_w())
    assert check_of(4_000.0, least_w + more_w) is differs


def test_nothing_is_said_before_a_whole_lag_of_the_meter_is_known() -> None:
    assert not check_of(4_000.0, 1e6, looks=LOOKS - 1)
    assert check_of(4_000.0, 1e6, looks=LOOKS)


def test_a_meter_that_lags_behind_a_step_of_load_is_right() -> None:
    check = MeterCheck(Fleet(site_of(nodes=1)))
    gpus_w = [2_000.0] * 20 + [6_000.0] * 20
    for second, power_w in enumerate(gpus_w):
        lagging_w = gpus_w[max(second - int(METER_LAG_S), 0)] + overhead_w()
        check.see(np.array([power_w]), np.array([lagging_w]))
        assert not check.differs[0]


def test_a_reading_that_is_old_contradicts_nobody() -> None:
    case = Metered()
    case.run(10)
    case.quality, case.meter_ratio = Quality.STALE, 1.5
    assert not case.run(ALARM_S)


@pytest.mark.parametrize(("idle_share", "refused"), [(0.24, True), (0.26, False)])
def test_a_gpu_far_below_idle_counts_at_its_worst_and_is_told(
    idle_share: float, refused: bool
) -> None:
    case = Metered()
    case.row.load_ratio = 0.0
    case.run(10)
    before_w = case.power_w
    case.shows_ratio = idle_share
    told = case.run(1)
    assert (told == [("reading-refused", "n01")]) is refused
    assert (case.power_w > before_w) is refused
    assert ("reading-refused", "n01") not in case.run(ALARM_S)


def test_a_meter_that_comes_and_goes_is_not_told_every_cycle() -> None:
    check = MeterCheck(Fleet(site_of()))
    count = len(site_of().nodes)
    gpus_w, flips = np.full(count, 4_000.0), 0
    for cycle in range(40):
        before = check.differs
        bad = cycle > LOOKS and cycle % 2 == 0
        check.see(gpus_w, np.full(count, 9_000.0 if bad else 4_500.0))
        flips += int((check.differs != before)[0])
    assert flips == 0
    turns = []
    for cycle in range(40):
        before = check.differs
        check.see(gpus_w, np.full(count, 9_000.0 if cycle < 3 or cycle % 2 else 4_500.0))
        turns.append(bool((check.differs != before)[0]))
    assert sum(turns) == 1
