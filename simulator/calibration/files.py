"""The measurements: reads them from a folder, strictly, and notes what was read.

It decides nothing about a fit. What rows are traps is said where they are used.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zlib
from pathlib import Path
from typing import Final

from simulator.calibrated import Source

BYTES_MAX: Final = 64 * 1024 * 1024
"""Largest file, unpacked."""


class DataError(ValueError):
    """A measurement that is missing or cannot be read; the text says which file and what."""


class DataFolder:
    """A folder of measurements; remembers the files that were read and their sha256."""

    def __init__(self, root: Path) -> None:
        """Nothing is read yet."""
        self._root = root
        self._seen: dict[str, str] = {}

    @property
    def sources(self) -> tuple[Source, ...]:
        """What was read, by path."""
        return tuple(Source(path=path, sha256=self._seen[path]) for path in sorted(self._seen))

    def rows(self, path: str, *columns: str, delimiter: str = ",") -> list[dict[str, str]]:
        """The rows of a CSV file, packed if its name ends in `.gz`; it must have all `columns`.

        A packed file may also lie there unpacked, without the ending.

        Raises:
            DataError: no such file, not readable, too large, or without these columns.
        """
        text = self._text(path)
        reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path}: has no column {', '.join(missing)}")
        return list(reader)

    def _text(self, path: str) -> str:
        plain = path.removesuffix(".gz")
        if not (self._root / path).exists() and (self._root / plain).exists():
            path = plain
        try:
            raw = (self._root / path).read_bytes()
        except OSError as error:
            raise DataError(f"{self._root / path}: {error.strerror}") from error
        self._seen[path] = hashlib.sha256(raw).hexdigest()
        if path.endswith(".gz"):
            raw = _unpacked(raw, path)
        return raw.decode("utf-8-sig")


def _unpacked(raw: bytes, path: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            found = file.read(BYTES_MAX + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not readable as gzip: {error}") from error
    if len(found) > BYTES_MAX:
        raise DataError(f"{path}: more than {BYTES_MAX} bytes when unpacked")
    return found
