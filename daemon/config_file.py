"""Reads a configuration file, or says in one line why it cannot be read.

Owns the opening; what the text means is decided in `facility.loader`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from facility.loader import ConfigError, ConfigProblem

FILE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Most that is read of any file: somebody may name a device."""

STDIN: Final = "-"


def shown(path: str) -> str:
    """How `path` is called in messages."""
    return "<stdin>" if path == STDIN else path


def read_config(path: str) -> str:
    """The text of the file at `path`; `-` is standard input.

    Raises:
        ConfigError: with one problem, when there is no such file, no permission or no text.
    """
    try:
        if path == STDIN:
            data = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise _unreadable(path, f"cannot be read: {reason}") from error
    if len(data) > FILE_BYTES_MAX:
        raise _unreadable(path, f"is larger than {FILE_BYTES_MAX} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        what = f"is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}"
        raise _unreadable(path, what, line=line) from error


def _unreadable(path: str, text: str, *, line: int = 1) -> ConfigError:
    return ConfigError((ConfigProblem(shown(path), line, "", text),))
