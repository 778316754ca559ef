"""What a doctor's check says, and how checks that may hang are kept from hanging the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

Grade = Literal["ok", "warn", "fail"]


class Check(Struct, frozen=True, kw_only=True):
    """One thing that was looked at: how it is, and where it is not well what to do."""

    name: str
    grade: Grade
    sentence: str


def ok(name: str, sentence: str) -> Check:
    """All is well."""
    return Check(name=name, grade="ok", sentence=sentence)


def warn(name: str, sentence: str) -> Check:
    """It may be meant so, or will matter later."""
    return Check(name=name, grade="warn", sentence=sentence)


def fail(name: str, sentence: str) -> Check:
    """A service of ours cannot work like this."""
    return Check(name=name, grade="fail", sentence=sentence)


def within(check: Callable[[], list[Check]], *, name: str, timeout_s: float) -> list[Check]:
    """Run a check that may hang in a driver; one that does is a failure of its own.

    The thread is left behind: a call that hangs in a driver cannot be ended, and dies with us.
    """
    found: list[Check] = []
    thread = threading.Thread(target=lambda: found.extend(check()), daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        return [fail(name, f"does not answer within {timeout_s:g} s: the driver hangs; reboot")]
    return found or [fail(name, "the check itself failed; see above")]
