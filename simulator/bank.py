"""All GPUs of a site as one bank of arrays: clocks, power, limiters, and what NVML would report.

The bank obeys ceilings and its own limiters and never decides one. Within a step an inference GPU
alternates between two phases, prefill and decode, far apart in power; both are kept as rows of one
array, so that the limiter acts on each and the sensor sees one of them, as the real one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.gpu import LEAK_FROM_C, LEAK_PER_K, LEAK_SHARE, GpuConstants

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

PREFILL, DECODE = 0, 1

GAIN_SPREAD: Final = 0.05  # power sensor gain error per board (arXiv 2312.02741)
STATIC_SPREAD: Final = 0.08  # assumption
COMPUTE_SPREAD: Final = 0.05  # assumption
API_S: Final = (0.0050, 0.36)  # log-normal: p50 5 ms, p99 12 ms (V100 clock-change data set)
SETTLE_S: Final = (0.0200, 0.14)  # log-normal: p50 20 ms, p99 28 ms (same)
SETTLE_TAIL: Final = (1e-4, 0.300)  # one change in 10,000 takes 300 ms: assumption
IGNORED_RATIO: Final = 0.001  # locks accepted and not honoured: assumption
POWER_ROOM_RATIO: Final = 0.98  # the limiter lets the clock rise below this: assumption
POWER_RISE_STEPS_PER_S: Final = 20.0  # one grid step every 50 ms: assumption
THERMAL_STEPS_PER_S: Final = 10.0  # one grid step every 100 ms while too hot: assumption
EVENT_QUIET_S: Final = 1.0  # throttling again after less than this is the same event
PULL_DOWN_ROUNDS: Final = 12

REASON_IDLE: Final = 0x1
REASON_POWER_CAP: Final = 0x4
REASON_THERMAL: Final = 0x20
REASON_HARD_THERMAL: Final = 0x48
REASON_BRAKE: Final = 0x88


@dataclass(slots=True)
class Demand:
    """What the software asks of each node in one step.

    `intensity` and `bandwidth` are of shape (2, nodes), rows prefill and decode; `prefill_share`
    of shape (nodes,) is the share of the step spent in prefill.
    """

    intensity: FloatArray
    bandwidth: FloatArray
    prefill_share: FloatArray


@dataclass(slots=True)
class View:
    """What the ports read, as plain lists: one conversion per step, however many readers."""

    power_w: list[float]
    clock_mhz: list[int]
    limit_w: list[float]
    limit_requested_w: list[float]
    brake_s: list[float]
    power_throttle_s: list[float]
    thermal_throttle_s: list[float]
    energy_j: list[float]
    temperature_c: list[float]
    memory_temperature_c: list[float]
    reasons: list[int]


def _spread(rng: np.random.Generator, count: int, ratio: float) -> FloatArray:
    return 1.0 + rng.uniform(-ratio, ratio, count)


def _steepest(values: FloatArray, mhz: IntArray) -> FloatArray:
    """The largest rise per grid step at or below each clock, over grids that stand end to end."""
    rise = np.diff(values, prepend=values[0])
    rise[np.flatnonzero(np.diff(mhz, prepend=mhz[0] + 1) < 0)] = 0.0
    edges = np.flatnonzero(np.diff(mhz, prepend=mhz[0] + 1) < 0)
    found = [np.maximum.accumulate(part) for part in np.split(rise, edges[1:])]
    return np.concatenate(found)


class GpuBank:
    """Every GPU of a site; index g runs over nodes in order, and over GPUs within a node.

    `node_of` is of shape (gpus,) and ascending. Power is the mean over the last step.
    """

    def __init__(
        self,
        parts: Sequence[GpuConstants],
        node_of: IntArray,
        rng: np.random.Generator,
        *,
        ignored_ratio: float = IGNORED_RATIO,
    ) -> None:
        """Draw the spread between boards; a share `ignored_ratio` of locks is not honoured."""
        self._ignored_ratio = ignored_ratio
        self.parts = tuple(parts)
        self.node_of = node_of
        self.starts = np.flatnonzero(np.diff(node_of, prepend=-1)).astype(np.int64)
        self._rng = rng
        self._tables()
        self._constants()
        self._state()

    def _tables(self) -> None:
        """Grids of all kinds of part end to end, so that a clock is one index into each table."""
        kinds = list(dict.fromkeys(self.parts))
        offset = dict(
            zip(kinds, np.cumsum([0, *(len(kind.clocks_mhz) for kind in kinds)]), strict=False)
        )
        grid = [(kind, clock) for kind in kinds for clock in kind.clocks_mhz]
        self._mhz = np.array([clock for _, clock in grid])
        self._phi = np.array([kind.dynamic_at(clock) for kind, clock in grid])
        self._v2 = np.array([kind.voltage_at(clock) ** 2 for kind, clock in grid])
        self._phi_step = _steepest(self._phi, self._mhz)
        self._v2_step = _steepest(self._v2, self._mhz)
        self._low = np.array([offset[part] for part in self.parts])
        self._high = self._low + np.array([len(part.clocks_mhz) - 1 for part in self.parts])

    def _of(self, name: str) -> FloatArray:
        return np.array([getattr(part, name) for part in self.parts], dtype=np.float64)

    def _constants(self) -> None:
        count = self.count
        rng = self._rng
        self.gain = _spread(rng, count, GAIN_SPREAD)
        self.static_w = self._of("static_power_w") * _spread(rng, count, STATIC_SPREAD)
        self.compute_w = self._of("compute_power_w") * _spread(rng, count, COMPUTE_SPREAD)
        self.context_w = self._of("context_power_w")
        self.memory_w = self._of("memory_power_w")
        self.movement_w = self._of("movement_power_w")
        self.max_operating_c = self._of("operating_temperature_c_max")
        self.slowdown_c = self._of("slowdown_temperature_c")
        self.shutdown_c = self._of("shutdown_temperature_c")
        self._idle = self._index(self._of("idle_clock_mhz"))
        self._brake = self._index(self._of("brake_clock_mhz"))
        self._half = (self._low + self._high) // 2

    def _state(self) -> None:
        count = self.count
        self.limit_w = self._of("power_limit_w")
        self.limit_requested_w = self.limit_w.copy()
        self.braked = np.zeros(count, dtype=np.bool_)
        self.lost = np.zeros(count, dtype=np.bool_)
        self.ignores_locks = np.zeros(count, dtype=np.bool_)
        self.has_context = np.ones(count, dtype=np.bool_)
        self.powered = np.ones(count)
        self._lock = self._high.copy()
        self._pending = self._high.copy()
        self.lock_due_s = np.full(count, np.inf)
        self._thermal = self._high.copy()
        self._cap = np.stack([self._high, self._high])
        self.phase_power_w = np.zeros((2, count))
        self.power_w = np.zeros(count)
        self.seen_w = np.zeros(count)
        self.seen_mhz = self._mhz[self._high]
        self.clock_mhz = np.stack([self.seen_mhz, self.seen_mhz])
        self.memory_power_now_w = np.zeros(count)
        self.energy_j = np.zeros(count)
        self.brake_s = np.zeros(count)
        self.power_throttle_s = np.zeros(count)
        self.thermal_throttle_s = np.zeros(count)
        self.power_throttled = np.zeros(count, dtype=np.bool_)
        self.thermal_throttled = np.zeros(count, dtype=np.bool_)
        self._throttled_at_s = np.full((2, count), -np.inf)
        self.power_events = 0
        self.thermal_events = 0
        self._view: View | None = None

    @property
    def count(self) -> int:
        """How many GPUs there are."""
        return len(self.parts)

    def _index(self, clock_mhz: FloatArray) -> IntArray:
        """The grid index of the highest supported clock that is not above `clock_mhz`."""
        step = self._of("clock_mhz_step")
        steps = (clock_mhz - self._of("clock_mhz_min")) // step
        inside: IntArray = np.clip(self._low + steps.astype(np.int64), self._low, self._high)
        return inside

    def lock(self, gpu: int, ceiling_mhz: int, at_s: float) -> None:
        """Ask for a ceiling; it holds once the driver has passed it on and the clock has settled.

        The newest request wins. A part that ignores locks accepts it all the same.
        """
        if self.ignores_locks[gpu] or self._rng.random() < self._ignored_ratio:
            return
        part = self.parts[gpu]
        inside = min(max(ceiling_mhz, part.clock_mhz_min), part.clock_mhz_max)
        self._pending[gpu] = self._low[gpu] + (inside - part.clock_mhz_min) // part.clock_mhz_step
        api_s = API_S[0] * np.exp(API_S[1] * self._rng.standard_normal())
        settle_s = SETTLE_S[0] * np.exp(SETTLE_S[1] * self._rng.standard_normal())
        if self._rng.random() < SETTLE_TAIL[0]:
            settle_s = SETTLE_TAIL[1]
        self.lock_due_s[gpu] = at_s + api_s + settle_s

    def ceiling_mhz(self, gpu: int) -> int:
        """The lock in force; the highest clock where there is none."""
        return int(self._mhz[self._lock[gpu]])

    def forget_locks(self, gpus: BoolArray) -> None:
        """A driver reload or reboot: locks, limits and counters are gone."""
        self._lock[gpus] = self._high[gpus]
        self.lock_due_s[gpus] = np.inf
        self._thermal[gpus] = self._high[gpus]
        self._cap[:, gpus] = self._high[gpus]
        for counter in (
            self.energy_j, self.brake_s, self.power_throttle_s, self.thermal_throttle_s
        ):  # fmt: skip
            counter[gpus] = 0.0

    def forget_counts(self) -> None:
        """Events are counted anew from here; GPUs that are throttled already are no event."""
        self.power_events = 0
        self.thermal_events = 0
        self._throttled_at_s[np.isfinite(self._throttled_at_s)] = 0.0

    def step(self, *, at_s: float, dt_s: float, demand: Demand, temperature_c: FloatArray) -> None:
        """Run `dt_s` from `at_s` with the die temperatures of its start, shape (gpus,)."""
        self._view = None
        self._settle(at_s + 0.5 * dt_s)
        allowed = self._allowed(dt_s, temperature_c)
        share = demand.prefill_share.take(self.node_of)
        intensity = demand.intensity.take(self.node_of, axis=1)
        bandwidth = demand.bandwidth.take(self.node_of, axis=1)
        fixed_w = self._fixed_w(temperature_c) + self.memory_w * bandwidth
        by_clock_w = self.context_w + self.compute_w * intensity
        by_voltage_w = self.movement_w * bandwidth
        index = np.minimum(allowed, self._cap)
        power_w = fixed_w + by_clock_w * self._phi.take(index) + by_voltage_w * self._v2.take(index)
        over = power_w > self.limit_w
        if over.any():
            self._pull_down(over, index, power_w, fixed_w, by_clock_w, by_voltage_w)
        rise = max(1, round(POWER_RISE_STEPS_PER_S * dt_s))
        has_room = power_w < POWER_ROOM_RATIO * self.limit_w
        np.minimum(self._cap + rise * has_room, self._high, out=self._cap)
        self._publish(dt_s, share, index, power_w)
        self._throttling(at_s, dt_s, share, index < allowed)
        hbm = bandwidth[DECODE] + share * (bandwidth[PREFILL] - bandwidth[DECODE])
        self.memory_power_now_w = self.memory_w * hbm * self.powered

    def _settle(self, at_s: float) -> None:
        """Locks whose delay is over take hold; half a step is the rounding."""
        due = self.lock_due_s <= at_s
        if due.any():
            self._lock[due] = self._pending[due]
            self.lock_due_s[due] = np.inf

    def _fixed_w(self, temperature_c: FloatArray) -> FloatArray:
        hot_k = np.maximum(temperature_c - LEAK_FROM_C, 0.0)
        leaked: FloatArray = 1.0 - LEAK_SHARE + LEAK_SHARE * np.exp(LEAK_PER_K * hot_k)
        return self.static_w * leaked

    def _allowed(self, dt_s: float, temperature_c: FloatArray) -> IntArray:
        """The highest grid index that lock, heat, brake and idling leave."""
        self._limit_by_heat(dt_s, temperature_c)
        allowed: IntArray = np.minimum(self._lock, self._thermal)
        if self.braked.any():
            allowed = np.where(self.braked, np.minimum(allowed, self._brake), allowed)
        if not self.has_context.all():
            allowed = np.where(self.has_context, allowed, np.minimum(allowed, self._idle))
        return allowed

    def _limit_by_heat(self, dt_s: float, temperature_c: FloatArray) -> None:
        """Steps down while above the operating limit, halves at slowdown, is lost at shutdown."""
        hot = temperature_c > self.max_operating_c
        if not (hot.any() or self.thermal_throttled.any()):
            return
        steps = max(1, round(THERMAL_STEPS_PER_S * dt_s))
        self._thermal += np.where(hot, -steps, steps)
        np.clip(self._thermal, self._low, self._high, out=self._thermal)
        halved = temperature_c >= self.slowdown_c
        self._thermal = np.where(halved, np.minimum(self._thermal, self._half), self._thermal)
        self.lost |= temperature_c >= self.shutdown_c
        self.thermal_throttled = self._thermal < self._high

    def _pull_down(
        self,
        over: BoolArray,
        index: IntArray,
        power_w: FloatArray,
        fixed_w: FloatArray,
        by_clock_w: FloatArray,
        by_voltage_w: FloatArray,
    ) -> None:
        """The part's power-cap loop, settled: it moves in 10-20 ms, well inside a step.

        It steps by the steepest slope at or below the present clock, so it never overshoots; the
        lowest clock ends the search.
        """
        rows, gpus = np.nonzero(over)
        for _ in range(PULL_DOWN_ROUNDS):
            at = index[rows, gpus]
            clock_w, voltage_w = by_clock_w[rows, gpus], by_voltage_w[rows, gpus]
            slope = clock_w * self._phi_step[at] + voltage_w * self._v2_step[at]
            excess = power_w[rows, gpus] - self.limit_w[gpus]
            steps = np.ceil(excess / np.maximum(slope, 0.1)).astype(np.int64)
            at = np.maximum(at - steps, self._low[gpus])
            now = fixed_w[rows, gpus] + clock_w * self._phi[at] + voltage_w * self._v2[at]
            index[rows, gpus], power_w[rows, gpus] = at, now
            self._cap[rows, gpus] = at
            still = (now > self.limit_w[gpus]) & (at > self._low[gpus])
            if not still.any():
                return
            rows, gpus = rows[still], gpus[still]

    def _publish(
        self, dt_s: float, share: FloatArray, index: IntArray, power_w: FloatArray
    ) -> None:
        """True power, and what a sensor sees that looks at 25 ms of every 100 ms.

        The window is shorter than a phase, so it sees one phase: prefill with the chance that
        prefill has of the time (arXiv 2312.02741 for the window).
        """
        self.phase_power_w = power_w * self.powered
        first, second = self.phase_power_w
        self.power_w = second + share * (first - second)
        in_prefill = self._rng.random(self.count) < share
        self.seen_w = self.gain * np.where(in_prefill, first, second)
        self.clock_mhz = self._mhz.take(index)
        self.seen_mhz = np.where(in_prefill, self.clock_mhz[PREFILL], self.clock_mhz[DECODE])
        self.energy_j += self.gain * self.power_w * dt_s

    def _throttling(self, at_s: float, dt_s: float, share: FloatArray, limited: BoolArray) -> None:
        """Counts time and events of the part's own limiters; an event is an onset after quiet."""
        limited_share = share * limited[PREFILL] + (1.0 - share) * limited[DECODE]
        limited_share *= self.powered
        self.power_throttled = limited_share > 0.0
        self.power_throttle_s += limited_share * dt_s
        self.power_events += self._onsets(0, at_s, self.power_throttled)
        if self.thermal_throttled.any():
            self.thermal_throttle_s += self.thermal_throttled * dt_s
            self.thermal_events += self._onsets(1, at_s, self.thermal_throttled)
        if self.braked.any():
            self.brake_s += self.braked * dt_s

    def _onsets(self, row: int, at_s: float, now: BoolArray) -> int:
        last = self._throttled_at_s[row]
        new = int(np.count_nonzero(last[now] < at_s - EVENT_QUIET_S))
        last[now] = at_s
        return new

    def node_clock_mhz(self) -> FloatArray:
        """The slowest GPU of each node, shape (2, nodes): a tensor-parallel group waits for it."""
        slowest: FloatArray = np.minimum.reduceat(self.clock_mhz, self.starts, axis=1) * 1.0
        return slowest

    def node_gpu_power_w(self) -> FloatArray:
        """True GPU power summed per node, shape (nodes,)."""
        total: FloatArray = np.add.reduceat(self.power_w, self.starts)
        return total

    def view(self, temperature_c: FloatArray, memory_temperature_c: FloatArray) -> View:
        """Everything that ports read, converted once per step."""
        if self._view is None:
            reasons = (
                REASON_POWER_CAP * self.power_throttled
                | REASON_THERMAL * self.thermal_throttled
                | REASON_HARD_THERMAL * (temperature_c >= self.slowdown_c)
                | REASON_BRAKE * self.braked
                | REASON_IDLE * ~self.has_context
            )
            self._view = View(
                self.seen_w.tolist(),
                self.seen_mhz.tolist(),
                self.limit_w.tolist(),
                self.limit_requested_w.tolist(),
                self.brake_s.tolist(),
                self.power_throttle_s.tolist(),
                self.thermal_throttle_s.tolist(),
                self.energy_j.tolist(),
                np.rint(temperature_c).tolist(),
                np.rint(memory_temperature_c).tolist(),
                reasons.tolist(),
            )
        return self._view
