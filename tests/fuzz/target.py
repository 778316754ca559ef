"""What is fuzzed: a name, good examples, and a function from bytes to what became of them.

A target raises for nothing but a bug: the documented refusals of what it feeds are its outcomes.
It may keep state from one input to the next, as a process does, and is built anew every `LIFE`
inputs so that any input can be reached again quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

LIFE: Final = 500
"""Inputs to one instance of a target; a replay begins at the first of them."""

ACCEPTED: Final = "accepted"
Family = Literal["message", "file", "other"]


class Target(Protocol):
    """One life of what is fuzzed."""

    def fresh(self, seed: bytes, number: int) -> bytes:
        """A seed made current: counters and time stamps as of the input with this number."""
        ...

    def feed(self, data: bytes) -> str:
        """Take one input; returns `ACCEPTED` or the reason of the refusal, in few words."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


class Plain:
    """A target whose seeds are always current, and that holds nothing."""

    def fresh(self, seed: bytes, number: int) -> bytes:
        """The seed as it is."""
        del number
        return seed

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of target: how to build one, what to mutate, and how (`json`, `text` or `bytes`).

    The first byte of a seed chooses the door that the rest goes through; it is kept by mutations.
    """

    name: str
    family: Family
    how: Literal["json", "text", "bytes"]
    build: Callable[[], Target]
    seeds: Sequence[bytes]
    weight: float = 1.0


def through(door: int, payload: bytes) -> bytes:
    """An input for one door of a target."""
    return bytes([door]) + payload
