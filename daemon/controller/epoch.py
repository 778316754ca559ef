"""The fencing number of a controller's leadership: higher at every start, whatever happened.

Agents refuse lower epochs across their own restarts, so an epoch that went backwards would leave a
site at its safe ceilings. A file that cannot be read is therefore an error, not a fresh start.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

EPOCH_MAX: Final = 2**53
TEXT_CHARS_MAX: Final = 64
"""Most that is read of the file; Python refuses to convert thousands of digits."""


class EpochError(Exception):
    """The epoch cannot be kept; the text says which file and why. Exits with `exit_code`."""

    exit_code: Final = 78


def next_epoch(directory: Path, *, wall_s: float, above: int = 0) -> int:
    """Return an epoch above every earlier one of this directory, recorded before it is returned.

    A first start begins at the time of day in seconds, so that a controller that is moved to a new
    machine without its state is still above its predecessor; `above` is one that was heard of.

    Raises:
        EpochError: the file is unreadable, damaged or cannot be written.
    """
    path = directory / "epoch"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        before = _read(path)
        epoch = epoch_after(before, wall_s=wall_s, above=above)
        if epoch > EPOCH_MAX:
            raise EpochError(f"epoch {epoch} is above {EPOCH_MAX}: {path} is kept as it was")
        _write(path, epoch)
    except OSError as error:
        raise EpochError(f"cannot keep the epoch in {path}: {error.strerror or error}") from error
    return epoch


def epoch_after(before: int, *, wall_s: float, above: int) -> int:
    """The next epoch: above the last one kept, above one heard of, and never below the time."""
    return max(before + 1, above + 1, int(wall_s))


def _read(path: Path) -> int:
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(TEXT_CHARS_MAX).strip()
    except FileNotFoundError:
        return 0
    except UnicodeDecodeError as error:
        raise EpochError(f"{path} is not a number") from error
    if not text.isdecimal() or len(text) >= TEXT_CHARS_MAX or not 0 < int(text) < EPOCH_MAX:
        raise EpochError(
            f"{path} holds {text[:40]!r}, not an epoch: write a whole number there that is above"
            " every epoch this site has seen (`ampacity status` shows it), or remove the file"
        )
    return int(text)


def _write(path: Path, epoch: int) -> None:
    """Atomically, and onto the disk: a crash leaves the old number or the new one."""
    fresh = path.with_suffix(".new")
    with fresh.open("w", encoding="ascii") as file:
        file.write(f"{epoch}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
