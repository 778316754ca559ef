"""A disk that may be full, and that forgets in a crash what was not yet on it.

Files are bytes by name. What is on the disk survives crashes and reboots. It decides nothing.
"""

from __future__ import annotations

import errno
from typing import Final

from simulator.faults.timeline import Timeline

RETRY_S: Final = 5.0
"""Between two attempts of a background write, as the agent's keeper does."""


class Disk:
    """The disk of one host."""

    def __init__(self, timeline: Timeline, *, sync_s: float) -> None:
        """`sync_s` passes between a background write and its being on the disk."""
        self.full = False
        self.problem = ""
        """Why the last background write failed, empty when it did not."""
        self.tables: dict[str, object] = {}
        """Databases by name: their committed content is on the disk."""
        self.lost_count = 0
        """Background writes that a crash has lost."""
        self.failing_s: list[float] = []
        """True times at which the audit on this disk has said that it cannot be written."""
        self._timeline = timeline
        self._sync_s = sync_s
        self._files: dict[str, bytes] = {}
        self._waiting: dict[str, bytes] = {}

    def now_s(self) -> float:
        """True time, for witnesses."""
        return self._timeline.now_s

    def read(self, name: str) -> bytes | None:
        """A file's content, None when there is no such file."""
        return self._files.get(name)

    def write(self, name: str, data: bytes) -> None:
        """Replace a file, on the disk when this returns. Raises OSError."""
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._files[name] = data

    def write_soon(self, name: str, data: bytes) -> None:
        """Replace a file in the background; of several versions the newest counts."""
        waits = name in self._waiting
        self._waiting[name] = data
        if not waits:
            self._timeline.after(self._sync_s, lambda: self._try(name))

    def _try(self, name: str) -> None:
        data = self._waiting.get(name)
        if data is None:
            return
        if self.full:
            self.problem = "cannot write the state: no space left on device"
            self._timeline.after(RETRY_S, lambda: self._try(name))
            return
        del self._waiting[name]
        self._files[name] = data
        self.problem = ""

    def crash(self) -> None:
        """The process that wrote is gone, with what it had not written."""
        self.lost_count += len(self._waiting)
        self._waiting.clear()
        self.problem = ""
