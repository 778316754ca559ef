"""A GPU whose margin falls too fast for the next look is slowed before it is gone."""

from __future__ import annotations

import pytest

from controllers.node_limits import HEAT_FALL_C_MIN, HeatLimit
from facility.ports import MediumReading

FLOOR_MHZ = 345
WANTED_MHZ = 1980
MARGIN_C_MIN = 3.0


def after(margins_c: list[float], *, every_s: float) -> int | None:
    """The ceiling after a GPU was seen with these margins, one look after the other."""
    limit = HeatLimit()
    for count, margin_c in enumerate(margins_c):
        limit.observe(
            MediumReading(margin_c=margin_c),
            at_s=100.0 + count * every_s,
            running_mhz=WANTED_MHZ,
            wanted_mhz=WANTED_MHZ,
            floor_mhz=FLOOR_MHZ,
            margin_c_min=MARGIN_C_MIN,
        )
    return limit.ceiling_mhz


STEPPED_MHZ = 1782


@pytest.mark.parametrize(
    ("margins_c", "ceiling_mhz"),
    [
        ([27.0, 21.0, 15.0], None),  # 3 C ahead: just enough
        ([26.0, 20.0, 14.0], STEPPED_MHZ),
        ([25.0, 19.0, 13.0], STEPPED_MHZ),
        ([24.0, 18.0, 12.0], FLOOR_MHZ),  # gone before what the next look asks for has bitten
    ],
)
def test_a_heat_sink_that_fails_is_seen_by_how_fast_the_margin_falls(
    margins_c: list[float], ceiling_mhz: int | None
) -> None:
    assert after(margins_c, every_s=1.0) == ceiling_mhz


def test_work_that_begins_heats_a_die_at_once_and_is_no_trend() -> None:
    assert after([30.0, 30.0, 14.0], every_s=1.0) is None
    assert after([30.0, 30.0, 14.0, 12.0, 11.0], every_s=1.0) is None


def test_a_fall_that_has_ended_does_not_go_on() -> None:
    assert after([24.0, 19.0, 14.0, 14.0, 9.0], every_s=1.0) is None
    assert after([24.0, 19.0, 14.0, 9.0], every_s=1.0) == FLOOR_MHZ


@pytest.mark.parametrize(("fall_c", "slows"), [(HEAT_FALL_C_MIN - 0.1, False), (2.0, True)])
def test_a_fall_within_what_the_sensor_resolves_is_no_trend(fall_c: float, slows: bool) -> None:
    margins_c = [6.0 + fall_c * count for count in (2, 1, 0)]
    assert (after(margins_c, every_s=1.0) is not None) is slows


@pytest.mark.parametrize(
    ("margin_c", "ceiling_mhz"), [(7.0, None), (6.9, STEPPED_MHZ), (4.0, FLOOR_MHZ)]
)
def test_who_looks_seldom_follows_a_trend_for_two_seconds_and_no_longer(
    margin_c: float, ceiling_mhz: int | None
) -> None:
    # 2 C a second, seen every ten seconds
    assert after([margin_c + 40.0, margin_c + 20.0, margin_c], every_s=10.0) == ceiling_mhz


def test_a_margin_that_was_missing_begins_no_trend() -> None:
    assert after([float("nan"), 10.0, float("nan"), 4.0], every_s=1.0) is None
