"""When a domain needs more than clocks, and when clocks alone would do: both sides of each line."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.fleet import Fleet, IntArray
from controllers.need import ROOM_SHARE, Need, needs
from controllers.policy import Situation
from facility.wire import Mode
from tests.row import site_of

SITE = site_of(nodes=8)
FLEET = Fleet(SITE)
ROW, UPS_B = FLEET.domain_index["row-1"], FLEET.domain_index["ups-b"]
GPU = SITE.nodes["n01"].model.gpu
SAFE_MHZ, HIGHEST_MHZ = GPU.safe_ceiling_mhz, GPU.clock_mhz_max
ROOM_MHZ = SAFE_MHZ + ROOM_SHARE * (HIGHEST_MHZ - SAFE_MHZ)
CAPACITY_W = 30_000.0


def need(
    *,
    power_w: float = 20_000.0,
    high_mhz: float = HIGHEST_MHZ,
    low_mhz: float = HIGHEST_MHZ,
    bound_by: int = ROW,
    mode: Mode = Mode.SHAVING,
    movable: bool = True,
    carried_ratio: float = 1.0,
) -> Need:
    """The need of a row of eight nodes that draws `power_w`; all other domains have room.

    `carried_ratio` 0 is a row that nothing loads any more.
    """
    nodes = len(FLEET.nodes)
    capacity_w = np.full(len(FLEET.domains), 1e9)
    capacity_w[ROW] = CAPACITY_W
    shares = FLEET.shares(frozenset()).copy()
    shares[ROW] *= carried_ratio
    ceiling_mhz: IntArray = np.where(FLEET.low_priority, low_mhz, high_mhz).astype(np.int64)
    situation = Situation(
        now_s=0.0,
        fleet=FLEET,
        control=SITE.control,
        shares=shares,
        over_table=np.ones(nodes),
        rated_w=capacity_w,
        capacity_w=capacity_w,
        power_w=np.full(nodes, power_w / nodes),
        overhead_w=FLEET.overhead_w,
        rise_w=np.zeros(len(FLEET.domains)),
        ceiling_mhz=ceiling_mhz,
        measured_mhz=ceiling_mhz,
        movable=np.full(nodes, movable),
        hold=False,
    )
    found = needs(
        situation,
        ceiling_mhz=ceiling_mhz,
        bound_by=np.full(nodes, bound_by),
        modes=dict.fromkeys(FLEET.domains, Mode.NORMAL) | {"row-1": mode},
    )
    assert list(found) == list(FLEET.domains)
    return found["row-1"]


@pytest.mark.parametrize(("power_w", "over"), [(CAPACITY_W, False), (CAPACITY_W + 1.0, True)])
def test_over_is_a_forecast_above_what_may_be_used(power_w: float, over: bool) -> None:
    found = need(power_w=power_w)
    assert found.over is over
    assert found.room is not over
    assert ("with the clocks that are left" in found.why) is over


@pytest.mark.parametrize(("high_mhz", "starved"), [(SAFE_MHZ, True), (SAFE_MHZ + 15, False)])
def test_high_priority_at_its_safe_ceiling_has_given_all_it_should(
    high_mhz: int, starved: bool
) -> None:
    found = need(high_mhz=high_mhz, low_mhz=SAFE_MHZ)
    assert found.starved is starved
    assert bool(found.why) is starved


def test_low_priority_is_meant_to_be_slow() -> None:
    found = need(low_mhz=GPU.brake_ceiling_mhz)
    assert not found.starved
    assert not found.room  # but below its safe ceiling it is no sign of room either


@pytest.mark.parametrize(("high_mhz", "room"), [(ROOM_MHZ - 1, False), (ROOM_MHZ + 1, True)])
def test_room_is_a_part_of_the_clocks_back_for_high_priority(high_mhz: float, room: bool) -> None:
    assert need(high_mhz=high_mhz, low_mhz=SAFE_MHZ).room is room


@pytest.mark.parametrize(("low_mhz", "room"), [(SAFE_MHZ - 15, False), (SAFE_MHZ, True)])
def test_room_is_the_safe_ceiling_back_for_low_priority(low_mhz: int, room: bool) -> None:
    assert need(low_mhz=low_mhz).room is room


@pytest.mark.parametrize("bound_by", [-1, UPS_B])
def test_nodes_that_another_domain_holds_are_that_domains_need(bound_by: int) -> None:
    assert need(high_mhz=SAFE_MHZ, bound_by=bound_by) == Need(pressed=True)


def test_nodes_that_cannot_be_moved_starve_nobody_and_count_as_power() -> None:
    assert not need(high_mhz=SAFE_MHZ, movable=False).starved
    assert need(high_mhz=SAFE_MHZ, movable=False, power_w=CAPACITY_W + 1.0).over


@pytest.mark.parametrize(
    ("mode", "power_w", "pressed"),
    [
        (Mode.NORMAL, CAPACITY_W, False),
        (Mode.NORMAL, CAPACITY_W + 1.0, True),
        (Mode.SHAVING, CAPACITY_W, True),
        (Mode.EMERGENCY, CAPACITY_W, True),
        (Mode.BRAKE, CAPACITY_W, True),
    ],
)
def test_pressed_is_every_mode_but_normal_and_an_overload_all_the_same(
    mode: Mode, power_w: float, pressed: bool
) -> None:
    assert need(mode=mode, power_w=power_w).pressed is pressed


def test_a_domain_that_carries_nothing_needs_nothing() -> None:
    found = need(power_w=10 * CAPACITY_W, high_mhz=SAFE_MHZ, carried_ratio=0.0)
    assert found == Need(pressed=True)
