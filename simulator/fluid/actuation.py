"""How ceilings reach GPUs: in band at once, or out of band through a slow management controller.

A command in flight is not overtaken: the next one to the same server leaves when it has arrived.
The power brake has a path of its own. Nothing here decides what is commanded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Path:
    """Delays of a control path, s: of a clock command, and of the power brake."""

    clock_s: float
    brake_s: float


IN_BAND = Path(clock_s=0.0, brake_s=0.0)
"""An agent on the host: within the step in which the next power is drawn."""
OUT_OF_BAND = Path(clock_s=40.0, brake_s=5.0)
"""POLCA's path through the BMC: at most 40 s for a clock, 5 s for the brake (papers 1.1)."""


class Actuation:
    """What is in force at every server, shape (n,), and what is on its way."""

    def __init__(self, path: Path, ceiling_mhz: IntArray, brake_mhz: IntArray) -> None:
        """Everything is at `ceiling_mhz`, nothing is on its way."""
        self._path = path
        self._brake_mhz = brake_mhz
        self._applied = ceiling_mhz.copy()
        self._sent = ceiling_mhz.copy()
        self._due_s = np.full(len(ceiling_mhz), np.inf)
        self._next_due_s = np.inf
        self._braked = np.zeros(len(ceiling_mhz), dtype=np.bool_)
        self._brake_due_s = np.full(len(ceiling_mhz), np.inf)
        self.in_force_mhz = ceiling_mhz.copy()

    def command(self, now_s: float, wanted_mhz: IntArray, braked: BoolArray) -> None:
        """Ask for ceilings, and for the brake where `braked`; see `advance`."""
        if self._path.clock_s <= 0.0:
            self._applied = wanted_mhz
        else:
            ready = (wanted_mhz != self._sent) & ~np.isfinite(self._due_s)
            if ready.any():
                self._sent[ready] = wanted_mhz[ready]
                self._due_s[ready] = now_s + self._path.clock_s
                self._next_due_s = min(self._next_due_s, now_s + self._path.clock_s)
        if braked.any() or self._braked.any() or np.isfinite(self._brake_due_s).any():
            self._brake(now_s, braked)

    def _brake(self, now_s: float, braked: BoolArray) -> None:
        changed = braked != self._braked
        new = changed & ~np.isfinite(self._brake_due_s)
        self._brake_due_s[new] = now_s + self._path.brake_s
        self._brake_due_s[~changed] = np.inf
        due = changed & (self._brake_due_s <= now_s + 1e-9)
        self._braked = np.where(due, braked, self._braked)
        self._brake_due_s[due] = np.inf

    def advance(self, now_s: float) -> IntArray:
        """What is in force from `now_s` on, MHz."""
        if self._next_due_s <= now_s + 1e-9:
            due = self._due_s <= now_s + 1e-9
            # A new array, so that who compares sees a change.
            self._applied = np.where(due, self._sent, self._applied)
            self._due_s[due] = np.inf
            self._next_due_s = float(self._due_s.min())
        if self._braked.any():
            self.in_force_mhz = np.where(
                self._braked, np.minimum(self._applied, self._brake_mhz), self._applied
            )
        else:
            self.in_force_mhz = self._applied
        return self.in_force_mhz
