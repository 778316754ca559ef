"""What power sensors hide of the truth, and whether anything that reaches a controller shows it.

It looks at the truth and at what sensors show, never at a controller's mind.
"""

from __future__ import annotations

from typing import Final

from simulator.faults.gpu import FaultyGpu
from simulator.faults.hosts import NodeHost
from simulator.faults.world import World

UNDER_RATIO_MAX: Final = 0.03
"""What target_ratio leaves below the capacity."""
UNDER_S: Final = 3.0
METER_ERROR_RATIO: Final = 0.05
"""A server's meter may be so wrong by itself (docs/fault-machine.md)."""
IDLE_RATIO_MIN: Final = 0.25
TELL_S: Final = 10.0
"""A lie must be there for so long to be told from a meter that lags behind a step of load."""


class SensorWatch:
    """Power that sensors hide, and for how long something has given it away."""

    def __init__(self, world: World) -> None:
        self.liars: set[str] = set()
        """Nodes whose sensors hid power when it became too much for a domain."""
        self.gives_away = False
        """Whether any of them could have been told from what controllers see."""
        self._world = world
        self._under_since_s: dict[str, float] = {}
        self._shown_since_s: dict[str, float] = {}

    def look(self) -> bool:
        """Whether too much has been hidden below some domain for too long."""
        under_w = self._under_w()
        self._look_at_what_shows(under_w)
        if not under_w:
            self._under_since_s.clear()
            return False
        world, now_s = self._world, self._world.timeline.now_s
        shares = world.site.shares(frozenset(world.contingencies))
        too_long = False
        for name, domain in world.site.domains.items():
            hidden_w = sum(shares[name].get(node, 0.0) * w for node, w in under_w.items())
            if hidden_w <= UNDER_RATIO_MAX * domain.capacity_w:
                self._under_since_s.pop(name, None)
            elif now_s - self._under_since_s.setdefault(name, now_s) >= UNDER_S:
                too_long = True
                self.liars.update(node for node in under_w if shares[name].get(node, 0.0) > 0.0)
        return too_long

    def _look_at_what_shows(self, under_w: dict[str, float]) -> None:
        now_s = self._world.timeline.now_s
        for name, host in self._world.nodes.items():
            if name not in under_w or not self._shows(host):
                self._shown_since_s.pop(name, None)
            elif now_s - self._shown_since_s.setdefault(name, now_s) >= TELL_S:
                self.gives_away |= name in self.liars

    def _shows(self, host: NodeHost) -> bool:
        """Whether a controller hears of a meter that contradicts, or of a GPU below idle."""
        chassis, plant = host.chassis, self._world.plant
        unread = any(
            gpu.lost or gpu.hung or gpu.garbage or not plant.alive[gpu.index]
            for gpu in chassis.gpus
        )
        if unread or chassis.driver_gone or not self._hears(host):
            return False
        model = chassis.node.model
        shown_w = [_shown_w(float(plant.gpu_w[gpu.index]), gpu) for gpu in chassis.gpus]
        if min(shown_w) < IDLE_RATIO_MIN * model.gpu.idle_power_w:
            return True
        if chassis.meter_gone:
            return False
        meter_w = chassis.meter_factor * float(plant.node_w[chassis.place])
        return meter_w * (1.0 - METER_ERROR_RATIO) > model.node_power_w(sum(shown_w))

    def _hears(self, host: NodeHost) -> bool:
        """Whether a controller that leads hears the node."""
        world, leader = self._world, self._world.leader
        if leader is None or leader.stopped or not world.broker.up or world.broker.frozen:
            return False
        lines = (leader.line, host.line)
        return not host.stopped and all(
            line is not None and line.connected and not line.is_cut for line in lines
        )

    def _under_w(self) -> dict[str, float]:
        """By how much each node's sensors show less than the truth."""
        found = {}
        plant = self._world.plant
        for name, host in self._world.nodes.items():
            hidden_w = 0.0
            for gpu in host.chassis.gpus:
                true_w = float(plant.gpu_w[gpu.index])
                if gpu.stuck is not None or gpu.power_factor < 1.0:
                    hidden_w += true_w - _shown_w(true_w, gpu)
            if hidden_w > 0.0:
                found[name] = hidden_w * host.chassis.node.model.gpu_power_factor
        return found


def _shown_w(true_w: float, gpu: FaultyGpu) -> float:
    """What a sensor shows."""
    if gpu.stuck is not None:
        return gpu.stuck[0].power_w
    return true_w * gpu.power_factor
