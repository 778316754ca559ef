"""Words of Network UPS Tools: where a device is, and what one look at it gave.

`upsd` speaks for UPSs, PDUs and transfer switches alike. Nothing here connects to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

NUT_PORT: Final = 3493
_ADDRESS: Final = re.compile(
    r"(?P<device>[A-Za-z0-9_.-]{1,64})@(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_VARIABLE: Final = re.compile(r"[A-Za-z0-9]+(\.[A-Za-z0-9-]+){1,7}")


@dataclass(frozen=True, slots=True)
class NutAddress:
    """One device of one `upsd`."""

    device: str
    host: str
    port: int = NUT_PORT

    def __str__(self) -> str:
        return f"{self.device}@{self.host}:{self.port}"


def nut_address(text: str) -> NutAddress:
    """Read `device@host` or `device@host:port`; IPv6 in brackets.

    Raises:
        ValueError: it is none; the text says what is allowed.
    """
    found = _ADDRESS.fullmatch(text)
    port = int(found["port"] or NUT_PORT) if found else 0
    if found is None or not 1 <= port <= 65_535:
        raise ValueError(f"{text[:80]!r} is no NUT device; expected device@host[:port]")
    return NutAddress(found["device"], found["host"].strip("[]"), port)


def is_nut_variable(text: str) -> bool:
    """Whether this may name a variable, as `ups.realpower` or `outlet.1.realpower`."""
    return len(text) <= 64 and _VARIABLE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class NutReading:
    """One look at a device.

    `fresh`: `upsd` answered from a driver that has data. `stale`: `upsd` answered that it has none,
    because the driver is gone, new or silent. `unreachable`: nobody answered, or not in words of
    the protocol. Only a fresh reading says anything about the device.

    Attributes:
        state: how far to believe it.
        flags: the words of `ups.status`, as OL, OB, LB, OVER.
        power_w: what the device carries; None when it does not tell.
        load_ratio: the share of its rating; None when it does not tell.
        detail: why it is not fresh, for people.
    """

    state: Literal["fresh", "stale", "unreachable"]
    flags: frozenset[str] = frozenset()
    power_w: float | None = None
    load_ratio: float | None = None
    detail: str = ""
