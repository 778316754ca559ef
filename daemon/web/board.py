"""The board: the one view model between the controller's loop and everything that shows it.

The loop writes (once per cycle, and as messages arrive), the API, the metrics and the page read.
It keeps references to immutable messages and copies only small tables, so a reader never sees half
a cycle and a cycle never waits for a reader. It decides nothing, computes no control value, does no
I/O, and belongs to one event loop: no method may be called from another thread.
"""

from __future__ import annotations

import bisect
import math
import re
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from facility.decisions import Decision, NodeDecision
from facility.topology import Site
from facility.wire import Applied, DomainState, Emergency, Event, Lease, NodeTelemetry

HISTORY_S: Final = 600.0
"""How much of each domain's past is kept; the store has the rest."""
HISTORY_CYCLES_MAX: Final = 3_000
EVENTS_MAX: Final = 200
COUNTERS_MAX: Final = 128
FRAMES_REMEMBERED_MAX: Final = 16
"""Arrival times kept per node: a lease is counted from the frame that it answers."""

STALE_S: Final = 2.5
"""Real seconds without a cycle after which a reader must call the picture old; see `Snapshot`."""
STALE_CYCLES: Final = 1.25

CYCLE_DURATION_BOUNDS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

_COUNTER_NAME: Final = re.compile(r"^[a-z][a-z0-9_]{0,62}$")


class PriorityTraffic(Struct, frozen=True, kw_only=True):
    """Requests of one priority. Counts are cumulative; latencies cover the last minute or so.

    TTFT is time to first token, TPOT time per output token; None where nothing was served.
    """

    priority: str
    rate_per_s: float
    served_count: int
    queued_count: int
    lost_count: int
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None
    tpot_p50_s: float | None = None
    tpot_p99_s: float | None = None


class TrafficView(Struct, frozen=True, kw_only=True):
    """What the services do for their users, by priority, most important first."""

    priorities: tuple[PriorityTraffic, ...]


class RunView(Struct, frozen=True, kw_only=True):
    """A demo's run, all times in simulated seconds; `speed` is simulated over real seconds.

    `failure` names the planned contingency, empty for none. `verdict` is the closing sentence,
    None while the run lasts, and `tripped` says whether it was a bad end.
    """

    policy: str
    simulated_s: float
    duration_s: float
    speed: float
    failure: str = ""
    failure_at_s: float | None = None
    verdict: str | None = None
    tripped: bool | None = None


class HistoryPoint(Struct, frozen=True, kw_only=True):
    """One domain in one cycle; `at_s` is the controller's monotonic clock."""

    at_s: float
    power_w: float
    forecast_w: float
    capacity_w: float
    exposure_w: float


@dataclass(frozen=True, slots=True)
class Heard:
    """A node's last frame, and when it came in by the controller's clock."""

    frame: NodeTelemetry
    received_s: float


@dataclass(frozen=True, slots=True)
class Granted:
    """A node's last lease, and when it ends by the controller's clock."""

    lease: Lease
    expires_s: float


@dataclass(frozen=True, slots=True)
class CycleDurations:
    """Histogram of the cycles' durations: `counts` per bound, the last one above all bounds."""

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    total_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that can be shown, as it was at `now_s` by the controller's clock.

    `age_s` is in real seconds, whatever the controller's clock does: the time since the last cycle,
    infinite before the first. From `stale_after_s` on, nothing here may be shown as live. `real_s`
    is the machine's monotonic clock.
    """

    site: Site
    now_s: float
    real_s: float
    age_s: float
    stale_after_s: float
    cycles_count: int
    overruns_count: int
    cycle_durations: CycleDurations
    decision: Decision | None
    domains: Mapping[str, DomainState]
    nodes: Mapping[str, NodeDecision]
    frames: Mapping[str, Heard]
    leases: Mapping[str, Granted]
    applied: Mapping[str, Applied]
    contingencies: tuple[str, ...]
    events: tuple[Event, ...]
    counters: Mapping[str, float]
    traffic: TrafficView | None
    run: RunView | None

    @property
    def cycle_real_s(self) -> float:
        """The length of a cycle in real seconds: shorter when a demo runs faster than time."""
        return self.site.control.cycle_s / speed_of(self.run)


def speed_of(run: RunView | None) -> float:
    """Controller seconds per real second: 1 unless a demo says otherwise."""
    return run.speed if run is not None and run.speed > 0.0 else 1.0


class Board:
    """Written by the controller's loop, read by everything that shows it.

    `clock` is the controller's own monotonic clock, simulated in a demo; `real_clock` is the
    machine's, by which the age of the picture is told even when a simulated clock stands still.
    """

    def __init__(
        self,
        site: Site,
        *,
        clock: Callable[[], float] = time.monotonic,
        real_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.site = site
        self._clock = clock
        self._real_clock = real_clock
        self._places = {name: place for place, name in enumerate(site.domains)}
        points = min(math.ceil(HISTORY_S / site.control.cycle_s), HISTORY_CYCLES_MAX)
        self._history: deque[tuple[float, array[float]]] = deque(maxlen=points)
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._frames: dict[str, Heard] = {}
        self._arrivals: dict[str, deque[tuple[str, int, float]]] = {}
        self._leases: dict[str, Granted] = {}
        self._applied: dict[str, Applied] = {}
        self._active: dict[str, tuple[str, ...]] = {}
        self._counters: dict[str, float] = {}
        self._decision: Decision | None = None
        self._updated_real_s = -math.inf
        self._cycles_count = 0
        self._overruns_count = 0
        self._duration_counts = [0] * (len(CYCLE_DURATION_BOUNDS_S) + 1)
        self._duration_total_s = 0.0
        self._traffic: TrafficView | None = None
        self._run: RunView | None = None

    def update(self, decision: Decision, *, duration_s: float) -> None:
        """Show a cycle's decision, its events included; once per cycle.

        `duration_s` is how long the cycle took in real seconds; longer than a cycle is an overrun.
        """
        self._decision = decision
        self._updated_real_s = self._real_clock()
        self._cycles_count += 1
        self._duration_counts[bisect.bisect_left(CYCLE_DURATION_BOUNDS_S, duration_s)] += 1
        self._duration_total_s += duration_s
        if duration_s > self.site.control.cycle_s / speed_of(self._run):
            self._overruns_count += 1
        for lease in decision.leases:
            if lease.node in self.site.nodes:
                self._leases[lease.node] = Granted(lease, self._expires_s(lease, decision.at_s))
        for order in decision.emergencies:
            self.emergency(order)
        for event in decision.events:
            self.event(event)
        self._remember(decision)

    def telemetry(self, frame: NodeTelemetry) -> None:
        """Show a frame that the controller has accepted."""
        if frame.node not in self.site.nodes:
            return
        now_s = self._clock()
        self._frames[frame.node] = Heard(frame, now_s)
        arrivals = self._arrivals.get(frame.node)
        if arrivals is None:
            arrivals = self._arrivals[frame.node] = deque(maxlen=FRAMES_REMEMBERED_MAX)
        arrivals.append((frame.session, frame.seq, now_s))

    def applied(self, applied: Applied) -> None:
        """Show what a node's hardware reports after a write."""
        if applied.node in self.site.nodes:
            self._applied[applied.node] = applied

    def event(self, event: Event) -> None:
        """Show a fact. A decision's own events come with the decision, not through here."""
        self._events.appendleft(event)

    def emergency(self, emergency: Emergency) -> None:
        """Show every contingency that is on in a domain, and that no other is.

        Those that a decision orders come with the decision, not through here.
        """
        self._active[emergency.domain] = emergency.active

    def traffic(self, traffic: TrafficView) -> None:
        """Show what users get."""
        self._traffic = traffic

    def run(self, run: RunView) -> None:
        """Show where a demo's run stands."""
        self._run = run

    def counters(self, values: Mapping[str, float]) -> None:
        """Show cumulative counts by name; names already known are replaced, others kept.

        A name is what the metric will be called without `ampacity_` and `_total`, in base units,
        such as `messages_refused`.

        Raises:
            ValueError: a name that cannot be part of a metric's, or more than 128 names.
        """
        for name in values:
            if not _COUNTER_NAME.match(name) or name.endswith("_total"):
                raise ValueError(f"{name!r} is no counter: use a-z, 0-9 and _, without _total")
        if len(self._counters.keys() | values.keys()) > COUNTERS_MAX:
            raise ValueError(f"more than {COUNTERS_MAX} counters")
        self._counters.update(values)

    def snapshot(self) -> Snapshot:
        """Everything that can be shown, frozen: shallow copies, nothing computed."""
        decision, real_s = self._decision, self._real_clock()
        return Snapshot(
            site=self.site,
            now_s=self._clock(),
            real_s=real_s,
            age_s=real_s - self._updated_real_s,
            stale_after_s=self._stale_after_s(),
            cycles_count=self._cycles_count,
            overruns_count=self._overruns_count,
            cycle_durations=CycleDurations(
                CYCLE_DURATION_BOUNDS_S, tuple(self._duration_counts), self._duration_total_s
            ),
            decision=decision,
            domains={state.domain: state for state in decision.domains} if decision else {},
            nodes={node.node: node for node in decision.nodes} if decision else {},
            frames=dict(self._frames),
            leases=dict(self._leases),
            applied=dict(self._applied),
            contingencies=tuple(
                sorted({name for names in self._active.values() for name in names})
            ),
            events=tuple(self._events),
            counters=dict(self._counters),
            traffic=self._traffic,
            run=self._run,
        )

    def history(self, domain: str, *, since_s: float = -math.inf) -> Iterator[HistoryPoint]:
        """The domain's cycles after `since_s` on the controller's clock, oldest first.

        Raises:
            KeyError: no such domain.
        """
        place = 4 * self._places[domain]
        for at_s, values in self._history:
            if at_s > since_s and not math.isnan(values[place]):
                power_w, forecast_w, capacity_w, exposure_w = values[place : place + 4]
                yield HistoryPoint(
                    at_s=at_s,
                    power_w=power_w,
                    forecast_w=forecast_w,
                    capacity_w=capacity_w,
                    exposure_w=exposure_w,
                )

    def _stale_after_s(self) -> float:
        cycle_s = self.site.control.cycle_s / speed_of(self._run)
        return max(STALE_S, STALE_CYCLES * cycle_s)

    def _expires_s(self, lease: Lease, decided_s: float) -> float:
        """The node counts from the frame that the lease answers.

        Where that frame was never shown here, the decision's time stands in: later by at most the
        age that a frame may have.
        """
        for session, seq, received_s in reversed(self._arrivals.get(lease.node, ())):
            if session == lease.session and seq == lease.basis_seq:
                return received_s + lease.lease_s
        return decided_s + lease.lease_s

    def _remember(self, decision: Decision) -> None:
        values = array("d", [math.nan]) * (4 * len(self._places))
        for state in decision.domains:
            place = self._places.get(state.domain)
            if place is not None:
                row = (state.power_w, state.forecast_w, state.capacity_w, state.exposure_w)
                values[4 * place : 4 * place + 4] = array("d", row)
        self._history.append((decision.at_s, values))
