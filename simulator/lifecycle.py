"""Which nodes of the twin are dark, and when those that are fed again have booted."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]

NEVER_S: Final = np.inf


class Lifecycle:
    """Nodes go dark with their feed, or when cut; fed again they boot. Arrays (nodes,)."""

    def __init__(self, nodes: int, *, boot_s: float) -> None:
        """All up."""
        self._boot_s = boot_s
        self._ready_s = np.full(nodes, NEVER_S)
        self.cut = np.zeros(nodes, dtype=np.bool_)
        self.dark = np.zeros(nodes, dtype=np.bool_)

    def feed(self, fed: BoolArray, now_s: float) -> BoolArray:
        """Feeds or cuts have changed; returns the nodes that go dark now."""
        powered = fed & ~self.cut
        falling = ~powered & ~self.dark
        self.dark |= falling
        self._ready_s[~powered] = NEVER_S
        rising = powered & self.dark & (self._ready_s == NEVER_S)
        self._ready_s[rising] = now_s + self._boot_s
        return falling

    def booted(self, now_s: float) -> BoolArray:
        """Nodes that are up again now."""
        up = self.dark & (self._ready_s <= now_s)
        self.dark &= ~up
        self._ready_s[up] = NEVER_S
        return up
