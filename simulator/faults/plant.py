"""The lean plant: true power and true temperature of a small site, a tenth of a second at a time.

Power follows the clock in force and the work there is, never above the node model's worst case.
Air warms when a zone gets more heat than it can remove; a GPU that passes its shutdown temperature
is gone. GPUs do not slow themselves down here: only the software under test protects them. Power
is judged by `PowerTree`, which knows nothing of controllers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from facility.topology import Site
from simulator.electrical import PowerTree, Trip

FloatArray = npt.NDArray[np.float64]

STEP_S: Final = 0.1
SLOWDOWN_C: Final = 87.0  # from memory: an H100's slowdown threshold
SHUTDOWN_C: Final = 92.0  # from memory
SINK_SHARE: Final = 0.7
"""Part of the rise above the inlet that the heat sink carries; the die follows the rest at once."""
AIR_RECOVERY_S: Final = 20.0
LULL_OVERHEAD_RATIO: Final = 0.7
"""Share of a node's worst overhead that it draws without work."""


@dataclass(frozen=True, slots=True)
class ThermalDraw:
    """What a seed drew about heat. `sink_s` is the heat sink's time constant."""

    supply_c: float
    rise_c: float
    sink_s: float
    warming_c_per_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Shutdown:
    """A GPU that switched itself off by heat."""

    node: str
    gpu_index: int
    at_s: float


class Plant:
    """All GPUs of a site as arrays, in site order; hosts and sensors look in by index."""

    def __init__(self, site: Site, judged: Site, thermal: ThermalDraw) -> None:
        """`judged` is the same site with the protections as they really are."""
        self.site = site
        self.thermal = thermal
        self.tree = PowerTree(judged)
        self.trips: list[Trip] = []
        self.shutdowns: list[Shutdown] = []
        self._nodes = list(site.nodes.values())
        self.first: dict[str, int] = {}
        owner: list[int] = []
        for place, node in enumerate(self._nodes):
            self.first[node.name] = len(owner)
            owner += [place] * node.model.gpu_count
        self.owner = np.array(owner)
        self._starts = np.array([self.first[node.name] for node in self._nodes])
        gpus = [self._nodes[place].model.gpu for place in owner]
        self.idle_w = np.array([gpu.idle_power_w for gpu in gpus])
        self._overhead_w = np.array([node.model.overhead_w for node in self._nodes])
        self._factor = np.array([node.model.gpu_power_factor for node in self._nodes])
        count = len(owner)
        self.lock_mhz = [gpu.clock_mhz_max for gpu in gpus]
        """The clock in force, which is what a GPU with work runs at."""
        self.worst_w = np.array([gpu.power_w_at(gpu.clock_mhz_max) for gpu in gpus])
        self.limit_w = np.full(count, np.inf)
        self.work = np.full(count, 0.3)
        self.goal = np.full(count, 0.3)
        self.rate = np.full(count, 0.5)
        self.alive = np.ones(count, dtype=np.bool_)
        self.working = np.zeros(count, dtype=np.bool_)
        self.powered = np.ones(len(self._nodes), dtype=np.bool_)
        self.gpu_w = self.idle_w.copy()
        self.node_w = np.zeros(len(self._nodes))
        self._drawn_by: tuple[bytes, ...] = ()
        """Everything that power followed from in the last step, but for the wiring."""
        self._shares: FloatArray | None = None
        self.resistance = np.array([thermal.rise_c / gpu.power_w_at(9_999) for gpu in gpus])
        self.clog = np.ones(count)
        self.sink_c = np.full(count, thermal.supply_c + 0.3 * thermal.rise_c)
        self.die_c = self.sink_c.copy()
        self._zones(site)

    def _zones(self, site: Site) -> None:
        zones = [name for name, domain in site.domains.items() if domain.is_zone]
        names = list(site.domains)
        self._zones_warming = [
            (names.index(name), self.thermal.warming_c_per_s[name]) for name in zones
        ]
        self.air_c = np.full(len(zones) + 1, self.thermal.supply_c)
        """Of each zone, and last of whatever is in no zone."""
        self.zone_of = np.array(
            [zones.index(node.zone) if node.zone else len(zones) for node in self._nodes]
        )
        self._zone_of_gpu = self.zone_of[self.owner]
        self._inlet_c = self.air_c[self._zone_of_gpu]
        self._relax_ratio = 1.0 - math.exp(-STEP_S / AIR_RECOVERY_S)

    def lock(self, gpu: int, clock_mhz: int) -> None:
        """A lock takes effect."""
        self.lock_mhz[gpu] = clock_mhz
        model = self._nodes[int(self.owner[gpu])].model.gpu
        self.worst_w[gpu] = model.power_w_at(clock_mhz)

    def gpus_of(self, name: str) -> range:
        """Places of the GPUs of a node."""
        first = self.first[name]
        return range(first, first + self.site.nodes[name].model.gpu_count)

    def fed(self, place: int) -> bool:
        """Whether anything feeds a node."""
        return bool(self.tree.fed[place])

    def step(self, now_s: float) -> None:
        """One step up to `now_s`."""
        missing = self.goal - self.work
        if np.count_nonzero(missing):
            span = self.rate * STEP_S
            self.work += np.minimum(np.maximum(missing, -span), span)
        self._draw()
        self.trips += self.tree.wear(at_s=now_s, dt_s=STEP_S)
        self._warm(now_s)

    def _draw(self) -> None:
        """Power of every GPU, node and domain. Most steps change nothing that it follows from."""
        tree = self.tree
        said = (self.work, self.worst_w, self.limit_w, self.alive, self.working, self.powered)
        drawn_by = tuple([values.tobytes() for values in said])
        if drawn_by == self._drawn_by and tree.shares is self._shares:
            return
        self._drawn_by, self._shares = drawn_by, tree.shares
        fed = self.powered & tree.fed
        on = self.alive & self.working
        dynamic_w = (self.worst_w - self.idle_w) * self.work
        gpu_w = np.minimum(self.idle_w + np.where(on, dynamic_w, 0.0), self.limit_w)
        gpu_w *= fed[self.owner] & self.alive
        self.gpu_w = gpu_w
        sums_w = np.add.reduceat(gpu_w, self._starts)
        busy = np.maximum.reduceat(np.where(on, self.work, 0.0), self._starts)
        share = LULL_OVERHEAD_RATIO + (1.0 - LULL_OVERHEAD_RATIO) * busy
        self.node_w = (self._overhead_w * share + self._factor * sums_w) * fed
        tree.load(self.node_w)

    def _warm(self, now_s: float) -> None:
        self._warm_air()
        rise_c = self.resistance * self.gpu_w
        sink_c = self._inlet_c + SINK_SHARE * self.clog * rise_c
        self.sink_c += (sink_c - self.sink_c) * (STEP_S / self.thermal.sink_s)
        self.die_c = self.sink_c + (1.0 - SINK_SHARE) * rise_c
        hot = (self.die_c >= SHUTDOWN_C) & self.alive
        if np.count_nonzero(hot):
            for gpu in np.flatnonzero(hot).tolist():
                node = self._nodes[int(self.owner[gpu])].name
                self.shutdowns.append(Shutdown(node, gpu - self.first[node], now_s))
            self.alive &= ~hot

    def _warm_air(self) -> None:
        """A zone warms by its excess heat, and else returns to what its supply has."""
        supply_c, moved = self.thermal.supply_c, False
        for zone, (row, warming_c_per_s) in enumerate(self._zones_warming):
            air_c, ratio = float(self.air_c[zone]), float(self.tree.load_ratio[row])
            if ratio > 1.0:
                self.air_c[zone] = air_c + warming_c_per_s * (ratio - 1.0) * STEP_S
            elif air_c != supply_c:
                self.air_c[zone] = air_c + (supply_c - air_c) * self._relax_ratio
            else:
                continue
            moved = True
        if moved:
            self._inlet_c = self.air_c[self._zone_of_gpu]
