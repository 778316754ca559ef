"""Prefill and decode of whole engines, fitted to the splitwise-sim profile of A100 and H100.

Traps: rows of the hardware `h100-80gb-pcap` are made up (1.3 x the prompt time), so they are
dropped; H100 rows carry no power, nor do 175 rows of A100 (0, or long prompts averaged wrongly);
end-to-end times of long outputs are unusable; and at tensor parallel 2 a batch of 64 did not fit,
its prompt takes an eighth of a batch of 32: dropped too. A reading of peak power is a lower bound
while the prompt is shorter than the power sensor needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.calibrated import EngineFit, PartFit
from simulator.calibration.clocks import rounded
from simulator.calibration.errors import Row, relative
from simulator.calibration.files import DataFolder

FloatArray = NDArray[np.float64]

PROFILE: Final = "splitwise-sim/perf_model.csv.gz"
PARTS: Final = {"a100-80gb": "a100", "h100-80gb": "h100"}
MADE_UP: Final = "h100-80gb-pcap"
BOARD_LIMIT_W: Final = 400.0
"""Power in the profile is a share of an A100's limit."""
POWER_RATIO_MIN: Final = 0.3
"""Averages below are no measurement: 0 for none, under 0.2 for long prompts."""
SENSOR_S: Final = 0.2
"""Prompts shorter than this read low: the sensor looks at 25 ms of every 100 ms."""
PREFILL_BANDWIDTH: Final = 0.18
BANDWIDTH_SHARE: Final = 0.85
"""Share of the peak at which weights are read: from memory; the rest of a step is overhead."""
INTENSITY_HALF: Final = 400.0
"""Batch at which the activity that grows with it is half of its most: beyond what was measured."""
HALVES: Final = tuple(range(0, 401, 20))

FITTED_BATCHES: Final = (1, 4, 16, 64)
PREFILL_BOUND: Final = 30.0
REPEAT_BOUND: Final = 15.0
DECODE_BOUND: Final = 10.0
WATT_BOUND: Final = 10.0
LONG_WATT_BOUND: Final = 20.0
LONG_PROMPT: Final = 4096
"""Averages over runs with such prompts read below both phases, and nobody says why."""


@dataclass(frozen=True, slots=True)
class Model:
    """A dense model in 16 bits: bytes of weights, and bytes kept for each token of context."""

    weight_bytes: float
    key_bytes_per_token: float


MODELS: Final = {
    "llama2-70b": Model(140e9, 327_680.0),  # 80 layers, 8 key-value heads of 128
    "bloom-176b": Model(352e9, 4_014_080.0),  # 70 layers, 112 heads of 128
}
MEMORY_BYTE_PER_S: Final = {"a100": 2.039e12, "h100": 3.35e12}  # from memory


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the profile: the repeats of the same request. Powers in W, None if unknown."""

    prompt: int
    batch: int
    generated: int
    prompt_s: FloatArray
    token_s: FloatArray
    peak_w: float | None
    average_w: float | None

    @property
    def tokens(self) -> float:
        """Prompt tokens of the whole batch."""
        return float(self.prompt * self.batch)

    @property
    def context(self) -> float:
        """Mean tokens of context of a sequence while it decodes."""
        return self.prompt + 0.5 * self.generated


@dataclass(frozen=True, slots=True)
class Profile:
    """All cells of one model, part and tensor parallelism."""

    model: str
    part: str
    gpus: int
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """As in the file of constants."""
        return f"{self.model}/{self.part}/{self.gpus}"

    @property
    def byte_per_s(self) -> float:
        """Memory bandwidth of all its GPUs."""
        return self.gpus * MEMORY_BYTE_PER_S[self.part]

    def bandwidth(self, cell: Cell) -> float:
        """Share of the memory bandwidth in use while a cell decodes."""
        model = MODELS[self.model]
        read = model.weight_bytes + cell.batch * cell.context * model.key_bytes_per_token
        return read / (self.byte_per_s * float(np.median(cell.token_s)))


def read_profiles(data: DataFolder) -> list[Profile]:
    """The profile without its traps, by model, part and tensor parallelism."""
    groups: dict[tuple[str, str, int], dict[tuple[int, int, int], list[dict[str, str]]]] = {}
    columns = ("model", "hardware", "prompt_size", "batch_size", "token_size", "tensor_parallel")
    for row in data.rows(PROFILE, *columns, "peak_power", "average_power"):
        if row["hardware"] == MADE_UP:
            continue
        key = (row["model"], PARTS[row["hardware"]], int(row["tensor_parallel"]))
        cell = (int(row["prompt_size"]), int(row["batch_size"]), int(row["token_size"]))
        if not (key[2] == 2 and cell[1] == 64):
            groups.setdefault(key, {}).setdefault(cell, []).append(row)
    return [
        Profile(*key, tuple(_cell(size, rows) for size, rows in sorted(cells.items())))
        for key, cells in sorted(groups.items())
    ]


def _cell(size: tuple[int, int, int], rows: list[dict[str, str]]) -> Cell:
    average = float(rows[0]["average_power"])
    trusted = average >= POWER_RATIO_MIN
    return Cell(
        *size,
        prompt_s=np.array([float(row["prompt_time"]) / 1000.0 for row in rows]),
        token_s=np.array([float(row["token_time"]) / 1000.0 for row in rows]),
        peak_w=float(rows[0]["peak_power"]) * BOARD_LIMIT_W if trusted else None,
        average_w=average * BOARD_LIMIT_W if trusted else None,
    )


def _median(values: Iterable[float]) -> float:
    return float(np.median(np.array(list(values))))


def prefill_points(profile: Profile) -> tuple[tuple[float, float], ...]:
    """Prefill time by tokens: half of the repeats of single prompts, and the largest batches.

    The law of operations misses by up to 44 %: a launch-bound floor, then two kinds of attention.
    A point never takes less time than one with fewer tokens.
    """
    points: dict[float, float] = {}
    longest = max(cell.prompt for cell in profile.cells)
    for cell in profile.cells:
        if cell.generated == 128 and (cell.batch == 1 or cell.tokens > longest):
            points[cell.tokens] = _median(cell.prompt_s[::2].tolist())
    tokens = sorted(points)
    seconds = np.maximum.accumulate(np.array([points[size] for size in tokens]))
    return tuple((size, rounded(took)) for size, took in zip(tokens, seconds.tolist(), strict=True))


def prefill_s(points: tuple[tuple[float, float], ...], tokens: FloatArray) -> FloatArray:
    """Prefill time by tokens, straight between the points."""
    sizes, seconds = np.array(points).T
    found: FloatArray = np.interp(tokens, sizes, seconds)
    return found


def _decode_parts(cells: list[Cell]) -> FloatArray:
    """Columns of the decode time: constant, batch, and context tokens of the batch."""
    batch = np.array([float(cell.batch) for cell in cells])
    context = np.array([cell.batch * cell.context for cell in cells])
    return np.stack([np.ones_like(batch), batch, context], axis=1)


def _token_s(cells: list[Cell]) -> FloatArray:
    return np.array([np.median(cell.token_s) for cell in cells])


def decode_split(profile: Profile) -> tuple[list[Cell], list[Cell]]:
    """Cells of 128 tokens that are fitted, by batch; and all others, longer outputs included."""
    fitted = [c for c in profile.cells if c.generated == 128 and c.batch in FITTED_BATCHES]
    # A prompt of 512 is the only one with a batch; the other prompts give the slope of context.
    fitted = [c for c in fitted if c.batch > 1 or c.prompt in (128, 512, 2048, 8192)]
    return fitted, [c for c in profile.cells if c not in fitted]


def fit_decode(profile: Profile) -> tuple[float, float, float]:
    """Seconds of a decode step: constant, per sequence, and per token of context; none negative."""
    cells, _ = decode_split(profile)
    columns, took = _decode_parts(cells), _token_s(cells)
    columns, target = columns / took[:, None], np.ones_like(took)
    used = [0, 1, 2]
    while True:
        found = np.linalg.lstsq(columns[:, used], target, rcond=None)[0]
        if (found >= 0.0).all():
            break
        used.pop(int(np.argmin(found)))
    whole = np.zeros(3)
    whole[used] = found
    return float(whole[0]), float(whole[1]), float(whole[2])


def movement_law(profiles: list[Profile]) -> tuple[float, float]:
    """A100 decode power against memory bandwidth: W at none, and W for all of it.

    Fitted to batches of one in the four configurations; the slope is of both memory terms.
    """
    pairs = [
        (profile.bandwidth(cell), cell.average_w)
        for profile in profiles
        for cell in profile.cells
        if profile.part == "a100" and cell.batch == 1 and cell.prompt == 512
        if cell.average_w is not None
    ]
    share, power = np.array(pairs, dtype=np.float64).T
    columns = np.stack([np.ones_like(share), share], axis=1)
    base_w, slope_w = np.linalg.lstsq(columns, power, rcond=None)[0]
    return float(base_w), float(slope_w)


def _still_w(part: PartFit) -> float:
    return part.static_power_w + part.context_power_w


def _memory_w(part: PartFit) -> float:
    return part.memory_power_w + part.movement_power_w


def fit_activity(profile: Profile, part: PartFit) -> tuple[float, float]:
    """Decode intensity at a batch of none, and its growth per sequence, from batches 1 and 16."""
    by_batch = {
        cell.batch: (cell.average_w - _still_w(part) - _memory_w(part) * profile.bandwidth(cell))
        / part.compute_power_w
        for cell in profile.cells
        if cell.average_w is not None and cell.prompt == 512 and cell.generated == 128
    }
    growth = (by_batch[16] - by_batch[1]) / 15.0
    return by_batch[1] - growth, growth


def fit_prefill_intensity(profile: Profile, part: PartFit) -> tuple[float, float]:
    """Intensity of endless prompts and the tokens at half of it, from peaks of power.

    Peaks of prompts too short for the sensor count only where the model falls below them.
    """
    cells = [c for c in profile.cells if c.peak_w is not None and c.batch == 1]
    tokens = np.array([cell.tokens for cell in cells])
    peak_w = np.array([cell.peak_w for cell in cells], dtype=np.float64)
    whole = np.array([np.median(cell.prompt_s) >= SENSOR_S for cell in cells])
    fixed_w = _still_w(part) + _memory_w(part) * PREFILL_BANDWIDTH
    target = (peak_w - fixed_w) / part.compute_power_w
    best = (np.inf, 0.0, 0.0)
    for half in HALVES:
        shape = tokens / (tokens + half)
        top = float(shape[whole] @ target[whole] / (shape[whole] @ shape[whole]))
        off = top * shape - target
        cost = float(np.sum(off[whole] ** 2) + np.sum(np.minimum(off[~whole], 0.0) ** 2))
        # Halves that fit as well are told apart by nothing but physics: take the largest.
        if cost <= best[0] + 1e-4:
            best = (min(cost, best[0]), top, float(half))
    return best[1], best[2]


def fit_engine(profile: Profile, part: PartFit | None) -> EngineFit:
    """One engine. Where the part has no power in the profile, the engine's defaults stay."""
    constant_s, sequence_s, context_s = fit_decode(profile)
    model = MODELS[profile.model]
    byte_s = 1.0 / (profile.byte_per_s * BANDWIDTH_SHARE)
    idle, gain, batch_half = 0.15, 0.55, 80.0
    intensity, half = 0.95, 300.0
    if part is not None:
        idle, growth = fit_activity(profile, part)
        gain, batch_half = growth * INTENSITY_HALF, INTENSITY_HALF
        intensity, half = fit_prefill_intensity(profile, part)
    return EngineFit(
        prefill_points=prefill_points(profile),
        prefill_intensity=rounded(intensity),
        intensity_half_tokens=rounded(half),
        decode_overhead_s=rounded(constant_s - model.weight_bytes * byte_s),
        bandwidth_share=BANDWIDTH_SHARE,
        sequence_s=rounded(sequence_s),
        key_token_s=rounded(max(0.0, context_s - model.key_bytes_per_token * byte_s)),
        decode_intensity_idle=rounded(idle),
        decode_intensity_gain=rounded(gain),
        decode_intensity_half=batch_half,
    )


def _time_row(quantity: str, split: str, bound: float, pairs: list[tuple[float, float]]) -> Row:
    model, measured = np.array(pairs).T
    return relative(quantity, "splitwise-sim", split, model=model, measured=measured, bound=bound)


def time_rows(profiles: list[Profile], fits: dict[str, EngineFit]) -> list[Row]:
    """Errors of prefill and decode times on what was not fitted, over all engines."""
    again, batched, steps = [], [], []
    for profile in profiles:
        points = fits[profile.name].prefill_points
        longest = max(cell.prompt for cell in profile.cells)
        for cell in profile.cells:
            model = float(prefill_s(points, np.array(cell.tokens)))
            if cell.batch == 1:
                again += [(model, took) for took in cell.prompt_s[1::2].tolist()]
            elif cell.tokens <= longest:
                batched.append((model, float(np.median(cell.prompt_s))))
        checked = decode_split(profile)[1]
        model_s = _decode_parts(checked) @ np.array(fit_decode(profile))
        steps += list(zip(model_s.tolist(), _token_s(checked).tolist(), strict=True))
    return [
        _time_row("prefill time by prompt", "every other repeat", REPEAT_BOUND, again),
        _time_row("prefill time, prompts as a batch", "batches of 2 to 16; fitted on single"
                  " prompts", PREFILL_BOUND, batched),
        _time_row("decode time", "other batches, prompts and outputs", DECODE_BOUND, steps),
    ]  # fmt: skip


def decode_w(profile: Profile, cell: Cell, fit: EngineFit, part: PartFit) -> float:
    """Power of one GPU in decode at the highest clock."""
    grown = fit.decode_intensity_gain * cell.batch / (cell.batch + fit.decode_intensity_half)
    cores_w = part.compute_power_w * (fit.decode_intensity_idle + grown)
    return _still_w(part) + _memory_w(part) * profile.bandwidth(cell) + cores_w


def prefill_w(cell: Cell, fit: EngineFit, part: PartFit) -> float:
    """Power of one GPU in prefill at the highest clock, before its limiter."""
    intensity = fit.prefill_intensity * cell.tokens / (cell.tokens + fit.intensity_half_tokens)
    return _still_w(part) + _memory_w(part) * PREFILL_BANDWIDTH + part.compute_power_w * intensity


def power_rows(profiles: list[Profile], fits: dict[str, EngineFit], part: PartFit) -> list[Row]:
    """Errors of A100 power on what was not fitted."""
    short, long, peaks = [], [], []
    for profile in profiles:
        for cell in profile.cells:
            if cell.average_w is None or cell.peak_w is None:
                continue
            model_w = decode_w(profile, cell, fits[profile.name], part)
            if cell.prompt >= LONG_PROMPT:
                long.append((model_w, cell.average_w))
            elif not (cell.prompt == 512 and cell.batch in (1, 16)):
                short.append((model_w, cell.average_w))
            if cell.batch > 1 and np.median(cell.prompt_s) >= SENSOR_S:
                peaks.append((prefill_w(cell, fits[profile.name], part), cell.peak_w))
    return [
        _time_row("A100 decode power", "other batches and prompts", WATT_BOUND, short),
        _time_row("A100 decode power, long prompts", "prompts of 4,096; fitted on 512",
                  LONG_WATT_BOUND, long),
        _time_row("A100 prefill power", "batches; fitted on single prompts", WATT_BOUND, peaks),
    ]  # fmt: skip
