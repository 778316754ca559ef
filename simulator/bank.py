"""All GPUs of a site as one bank of arrays: clocks, power, limiters, and what NVML would report.

The bank obeys ceilings and its own limiters and never decides one. Within a step an inference GPU
alternates between two phases, prefill and decode, far apart in power; both are kept as rows of one
array, so that the limiter acts on each and the sensor sees one of them, as the real one does.

What keeps a step cheap: both phases stand one after the other in flat arrays, because NumPy
spreads a row over two at three times the price; what depends on temperature is computed when the
temperature is a new array; and a sensor that nobody reads draws no random numbers, it skips them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.calibrated import load_calibrated
from simulator.gpu import LEAK_FROM_C, LEAK_PER_K, LEAK_SHARE, GpuConstants
from simulator.limiter import PowerLimiter

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

PREFILL, DECODE = 0, 1

GAIN_SPREAD: Final = load_calibrated().sensor.gain_spread_ratio  # power sensor, per board
STATIC_SPREAD: Final = 0.08  # assumption
COMPUTE_SPREAD: Final = 0.05  # assumption
API_S: Final = (0.0050, 0.36)  # log-normal: p50 5 ms, p99 12 ms (V100 clock-change data set)
SETTLE_S: Final = (0.0200, 0.14)  # log-normal: p50 20 ms, p99 28 ms (same)
SETTLE_TAIL: Final = (1e-4, 0.300)  # one change in 10,000 takes 300 ms: assumption
IGNORED_RATIO: Final = 0.001  # locks accepted and not honoured: assumption
THERMAL_STEPS_PER_S: Final = 10.0  # one grid step every 100 ms while too hot: assumption
EVENT_QUIET_S: Final = 1.0  # throttling again after less than this is the same event
PHILOX_BLOCK: Final = 4
"""Numbers that one count of Philox gives, so that a step starts on a whole count."""


@dataclass(slots=True)
class Demand:
    """What the software asks of each node in one step.

    `intensity` and `bandwidth` are of shape (2, nodes), rows prefill and decode; `prefill_share`
    of shape (nodes,) is the share of the step spent in prefill.
    """

    intensity: FloatArray
    bandwidth: FloatArray
    prefill_share: FloatArray


def _spread(rng: np.random.Generator, count: int, ratio: float) -> FloatArray:
    return 1.0 + rng.uniform(-ratio, ratio, count)


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
        # Philox can skip: a step's numbers are the same whether or not earlier ones were drawn.
        self._sensor_bits = np.random.Philox(rng.integers(1 << 63))
        self._sensor_rng = np.random.Generator(self._sensor_bits)
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
        self._low = np.array([offset[part] for part in self.parts])
        self._high = self._low + np.array([len(part.clocks_mhz) - 1 for part in self.parts])
        nodes = int(self.node_of[-1]) + 1
        self._phase_node_of = np.concatenate([self.node_of, self.node_of + nodes])
        self._phase_starts = np.concatenate([self.starts, self.starts + self.count])
        self._limiter = PowerLimiter(
            self._phi, self._v2, np.tile(self._low, 2), np.tile(self._high, 2)
        )

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
        self._phase_context_w = np.tile(self.context_w, 2)
        self._phase_compute_w = np.tile(self.compute_w, 2)
        self._phase_memory_w = np.tile(self.memory_w, 2)
        self._phase_movement_w = np.tile(self.movement_w, 2)
        self._min_mhz, self._step_mhz = self._of("clock_mhz_min"), self._of("clock_mhz_step")
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
        self._felt_c: FloatArray | None = None
        self._phase_static_w = np.tile(self.static_w, 2)
        self._hot = np.zeros(count, dtype=np.bool_)
        self._share = np.zeros(count)
        self._bandwidth = np.zeros(2 * count)
        self.phase_power_w = np.zeros((2, count))
        self.power_w = np.zeros(count)
        self._clock_mhz = self._mhz.take(self._limiter.cap)
        self.clock_mhz = self._clock_mhz.reshape(2, count)
        self._seen: tuple[FloatArray, IntArray] | None = (np.zeros(count), self.clock_mhz[0])
        self._unseen_steps = 0
        self.energy_j = np.zeros(count)
        self.brake_s = np.zeros(count)
        self.power_throttle_s = np.zeros(count)
        self.thermal_throttle_s = np.zeros(count)
        self.power_throttled = np.zeros(count, dtype=np.bool_)
        self.thermal_throttled = np.zeros(count, dtype=np.bool_)
        self._throttled_at_s = np.full((2, count), -np.inf)
        self.power_events = 0
        self.thermal_events = 0

    @property
    def count(self) -> int:
        """How many GPUs there are."""
        return len(self.parts)

    def _index(self, clock_mhz: FloatArray) -> IntArray:
        """The grid index of the highest supported clock that is not above `clock_mhz`."""
        steps = (clock_mhz - self._min_mhz) // self._step_mhz
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

    def hold(self, ceiling_mhz: FloatArray) -> None:
        """Locks that are in force at once and are never ignored, shape (gpus,)."""
        self._lock = self._index(ceiling_mhz)
        self._pending = self._lock.copy()
        self.lock_due_s[:] = np.inf

    def ceiling_mhz(self, gpu: int) -> int:
        """The lock in force; the highest clock where there is none."""
        return int(self._mhz[self._lock[gpu]])

    def forget_locks(self, gpus: BoolArray) -> None:
        """A driver reload or reboot: locks, limits and counters are gone."""
        self._lock[gpus] = self._high[gpus]
        self.lock_due_s[gpus] = np.inf
        self._thermal[gpus] = self._high[gpus]
        self._limiter.forget(np.concatenate((gpus, gpus)))
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
        """Run `dt_s` from `at_s` with the die temperatures of its start, shape (gpus,).

        `temperature_c` is read again only when it is another array than in the step before.
        """
        self._seen = None
        self._unseen_steps += 1
        self._settle(at_s + 0.5 * dt_s)
        if temperature_c is not self._felt_c:
            self._feel(temperature_c)
        self._limit_by_heat(dt_s, temperature_c)
        allowed = self._allowed()
        self._share = demand.prefill_share.take(self.node_of)
        bandwidth = self._bandwidth = demand.bandwidth.take(self._phase_node_of)
        fixed_w = self._phase_memory_w * bandwidth
        fixed_w += self._phase_static_w
        by_clock_w = demand.intensity.take(self._phase_node_of)
        by_clock_w *= self._phase_compute_w
        by_clock_w += self._phase_context_w
        by_voltage_w = self._phase_movement_w * bandwidth
        index, power_w = self._limiter.step(
            dt_s,
            allowed=allowed,
            limit_w=np.concatenate((self.limit_w, self.limit_w)),
            fixed_w=fixed_w,
            by_clock_w=by_clock_w,
            by_voltage_w=by_voltage_w,
        )
        self._publish(dt_s, index, power_w)
        self._throttling(at_s, dt_s, index < allowed if self._limiter.is_capping else None)

    def _settle(self, at_s: float) -> None:
        """Locks whose delay is over take hold; half a step is the rounding."""
        due = self.lock_due_s <= at_s
        if np.count_nonzero(due):
            self._lock[due] = self._pending[due]
            self.lock_due_s[due] = np.inf

    def _feel(self, temperature_c: FloatArray) -> None:
        """New temperatures: leakage, and which parts are above their operating limit."""
        self._felt_c = temperature_c
        hot_k = np.maximum(temperature_c - LEAK_FROM_C, 0.0)
        leaked = 1.0 - LEAK_SHARE + LEAK_SHARE * np.exp(LEAK_PER_K * hot_k)
        self._phase_static_w = np.concatenate([self.static_w * leaked] * 2)
        self._hot = temperature_c > self.max_operating_c

    def _allowed(self) -> IntArray:
        """The highest grid index that lock, heat, brake and idling leave, in either phase."""
        allowed: IntArray = np.minimum(self._lock, self._thermal)
        if np.count_nonzero(self.braked):
            allowed = np.where(self.braked, np.minimum(allowed, self._brake), allowed)
        if np.count_nonzero(self.has_context) < self.count:
            allowed = np.where(self.has_context, allowed, np.minimum(allowed, self._idle))
        return np.concatenate((allowed, allowed))

    def _limit_by_heat(self, dt_s: float, temperature_c: FloatArray) -> None:
        """Steps down while above the operating limit, halves at slowdown, is lost at shutdown."""
        if not (np.count_nonzero(self._hot) or np.count_nonzero(self.thermal_throttled)):
            return
        steps = max(1, round(THERMAL_STEPS_PER_S * dt_s))
        self._thermal += np.where(self._hot, -steps, steps)
        np.clip(self._thermal, self._low, self._high, out=self._thermal)
        halved = temperature_c >= self.slowdown_c
        self._thermal = np.where(halved, np.minimum(self._thermal, self._half), self._thermal)
        self.lost |= temperature_c >= self.shutdown_c
        self.thermal_throttled = self._thermal < self._high

    def _publish(self, dt_s: float, index: IntArray, power_w: FloatArray) -> None:
        """True power and clocks of this step."""
        first, second = power_w[: self.count], power_w[self.count :]
        first *= self.powered
        second *= self.powered
        self.phase_power_w = power_w.reshape(2, -1)
        self.power_w = self._share * (first - second)
        self.power_w += second
        self._clock_mhz = self._mhz.take(index)
        self.clock_mhz = self._clock_mhz.reshape(2, -1)
        self.energy_j += self.gain * self.power_w * dt_s

    @property
    def seen_w(self) -> FloatArray:
        """What the power sensors read after the last step, shape (gpus,)."""
        return self._look()[0]

    @property
    def seen_mhz(self) -> IntArray:
        """The clocks that a reader sees after the last step, shape (gpus,)."""
        return self._look()[1]

    def _look(self) -> tuple[FloatArray, IntArray]:
        """What a sensor sees that looks at 25 ms of every 100 ms: power and clock.

        The window is shorter than a phase, so it sees one phase: prefill with the chance that
        prefill has of the time (arXiv 2312.02741 for the window). The random numbers of steps at
        which nobody looked are skipped, so that looking changes nothing.
        """
        if self._seen is None:
            skipped = self._unseen_steps - 1
            self._sensor_bits.advance(skipped * -(-self.count // PHILOX_BLOCK))
            self._unseen_steps = 0
            in_prefill = self._sensor_rng.random(self.count) < self._share
            self._seen = (
                self.gain * np.where(in_prefill, *self.phase_power_w),
                np.where(in_prefill, *self.clock_mhz),
            )
        return self._seen

    def memory_power_w(self) -> FloatArray:
        """Power of the memory stacks over the last step, shape (gpus,)."""
        first, second = self._bandwidth[: self.count], self._bandwidth[self.count :]
        power_w: FloatArray = self.memory_w * (second + self._share * (first - second))
        return power_w * self.powered

    def _throttling(self, at_s: float, dt_s: float, limited: BoolArray | None) -> None:
        """Counts time and events of the part's own limiters; an event is an onset after quiet.

        `limited` is None when no clock is below what it is allowed.
        """
        if limited is None:
            if np.count_nonzero(self.power_throttled):
                self.power_throttled = np.zeros(self.count, dtype=np.bool_)
        else:
            limited_share = self._share * limited[: self.count]
            limited_share += (1.0 - self._share) * limited[self.count :]
            limited_share *= self.powered
            self.power_throttled = limited_share > 0.0
            self.power_throttle_s += limited_share * dt_s
            self.power_events += self._onsets(0, at_s, self.power_throttled)
        if np.count_nonzero(self.thermal_throttled):
            self.thermal_throttle_s += self.thermal_throttled * dt_s
            self.thermal_events += self._onsets(1, at_s, self.thermal_throttled)
        if np.count_nonzero(self.braked):
            self.brake_s += self.braked * dt_s

    def _onsets(self, row: int, at_s: float, now: BoolArray) -> int:
        last = self._throttled_at_s[row]
        new = int(np.count_nonzero(now & (last < at_s - EVENT_QUIET_S)))
        np.copyto(last, at_s, where=now)
        return new

    def node_clock_mhz(self) -> FloatArray:
        """The slowest GPU of each node, shape (2, nodes): a tensor-parallel group waits for it."""
        slowest: FloatArray = np.minimum.reduceat(self._clock_mhz, self._phase_starts) * 1.0
        return slowest.reshape(2, -1)

    def node_gpu_power_w(self) -> FloatArray:
        """True GPU power summed per node, shape (nodes,)."""
        total: FloatArray = np.add.reduceat(self.power_w, self.starts)
        return total
