"""The twin's model of one serving engine: how long its work takes and what it asks of the GPUs.

Pure functions of batch, lengths and clock, with every constant and its source; the state of the
engines is `simulator.serving`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.calibrated import load_calibrated
from simulator.gpu import part_named

FloatArray = NDArray[np.float64]

CHUNK_TOKENS_MIN: Final = 64.0


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """One decode step: its time, and intensity and bandwidth while it runs."""

    seconds: FloatArray
    intensity: FloatArray
    bandwidth: FloatArray


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine, by default today's: a dense model of 70 billion parameters in 16 bits on H100.

    Prefill of T tokens takes `prefill_overhead_s` and its operations at `flop_share_max` x
    T / (T + `flop_half_tokens`) of the peak; a share `prefill_fixed_share` of that time does not
    follow the clock. A decode step takes `decode_overhead_s`, reading weights and keys at
    `bandwidth_share` of the peak (less below `bandwidth_knee` of the highest clock), and
    `sequence_s` for each sequence, which follows the clock, and `key_token_s` for each token of
    context beside reading it. Below `decode_knee` of the highest clock the step also takes
    `decode_slow_ratio` longer for each share of the clock that is missing, down to
    `bandwidth_knee`; and its speed falls by `decode_loss_ratio` of whatever share is missing.

    An engine that was measured has `prefill_points` instead of the law: tokens and seconds on
    GPUs of `reference_flop_per_s` together, straight between the points and on from the last two.

    Prefill is chunked: while prompts wait beside a batch, each step of the engine decodes one token
    of every sequence and works on one chunk of prompt, of at most `chunk_tokens` less the batch. A
    step is then as long as both together, and so is the time between two tokens. Of an engine that
    serves several priorities the higher prompts go first, but a lower one keeps
    `lower_share_min` of the prompt work; a higher prompt that finds the batch full takes the place
    of the newest lower sequence, which is prefilled again later, at most `preemptions_max` times.
    """

    flop_per_token: float = 140e9  # two per parameter
    flop_per_token_squared: float = 1.3e6  # causal attention, 80 layers of width 8192
    weight_bytes: float = 140e9
    key_bytes_per_token: float = 327_680.0  # 80 layers, 8 key-value heads of 128, 16 bits
    flop_share_max: float = 0.55  # H100 BF16, today's engines                       from memory
    flop_half_tokens: float = 300.0  # between the fits for A100 and H100 of splitwise-sim
    prefill_overhead_s: float = 0.010  # assumption
    prefill_fixed_share: float = 0.19  # zeus-perseus sweep: time = 0.19 + 0.81 / f
    decode_overhead_s: float = 0.006  # assumption: with the rest 2-3 times faster than splitwise
    bandwidth_share: float = 0.65  # 0.6 to 0.85 today                               from memory
    bandwidth_knee: float = 0.55  # from memory
    sequence_s: float = 8e-5  # assumption: slope of ML.ENERGY's 405B on 8 H100, scaled
    batch_max: int = 128
    quality_work_ratio: float = 0.7  # work left by each rung of quality: assumption
    queue_max: int = 512  # requests at one engine, its batch included
    chunk_tokens: float = 2048.0  # usual chunk of chunked prefill                   from memory
    prefill_share_max: float = 0.80  # of the time beside a batch: assumption, about one such chunk
    lower_share_min: float = 0.05  # assumption: no engine starves a queue for ever
    preemptions_max: int = 1  # assumption: once, so that no request is worked on for ever
    prefill_intensity: float = 0.95  # assumption, times T / (T + half)
    prefill_bandwidth: float = 0.18  # assumption
    decode_intensity_idle: float = 0.15  # these three fitted to ML.ENERGY, 405B FP8 on 8 H100:
    decode_intensity_gain: float = 0.55  # 408, 468, 576, 609 W at batch 8, 32, 128, 256
    decode_intensity_half: float = 80.0
    intensity_half_tokens: float = 300.0
    key_token_s: float = 0.0
    decode_knee: float = 0.7  # no data: see the bands of the calibrated constants
    decode_slow_ratio: float = 0.0
    decode_clock_exponent: float = 0.0  # how much less than the clock decode's intensity falls
    decode_loss_ratio: float = 0.0
    prefill_points: tuple[tuple[float, float], ...] = ()
    reference_flop_per_s: float = 8 * 989e12

    def prefill_s(self, tokens: FloatArray, flop_per_s: float) -> FloatArray:
        """Prefill time of prompts at full clock on GPUs of `flop_per_s` together."""
        if self.prefill_points:
            return self._measured_prefill_s(tokens) * (self.reference_flop_per_s / flop_per_s)
        share = self.flop_share_max * tokens / (tokens + self.flop_half_tokens)
        flop = self.flop_per_token * tokens + self.flop_per_token_squared * tokens**2
        seconds: FloatArray = self.prefill_overhead_s + flop / (flop_per_s * share)
        return seconds

    def _measured_prefill_s(self, tokens: FloatArray) -> FloatArray:
        sizes, seconds = np.array(self.prefill_points).T
        slope = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
        beyond = slope * np.maximum(0.0, tokens - sizes[-1])
        found: FloatArray = np.interp(tokens, sizes, seconds) + beyond
        return found

    def prefill_speed(self, clock_ratio: FloatArray) -> FloatArray:
        """How fast prefill runs at a share of the highest clock, 1 at full clock."""
        fixed = self.prefill_fixed_share
        speed: FloatArray = 1.0 / (fixed + (1.0 - fixed) / clock_ratio)
        return speed

    def chunk_share(
        self, *, chunk_s: FloatArray, speed: FloatArray, decode_s: FloatArray
    ) -> FloatArray:
        """The share of time that prompts get while each decode step carries a chunk of them.

        `chunk_s` is the chunk's prefill time at full speed, `decode_s` the decode step's own. At
        most `prefill_share_max`: long chunks wait for more than one decode step.
        """
        share: FloatArray = np.minimum(
            chunk_s / (chunk_s + speed * decode_s), self.prefill_share_max
        )
        return share

    def prefill_load(self, tokens: FloatArray) -> FloatArray:
        """Intensity of prefill with `tokens` waiting: small chunks leave the cores half empty."""
        chunk = np.minimum(np.maximum(tokens, CHUNK_TOKENS_MIN), self.chunk_tokens)
        intensity: FloatArray = (
            self.prefill_intensity * chunk / (chunk + self.intensity_half_tokens)
        )
        return intensity

    def decode_step(
        self,
        *,
        batch: FloatArray,
        key_tokens: FloatArray,
        clock_ratio: FloatArray,
        byte_per_s: FloatArray,
    ) -> DecodeStep:
        """One token for each of `batch` sequences that hold `key_tokens` of context together.

        Intensity is per clock cycle: memory-bound decode does the same work in fewer cycles when
        the clock falls, so each cycle does more.
        """
        read_bytes = self.weight_bytes + key_tokens * self.key_bytes_per_token
        read_s = read_bytes / (byte_per_s * self.bandwidth_share) + key_tokens * self.key_token_s
        own_s = batch * self.sequence_s
        slow = np.minimum(1.0, clock_ratio / self.bandwidth_knee)
        seconds = self.decode_overhead_s + read_s / slow + own_s / clock_ratio
        missing = self.decode_knee - np.maximum(clock_ratio, self.bandwidth_knee)
        seconds *= 1.0 + self.decode_slow_ratio * np.maximum(0.0, missing)
        seconds /= 1.0 - self.decode_loss_ratio * (1.0 - clock_ratio)
        full_s = self.decode_overhead_s + read_s + own_s
        gain = self.decode_intensity_gain * batch / (batch + self.decode_intensity_half)
        intensity = (self.decode_intensity_idle + gain) * full_s / (seconds * clock_ratio)
        if self.decode_clock_exponent:
            intensity = intensity * clock_ratio**-self.decode_clock_exponent
        return DecodeStep(seconds, np.minimum(intensity, 1.0), read_bytes / (byte_per_s * seconds))


CONTEXT_TOKENS: Final = 2500.0
"""Context of a sequence for which memory is kept when an engine's batch is chosen: assumption."""
MEMORY_SHARE: Final = 0.9
"""Of the GPUs' memory that an engine takes: from memory, the usual default."""
MEMORY_BYTES: Final = 80e9
"""Of one GPU: both parts of the twin have 80 GB."""


@dataclass(frozen=True, slots=True)
class _Model:
    """A dense model in 16 bits, from its published shape."""

    flop_per_token: float
    flop_per_token_squared: float
    weight_bytes: float
    key_bytes_per_token: float


MODELS: Final = {
    # 80 layers of width 8192, 8 key-value heads of 128
    "llama2-70b": _Model(140e9, 1.3e6, 140e9, 327_680.0),
    # 70 layers of width 14,336, 112 heads of 128
    "bloom-176b": _Model(352e9, 2.0e6, 352e9, 4_014_080.0),
}


def engine_names() -> tuple[str, ...]:
    """Every calibrated engine, as `model/part/tensor_parallel`."""
    return tuple(sorted(load_calibrated().engines))


@functools.cache
def engine_named(model: str, part: str, tensor_parallel: int) -> Engine:
    """The engine calibrated for a model on so many GPUs of a part, with the stack of its time.

    `batch_max` is what fits in the GPUs' memory, at most 128.

    Raises:
        ValueError: nothing is calibrated for these three; the text says what is.
    """
    name = f"{model}/{part}/{tensor_parallel}"
    found = load_calibrated().engines.get(name)
    if found is None:
        raise ValueError(f"no engine {name!r} is calibrated; there are {', '.join(engine_names())}")
    shape, constants = MODELS[model], load_calibrated()
    free_bytes = tensor_parallel * MEMORY_BYTES * MEMORY_SHARE - shape.weight_bytes
    fitting = free_bytes / (CONTEXT_TOKENS * shape.key_bytes_per_token)
    return Engine(
        flop_per_token=shape.flop_per_token,
        flop_per_token_squared=shape.flop_per_token_squared,
        weight_bytes=shape.weight_bytes,
        key_bytes_per_token=shape.key_bytes_per_token,
        prefill_fixed_share=constants.prefill_fixed_share,
        batch_max=max(1, min(128, int(fitting))),
        decode_overhead_s=found.decode_overhead_s,
        bandwidth_share=found.bandwidth_share,
        sequence_s=found.sequence_s,
        key_token_s=found.key_token_s,
        prefill_intensity=found.prefill_intensity,
        intensity_half_tokens=found.intensity_half_tokens,
        decode_intensity_idle=found.decode_intensity_idle,
        decode_intensity_gain=found.decode_intensity_gain,
        decode_intensity_half=found.decode_intensity_half,
        decode_slow_ratio=constants.bands["decode_slow_ratio"].nominal,
        decode_clock_exponent=constants.bands["decode_clock_exponent"].nominal,
        prefill_points=found.prefill_points,
        reference_flop_per_s=tensor_parallel * part_named(part).peak_flop_per_s,
    )
