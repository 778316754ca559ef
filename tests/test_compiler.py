"""A site compiles only when it means one thing; what it then says errs to the safe side."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from facility.compiler import compile_site
from facility.config import (
    ContingencyConfig,
    ControlConfig,
    ServiceConfig,
    SiteConfig,
    TripCurveConfig,
)
from facility.example import row_site
from facility.topology import Key
from tests.small_sites import feed, lost, node, pdu, problems, site_of, zone

NONE: frozenset[str] = frozenset()


def gpu(**changes: Any) -> SiteConfig:
    """The example with another GPU."""
    config = row_site(nodes=1)
    return replace(
        config, gpu_models={"h100-sxm": replace(config.gpu_models["h100-sxm"], **changes)}
    )


def gpu_problems(**changes: Any) -> dict[Key, str]:
    return {key[2:]: text for key, text in problems(gpu(**changes)).items()}


# ---- GPU models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["safe_ceiling_mhz", "brake_ceiling_mhz"])
@pytest.mark.parametrize(
    ("clock_mhz", "expected"),
    [(330, "outside the clocks"), (1995, "outside the clocks"), (1001, "use 990 or 1005")],
)
def test_a_ceiling_off_the_clock_grid_is_refused(name: str, clock_mhz: int, expected: str) -> None:
    assert expected in gpu_problems(**{name: clock_mhz})[(name,)]


@pytest.mark.parametrize("clock_mhz", [345, 360, 1980])
def test_a_ceiling_on_the_clock_grid_is_accepted(clock_mhz: int) -> None:
    changes = {"safe_ceiling_mhz": clock_mhz, "brake_ceiling_mhz": 345}

    assert compile_site(gpu(**changes)).nodes["n01"].model.gpu.safe_ceiling_mhz == clock_mhz


def test_the_highest_clock_may_be_off_the_grid() -> None:
    config = gpu(clock_mhz_step=200, safe_ceiling_mhz=1980, brake_ceiling_mhz=345)
    model = compile_site(config).nodes["n01"].model.gpu

    assert model.snap_mhz(1980) == 1980
    assert model.snap_mhz(1979) == 1945


def test_the_brake_may_equal_the_safe_ceiling_but_not_pass_it() -> None:
    assert compile_site(gpu(safe_ceiling_mhz=345, brake_ceiling_mhz=345))
    found = gpu_problems(safe_ceiling_mhz=345, brake_ceiling_mhz=360)
    assert "must not be above safe_ceiling_mhz" in found["brake_ceiling_mhz",]


def test_the_lowest_clock_must_be_below_the_highest() -> None:
    assert "above clock_mhz_min" in gpu_problems(clock_mhz_min=1980)["clock_mhz_max",]


def test_idle_may_draw_as_much_as_the_lowest_worst_case_but_no_more() -> None:
    assert compile_site(gpu(idle_power_w=266.0))
    assert "266 W" in gpu_problems(idle_power_w=266.5)["idle_power_w",]


@pytest.mark.parametrize(
    ("points", "place", "expected"),
    [
        (((345, 266.0), (345, 300.0), (1980, 700.0)), 1, "points must ascend"),
        (((345, 266.0), (1005, 265.0), (1980, 700.0)), 1, "points must ascend"),
        (((345, 266.0), (1965, 700.0)), 1, "the last point must be at clock_mhz_max, 1980"),
        (((345, 100.0), (1005, 500.0), (1980, 700.0)), 1, "the slope falls from 0.606 to 0.205"),
    ],
)
def test_a_worst_case_table_that_could_be_too_low_is_refused(
    points: tuple[tuple[int, float], ...], place: int, expected: str
) -> None:
    assert expected in gpu_problems(worst_case_power_w=points)["worst_case_power_w", place]


@pytest.mark.parametrize(
    "points",
    [
        ((345, 266.0), (1980, 700.0)),
        ((345, 300.0), (1980, 300.0)),
        ((345, 100.0), (1005, 200.0), (1755, 700.0), (1980, 700.0)),
        ((345, 100.0), (1005, 200.0), (1755, 700.0), (1800, 700.0), (1980, 700.0)),
    ],
)
def test_convex_up_to_a_flat_end_is_accepted(points: tuple[tuple[int, float], ...]) -> None:
    assert compile_site(gpu(worst_case_power_w=points))


def test_a_step_up_after_a_flat_piece_is_a_falling_slope_before_it() -> None:
    points = ((345, 100.0), (1005, 700.0), (1755, 700.0), (1980, 800.0))

    assert "the slope falls" in gpu_problems(worst_case_power_w=points)["worst_case_power_w", 1]


# ---- references ---------------------------------------------------------------------------------


def test_every_unknown_name_is_told_with_the_nearest_known_one() -> None:
    config = row_site(nodes=1)
    config = replace(
        config,
        node_models={"dgx-h100": replace(config.node_models["dgx-h100"], gpu_model="h100-sxn")},
        domains=(*config.domains, pdu("pdu-1", "ups-x")),
        nodes=(
            replace(
                config.nodes[0],
                model="dgx-h10",
                parents=("rack-1",),
                zone="aisle-9",
                service="chatt",
            ),
        ),
        contingencies=(
            ContingencyConfig(
                name="k", domain="row-2", lost=("ups-c",), capacity_ratio={"aisle-3": 0.5}
            ),
        ),
    )

    assert problems(config) == {
        ("node_models", "dgx-h100", "gpu_model"): "no GPU model is named 'h100-sxn';"
        " did you mean 'h100-sxm'?",
        ("domains", 5, "parents", 0): "no domain is named 'ups-x'; did you mean 'ups-b'?",
        ("nodes", 0, "model"): "no node model is named 'dgx-h10'; did you mean 'dgx-h100'?",
        ("nodes", 0, "parents", 0): "no domain is named 'rack-1'; did you mean 'rack-01'?",
        ("nodes", 0, "zone"): "no zone is named 'aisle-9'; did you mean 'aisle-1'?",
        ("nodes", 0, "service"): "no service is named 'chatt'; did you mean 'chat'?",
        ("contingencies", 0, "domain"): "no domain is named 'row-2'; did you mean 'row-1'?",
        ("contingencies", 0, "lost", 0): "no domain is named 'ups-c'; did you mean 'ups-b'?",
        ("contingencies", 0, "capacity_ratio", "aisle-3"): "no domain is named 'aisle-3';"
        " did you mean 'aisle-1'?",
    }


def test_a_name_may_stand_for_one_thing_only() -> None:
    config = site_of(
        feed("a"),
        feed("a"),
        node("n01", "a"),
        node("n01", "a"),
        lost("a"),
        lost("a"),
        services=(ServiceConfig(name="s", priority="low"),) * 2,
        trip_curves=(TripCurveConfig(name="c", points=((1.1, 1.0),), source="s"),) * 2,
    )

    assert problems(config) == {
        (section, 1, "name"): f"{name!r} is there twice"
        for section, name in (
            ("domains", "a"),
            ("nodes", "n01"),
            ("services", "s"),
            ("contingencies", "k"),
            ("trip_curves", "c"),
        )
    }


def test_a_node_may_not_be_named_as_a_domain() -> None:
    found = problems(site_of(feed("a"), node("a", "a")))

    assert found == {("nodes", 0, "name"): "'a' is a domain already"}


def test_a_parent_may_be_named_once() -> None:
    found = problems(site_of(feed("a"), pdu("p", "a", "a"), node("n", "p", "p")))

    assert found == {
        ("domains", 1, "parents", 1): "'a' is there twice",
        ("nodes", 0, "parents", 1): "'p' is there twice",
    }


def test_a_zone_feeds_nobody_and_hangs_on_nothing() -> None:
    config = site_of(
        feed("a"),
        replace(zone("z"), parents=("a",)),
        pdu("p", "z"),
        node("n1", "z"),
        node("n2", "p", zone="a"),
    )
    found = problems(config)

    assert found["domains", 1, "parents"] == "a zone has no parents: it cools, it does not feed"
    assert found["domains", 2, "parents", 0] == "'z' is a zone: it cools, it does not feed"
    assert found["nodes", 0, "parents", 0] == "'z' is a zone: it cools, it does not feed"
    assert found["nodes", 1, "zone"] == "no zone is named 'a'"


def test_each_loop_is_told_once_at_its_first_domain() -> None:
    config = site_of(
        feed("a"),
        pdu("p", "q", "a"),
        pdu("q", "r"),
        pdu("r", "p"),
        pdu("self", "self"),
        pdu("below", "q"),
        node("n", "below"),
    )
    found = problems(config)

    assert sorted(found) == [("domains", 1, "parents"), ("domains", 4, "parents")]
    assert found["domains", 1, "parents"].startswith("a loop, each feeds the next: ")
    assert found["domains", 4, "parents"] == "a loop, each feeds the next: self -> self"


def test_a_trip_curve_must_be_known_well_formed_and_not_built_in() -> None:
    curves = (
        TripCurveConfig(name="own", points=((1.1, 60.0),), source="manual"),
        TripCurveConfig(name="ups-strict", points=((1.1, 60.0),), source="manual"),
        TripCurveConfig(name="bad", points=((0.9, 60.0),), source="manual"),
    )
    config = site_of(
        feed("a", trip_curve="own"),
        feed("b", trip_curve="ups-stric"),
        node("n", "a"),
        trip_curves=curves,
    )
    found = problems(config)

    assert found["trip_curves", 1, "name"] == "'ups-strict' is built in, take another name"
    assert "ratios must ascend from above 1" in found["trip_curves", 2, "points"]
    assert "did you mean 'ups-strict'?" in found["domains", 1, "trip_curve"]
    assert len(found) == 3


def test_a_feed_has_the_strict_ups_curve_and_all_else_the_low_band_unless_told() -> None:
    own = TripCurveConfig(name="own", points=((1.1, 60.0),), source="manual")
    config = site_of(
        feed("a"), feed("b", trip_curve="own"), pdu("p", "a"), node("n", "p"), trip_curves=(own,)
    )
    site = compile_site(config)

    assert [domain.trip_curve.name for domain in site.domains.values()] == [
        "ups-strict",
        "own",
        "breaker-low-band",
    ]


def test_a_contingency_must_change_something_and_may_not_be_called_brake() -> None:
    config = site_of(
        feed("a"),
        node("n", "a"),
        ContingencyConfig(name="nothing", domain="a"),
        ContingencyConfig(name="brake", domain="a", lost=("a",)),
    )

    assert problems(config) == {
        ("contingencies", 0): "neither lost nor capacity_ratio: it changes nothing",
        ("contingencies", 1, "name"): "'brake' is reserved for the power brake",
    }


def test_a_contingency_must_be_heard_by_every_node_that_it_concerns() -> None:
    items = (feed("a"), feed("b"), pdu("p", "a", "b"), node("n1", "p"), node("n2", "b"))

    found = problems(site_of(*items, lost("a", domain="p")))
    assert "node 'n2' must act but hangs below no 'p'" in found["contingencies", 0, "domain"]
    assert compile_site(site_of(*items, lost("a", domain="b")))


# ---- control ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "refused", "key"),
    [
        ({"lease_s": 3.0}, {"lease_s": 2.99}, "lease_s"),
        ({"cycle_s": 1.3}, {"cycle_s": 1.4}, "lease_s"),
        ({"telemetry_s": 1.5, "stale_s": 3.0}, {"telemetry_s": 1.6, "stale_s": 4.0}, "lease_s"),
        ({"stale_s": 2.0}, {"stale_s": 1.9}, "stale_s"),
        ({"release_ratio": 0.96}, {"release_ratio": 0.97}, "release_ratio"),
        ({"history_target_ratio": 0.06}, {"history_target_ratio": 0.04}, "history_target_ratio"),
        ({"actuation_s": 3.0}, {"actuation_s": 3.1}, "horizon_s"),
        ({"actuation_s": 40.0, "horizon_s": 42.0}, {"actuation_s": 40.0}, "horizon_s"),
    ],
)
def test_timings_that_would_be_unsafe_are_refused(
    accepted: dict[str, float], refused: dict[str, float], key: str
) -> None:
    config = row_site(nodes=1)

    assert compile_site(replace(config, control=replace(ControlConfig(), **accepted)))
    found = problems(replace(config, control=replace(ControlConfig(), **refused)))
    assert list(found) == [("control", key)]
