"""The twin in real time behind the drivers of real agents: their locks are its locks.

A thread of its own: each step takes the clock locks from every node's fake driver, moves the plant,
and notes true power against capacity. Once a second it gives the drivers the load that makes their
power the plant's, and writes the chassis meters. It knows no controller and no broker.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from simulator.plant import Plant, PlantSettings
from tests.system.rig import Rig

DT_S: Final = 0.1
METER_S: Final = 0.3
AVERAGE_S: Final = 1.0
"""Drivers and meters show the mean of about the last second, as an agent's frame does."""
POWER_RANGE_W: Final = 600.0
"""Of one GPU at its highest clock between idle and its most: what a load of 1 adds."""
GAIN: Final = 0.7


@dataclass(frozen=True, slots=True)
class Sample:
    """One step: how full the fullest domain was, and what has tripped."""

    at_s: float
    load_ratio: float
    domain: str
    tripped: int


class LiveTwin:
    """Runs from `start` to `stop`."""

    def __init__(self, rig: Rig, *, seed: int = 1) -> None:
        self.plant = Plant(rig.site, PlantSettings(seed=seed, dt_s=DT_S))
        self.samples: list[Sample] = []
        self.late_s = 0.0
        """How far the plant has fallen behind real time, at most."""
        self._rig = rig
        self._gpus = {name: self.plant.host(name).open() for name in rig.site.nodes}
        self._locked: dict[str, list[int]] = {name: [0] * 8 for name in rig.site.nodes}
        self._intensity = dict.fromkeys(rig.site.nodes, 0.3)
        self._gpu_w = np.zeros(len(rig.site.nodes))
        self._node_w = np.zeros(len(rig.site.nodes))
        self._wanted: list[tuple[str, bool]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="twin", daemon=True)

    def start(self) -> None:
        """Warm up, and begin to run."""
        self.plant.start()
        self._average(1.0)
        for name in self._rig.hosts:
            self._meter(name)
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._stopping.set()
        self._thread.join(5.0)

    def fail(self, contingency: str, *, on: bool) -> None:
        """Let a contingency begin or end in the plant, with its next step."""
        self._wanted.append((contingency, on))

    def since(self, at_s: float) -> list[Sample]:
        """What happened after `at_s`."""
        return [sample for sample in self.samples if sample.at_s >= at_s]

    def _run(self) -> None:
        begun_s, steps = time.monotonic(), 0
        while not self._stopping.is_set():
            self._step(steps)
            steps += 1
            ahead_s = begun_s + steps * DT_S - time.monotonic()
            self.late_s = max(self.late_s, -ahead_s)
            self._stopping.wait(max(ahead_s, 0.001))

    def _step(self, steps: int) -> None:
        for name in self._rig.hosts:
            self._take_locks(name)
        while self._wanted:
            contingency, on = self._wanted.pop(0)
            (self.plant.begin if on else self.plant.end)(contingency)
        self.plant.step()
        self._average(DT_S / AVERAGE_S)
        tree = self.plant.tree
        fed = [(float(ratio), name) for ratio, name in zip(tree.load_ratio, tree.names, strict=True)
               if self.plant.site.domains[name].kind != "zone"
               and tree.capacity_w[tree.names.index(name)] > 0.0]  # fmt: skip
        load_ratio, domain = max(fed)
        self.samples.append(Sample(time.monotonic(), load_ratio, domain, len(tree.tripped)))
        if steps % round(METER_S / DT_S) == 0:
            for name in self._rig.hosts:
                self._meter(name)

    def _average(self, share: float) -> None:
        self._gpu_w += share * (self.plant.bank.node_gpu_power_w() - self._gpu_w)
        self._node_w += share * (self.plant.node_power_w - self._node_w)

    def _take_locks(self, name: str) -> None:
        """The driver's locks, in the plant."""
        truths = self._rig.hosts[name].fake.truths()
        for gpu, (truth, had_mhz) in enumerate(zip(truths, self._locked[name], strict=True)):
            if truth.ceiling_mhz == had_mhz:
                continue
            self._locked[name][gpu] = truth.ceiling_mhz
            if truth.ceiling_mhz:
                self._gpus[name][gpu].lock_clocks(
                    clock_mhz_min=truth.lock_mhz_min, ceiling_mhz=truth.ceiling_mhz
                )
            else:
                self._gpus[name][gpu].reset_clocks()

    def _meter(self, name: str) -> None:
        """Let driver and chassis show what the plant draws."""
        place = list(self._rig.site.nodes).index(name)
        fake = self._rig.hosts[name].fake
        truths = fake.truths()
        shown_w = sum(truth.power_w for truth in truths) / len(truths)
        clock_ratio = max(truth.clock_mhz for truth in truths) / self._rig.top_mhz
        range_w = POWER_RANGE_W * max(clock_ratio, 0.3) ** 2
        step = GAIN * (float(self._gpu_w[place]) / len(truths) - shown_w) / range_w
        self._intensity[name] = min(max(self._intensity[name] + step, 0.0), 1.0)
        fake.load(None, a=self._intensity[name], m=0.3, c=1.0)
        path = meter_path(self._rig.directory, name)
        part = path.with_suffix(".part")
        part.write_text(f"{round(float(self._node_w[place]) * 1e6)}\n")
        part.replace(path)


def meter_path(directory: Path, node: str) -> Path:
    """The file of a node's chassis meter, in microwatts as hwmon has it."""
    return directory / f"{node}.power"
