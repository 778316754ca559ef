"""A shortage that clocks cannot solve, on the twin: the row stays within its limits, and recovers.

The same cycle and brains as live, true physics; a declared failure takes more of the row than its
safe ceilings leave room for, and ends.
"""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from facility.compiler import compile_site
from facility.config import ContingencyConfig, ServiceConfig
from facility.decisions import Decision
from facility.example import row_site
from facility.topology import Site
from facility.wire import Event
from simulator.offline import Failure, OfflineRun
from simulator.plant import PlantSettings
from tests.row import domain

BEGINS_S, ENDS_S, DURATION_S = 20.0, 90.0, 240.0
LOW = ["n02", "n04", "n07", "n09", "n12"]


def site() -> Site:
    """Twelve nodes whose row may lose three tenths of its capacity."""
    base = row_site(nodes=12)
    return compile_site(
        replace(
            base,
            services=(
                ServiceConfig(name="chat", priority="high", quality_levels=1),
                ServiceConfig(name="batch", priority="low", quality_levels=1),
            ),
            contingencies=(
                ContingencyConfig(name="deep", domain="row-1", capacity_ratio={"row-1": 0.7}),
            ),
            control=replace(
                base.control,
                escalation_settle_s=5.0,
                escalation_calm_s=10.0,
                automatic_steps_per_minute_max=30,
            ),
        )
    )


class Told:
    """A run and the steps that it told of, with the second of each."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, Event]] = []
        self.sentences: list[str] = []
        self.run = OfflineRun(
            site(),
            PlantSettings(seed=1, requests_per_node_s=8.0),
            failure=Failure("deep", BEGINS_S, ENDS_S),
            on_decision=self._decided,
        )
        self.report = self.run.run(DURATION_S)

    def _decided(self, decision: Decision) -> None:
        self.sentences.append(domain(decision, "row-1").sentence)
        self.steps += [
            (decision.at_s, event)
            for event in decision.events
            if event.event in ("escalated", "eased")
        ]

    def words(self, event: str) -> list[str]:
        """What was taken or given back, once for each step, in order."""
        texts = [one.sentence for _, one in self.steps if one.event == event]
        shown = [text.split(": ")[1].split(" on ")[0].removesuffix(" is over") for text in texts]
        return [word for word, _ in itertools.groupby(shown)]


@pytest.fixture(scope="module")
def told() -> Told:
    return Told()


STEPS = [
    "smaller batch of low priority",
    "quality of low priority lowered by 1",
    "low priority off",
]


def test_it_goes_all_the_way_and_back_in_reverse(told: Told) -> None:
    assert told.words("escalated") == STEPS
    assert told.words("eased") == STEPS[::-1]
    assert all(BEGINS_S < at_s < ENDS_S for at_s, one in told.steps if one.event == "escalated")
    assert all(at_s > ENDS_S for at_s, one in told.steps if one.event == "eased")


def test_nothing_trips_or_brakes_and_the_row_is_within_its_capacity_throughout(told: Told) -> None:
    assert told.report["tripped"] is False
    assert told.report["brakes"] == 0
    over_s = told.report["seconds_over_capacity"]
    assert isinstance(over_s, float)
    # Agents find their GPUs unlocked at the start, and lock them a tenth after the failure.
    assert over_s <= 0.5
    over_last_s = told.run.watch.over_last_s
    assert over_last_s is None or over_last_s <= BEGINS_S + 0.5


def test_low_priority_is_off_and_the_sentence_says_so(told: Told) -> None:
    off = [text for text in told.sentences if f"low priority off on {', '.join(LOW)}" in text]
    assert off


def test_everything_is_restored_at_the_end(told: Told) -> None:
    dispatcher = told.run.plant.engines.dispatcher
    assert dispatcher.weight.min() == 1.0
    assert dispatcher.batch_ratio.min() == 1.0
    assert dispatcher.quality_level.max() == 0
    assert "priority off" not in told.sentences[-1]
    truth = told.run.plant.truth()
    assert all(truth.nodes[name].batch > 0 for name in LOW)
