"""Tells systemd how the service is: ready, alive, reloading, and one sentence of status.

Without systemd it says nothing. A message that cannot be delivered is dropped, never waited for.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping


class Notifier:
    """The notification socket of this service, if there is one (sd_notify(3))."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Read `NOTIFY_SOCKET` and `WATCHDOG_USEC` from `environment`."""
        address = environment.get("NOTIFY_SOCKET", "")
        # systemd writes an abstract socket with @ where the kernel wants a NUL.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(microseconds) / 1e6 if microseconds.isdigit() else 0.0
        """How long systemd waits for a sign of life, 0 when it does not."""

    def tell(self, **fields: str) -> None:
        """Send fields, such as `READY="1"` or `STATUS="..."`."""
        if not self._address:
            return
        # One line per field: a line break in a sentence would begin another field.
        lines = (f"{key}={' '.join(value.split())}" for key, value in fields.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
            end.setblocking(False)
            try:
                end.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return
