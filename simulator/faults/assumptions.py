"""What the lease proof assumes, as data, and the watch that says when a run has left it.

The watch looks at the truth: what coincided, not what was planned. It never judges a controller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from controllers.reaction import Reaction
from facility.wire import Event
from simulator.faults.hosts import NodeHost
from simulator.faults.plan import relies_on_control
from simulator.faults.sensors import SensorWatch
from simulator.faults.world import World

LOOK_S: Final = 0.5
HELD_S: Final = 0.7
"""A lock that is asked for has this long to bite: the longest settling, and a look."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """One sentence of the fine print. `alarms` are events of which one must tell that it broke."""

    name: str
    sentence: str
    alarms: tuple[str, ...] = ()


ASSUMPTIONS: Final = (
    Assumption("tables", "No GPU draws more under a clock than its model's table says."),
    Assumption("protections", "No protection opens earlier than its trip curve says."),
    Assumption(
        "air", "No zone warms faster than its curve says, from supply to slowdown threshold."
    ),
    Assumption(
        "locks",
        "Below any domain, at most ignored_locks_max nodes run above what their agent asks for, or"
        " above the safe ceiling after their last lease: ignored locks, locks lifted by others,"
        " dead or hanging agents, hanging drivers.",
        (
            "lock-drifted", "node-uncontrollable", "node-missing", "ceiling-deviates", "gpu-blind",
            "gpu-lost", "driver-lost", "site-silent", "lease-expired", "ledger-exceeded",
            "envelope-exceeded", "gpu-limited",
        ),
    ),
    Assumption(
        "one-failure",
        "One declared failure at a time, and no undeclared one.",
        ("domain-mode", "mode", "operator-request", "brake", "emergency"),
    ),
    Assumption(
        "failure-alone",
        "A failure whose contingency says broker_survives or local_trigger does not meet a loss of"
        " the broker, the controller, the network or an agent within one lease before and one"
        " reaction after.",
        ("lease-expired", "node-missing", "site-silent", "mode"),
    ),
    Assumption(
        "readings",
        "The nodes' power readings are not more than 3 % of a domain's capacity below the truth for"
        " longer than 3 s.",
        ("meter-differs", "readings-differ", "reading-refused", "gpu-blind"),
    ),
    Assumption(
        "badly-cooled",
        "A GPU that is cooled badly has a thermometer that works, obeys its locks, and its agent"
        " lives: nothing else that software can do would cool it.",
        (
            "lock-drifted", "node-uncontrollable", "node-missing", "ceiling-deviates", "gpu-blind",
            "gpu-lost", "driver-lost", "site-silent", "lease-expired", "reading-refused",
            "gpu-limited",
        ),
    ),
    Assumption("orders", "Nobody ends a contingency that is there.", ("operator-request",)),
    Assumption(
        "memory",
        "An agent is not killed while its state waits for a disk that is full, or that is slower"
        " than the crash.",
    ),
    Assumption("clocks", "Monotonic clocks drift by less than one in a thousand."),
    Assumption(
        "rested",
        "A protection that is overloaded has cooled down from earlier overloads: what is left of"
        " its patience is at least one reaction, as margin_ratio says.",
    ),
)  # fmt: skip


class Watch:
    """Notes the first moment at which each assumption did not hold."""

    def __init__(self, world: World, reaction: Reaction) -> None:
        self.broken: dict[str, float] = {}
        self._world = world
        self._reaction = reaction
        self._held_mhz: dict[str, dict[str, tuple[float, int]]] = {}
        self._impaired_s = -math.inf
        self._struck: dict[str, float] = {}
        self._sensors = SensorWatch(world)
        self._over: set[int] = set()

    def breaks(self, name: str) -> None:
        """An assumption does not hold from now on."""
        self.broken.setdefault(name, self._world.timeline.now_s)

    def look(self) -> None:
        """Look at the truth; called every LOOK_S."""
        world = self._world
        loose = [name for name, host in world.nodes.items() if self._is_loose(host)]
        self._look_at_locks(loose)
        self._look_at_failures()
        if self._sensors.look():
            self.breaks("readings")
        for host in world.nodes.values():
            if host.disk.lost_count:
                self.breaks("memory")
            for gpu in host.chassis.gpus:
                blind = gpu.thermometer_stuck_c is not None or gpu.stuck or gpu.garbage or gpu.hung
                helpless = blind or host.name in loose
                if helpless and world.plant.clog[gpu.index] > 1.0:
                    self.breaks("badly-cooled")

    def look_at_wear(self) -> None:
        """After each step: an overload that begins on a protection that is not rested."""
        tree = self._world.plant.tree
        if not tree.any_over:
            self._over.clear()
            return
        spare = 1.0 - 1.0 / self._reaction.margin_ratio
        for row in (tree.load_ratio > 1.0).nonzero()[0].tolist():
            if row not in self._over:
                self._over.add(row)
                if tree.wear_ratio[row] > spare:
                    self.breaks("rested")

    def _look_at_locks(self, loose: list[str]) -> None:
        world = self._world
        if not loose:
            return
        world.counts["state:node-loose"] += 1
        count_max = world.site.control.ignored_locks_max
        for domain in world.site.domains.values():
            if sum(name in domain.nodes for name in loose) > count_max:
                self.breaks("locks")
                return

    def _is_loose(self, host: NodeHost) -> bool:
        world, now_s = self._world, self._world.timeline.now_s
        plant = world.plant
        if not host.powered:
            return False
        held = self._held_mhz.setdefault(host.name, {})
        safe_mhz = host.config.safe_ceiling_mhz
        asked = host.life.brain.ceilings_mhz if host.life is not None else {}
        away = host.life is None or host.stopped
        loose = False
        for gpu in host.chassis.gpus:
            wanted_mhz = asked.get(gpu.uuid, 0) or 10_000  # who asks for nothing is at fault itself
            if away and (gpu.lifted or now_s > host.allowed_until_s + HELD_S):
                wanted_mhz = safe_mhz
            elif away:
                wanted_mhz = 10_000
            since_s, before_mhz = held.get(gpu.uuid, (-math.inf, 10_000))
            if wanted_mhz != before_mhz:
                held[gpu.uuid] = (now_s, wanted_mhz)
                since_s = now_s
            draws = plant.working[gpu.index] and plant.alive[gpu.index]
            above = plant.lock_mhz[gpu.index] > wanted_mhz
            # A lock that somebody lifted is not one that takes its time.
            late = gpu.lifted or now_s - since_s >= HELD_S
            loose |= bool(draws and above and late)
        return loose

    def _look_at_failures(self) -> None:
        world, now_s = self._world, self._world.timeline.now_s
        if self._control_is_impaired():
            self._impaired_s = now_s
        if len(world.contingencies) > 1:
            self.breaks("one-failure")
        for name, since_s in world.contingencies.items():
            self._struck.setdefault(name, since_s)
            contingency = world.site.contingencies[name]
            waits_s = self._reaction.contingency_s(contingency)
            near = self._impaired_s > since_s - self._reaction.without_control_s
            if relies_on_control(contingency) and near and now_s <= since_s + waits_s + LOOK_S:
                self.breaks("failure-alone")
            if contingency.local_trigger and near and now_s <= since_s + waits_s + LOOK_S:
                self.breaks("failure-alone")

    def _control_is_impaired(self) -> bool:
        world = self._world
        leader = world.leader
        if leader is None or leader.stopped or not world.broker.up or world.broker.frozen:
            return True
        if world.weather.extra_s_max > 0.0 or world.weather.loss_ratio > 0.0:
            return True
        if leader.line is None or not leader.line.connected or leader.line.is_cut:
            return True
        for host in world.nodes.values():
            line = host.line
            deaf = line is None or not line.connected or line.is_cut or host.stopped
            if host.powered and deaf:
                return True
        return False

    def late_alarms(self, alarm_s: float) -> tuple[str, ...]:
        """Assumptions that broke without an alarm within `alarm_s`, although it was to be seen."""
        return tuple(name for name in self._silent(alarm_s) if name not in self._unseen())

    def untellable(self, alarm_s: float) -> tuple[str, ...]:
        """Assumptions that broke without an alarm, and nobody could have told."""
        return tuple(name for name in self._silent(alarm_s) if name in self._unseen())

    def _unseen(self) -> tuple[str, ...]:
        return () if self._sensors.gives_away else ("readings",)

    def _silent(self, alarm_s: float) -> list[str]:
        return [
            item.name
            for item in ASSUMPTIONS
            if item.name in self.broken and item.alarms and not self._told(item, alarm_s)
        ]

    def _told(self, item: Assumption, alarm_s: float) -> bool:
        since_s = self.broken[item.name]
        return any(
            since_s - alarm_s <= at_s <= since_s + alarm_s and _speaks_of(event, item)
            for at_s, event in self._world.events
            if item.name != "readings" or self._is_of_a_liar(event)
        )

    def _is_of_a_liar(self, event: Event) -> bool:
        """Whether an event is about a node that hid power: another's is no alarm for it."""
        liars = self._sensors.liars
        return event.subject in liars or event.source.removeprefix("node/") in liars


def _speaks_of(event: Event, item: Assumption) -> bool:
    return event.severity != "info" and any(word in event.event for word in item.alarms)
