"""Engines and servers that were calibrated: their times and watts are the measured ones."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.bank import DECODE, Demand, GpuBank
from simulator.calibrated import load_calibrated
from simulator.chassis import DGX_A100, DGX_H100, SERVERS
from simulator.engine import DecodeStep, Engine, engine_named, engine_names
from simulator.gpu import A100_SXM_80, H100_SXM
from simulator.uncertain import PART_FIGURES, band_of, engine_with, part_with, server_with

TOP_MHZ = 1410.0
A100_FLOP_PER_S = 312e12
A100_BYTE_PER_S = 2.039e12


def decode(
    model: str, *, gpus: int = 8, batch: int = 1, clock_mhz: float = TOP_MHZ, context: float = 576.0
) -> DecodeStep:
    return engine_named(model, "a100", gpus).decode_step(
        batch=np.array(float(batch)),
        key_tokens=np.array(context * batch),
        clock_ratio=np.array(clock_mhz / TOP_MHZ),
        byte_per_s=np.array(gpus * A100_BYTE_PER_S),
    )


def decode_w(model: str, *, gpus: int = 8, batch: int = 1, clock_mhz: float = TOP_MHZ) -> float:
    step = decode(model, gpus=gpus, batch=batch, clock_mhz=clock_mhz)
    return A100_SXM_80.power_w_at(
        clock_mhz, intensity=float(step.intensity), bandwidth=float(step.bandwidth)
    )


def prefill_ratio(model: str, tokens: float, *, gpus: int = 8) -> float:
    """Power of a prompt before the board's limiter, as a share of the limit."""
    engine = engine_named(model, "a100", gpus)
    return (
        A100_SXM_80.power_w_at(
            TOP_MHZ,
            intensity=float(engine.prefill_load(np.array(tokens))),
            bandwidth=engine.prefill_bandwidth,
        )
        / A100_SXM_80.power_limit_w
    )


@pytest.mark.parametrize(
    ("model", "gpus", "measured_w"),
    [("llama2-70b", 8, 172.0), ("llama2-70b", 4, 236.0), ("llama2-70b", 2, 294.0),
     ("bloom-176b", 8, 254.0)],
)  # fmt: skip
def test_decode_of_one_sequence_draws_what_was_measured(
    model: str, gpus: int, measured_w: float
) -> None:
    assert decode_w(model, gpus=gpus) == pytest.approx(measured_w, rel=0.05)


def test_a_sequence_more_adds_about_a_watt_per_gpu_beside_its_bandwidth() -> None:
    engine = engine_named("llama2-70b", "a100", 8)
    activity_w = [
        A100_SXM_80.compute_power_w * float(decode("llama2-70b", batch=batch).intensity)
        for batch in (1, 16)
    ]
    assert (activity_w[1] - activity_w[0]) / 15.0 == pytest.approx(1.1, abs=0.2)
    assert engine.batch_max == 128


@pytest.mark.parametrize(
    ("model", "gpus", "tokens", "measured_ratio"),
    [("bloom-176b", 8, 1024.0, 1.01), ("bloom-176b", 8, 2048.0, 1.02),
     ("llama2-70b", 8, 2048.0, 0.99), ("llama2-70b", 4, 512.0, 1.00),
     ("llama2-70b", 4, 2048.0, 1.02), ("llama2-70b", 2, 1024.0, 1.04)],
)  # fmt: skip
def test_a_prompt_draws_the_peak_that_was_measured(
    model: str, gpus: int, tokens: float, measured_ratio: float
) -> None:
    assert prefill_ratio(model, tokens, gpus=gpus) == pytest.approx(measured_ratio, rel=0.03)


@pytest.mark.parametrize(
    ("model", "part", "prompt_s", "token_s"),
    [("llama2-70b", "a100", 0.274, 0.0449), ("llama2-70b", "h100", 0.137, 0.0298),
     ("bloom-176b", "a100", 0.540, 0.0488), ("bloom-176b", "h100", 0.253, 0.0361)],
)  # fmt: skip
def test_times_of_a_prompt_of_2048_and_of_a_token_are_the_measured_ones(
    model: str, part: str, prompt_s: float, token_s: float
) -> None:
    engine = engine_named(model, part, 8)
    constants = A100_SXM_80 if part == "a100" else H100_SXM
    took = engine.prefill_s(np.array([2048.0]), 8 * constants.peak_flop_per_s)
    step = engine.decode_step(
        batch=np.array(1.0),
        key_tokens=np.array(576.0),
        clock_ratio=np.array(1.0),
        byte_per_s=np.array(8 * constants.memory_byte_per_s),
    )
    assert took[0] == pytest.approx(prompt_s, rel=0.04)
    assert float(step.seconds) == pytest.approx(token_s, rel=0.05)


def test_prompts_longer_than_any_measured_go_on_along_the_last_slope() -> None:
    engine = engine_named("bloom-176b", "a100", 8)
    at = np.array([16_384.0, 32_768.0, 49_152.0])
    took = engine.prefill_s(at, 8 * A100_FLOP_PER_S)
    assert took[2] - took[1] == pytest.approx(took[1] - took[0])


def test_prefill_scales_with_the_peak_of_the_gpus() -> None:
    engine = engine_named("bloom-176b", "a100", 8)
    tokens = np.array([1024.0])
    whole, half = (engine.prefill_s(tokens, gpus * A100_FLOP_PER_S)[0] for gpus in (8, 4))
    assert half == pytest.approx(2.0 * whole)


def test_decode_waits_for_no_clock_above_seven_tenths_and_takes_a_tenth_more_at_055() -> None:
    full_s, at_07_s, at_055_s = (
        float(decode("llama2-70b", clock_mhz=share * TOP_MHZ).seconds) for share in (1.0, 0.7, 0.55)
    )
    assert at_07_s == pytest.approx(full_s, rel=0.005)
    assert at_055_s == pytest.approx(1.1 * full_s, rel=0.01)


@pytest.mark.parametrize("model", ["llama2-70b", "bloom-176b"])
@pytest.mark.parametrize("share", [0.65, 0.787, 0.904])
def test_decode_power_against_the_clock_follows_the_assumed_form(model: str, share: float) -> None:
    clock_mhz = share * TOP_MHZ
    idle_w = A100_SXM_80.power_w_at(clock_mhz, intensity=0.0, bandwidth=0.0)
    ratio = A100_SXM_80.power_w_at(
        clock_mhz, intensity=1.0, bandwidth=0.18
    ) / A100_SXM_80.power_w_at(TOP_MHZ, intensity=1.0, bandwidth=0.18)
    form_w = idle_w + (decode_w(model) - 80.0) * (0.55 + 0.45 * ratio)
    assert decode_w(model, clock_mhz=clock_mhz) == pytest.approx(form_w, rel=0.05)


def test_bloom_keeps_only_the_batch_that_fits_in_memory() -> None:
    engine = engine_named("bloom-176b", "a100", 8)
    held = engine.weight_bytes + engine.batch_max * 2500.0 * engine.key_bytes_per_token
    assert held <= 0.9 * 8 * 80e9
    assert engine.batch_max >= 16


def test_an_engine_that_nobody_measured_is_refused_with_those_that_were() -> None:
    assert "bloom-176b/a100/8" in engine_names()
    with pytest.raises(ValueError, match=r"no engine 'bloom-176b/a100/4'.*bloom-176b/a100/8"):
        engine_named("bloom-176b", "a100", 4)


def test_the_engine_of_today_is_what_the_demo_runs() -> None:
    assert Engine().prefill_points == ()
    assert Engine().decode_clock_exponent == 0.0


def test_an_a100_at_its_limit_settles_just_below_it_though_its_curve_is_flat_at_the_top() -> None:
    bank = GpuBank(
        [A100_SXM_80] * 64, np.zeros(64, np.int64), np.random.default_rng(1), ignored_ratio=0.0
    )
    dense = Demand(np.ones((2, 1)), np.full((2, 1), 0.18), np.zeros(1))
    for step in range(40):
        bank.step(at_s=step * 0.1, dt_s=0.1, demand=dense, temperature_c=np.full(64, 45.0))
        assert bank.power_w.max() <= 400.0
        assert bank.power_w.min() >= 365.0
    assert bank.clock_mhz[DECODE].mean() == pytest.approx(1275.0, abs=30.0)


def test_a_dgx_a100_idles_at_1500_to_1900_w_and_is_rated_at_6500() -> None:
    idle_w, full_w = DGX_A100.power_w_at(
        np.array([8 * 80.0, 8 * 400.0]),
        fan_ratio=np.array([0.3, 1.0]),
        busy=np.array([0.0, 1.0]),
    ).tolist()
    assert 1500.0 <= idle_w <= 1900.0
    assert full_w == pytest.approx(DGX_A100.rated_power_w, rel=0.01)


def test_a_dgx_h100_draws_8_4_kw_at_its_most() -> None:
    full_w = DGX_H100.power_w_at(np.array(8 * 700.0), fan_ratio=np.array(1.0), busy=np.array(1.0))
    assert float(full_w) == pytest.approx(8400.0, rel=0.01)
    assert SERVERS["h100"] is DGX_H100


def test_the_bands_hold_what_the_twin_uses() -> None:
    bands = load_calibrated().bands
    used = {
        "a100_sxm_k_per_w": A100_SXM_80.die_sink_k_per_w + A100_SXM_80.sink_air_k_per_w,
        "h100_sxm_k_per_w": H100_SXM.die_sink_k_per_w + H100_SXM.sink_air_k_per_w,
        "h100_voltage_ratio": H100_SXM.voltage_ratio,
        "bandwidth_knee_ratio": Engine().bandwidth_knee,
        "a100_prefill_demand_ratio": prefill_ratio("bloom-176b", 2048.0),
        "decode_slow_ratio": engine_named("bloom-176b", "a100", 8).decode_slow_ratio,
        "server_a100_fixed_power_w": DGX_A100.fixed_power_w,
        "server_a100_fan_power_w": DGX_A100.fan_power_w,
    }
    for name, value in used.items():
        assert value == pytest.approx(bands[name].nominal, rel=0.01), name


# ---- across the bands of what nobody measured ----------------------------------------------------


def test_a_steeper_decode_draws_less_at_a_low_clock_and_the_same_at_the_highest() -> None:
    band = band_of("decode_clock_exponent")
    nominal = engine_named("bloom-176b", "a100", 8)
    powers = {}
    for exponent in (band.low, band.high):
        engine = engine_with(nominal, {"decode_clock_exponent": exponent})
        powers[exponent] = [
            float(
                engine.decode_step(
                    batch=np.array(4.0),
                    key_tokens=np.array(4000.0),
                    clock_ratio=np.array(share),
                    byte_per_s=np.array(8 * A100_BYTE_PER_S),
                ).intensity
            )
            for share in (0.7, 1.0)
        ]
    assert powers[band.low][0] < powers[band.high][0]
    assert powers[band.low][1] == pytest.approx(powers[band.high][1])


def test_prefill_that_the_limiter_hides_draws_as_much_more_as_the_figure_says() -> None:
    nominal = engine_named("bloom-176b", "a100", 8)
    dense = engine_with(nominal, {"a100_prefill_demand_ratio": 1.18})
    more_w = A100_SXM_80.compute_power_w * (dense.prefill_intensity - nominal.prefill_intensity)
    assert more_w == pytest.approx(0.16 * 400.0)


def test_parts_and_servers_take_the_ends_of_their_bands() -> None:
    hot = part_with(A100_SXM_80, {"a100_sxm_k_per_w": 0.12, "die_s": 3.0, "sink_s": 20.0})
    assert hot.die_sink_k_per_w + hot.sink_air_k_per_w == pytest.approx(0.12)
    assert hot.die_sink_k_per_w * hot.die_j_per_k == pytest.approx(3.0)
    assert hot.sink_air_k_per_w * hot.sink_j_per_k == pytest.approx(20.0)
    flat = part_with(H100_SXM, {"h100_voltage_ratio": 1.25})
    assert flat.dynamic_at(1200) > H100_SXM.dynamic_at(1200)
    assert server_with(DGX_A100, {"server_a100_fan_power_w": 1000.0}).fan_power_w == 1000.0
    assert server_with(DGX_A100, {}) == DGX_A100


def test_the_nominal_figures_are_what_the_parts_have() -> None:
    bands = load_calibrated().bands
    for part, names in ((A100_SXM_80, PART_FIGURES["A100"]), (H100_SXM, PART_FIGURES["H100"])):
        same = part_with(part, {name: bands[name].nominal for name in names})
        for field in ("die_sink_k_per_w", "sink_air_k_per_w", "voltage_ratio", "die_j_per_k"):
            assert getattr(same, field) == pytest.approx(getattr(part, field), rel=0.06), field


def test_a_figure_that_does_not_belong_or_leaves_its_band_is_refused() -> None:
    engine = engine_named("bloom-176b", "a100", 8)
    with pytest.raises(ValueError, match=r"decode_slow_ratio is 9; its band is 0\.33 to 1\.33"):
        engine_with(engine, {"decode_slow_ratio": 9.0})
    with pytest.raises(ValueError, match="an engine has no figure 'die_s'"):
        engine_with(engine, {"die_s": 1.5})
    with pytest.raises(ValueError, match="an A100 has no figure 'h100_voltage_ratio'"):
        part_with(A100_SXM_80, {"h100_voltage_ratio": 1.3})
    with pytest.raises(ValueError, match="no figure 'luck' has a band"):
        band_of("luck")
