"""Raw samples as compressed blocks: one GPU, one minute, four columns.

Ten rows a second for every GPU are more than SQLite takes as rows (components 4: 81 k rows/s with
0.4 s stalls); a block of a minute is one row. Columns are stored byte by byte (all first bytes,
then all second bytes, ...), because the high bytes of a slowly changing float hardly change and
then compress to nothing. Float32 keeps 0.03 mW at 700 W: what is stored is what was read. Nothing
here touches a file.
"""

from __future__ import annotations

import math
import secrets
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from daemon.store.history import GpuMinute
from facility.wire import GpuReading, NodeTelemetry, Quality

MINUTE_MS: Final = 60_000
LEVEL: Final = 1
"""Level 1 is twice as fast as 6 and loses a few percent on shuffled columns."""

CHECKPOINT_S: Final = 10.0
"""A minute that is not over is written this often, so that a crash costs no more than this."""

IDLE_S: Final = 75.0
"""A minute is forgotten this long after it was opened, once all of it is written."""

FRAME_S_DEFAULT: Final = 1.0
FRAME_S_MAX: Final = 5.0
"""A frame's samples are spread over the time since the frame before, at most this long."""

GPUS_MAX: Final = 65_536


class BlockError(ValueError):
    """A block that cannot be decoded."""


@dataclass(frozen=True, slots=True)
class Block:
    """One stored part of one GPU's minute.

    A minute has more than one part after a restart, or when its samples came out of order; `part`
    is random, so that no part ever overwrites another.
    """

    gpu: str
    node: str
    minute_s: int
    part: int
    samples_count: int
    data: bytes


@dataclass(slots=True)
class _Minute:
    """Samples of one GPU that are still being collected. Offsets are ms in the minute."""

    gpu: str
    node: str
    minute_ms: int
    part: int
    due_s: float
    opened_s: float
    written_count: int = 0
    offsets_ms: array[int] = field(default_factory=lambda: array("H"))
    power_w: array[float] = field(default_factory=lambda: array("f"))
    sm_clock_mhz: array[float] = field(default_factory=lambda: array("f"))
    temperature_c: array[float] = field(default_factory=lambda: array("f"))

    def block(self) -> Block:
        self.written_count = len(self.offsets_ms)
        data = encode(self.offsets_ms, self.power_w, self.sm_clock_mhz, self.temperature_c)
        return Block(
            self.gpu,
            self.node,
            self.minute_ms // 1_000,
            self.part,
            self.written_count,
            data,
        )


def _shuffled(column: NDArray[np.float32] | NDArray[np.uint16]) -> bytes:
    return column.view(np.uint8).reshape(len(column), column.itemsize).T.tobytes()


def _unshuffled(data: bytes, kind: str, count: int) -> NDArray[np.float32]:
    item_bytes = np.dtype(kind).itemsize
    flat = np.frombuffer(data, np.uint8).reshape(item_bytes, count)
    return np.ascontiguousarray(flat.T).view(kind).reshape(count)


def encode(
    offsets_ms: array[int],
    power_w: array[float],
    sm_clock_mhz: array[float],
    temperature_c: array[float],
) -> bytes:
    """Compress four columns of equal length: uint16 offsets in ms, then float32 values."""
    offsets = np.frombuffer(offsets_ms, np.uint16)
    # Differences: a steady sampling rate becomes one repeated number. They wrap, and so do sums.
    steps = offsets.astype("<u2")
    steps[1:] -= offsets[:-1]
    columns = [np.frombuffer(c, np.float32) for c in (power_w, sm_clock_mhz, temperature_c)]
    raw = _shuffled(steps) + b"".join(_shuffled(c.astype("<f4")) for c in columns)
    return zlib.compress(raw, LEVEL)


def decode(data: bytes, samples_count: int) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Return offsets in ms, shape (samples,), and power, clock, temperature, shape (3, samples).

    Raises:
        BlockError: the data is damaged or of another length.
    """
    try:
        raw = zlib.decompress(data)
    except zlib.error as error:
        raise BlockError(f"a block of raw samples is damaged: {error}") from error
    if len(raw) != samples_count * 14:
        raise BlockError(f"a block holds {len(raw)} bytes, {samples_count} samples need 14 each")
    steps = _unshuffled(raw[: samples_count * 2], "<u2", samples_count)
    offsets = np.cumsum(steps, dtype=np.uint16)
    size = samples_count * 4
    values = [
        _unshuffled(raw[samples_count * 2 + i * size :][:size], "<f4", samples_count)
        for i in range(3)
    ]
    return offsets, np.stack(values)


def joined(gpu: str, minute_s: int, parts: list[tuple[bytes, int]]) -> GpuMinute | None:
    """One minute from its parts (data, samples), in order of time; None without any.

    Raises:
        BlockError: a part is damaged.
    """
    if not parts:
        return None
    decoded = [decode(data, samples_count) for data, samples_count in parts]
    offsets = np.concatenate([part[0] for part in decoded])
    values = np.concatenate([part[1] for part in decoded], axis=1)
    order = np.argsort(offsets, kind="stable")
    power_w, sm_clock_mhz, temperature_c = (tuple(row) for row in values[:, order].tolist())
    at_s = tuple((minute_s + offsets[order] / 1_000.0).tolist())
    return GpuMinute(gpu, minute_s, at_s, power_w, sm_clock_mhz, temperature_c)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Samples `begin` to `end` of a frame lie in this minute, at these offsets."""

    minute_ms: int
    begin: int
    end: int
    offsets_ms: array[int]


def _pieces(end_s: float, span_s: float, count: int) -> list[_Piece]:
    """Spread `count` samples over the `span_s` before `end_s`; split them where a minute ends."""
    end_ms, step_ms = end_s * 1_000.0, span_s * 1_000.0 / count
    times_ms = [max(0, round(end_ms - i * step_ms)) for i in reversed(range(count))]
    pieces = []
    begin = 0
    while begin < count:
        minute_ms = times_ms[begin] - times_ms[begin] % MINUTE_MS
        offsets_ms = array(
            "H", (t - minute_ms for t in times_ms[begin:] if t < minute_ms + MINUTE_MS)
        )
        pieces.append(_Piece(minute_ms, begin, begin + len(offsets_ms), offsets_ms))
        begin += len(offsets_ms)
    return pieces


class RawSamples:
    """Collects frames into minutes and says which blocks are due. One thread uses it."""

    def __init__(self, *, monotonic_s: Callable[[], float]) -> None:
        """Start empty."""
        self._monotonic_s = monotonic_s
        self._open: dict[str, _Minute] = {}
        self._closed: list[_Minute] = []
        self._frame_s: dict[str, float] = {}
        self.refused_count = 0

    def add(self, frame: NodeTelemetry) -> None:
        """Keep all samples of a frame, spread evenly over the time since the frame before."""
        last_s = self._frame_s.get(frame.node, frame.sampled_at_s - FRAME_S_DEFAULT)
        self._frame_s[frame.node] = frame.sampled_at_s
        span_s = frame.sampled_at_s - last_s
        span_s = min(span_s, FRAME_S_MAX) if span_s > 0.0 else FRAME_S_DEFAULT
        pieces: dict[int, list[_Piece]] = {}
        for gpu in frame.gpus:
            # A missing GPU's power is a worst case, not a reading.
            missing = gpu.quality is Quality.MISSING
            samples_w = (math.nan,) if missing else gpu.power_samples_w or (gpu.power_w,)
            count = len(samples_w)
            if count not in pieces:  # all GPUs of a frame are sampled alike, as a rule
                pieces[count] = _pieces(frame.sampled_at_s, span_s, count)
            for piece in pieces[count]:
                self._add_piece(frame.node, gpu, piece, samples_w)

    def due(self, *, everything: bool) -> Iterator[Block]:
        """Blocks of ended minutes, and of those whose checkpoint is due (or all)."""
        now_s = self._monotonic_s()
        closed, self._closed = self._closed, []
        for minute in closed:
            yield minute.block()
        for minute in list(self._open.values()):
            unwritten = minute.written_count < len(minute.offsets_ms)
            if unwritten and (everything or now_s >= minute.due_s):
                minute.due_s = now_s + CHECKPOINT_S
                yield minute.block()
            elif not unwritten and now_s - minute.opened_s > IDLE_S:
                del self._open[minute.gpu]

    def _add_piece(
        self, node: str, gpu: GpuReading, piece: _Piece, samples_w: tuple[float, ...]
    ) -> None:
        minute = self._minute(gpu.uuid, node, piece.minute_ms)
        count = piece.end - piece.begin
        if minute is None:
            self.refused_count += count
            return
        clock_mhz = float(gpu.sm_clock_mhz) or math.nan
        temperature_c = math.nan if gpu.temperature_c is None else gpu.temperature_c
        minute.offsets_ms.extend(piece.offsets_ms)
        minute.power_w.extend(samples_w[piece.begin : piece.end])
        minute.sm_clock_mhz.extend(array("f", (clock_mhz,)) * count)
        minute.temperature_c.extend(array("f", (temperature_c,)) * count)

    def _minute(self, gpu: str, node: str, minute_ms: int) -> _Minute | None:
        """The minute being collected, changed if need be; None when there are too many GPUs."""
        minute = self._open.get(gpu)
        if minute is not None and minute.minute_ms == minute_ms:
            return minute
        if minute is None and len(self._open) >= GPUS_MAX:
            return None
        if minute is not None and minute.written_count < len(minute.offsets_ms):
            self._closed.append(minute)
        now_s = self._monotonic_s()
        # Spread over the period, so that a thousand GPUs are not compressed in one go.
        due_s = now_s + CHECKPOINT_S * (zlib.crc32(gpu.encode()) % 1_000) / 1_000.0
        fresh = _Minute(gpu, node, minute_ms, secrets.randbits(62), due_s, now_s)
        self._open[gpu] = fresh
        return fresh
