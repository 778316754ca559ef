"""Arrivals made block by block and handed out step by step.

Both sources of requests, replay and stream, fill blocks of their own; how they are asked changes
nothing about what comes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import numpy as np

from simulator.loads.trace import Arrivals

BLOCK_S: Final = 20.0


class Source(ABC):
    """An endless stream of arrivals from time `start_s`."""

    def __init__(self, start_s: float) -> None:
        self._block_end_s = start_s
        self._block = Arrivals(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
        self._next = 0

    @abstractmethod
    def _fill(self, begin_s: float) -> Arrivals:
        """All arrivals of the `BLOCK_S` from `begin_s`, in order."""

    def until(self, at_s: float) -> Arrivals:
        """All arrivals before `at_s` that have not been handed out yet."""
        parts = []
        while self._block_end_s < at_s:
            parts.append(self._take(len(self._block.at_s)))
            self._block = self._fill(self._block_end_s)
            self._block_end_s += BLOCK_S
            self._next = 0
        parts.append(self._take(int(self._block.at_s.searchsorted(at_s))))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _take(self, end: int) -> Arrivals:
        part = slice(self._next, end)
        self._next = end
        block = self._block
        return Arrivals(
            block.at_s[part],
            block.context_tokens[part],
            block.generated_tokens[part],
            None if block.priority is None else block.priority[part],
        )


def _joined(parts: list[Arrivals]) -> Arrivals:
    """Parts one after the other; the block before the first, empty, knows no priority."""
    priority = [part.priority for part in parts if part.priority is not None]
    return Arrivals(
        np.concatenate([part.at_s for part in parts]),
        np.concatenate([part.context_tokens for part in parts]),
        np.concatenate([part.generated_tokens for part in parts]),
        np.concatenate(priority) if priority else None,
    )
