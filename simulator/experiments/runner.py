"""Runs what is left of a sweep: results that are there and match are kept, the others are run.

All results are read back from the folder, so a sweep that was killed and one that was not give the
same. It prints nothing: what people should know goes to `tell`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from simulator.experiments.pool import Engine
from simulator.experiments.progress import SweepProgress
from simulator.experiments.results import UnitResult
from simulator.experiments.store import BadResult, SweepFolder
from simulator.experiments.units import Unit, UnitError

TELL_EVERY_S: Final = 5.0


class SweepFailed(Exception):
    """Some units failed; what the others found is kept. A line for each."""


@dataclass(frozen=True, slots=True)
class Teller:
    """Where lines for people go, and the clock that they are paced by."""

    tell: Callable[[str], None]
    now_s: Callable[[], float]


def run_units(
    units: Sequence[Unit], folder: SweepFolder, engine: Engine, teller: Teller
) -> list[UnitResult]:
    """All results, in the order of the units.

    Raises:
        SweepFailed: a unit failed.
        EngineError: the engine is not there.
    """
    left = _left(units, folder, teller.tell)
    if left:
        _run(left, len(units) - len(left), folder, engine, teller)
    results = [folder.read(unit) for unit in units]
    assert None not in results, "a result that was written is not there"
    return [result for result in results if result is not None]


def _left(units: Sequence[Unit], folder: SweepFolder, tell: Callable[[str], None]) -> list[Unit]:
    """Units that must be run, and why that may surprise."""
    left = []
    for unit in units:
        try:
            if folder.read(unit) is None:
                left.append(unit)
        except BadResult as error:
            tell(f"{error}; running {unit.label} again")
            left.append(unit)
    if strangers := folder.strangers(units):
        tell(
            f"{folder.path}: {strangers} results are of another scenario, seed, trace or version"
            " of the code or its constants; they are not used"
        )
    if len(left) < len(units):
        tell(f"{folder.path}: {len(units) - len(left)} of {len(units)} units are done already")
    return left


def _run(
    left: Sequence[Unit], kept: int, folder: SweepFolder, engine: Engine, teller: Teller
) -> None:
    now_s = teller.now_s()
    progress = SweepProgress(left, kept=kept, now_s=now_s)
    next_s = now_s + TELL_EVERY_S
    failures = []

    def told(unit_id: str, fraction: float) -> None:
        nonlocal next_s
        progress.told(unit_id, fraction)
        if fraction < 1.0 and teller.now_s() >= next_s:
            next_s = teller.now_s() + TELL_EVERY_S
            teller.tell(progress.line(teller.now_s()))

    # the longest first, so that the end is not one worker's alone
    outcomes = engine.run(sorted(left, key=lambda unit: -unit.cost), told)
    try:
        for unit, outcome in outcomes:
            progress.told(unit.id, 1.0)
            if isinstance(outcome, UnitError):
                failures.append(f"{unit.label}: {outcome}")
                teller.tell(failures[-1])
            else:
                folder.write(unit, outcome)
                teller.tell(f"{progress.line(teller.now_s())} (done: {unit.label})")
    finally:
        outcomes.close()
    if failures:
        raise SweepFailed(f"{len(failures)} of {len(left)} units failed")
