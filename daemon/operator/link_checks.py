"""What a doctor looks at beyond the host: the broker, and whose clock differs from ours.

It listens for a moment and publishes nothing.
"""

from __future__ import annotations

import statistics
import time
from typing import Final

from daemon.bus import BusUnavailable, SecretsError
from daemon.operator.checkup import Check, fail, ok, warn
from daemon.operator.picture import Picture
from daemon.operator.place import Place
from daemon.operator.session import Session

LISTEN_S: Final = 2.5
"""Longest wait for somebody to speak: agents and controllers do every second."""
SKEW_S_DEFAULT: Final = 2.0
SENDERS_MIN: Final = 3
"""So many frames are awaited before clocks are compared, if they come in time."""


async def link_checks(place: Place, *, timeout_s: float) -> list[Check]:
    """Whether the broker takes us, and how its speakers' clocks compare with ours."""
    offsets: dict[str, float] = {}
    picture = Picture(place.site)
    session = Session(place, timeout_s=timeout_s)

    def heard(topic: str, payload: bytes, retained: bool) -> None:
        """Compare a live message's time of day with ours; what was kept says nothing."""
        picture.receive(topic, payload, retained)
        _, name, what = session.topics.split(topic) or ("", "", "")
        if retained:
            return
        if what == "telemetry" and name in picture.telemetry:
            offsets[name] = picture.telemetry[name].message.sampled_at_s - time.time()
        elif what == "state" and name in picture.domains:
            offsets["the controller"] = picture.domains[name].message.at_s - time.time()

    session.listen(session.topics.domain("+", "state"), heard)
    session.listen(session.topics.node("+", "telemetry"), heard)
    started_s = time.monotonic()
    try:
        async with session:
            took_ms = 1_000.0 * (time.monotonic() - started_s)
            await picture.changed.until(lambda: len(offsets) >= SENDERS_MIN, timeout_s=LISTEN_S)
    except (BusUnavailable, SecretsError) as error:
        return [fail("broker", f"{error}: see that it runs and that the file names it right")]
    broker = ok("broker", f"{place.where} took us within {took_ms:.0f} ms, site {place.site!r}")
    return [broker, *clock_checks(offsets, skew_s_max=_skew_s_max(place))]


def clock_checks(offsets: dict[str, float], *, skew_s_max: float) -> list[Check]:
    """Judge how far ahead of ours others' clocks are, by name.

    One sender that differs is its own trouble; when most differ, it is this host's.
    """
    if not offsets:
        return [
            warn(
                "clock",
                f"nobody spoke within {LISTEN_S:g} s, so clocks could not be compared: no agent"
                " and no controller runs, or this account may not listen",
            )
        ]
    typical_s = statistics.median(offsets.values())
    if abs(typical_s) > skew_s_max:
        direction = "behind" if typical_s > 0.0 else "ahead of"
        return [
            warn(
                "clock",
                f"this host is about {abs(typical_s):.1f} s {direction} the others (at most"
                f" {skew_s_max:g} s is tolerated): see `timedatectl`",
            )
        ]
    wrong = sorted(name for name, offset_s in offsets.items() if abs(offset_s) > skew_s_max)
    if wrong:
        text = f"{', '.join(wrong)} differ by more than {skew_s_max:g} s: see `timedatectl` there"
        return [warn("clock", text)]
    count = len(offsets)
    senders = f"{count} sender{'s'[: count != 1]}"
    return [ok("clock", f"within {skew_s_max:g} s of {senders} (median {typical_s:+.2f} s)")]


def _skew_s_max(place: Place) -> float:
    return place.tree.control.clock_skew_s if place.tree is not None else SKEW_S_DEFAULT
