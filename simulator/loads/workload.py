"""A workload: how many requests come when, of which kinds, and how long they are.

Both fidelities of the twin draw from the same workload. It says nothing about who serves what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.loads.envelope import Envelope, Noise

IntArray = NDArray[np.int64]

TABLE: Final = 65_536
"""Pairs of lengths in a table that is drawn from: a place in it is 16 random bits."""
CV_MAX: Final = 50.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Equally likely pairs of prompt and generated tokens; arrays of shape (pairs,)."""

    prompt_tokens: IntArray
    generated_tokens: IntArray

    def __post_init__(self) -> None:
        """Refuse what is no request. Raises ValueError."""
        prompt, generated = self.prompt_tokens, self.generated_tokens
        if len(prompt) == 0 or prompt.shape != generated.shape:
            raise ValueError("lengths need as many prompts as answers, and at least one pair")
        if prompt.min() < 1 or generated.min() < 1:
            raise ValueError("lengths need at least one token each")

    @property
    def prompt_mean(self) -> float:
        """Mean prompt tokens of a request."""
        return float(self.prompt_tokens.mean())

    @property
    def generated_mean(self) -> float:
        """Mean generated tokens of a request."""
        return float(self.generated_tokens.mean())


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request: its share of all, its lengths, and how it splits into priorities.

    `priorities` are shares that sum to 1; empty where the data says nothing.
    """

    name: str
    share: float
    lengths: Lengths
    priorities: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse shares that are none. Raises ValueError."""
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"{self.name}: share is {self.share:g}; expected above 0, at most 1")
        if self.priorities and abs(sum(self.priorities.values()) - 1.0) > 1e-9:
            raise ValueError(f"{self.name}: priorities sum to {sum(self.priorities.values()):g}")


@dataclass(frozen=True, slots=True)
class Workload:
    """Kinds of requests that come along an envelope.

    `envelope` is at the level of the source; whoever draws multiplies it by a scale. `cv` is the
    coefficient of variation of the times between two arrivals of the whole stream at steady rate:
    1 is Poisson, more is bursts. `noise` is the slow noise that goes with the envelope by default.
    """

    name: str
    envelope: Envelope
    kinds: tuple[Kind, ...]
    cv: float = 1.0
    noise: Noise = field(default_factory=Noise)

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn. Raises ValueError."""
        total = sum(kind.share for kind in self.kinds)
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"{self.name}: shares of kinds sum to {total:g}; expected 1")
        if not 1.0 <= self.cv <= CV_MAX:
            raise ValueError(f"{self.name}: cv is {self.cv:g}; expected from 1 to {CV_MAX:g}")
        if len({bool(kind.priorities) for kind in self.kinds}) > 1:
            raise ValueError(f"{self.name}: either all kinds have priorities or none")

    @property
    def priorities(self) -> Mapping[str, float]:
        """Share of requests of each priority; empty where the workload says nothing."""
        shares: dict[str, float] = {}
        for kind in self.kinds:
            for priority, share in kind.priorities.items():
                shares[priority] = shares.get(priority, 0.0) + kind.share * share
        return shares

    def shares(self, priority: str | None = None) -> dict[str, float]:
        """Share of each kind among the requests of a priority, or among all.

        Raises:
            ValueError: no request has this priority.
        """
        known = self.priorities
        if priority is None or not known:
            return {kind.name: kind.share for kind in self.kinds}
        if not known.get(priority):
            raise ValueError(f"{self.name} has no requests of priority {priority!r}")
        return {
            kind.name: kind.share * kind.priorities.get(priority, 0.0) / known[priority]
            for kind in self.kinds
        }

    def lengths(self, priority: str | None = None) -> Lengths:
        """`TABLE` equally likely pairs: those of a priority, or of all requests.

        A workload without priorities has the same lengths for each.
        """
        shares = self.shares(priority)
        ends = np.rint(np.cumsum(list(shares.values())) * TABLE).astype(np.int64)
        counts = np.diff(ends, prepend=0)
        places = [
            # Evenly from the whole table of the kind, in its order.
            np.arange(count) * len(kind.lengths.prompt_tokens) // max(count, 1)
            for kind, count in zip(self.kinds, counts.tolist(), strict=True)
        ]
        both = list(zip(self.kinds, places, strict=True))
        return Lengths(
            np.concatenate([kind.lengths.prompt_tokens[at] for kind, at in both]),
            np.concatenate([kind.lengths.generated_tokens[at] for kind, at in both]),
        )

    def node_priorities(self, count: int) -> tuple[str, ...]:
        """A priority for each of `count` nodes, in the shares of the requests.

        The first nodes of a longer list are those of a shorter one, in any prefix about in shares.

        Raises:
            ValueError: the workload has no priorities.
        """
        shares = self.priorities
        if not shares:
            raise ValueError(f"{self.name} says nothing about priorities")
        owed = dict.fromkeys(shares, 0.0)
        chosen = []
        for _ in range(count):
            owed = {priority: owed[priority] + share for priority, share in shares.items()}
            most = max(owed, key=lambda priority: round(owed[priority], 9))
            owed[most] -= 1.0
            chosen.append(most)
        return tuple(chosen)
