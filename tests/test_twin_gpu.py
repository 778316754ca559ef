"""What a simulated GPU draws, where its own limiters stop it, and what its sensors say."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.bank import DECODE, PREFILL, Demand, GpuBank
from simulator.engine import DecodeStep, Engine
from simulator.gpu import A100_SXM_80, H100_SXM, GpuConstants, part_named

STEP_S = 0.1
WARM_C = 45.0


def bank_of(count: int = 8, *, part: GpuConstants = H100_SXM, seed: int = 1) -> GpuBank:
    return GpuBank(
        [part] * count, np.zeros(count, np.int64), np.random.default_rng(seed), ignored_ratio=0.0
    )


def demand(
    *, prefill: float = 0.0, decode: float = 0.0, share: float = 0.0, bandwidth: float = 0.15
) -> Demand:
    return Demand(np.array([[prefill], [decode]]), np.array([[bandwidth]] * 2), np.array([share]))


IDLE = demand(bandwidth=0.0)
DENSE = demand(decode=1.0)


def run(
    bank: GpuBank, load: Demand, *, steps: int = 1, at_s: float = 0.0, hot_c: float = WARM_C
) -> float:
    for step in range(steps):
        bank.step(
            at_s=at_s + step * STEP_S,
            dt_s=STEP_S,
            demand=load,
            temperature_c=np.full(bank.count, hot_c),
        )
    return at_s + steps * STEP_S


def decode(batch: int, clock_mhz: int) -> DecodeStep:
    """One step of the default engine on eight H100, with 1,300 tokens of context a sequence."""
    return Engine().decode_step(
        batch=np.array(float(batch)),
        key_tokens=np.array(1300.0 * batch),
        clock_ratio=np.array(clock_mhz / 1980),
        byte_per_s=np.array(8 * H100_SXM.memory_byte_per_s),
    )


def decode_power_w(batch: int, clock_mhz: int) -> float:
    step = decode(batch, clock_mhz)
    return H100_SXM.power_w_at(
        clock_mhz,
        intensity=float(step.intensity),
        bandwidth=float(step.bandwidth),
        temperature_c=60.0,
    )


@pytest.mark.parametrize(
    ("part", "bare_w", "context_w"), [(H100_SXM, 71.8, 121.7), (A100_SXM_80, 53.7, 80.0)]
)
def test_idle_power_is_the_published_one_with_and_without_a_context(
    part: GpuConstants, bare_w: float, context_w: float
) -> None:
    bare = part.power_w_at(part.idle_clock_mhz, intensity=0.0, bandwidth=0.0)
    context = part.power_w_at(part.clock_mhz_max, intensity=0.0, bandwidth=0.0)
    assert bare == pytest.approx(bare_w, rel=0.03)
    assert context == pytest.approx(context_w, rel=0.01)


def test_a_drained_gpu_needs_a_lock_to_come_near_its_bare_idle_power() -> None:
    bank = bank_of()
    now_s = run(bank, IDLE)
    assert bank.power_w.mean() == pytest.approx(122.0, rel=0.05)
    for gpu in range(bank.count):
        bank.lock(gpu, 345, now_s)
    run(bank, IDLE, at_s=now_s, steps=2)
    assert bank.power_w.mean() <= 80.0


@pytest.mark.parametrize(
    ("bandwidth", "measured_w"), [(0.19, 172.0), (0.40, 236.0), (0.44, 254.0), (0.62, 294.0)]
)
def test_a100_decode_power_is_within_a_tenth_of_what_splitwise_measured(
    bandwidth: float, measured_w: float
) -> None:
    activity = 38.0 / A100_SXM_80.compute_power_w
    power_w = A100_SXM_80.power_w_at(1410, intensity=activity, bandwidth=bandwidth)
    assert power_w == pytest.approx(measured_w, rel=0.10)


@pytest.mark.parametrize(
    ("clock_mhz", "measured_ratio"),
    [(855, 0.495), (1005, 0.563), (1110, 0.624), (1200, 0.724), (1275, 0.845), (1350, 0.960)],
)
def test_a100_prefill_draws_the_share_that_perseus_measured_at_each_clock(
    clock_mhz: int, measured_ratio: float
) -> None:
    at_top_w = A100_SXM_80.power_w_at(1410, intensity=1.0, bandwidth=0.18)
    power_w = A100_SXM_80.power_w_at(clock_mhz, intensity=1.0, bandwidth=0.18)
    assert power_w / at_top_w == pytest.approx(measured_ratio, rel=0.02)


def test_a100_prefill_saves_a_quarter_of_its_limit_at_1110_mhz() -> None:
    at_1110_w = A100_SXM_80.power_w_at(1110, intensity=1.0, bandwidth=0.18)
    assert at_1110_w / 400.0 == pytest.approx(0.74, abs=0.02)


@pytest.mark.parametrize(
    ("batch", "measured_w"), [(8, 408.0), (32, 468.0), (64, 520.0), (96, 559.0), (128, 576.0)]
)
def test_h100_decode_power_is_near_a_measured_dense_model_on_eight_gpus(
    batch: int, measured_w: float
) -> None:
    assert decode_power_w(batch, 1980) == pytest.approx(measured_w, rel=0.08)


def test_h100_decode_at_1200_mhz_saves_about_a_third_of_its_energy() -> None:
    energy_j = {
        clock_mhz: decode_power_w(32, clock_mhz) * float(decode(32, clock_mhz).seconds)
        for clock_mhz in (1980, 1200)
    }
    assert 0.28 <= 1.0 - energy_j[1200] / energy_j[1980] <= 0.38


def test_full_dense_load_settles_below_the_highest_clock_at_the_power_limit() -> None:
    bank = bank_of(64)
    run(bank, DENSE, steps=20)
    assert bank.power_w.max() <= 700.0
    assert bank.power_w.mean() == pytest.approx(700.0, rel=0.02)
    assert 1650 <= bank.clock_mhz[DECODE].mean() <= 1850
    assert bank.power_throttled.all()


def test_a_load_just_inside_the_limit_is_not_throttled() -> None:
    bank = bank_of(64)
    run(bank, demand(decode=0.70), steps=20)
    assert bank.power_w.max() < 700.0
    assert (bank.clock_mhz == 1980).all()
    assert bank.power_events == 0


def test_throttling_counts_one_event_until_it_has_been_quiet_for_a_second() -> None:
    bank = bank_of(1)
    now_s = run(bank, DENSE, steps=5)
    now_s = run(bank, IDLE, steps=5, at_s=now_s)
    now_s = run(bank, DENSE, steps=5, at_s=now_s)
    assert bank.power_events == 1
    now_s = run(bank, IDLE, steps=25, at_s=now_s)
    run(bank, DENSE, at_s=now_s)
    assert bank.power_events == 2
    # The clock takes most of a second to climb back, and that counts as throttled too.
    assert 1.1 <= bank.power_throttle_s[0] <= 2.5


def test_a_foreign_limit_lowers_the_clock_until_it_is_lifted() -> None:
    bank = bank_of(8)
    run(bank, DENSE, steps=5)
    bank.limit_w[:] = 350.0
    run(bank, DENSE, steps=1, at_s=0.5)
    assert bank.power_w.max() <= 350.0
    assert 1000 <= bank.clock_mhz[DECODE].mean() <= 1335
    bank.limit_w[:] = 700.0
    run(bank, DENSE, steps=30, at_s=0.6)
    assert bank.power_w.mean() > 680.0


def test_a_lock_holds_after_its_delay_and_the_newest_request_wins() -> None:
    bank = bank_of(100)
    for gpu in range(bank.count):
        bank.lock(gpu, 1500, 0.0)
        bank.lock(gpu, 1200, 0.0)
    assert bank.ceiling_mhz(0) == 1980
    run(bank, DENSE)
    run(bank, DENSE, at_s=0.1)
    assert (bank.clock_mhz <= 1200).all()
    assert {bank.ceiling_mhz(gpu) for gpu in range(bank.count)} == {1200}


def test_most_locks_take_20_to_60_ms() -> None:
    bank = bank_of(2000)
    for gpu in range(bank.count):
        bank.lock(gpu, 1500, 10.0)
    delays_s = np.sort(bank.lock_due_s - 10.0)
    assert delays_s[1000] == pytest.approx(0.025, abs=0.003)
    assert delays_s[1979] < 0.060


def test_a_gpu_that_ignores_locks_accepts_them_and_stays_where_it_is() -> None:
    bank = bank_of(2)
    bank.ignores_locks[1] = True
    bank.lock(0, 1200, 0.0)
    bank.lock(1, 1200, 0.0)
    run(bank, IDLE, steps=2)
    assert bank.clock_mhz[DECODE].tolist() == [1200, 1980]


def test_a_reboot_forgets_locks_and_counters() -> None:
    bank = bank_of(1)
    bank.lock(0, 1200, 0.0)
    run(bank, DENSE, steps=2)
    bank.forget_locks(np.array([True]))
    assert bank.ceiling_mhz(0) == 1980
    assert bank.energy_j[0] == 0.0


def test_up_to_the_operating_limit_heat_costs_no_clock() -> None:
    bank = bank_of(1)
    run(bank, IDLE, steps=10, hot_c=87.0)
    assert bank.clock_mhz[DECODE, 0] == 1980
    assert bank.thermal_events == 0


def test_above_the_operating_limit_the_clock_steps_down_15_mhz_every_100_ms() -> None:
    bank = bank_of(1)
    now_s = run(bank, IDLE, steps=10, hot_c=88.0)
    assert bank.clock_mhz[DECODE, 0] == 1980 - 10 * 15
    assert bank.thermal_events == 1
    run(bank, IDLE, steps=10, at_s=now_s, hot_c=80.0)
    assert bank.clock_mhz[DECODE, 0] == 1980


def test_at_slowdown_the_clock_halves_and_at_shutdown_the_gpu_is_lost() -> None:
    bank = bank_of(1)
    run(bank, IDLE, hot_c=89.0)
    assert bank.clock_mhz[DECODE, 0] <= 1980 // 2 + 120
    assert not bank.lost[0]
    run(bank, IDLE, at_s=0.1, hot_c=92.0)
    assert bank.lost[0]


def test_the_power_brake_means_the_lowest_clock_within_a_step() -> None:
    bank = bank_of(1)
    run(bank, DENSE)
    bank.braked[:] = True
    run(bank, DENSE, at_s=0.1)
    assert bank.clock_mhz[DECODE, 0] == 210
    assert bank.brake_s[0] == pytest.approx(0.1)


def test_the_sensor_sees_one_phase_at_a_time_and_is_right_on_average_but_for_its_gain() -> None:
    bank = bank_of(40)
    load = demand(prefill=0.8, decode=0.2, share=0.4)
    seen_w, true_w = [], []
    for step in range(400):
        run(bank, load, at_s=step * STEP_S)
        one_phase = np.isclose(bank.seen_w, bank.gain * bank.phase_power_w[PREFILL]) | np.isclose(
            bank.seen_w, bank.gain * bank.phase_power_w[DECODE]
        )
        assert one_phase.all()
        seen_w.append(bank.seen_w)
        true_w.append(bank.power_w)
    ratio = np.mean(seen_w, axis=0) / np.mean(true_w, axis=0)
    assert (ratio / bank.gain).mean() == pytest.approx(1.0, abs=0.01)
    assert np.abs(bank.gain - 1.0).max() <= 0.05


def test_the_energy_counter_is_power_over_time_with_the_boards_gain() -> None:
    bank = bank_of(4)
    run(bank, IDLE, steps=50)
    assert bank.energy_j == pytest.approx(bank.gain * bank.power_w * 5.0)


def test_parts_of_different_kinds_share_a_bank() -> None:
    bank = GpuBank(
        [H100_SXM, A100_SXM_80], np.array([0, 1]), np.random.default_rng(1), ignored_ratio=0.0
    )
    both = Demand(np.ones((2, 2)), np.full((2, 2), 0.15), np.zeros(2))
    for step in range(20):
        bank.step(at_s=step * STEP_S, dt_s=STEP_S, demand=both, temperature_c=np.full(2, WARM_C))
    assert bank.power_w[0] == pytest.approx(700.0, rel=0.02)
    assert bank.power_w[1] == pytest.approx(400.0, rel=0.03)
    assert bank.clock_mhz[DECODE, 1] <= 1410


def test_an_unknown_gpu_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="h100, a100"):
        part_named("tpu-v5")


def test_what_a_sensor_shows_does_not_depend_on_who_looked_before() -> None:
    watched, alone = bank_of(10), bank_of(10)
    load = demand(prefill=0.8, decode=0.2, share=0.5)
    for step in range(7):
        run(watched, load, at_s=step * STEP_S)
        run(alone, load, at_s=step * STEP_S)
        assert len(watched.seen_w) == 10
    assert alone.seen_w.tolist() == watched.seen_w.tolist()
    assert alone.seen_mhz.tolist() == watched.seen_mhz.tolist()
    before = alone.seen_w.tolist()
    run(alone, load, at_s=0.7)
    assert alone.seen_w.tolist() != before
