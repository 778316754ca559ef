"""The dice of a run: seeded, so that one seed gives one run. Nothing secret is drawn."""

from __future__ import annotations

from random import Random


def dice(seed: float | str) -> Random:
    """A generator that always gives the same for the same seed."""
    return Random(seed)  # noqa: S311 - a simulation, no secret
