"""The fluid level: rows over weeks mean what the request level means, and policies act as live."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import pytest

from daemon.simulate_command import scenario_text
from simulator.dispatch import Packing
from simulator.experiments.model import load_sweep
from simulator.experiments.summary import summarise
from simulator.fluid.actuation import IN_BAND, OUT_OF_BAND, Actuation
from simulator.fluid.document import FluidSweep
from simulator.fluid.experiment import FluidLevel, bench_of, server_of, workload_of
from simulator.fluid.router import Router
from simulator.fluid.rows import Layout
from simulator.fluid.tally import RowTally
from simulator.plant import PlantSettings
from simulator.rows import ROW_DT_S, RequestRow
from tests.twin_rows import a100_site, drive

HOUR_S: Final = 3_600.0
NOON_S: Final = 68 * 2_000.0
"""The second day of the week at noon, on the grid of blocks: a busy hour."""
FULL_MHZ: Final = 1410


def sweep(**changes: str) -> FluidSweep:
    """`polca-row` with keys changed; dots in keys are written as `__`."""
    plain = {key.replace("__", "."): value for key, value in changes.items()}
    _, scenario = load_sweep(scenario_text("polca-row"), "polca-row", plain)
    assert isinstance(scenario, FluidSweep)
    return scenario


SMALL: Final = {"duration_days": "0.05", "sweep__power_factor": "[1.0]"}


def test_both_levels_of_the_twin_agree_on_the_same_hour() -> None:
    scenario = sweep(
        load__noise_ratio="0",
        load__week_noise_ratio="0",
        sweep__added_ratio="[0]",
        sweep__power_factor="[1.0]",
    )
    bench = bench_of(scenario, "none", seed=1)
    bench.run.run(bench.load, bench.work, duration_s=HOUR_S, begin_s=NOON_S)
    fluid = bench.latencies(0)
    row_w = bench.run.tally.quantile_ratio(0, 0.99) * bench.run.tally.capacity_w[0]
    mean_w = bench.run.tally.energy_j[0] / bench.run.tally.seconds

    model, workload = server_of(scenario), workload_of(scenario.load)
    envelope = workload.envelope
    row = RequestRow(
        a100_site(workload.node_priorities(40)),
        PlantSettings(
            dt_s=ROW_DT_S,
            trace=workload,
            requests_per_node_s=scenario.load.peak_requests_per_server_s
            * envelope.mean_per_s
            / envelope.peak_per_s,
            load_begin_s=NOON_S,
            warm_up_s=900.0,
            engine=model.engine,
            server=model.chassis,
            packing=Packing(scenario.load.packed_ratio, scenario.load.packed_batch),
            trips=False,
        ),
    )
    power_w = drive(row, seconds=HOUR_S).sum(axis=1)
    assert mean_w == pytest.approx(power_w.mean(), rel=0.03)
    assert row_w == pytest.approx(np.percentile(power_w, 99.0), rel=0.03)
    for priority, served in row.served().items():
        for name, share in (("p50", 0.50), ("p99", 0.99)):
            exact_s = served.e2e.quantile_s(share)
            assert fluid[f"{name}_{priority}"] == pytest.approx(exact_s, rel=0.10)


def test_the_same_seed_gives_the_same_run_to_the_last_bit_and_another_does_not() -> None:
    scenario, level = sweep(**SMALL), FluidLevel()
    first, other, *_free = level.units(scenario, ["ampacity"], [1, 2])
    again = level.run(first, lambda _: None)
    assert level.run(first, lambda _: None) == again
    assert level.run(other, lambda _: None).points != again.points


def test_what_decides_a_unit_is_not_what_is_shown() -> None:
    level = FluidLevel()
    shown = level.units(sweep(**SMALL), ["polca"], [1])
    assert level.units(sweep(**SMALL, headline__added_ratio="0.45"), ["polca"], [1]) != shown
    assert level.units(sweep(**SMALL, description="other words"), ["polca"], [1]) == shown


def test_a_row_with_power_enough_is_never_slowed_and_the_same_under_every_policy() -> None:
    scenario, level = sweep(**SMALL, row__provisioned_w="9000"), FluidLevel()
    units = level.units(scenario, ["none", "polca", "ampacity"], [1])
    free = [
        [
            (point.at, point.metrics["row_power_ratio_max"], point.metrics["capped_s_low"])
            for point in level.run(unit, lambda _: None).points
        ]
        for unit in units
    ]
    assert free[0] == free[1] == free[2]
    assert all(capped_s == 0.0 for _, _, capped_s in free[0])


def test_a_tight_row_is_kept_within_its_capacity_by_ampacity_and_not_by_none() -> None:
    changes = {**SMALL, "row__provisioned_w": "3600", "sweep__added_ratio": "[0.3]"}
    scenario, level = sweep(**changes), FluidLevel()
    units = level.units(scenario, ["ampacity"], [1])
    results = [level.run(unit, lambda _: None) for unit in units]
    found = {point.policy: point.metrics for point in level.points(scenario, results)}
    assert (found["none"]["over_capacity_s"] or 0.0) > 100.0
    assert found["ampacity"]["over_capacity_s"] == 0.0
    assert found["ampacity"]["brakes"] == 0.0
    slowed = found["ampacity"]["latency_p50_impact_ratio_low"] or 0.0
    assert slowed > (found["ampacity"]["latency_p50_impact_ratio_high"] or 0.0)


def test_the_competitor_without_a_policy_is_always_run_and_shown_only_when_asked_for() -> None:
    scenario, level = sweep(**SMALL), FluidLevel()
    units = level.units(scenario, ["polca"], [1])
    assert [unit["name"] for unit in units] == ["polca", "none"]
    results = [level.run(unit, lambda _: None) for unit in units]
    assert set(summarise(level, scenario, ["polca"], results).policies) == {"polca"}


def test_a_sweep_without_a_competitor_that_is_free_is_refused() -> None:
    scenario = sweep(**SMALL)
    left = {name: one for name, one in scenario.policies.items() if name != "none"}
    with pytest.raises(ValueError, match="expected one with `policy: none`"):
        FluidLevel().units(msgspec.structs.replace(scenario, policies=left), ["polca"], [1])


def actuation(path_slow: bool) -> Actuation:
    path = OUT_OF_BAND if path_slow else IN_BAND
    return Actuation(path, np.full(2, FULL_MHZ), np.full(2, 285))


NOBODY: Final = np.zeros(2, dtype=np.bool_)
BOTH: Final = np.ones(2, dtype=np.bool_)


def test_in_band_a_command_is_in_force_at_once() -> None:
    path = actuation(path_slow=False)
    path.command(0.0, np.array([1110, FULL_MHZ]), NOBODY)
    assert path.advance(0.0).tolist() == [1110, FULL_MHZ]


def test_out_of_band_a_command_takes_40_s_and_is_not_overtaken() -> None:
    path = actuation(path_slow=True)
    path.command(0.0, np.array([1110, FULL_MHZ]), NOBODY)
    path.command(2.0, np.array([1305, FULL_MHZ]), NOBODY)
    assert path.advance(38.0).tolist() == [FULL_MHZ, FULL_MHZ]
    assert path.advance(40.0).tolist() == [1110, FULL_MHZ]
    path.command(40.0, np.array([1305, FULL_MHZ]), NOBODY)
    assert path.advance(78.0).tolist() == [1110, FULL_MHZ]
    assert path.advance(80.0).tolist() == [1305, FULL_MHZ]


def test_every_change_on_a_slow_path_is_seen_by_who_compares() -> None:
    path = actuation(path_slow=True)
    seen = [path.advance(0.0)]
    for now_s, clock_mhz in ((0.0, 1110), (42.0, 1305), (84.0, FULL_MHZ)):
        path.command(now_s, np.full(2, clock_mhz), NOBODY)
        seen.append(path.advance(now_s + 40.0))
    assert [one.tolist() for one in seen] == [
        [FULL_MHZ] * 2,
        [1110] * 2,
        [1305] * 2,
        [FULL_MHZ] * 2,
    ]


def test_the_brake_has_a_path_of_its_own_and_takes_5_s() -> None:
    path = actuation(path_slow=True)
    wanted = np.full(2, FULL_MHZ)
    for now_s in (0.0, 2.0, 4.0):
        path.command(now_s, wanted, BOTH)
        assert path.advance(now_s).tolist() == [FULL_MHZ, FULL_MHZ]
    path.command(6.0, wanted, BOTH)
    assert path.advance(6.0).tolist() == [285, 285]


def router(depth: int) -> Router:
    layout = Layout(
        row=np.zeros(3, dtype=np.int64),
        server=np.arange(3),
        mix=np.zeros(3, dtype=np.int64),
        power_factor=np.ones(3),
    )
    return Router(layout, Packing(1.0, depth))


@pytest.mark.parametrize(
    ("held", "coming", "expected"),
    [
        ([1.0, 3.0, 0.0], 1.0, [0.0, 1.0, 0.0]),  # the fullest that has room
        ([1.0, 4.0, 0.0], 1.0, [1.0, 0.0, 0.0]),  # one at the depth has none
        ([1.0, 3.0, 0.0], 3.0, [2.0, 1.0, 0.0]),  # one after the other
        ([4.0, 4.0, 4.0], 2.0, [2.0, 0.0, 0.0]),  # all are full: the first takes them
    ],
)
def test_packed_requests_fill_the_fullest_server_first(
    held: list[float], coming: float, expected: list[float]
) -> None:
    requests, work_s = np.zeros(3), np.zeros(3)
    router(4).pack(
        requests,
        work_s,
        held=np.array(held),
        counts=np.array([[coming]]),
        works_s=np.array([[2.0 * coming]]),
    )
    assert requests.tolist() == expected
    assert work_s.tolist() == [2.0 * count for count in expected]


def test_a_tally_counts_peaks_rises_and_brakes_once_each() -> None:
    tally = RowTally(np.array([100.0]), 1, dt_s=2.0)
    braked = [False, True, True, False, True]
    for power_w, brake in zip((80.0, 101.0, 90.0, 60.0, 85.0), braked, strict=True):
        tally.add(np.array([power_w]), np.array([brake]))
    tally.close()
    assert tally.peak_ratio[0] == pytest.approx(1.01)
    assert tally.rise_ratio[0] == pytest.approx(0.25)
    assert tally.over_s[0] == 2.0
    assert tally.brakes[0] == 2
    assert tally.brake_s[0] == 6.0


def test_what_contradicts_itself_is_refused_before_anything_runs() -> None:
    level = FluidLevel()
    with pytest.raises(ValueError, match="no engine"):
        level.units(sweep(row__model="gpt-9"), ["none"], [1])
    with pytest.raises(ValueError, match="says nothing about priorities"):
        level.units(sweep(load__workload="mooncake"), ["none"], [1])
    with pytest.raises(ValueError, match="allowed are"):
        level.units(sweep(uncertain__sunshine="1"), ["none"], [1])
