"""The folder of a sweep: one file for each result, whole or not there.

A file is written beside its place and renamed, so a kill leaves the old or the new one. What is
torn, changed or somebody else's is found by its hashes and named, never used. One process at a time
has the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from msgspec import Struct

from simulator.experiments.results import UnitResult
from simulator.experiments.units import Unit

RESULTS: Final = "units"
TEMPORARY: Final = ".tmp"


class FolderError(OSError):
    """The folder cannot be used; the text says why."""


class BadResult(ValueError):
    """A file that is not the result it should be; the text says what is wrong with it."""


class _Stored(Struct, frozen=True):
    """A result as it lies on disk; `sha256` is of the bytes of `result`."""

    unit: Unit
    sha256: str
    result: msgspec.Raw


class SweepFolder:
    """Results of a sweep on disk. `start` takes the folder, `close` leaves it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._results = path / RESULTS
        self._lock: IO[Any] | None = None

    def start(self) -> None:
        """Make the folder, take it for this process, clear what a kill left half written.

        Raises:
            FolderError: it cannot be made, or another process has it.
        """
        try:
            self._results.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise FolderError(f"{self.path}: another process runs a sweep there") from error
        except OSError as error:
            self.close()
            raise FolderError(f"{self.path}: {error.strerror}") from error
        for half_written in (
            *self._results.glob(f"*{TEMPORARY}"),
            *self.path.glob(f"*{TEMPORARY}"),
        ):
            half_written.unlink()

    def close(self) -> None:
        """Let others have the folder. Safe to call at any time."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def read(self, unit: Unit) -> UnitResult | None:
        """The result of a unit; None when it was not run.

        Raises:
            BadResult: the file is torn, changed or another unit's.
        """
        path = self._file(unit)
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadResult(f"{path}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadResult(f"{path}: torn or foreign: {error}") from error
        if stored.unit != unit:
            raise BadResult(f"{path}: foreign: it is the result of another unit")
        if hashlib.sha256(stored.result).hexdigest() != stored.sha256:
            raise BadResult(f"{path}: changed: its result does not match its hash")
        return msgspec.json.decode(stored.result, type=UnitResult)

    def write(self, unit: Unit, encoded: bytes) -> None:
        """Store a result, whole or not at all, surviving a crash of the machine."""
        digest = hashlib.sha256(encoded).hexdigest()
        stored = _Stored(unit, digest, msgspec.Raw(encoded))
        write_whole(self._file(unit), msgspec.json.encode(stored))

    def strangers(self, units: Iterable[Unit]) -> int:
        """How many files there are of units that are not among these."""
        ours = {unit.id for unit in units}
        return sum(path.stem not in ours for path in self._results.glob("*.json"))

    def _file(self, unit: Unit) -> Path:
        return self._results / f"{unit.id}.json"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that after a kill or a crash it has its old content or this one."""
    temporary = path.with_name(path.name + TEMPORARY)
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, folder)
        os.fsync(folder)
