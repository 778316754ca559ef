"""The operators' standing orders on disk: a cap must not be lifted by a restart.

Written whole and atomically on every change, read once at start. A file that makes no sense stops
the controller: guessing that nothing was ordered could raise a limit that somebody lowered.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from controllers.operator import OrdersState


class OrdersFileError(Exception):
    """The orders cannot be read; the text says which file and what to do. Exits with 78."""

    exit_code: Final = 78


def read_orders(directory: Path) -> OrdersState:
    """The orders of the last life, none if there was none. Raises OrdersFileError."""
    path = directory / "orders.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=OrdersState)
    except FileNotFoundError:
        return OrdersState()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OrdersFileError(
            f"{path} cannot be read ({error}): mend it, or remove it to start without any cap,"
            " brake, drain or contingency"
        ) from error


def write_orders(directory: Path, state: OrdersState) -> str:
    """Replace the file; returns why it could not be, empty when it could."""
    path = directory / "orders.json"
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        return f"cannot write {path}: {error.strerror or error}; a restart would forget this order"
    return ""
