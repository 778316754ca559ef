"""Logging of every process: one event a line, to stderr, in the form its reader wants.

Under systemd the journal has the time and wants a priority in front of every line; elsewhere lines
carry RFC 3339 time.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Final

_PRIORITY: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


class _Journal(logging.Formatter):
    """`<6>text`, the prefix on every line of a text of several."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
        lines = super().format(record).splitlines() or [""]
        return "\n".join(prefix + line for line in lines)


class _Terminal(logging.Formatter):
    """Time of day in UTC in front."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


def set_up_logging(level: str) -> None:
    """Log `level` (debug, info, warning or error) and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_Journal("%(name)s %(message)s"))
    else:
        handler.setFormatter(_Terminal("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
