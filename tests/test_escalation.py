"""The steps after the lock: their order, their pace, their limit a minute, and the way back."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from controllers.escalation import (
    CALM_FACTOR_MAX,
    GAP_S,
    REROUTE_AFTER_S,
    ZONE_SETTLE_S,
    Change,
    Escalation,
    Rung,
    Taken,
)
from controllers.need import Need
from controllers.steps import StepBudget
from facility.compiler import compile_site
from facility.config import PolicyName, ServiceConfig
from facility.example import row_site
from facility.topology import Site

SETTLE_S, CALM_S = 10.0, 60.0
OVER = Need(pressed=True, over=True, room=False, why="over")
STARVED = Need(pressed=True, starved=True, room=False, why="starved")
PRESSED = Need(pressed=True, room=False)
ROOM = Need(pressed=True)
QUIET = Need()
ENOUGH = 1_000


def site_with(
    *, nodes: int = 10, policy: PolicyName = "ampacity", quality: tuple[int, int] = (1, 2)
) -> Site:
    """The example row: of five nodes three serve chat, high priority, and two batch, low."""
    base = row_site(nodes=nodes)
    high, low = quality
    services = (
        ServiceConfig(name="chat", priority="high", quality_levels=high),
        ServiceConfig(name="batch", priority="low", quality_levels=low),
    )
    control = replace(
        base.control, policy=policy, escalation_settle_s=SETTLE_S, escalation_calm_s=CALM_S
    )
    return compile_site(replace(base, services=services, control=control))


LOW = ("n02", "n04", "n07", "n09")
HIGH = ("n01", "n03", "n05", "n06", "n08", "n10")


class Hill:
    """An escalation under the test's clock: a cycle a second, needs by hand."""

    def __init__(self, site: Site | None = None, *, per_minute_max: int = ENOUGH) -> None:
        self.site = site or site_with()
        self.budget = StepBudget(per_minute_max)
        self.escalation = Escalation(self.site, self.budget)
        self.now_s = 1_000.0
        self.hold = False

    def step(self, **needs: Need) -> tuple[Change, ...]:
        """One cycle; `row_1=OVER` is the need of row-1, everybody else has none."""
        self.now_s += 1.0
        given = {name.replace("_", "-"): need for name, need in needs.items()}
        everybody = dict.fromkeys(self.site.domains, QUIET) | given
        return self.escalation.step(self.now_s, everybody, hold=self.hold)

    def run(self, seconds: float, **needs: Need) -> list[tuple[float, Change]]:
        """Cycles for some seconds: each change with the second in which it came."""
        start_s = self.now_s
        return [
            (self.now_s - start_s, change)
            for _ in range(round(seconds))
            for change in self.step(**needs)
        ]

    def climb(self, **needs: Need) -> list[Rung]:
        """Until nothing is left to take."""
        return [change.rung for _, change in self.run(200, **needs)]

    def given(self) -> dict[str, Taken]:
        """Who gives anything."""
        found = {name: self.escalation.taken(name) for name in self.site.nodes}
        return {name: taken for name, taken in found.items() if taken != Taken()}


def test_power_takes_every_step_in_order_and_low_priority_before_high() -> None:
    assert Hill().climb(row_1=OVER) == [
        Rung("batch", "low"),
        Rung("batch", "high"),
        Rung("quality", "low", 1),
        Rung("quality", "low", 2),
        Rung("quality", "high", 1),
        Rung("off", "low"),
    ]


def test_slow_high_priority_takes_from_low_priority_alone() -> None:
    hill = Hill()
    assert [rung.priority for rung in hill.climb(row_1=STARVED)] == ["low"] * 4
    assert set(hill.given()) == set(LOW)


def test_high_priority_is_never_switched_off() -> None:
    hill = Hill()
    hill.climb(row_1=OVER)
    assert [name for name, taken in hill.given().items() if taken.off] == list(LOW)


def test_a_step_that_had_been_passed_over_is_taken_once_power_asks_for_it() -> None:
    hill = Hill()
    hill.climb(row_1=STARVED)
    assert hill.climb(row_1=OVER) == [Rung("batch", "high"), Rung("quality", "high", 1)]


def test_services_without_quality_levels_skip_that_step_at_once() -> None:
    hill = Hill(site_with(quality=(0, 0)))
    found = hill.run(60, row_1=OVER)
    assert [change.rung.takes for _, change in found] == ["batch", "batch", "off"]
    times = [at_s for at_s, _ in found]
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [SETTLE_S] * 2


def test_a_service_gives_no_more_quality_than_it_has() -> None:
    hill = Hill(site_with(quality=(1, 3)))
    hill.climb(row_1=OVER)
    assert hill.escalation.taken("n01").quality_level == 1
    assert hill.escalation.taken("n02").quality_level == 3


def test_the_first_step_waits_until_requests_were_rerouted_and_that_has_settled() -> None:
    hill = Hill()
    hill.step(row_1=OVER)
    wait_s = REROUTE_AFTER_S + SETTLE_S
    assert hill.run(wait_s - 1, row_1=OVER) == []
    assert hill.escalation.pressed(hill.now_s) == {"row-1"}
    assert [change.rung for change in hill.step(row_1=OVER)] == [Rung("batch", "low")]


def test_requests_are_rerouted_after_the_clocks_have_had_their_time() -> None:
    hill = Hill()
    hill.step(row_1=PRESSED)
    hill.run(REROUTE_AFTER_S - 1, row_1=PRESSED)
    assert hill.escalation.pressed(hill.now_s) == frozenset()
    hill.step(row_1=PRESSED)
    assert hill.escalation.pressed(hill.now_s) == {"row-1"}
    hill.step()
    assert hill.escalation.pressed(hill.now_s) == frozenset()


def test_each_step_has_its_time_before_the_next() -> None:
    hill = Hill()
    times = [at_s for at_s, _ in hill.run(100, row_1=OVER)]
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [SETTLE_S] * 5


def test_a_need_must_have_lasted_however_long_clocks_have_been_busy() -> None:
    hill = Hill()
    hill.run(600, row_1=PRESSED)
    assert hill.run(SETTLE_S, row_1=OVER) == []
    assert len(hill.run(1, row_1=OVER)) == 1


@pytest.mark.parametrize(("gap_s", "steps"), [(GAP_S, 1), (GAP_S + 1, 0)])
def test_a_need_that_wavers_is_one_need_and_one_that_ends_begins_anew(
    gap_s: float, steps: int
) -> None:
    hill = Hill()
    hill.run(60, row_1=PRESSED)
    hill.run(5, row_1=OVER)
    hill.run(gap_s, row_1=PRESSED)
    assert len(hill.run(8, row_1=OVER)) == steps


def test_without_a_need_nothing_more_is_taken_and_nothing_is_given_back() -> None:
    hill = Hill()
    hill.run(20, row_1=OVER)
    assert hill.run(300, row_1=PRESSED) == []
    assert set(hill.given()) == set(LOW)


def test_steps_are_given_back_in_reverse_order_when_there_is_room() -> None:
    hill = Hill()
    taken = hill.climb(row_1=OVER)
    back = hill.run(1_000, row_1=ROOM)
    order = [rung for rung, _ in itertools.groupby(change.rung for _, change in back)]
    assert order == taken[::-1]
    assert all(change.given_back for _, change in back)
    assert hill.given() == {}


def test_a_step_is_given_back_only_after_a_calm_while() -> None:
    hill = Hill()
    hill.run(20, row_1=OVER)
    hill.step(row_1=ROOM)
    assert hill.run(CALM_S - 1, row_1=ROOM) == []
    assert len(hill.step(row_1=ROOM)) == 1


def test_a_moment_without_room_begins_the_calm_anew() -> None:
    hill = Hill()
    hill.run(20, row_1=OVER)
    hill.run(CALM_S - 1, row_1=ROOM)
    hill.step(row_1=PRESSED)
    assert hill.run(CALM_S, row_1=ROOM) == []
    assert len(hill.step(row_1=ROOM)) == 1


def test_endpoints_come_back_one_by_one_spread_over_the_minute() -> None:
    hill = Hill(per_minute_max=10)
    hill.run(30, row_1=STARVED)
    hill.run(60, row_1=PRESSED)
    back = hill.run(CALM_S + 40, row_1=ROOM)
    assert [change.endpoints for _, change in back][:2] == [("n02",), ("n04",)]
    times = [at_s for at_s, _ in back]
    assert all(later - earlier >= 5.0 for earlier, later in itertools.pairwise(times))


def test_a_step_that_had_to_be_taken_again_is_kept_longer_up_to_a_limit() -> None:
    hill = Hill(site_with(quality=(0, 0)))
    kept_s = []
    for _ in range(7):
        hill.run(40, row_1=STARVED)
        waited_s = 0.0
        while not hill.step(row_1=ROOM):
            waited_s += 1.0
        kept_s.append(waited_s)
    assert kept_s == [CALM_S * factor for factor in (1, 2, 4, 8, 16, 16, 16)]
    assert max(kept_s) == CALM_S * CALM_FACTOR_MAX


def test_no_more_than_the_limit_is_taken_within_any_minute() -> None:
    hill = Hill(site_with(nodes=40), per_minute_max=10)
    moves = [
        at_s for at_s, change in hill.run(400, row_1=OVER, ups_a=OVER) for _ in change.endpoints
    ]
    assert len(moves) > 40
    assert all(sum(start_s <= at_s < start_s + 60.0 for at_s in moves) <= 10 for start_s in moves)


def test_the_eleventh_step_waits_for_the_minute_and_then_happens() -> None:
    hill = Hill(site_with(nodes=40), per_minute_max=10)
    (first,) = [change for _, change in hill.run(16, row_1=OVER)]
    assert len(first.endpoints) == 10
    assert "6 more steps wait, at most 10 a minute" in hill.escalation.words("row-1")
    assert hill.run(59, row_1=OVER) == []
    (rest,) = hill.step(row_1=OVER)
    assert (rest.rung, len(rest.endpoints)) == (Rung("batch", "low"), 6)


def test_what_waits_is_dropped_when_its_reason_is_gone() -> None:
    hill = Hill(site_with(nodes=40), per_minute_max=10)
    hill.run(16, row_1=OVER)
    hill.run(20, row_1=PRESSED)
    assert hill.run(200, row_1=PRESSED) == []
    assert len(hill.given()) == 10
    assert "wait" not in hill.escalation.words("row-1")


def test_what_waits_is_judged_anew_and_not_carried_out_on_the_first_sign() -> None:
    hill = Hill(site_with(nodes=40), per_minute_max=10)
    hill.run(16, row_1=OVER)
    hill.run(200, row_1=PRESSED)
    assert hill.run(SETTLE_S, row_1=OVER) == []
    assert len(hill.step(row_1=OVER)) == 1


def test_air_is_given_longer_to_show_what_a_step_has_changed() -> None:
    hill = Hill()
    assert hill.run(REROUTE_AFTER_S + ZONE_SETTLE_S, aisle_1=OVER) == []
    assert len(hill.run(1, aisle_1=OVER)) == 1


def test_the_limit_is_one_for_the_whole_site() -> None:
    hill = Hill(site_with(nodes=40), per_minute_max=3)
    found = hill.run(40, aisle_1=OVER, aisle_2=OVER)
    assert sum(len(change.endpoints) for _, change in found) == 3


@pytest.mark.parametrize(("wait_s", "allowed"), [(59.9, False), (60.0, True)])
def test_a_step_is_free_again_a_minute_later(wait_s: float, allowed: bool) -> None:
    budget = StepBudget(2)
    assert [budget.take(5.0), budget.take(6.0), budget.take(7.0)] == [True, True, False]
    assert budget.take(5.0 + wait_s) is allowed
    assert budget.taken_count == 2 + allowed


def test_with_a_limit_of_none_nothing_is_ever_taken() -> None:
    assert Hill(per_minute_max=0).run(300, row_1=OVER) == []


def test_a_step_touches_only_what_is_below_the_domain_in_need() -> None:
    hill = Hill()
    hill.climb(rack_01=OVER)
    assert set(hill.given()) == {"n01", "n02", "n03", "n04"}


def test_two_domains_ask_for_a_step_once_and_it_lasts_while_either_does() -> None:
    hill = Hill()
    found = hill.run(16, row_1=OVER, ups_b=OVER)
    assert [change.domain for _, change in found] == ["ups-b"]
    assert hill.run(2 * CALM_S, row_1=PRESSED, ups_b=ROOM) == []
    assert set(hill.given()) == set(LOW)
    back = hill.run(2 * CALM_S, row_1=ROOM, ups_b=ROOM)
    assert {change.rung for _, change in back} == {Rung("batch", "low")}
    assert hill.given() == {}


def test_while_much_of_the_site_is_silent_nothing_moves_either_way() -> None:
    hill = Hill()
    hill.hold = True
    assert hill.run(100, row_1=OVER) == []
    hill.hold = False
    hill.run(20, row_1=OVER)
    hill.hold = True
    assert hill.run(300, row_1=ROOM) == []
    assert set(hill.given()) == set(LOW)


def test_a_new_controller_begins_with_nothing_taken_and_judges_for_itself() -> None:
    hill = Hill()
    hill.climb(row_1=OVER)
    again = Hill(hill.site)
    assert again.given() == {}
    assert again.run(200, row_1=PRESSED) == []
    assert again.climb(row_1=OVER)[0] == Rung("batch", "low")


def test_nobody_is_asked_who_cannot_be_routed() -> None:
    base = row_site(nodes=10)
    services = tuple(replace(service, routable=False) for service in base.services)
    hill = Hill(compile_site(replace(base, services=services)))
    assert hill.climb(row_1=OVER) == []


@pytest.mark.parametrize("policy", ["none", "brake-only", "uniform", "one-threshold-all", "polca"])
def test_baselines_are_clocks_and_weights_alone(policy: PolicyName) -> None:
    hill = Hill(site_with(policy=policy))
    assert hill.climb(row_1=OVER) == []
    assert hill.escalation.pressed(hill.now_s) == {"row-1"}


def test_a_change_says_what_where_and_why() -> None:
    hill = Hill()
    changes = [change for _, change in hill.run(80, row_1=STARVED)]
    assert changes[0].sentence == (
        "row-1: smaller batch of low priority on n02, n04, n07, n09: starved"
    )
    assert [change.severity for change in changes] == ["warning"] * 3 + ["critical"]
    assert hill.escalation.words("row-1") == "low priority off on n02, n04, n07, n09"
    back = hill.run(CALM_S + 2, row_1=ROOM)
    assert back[0][1].severity == "info"
    assert "low priority off is over on n02" in back[0][1].sentence


def test_many_endpoints_are_a_count() -> None:
    hill = Hill(site_with(nodes=40))
    (change,) = [change for _, change in hill.run(16, row_1=STARVED)]
    assert change.sentence.endswith("and 8 more: starved")
