"""Units of work: plain JSON, each with an id that says all that decides its result.

The id covers the content, the model, and the code and constants of the twin, so a result can be
kept and used again exactly as long as running it again would give the same.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from simulator.experiments.model import Content, Progress, load_model
from simulator.experiments.results import UnitResult

DECIDING: Final = ("facility", "predictors", "controllers", "simulator")
"""Packages whose code and data decide results; this one only keeps and shows them."""
ID_CHARS: Final = 24
PROGRESS_STEP_RATIO: Final = 0.005
"""Progress is told at most so finely, however often a model speaks."""


class Unit(Struct, frozen=True):
    """One piece of work as it travels and is stored."""

    id: str
    role: str
    code: str
    content: Content

    @property
    def label(self) -> str:
        """What people call it."""
        return str(self.content.get("label", self.id))

    @property
    def cost(self) -> float:
        """Expected work, in any unit."""
        return float(self.content.get("cost", 1.0))


class UnitError(Exception):
    """A unit that failed; the text says why."""


def make_units(role: str, contents: Sequence[Content], trace: str | None = None) -> list[Unit]:
    """Give each content its id. The trace's bytes count, too, wherever it lies.

    Raises:
        ValueError: a content that is not JSON, or the same twice; the trace cannot be read.
    """
    code = code_version(role)
    units: dict[str, Unit] = {}
    for content in contents:
        full = dict(content)
        if trace is not None:
            full["trace_sha256"] = trace_hash(trace)
        text = json.dumps([role, code, full], sort_keys=True, allow_nan=False)
        name = hashlib.sha256(text.encode()).hexdigest()[:ID_CHARS]
        if name in units:
            raise ValueError(f"two units of the sweep are the same: {units[name].label}")
        units[name] = Unit(name, role, code, json.loads(text)[2])
    return list(units.values())


def run_unit(unit: Unit, progress: Progress) -> bytes:
    """Run one unit here; the result as JSON. The same unit gives the same bytes.

    Raises:
        UnitError: this process has other code than the one that made the unit, or the trace
            is another; or what the model raised.
    """
    if unit.code != code_version(unit.role):
        raise UnitError("this worker has another version of the code, its constants or NumPy")
    wanted = unit.content.get("trace_sha256")
    trace = unit.content.get("trace")
    try:
        if wanted is not None and (trace is None or trace_hash(trace) != wanted):
            raise UnitError(f"{trace}: not the file that the sweep was started with")
        result = load_model(unit.role).run(unit.content, _stepwise(progress))
        encoded = msgspec.json.encode(result)
        msgspec.json.decode(encoded, type=UnitResult)
    except UnitError:
        raise
    except Exception as error:  # whatever it is, it is told beside the unit's name
        raise UnitError(f"{type(error).__name__}: {error}") from error
    return encoded


@functools.cache
def code_version(role: str) -> str:
    """A hash over everything but the units that decides results: code, constants, NumPy."""
    digest = hashlib.sha256(f"{platform.python_version()} {np.__version__}".encode())
    for name, path in _deciding_files(role):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:ID_CHARS]


def trace_hash(path: str) -> str:
    """The hash of a file of requests. Raises ValueError with its name."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error


def _deciding_files(role: str) -> Iterator[tuple[str, Path]]:
    here = Path(__file__).parent
    root = here.parent.parent
    for package in DECIDING:
        for path in sorted((root / package).rglob("*")):
            if path.is_file() and path.suffix != ".pyc" and here not in path.parents:
                yield path.relative_to(root).as_posix(), path
    spec = importlib.util.find_spec(role)
    if spec is not None and spec.origin is not None:
        yield role, Path(spec.origin)


def _stepwise(progress: Progress) -> Callable[[float], None]:
    told = 0.0

    def tell(fraction: float) -> None:
        nonlocal told
        if fraction - told >= PROGRESS_STEP_RATIO or fraction >= 1.0:
            told = fraction
            progress(fraction)

    return tell
