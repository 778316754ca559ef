"""Runs a target over many mutated inputs, seeded, with a limit on time and memory for each.

An input is named by target, seed and number, and made from nothing else, so a finding is replayed
by those three. It reports what became of every input; it decides nothing about what is right.
"""

from __future__ import annotations

import logging
import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from tests.fuzz.mutate import Mutator
from tests.fuzz.target import LIFE, Kind, Target

HANG_S: Final = 1.0
"""Processor time that one input may take: a busy machine is no hang."""
GROWTH_BYTES_MAX: Final = 64 * 1024 * 1024
"""How much one input may raise the peak of resident memory."""
FINDINGS_MAX: Final = 10
GOOD_RATIO: Final = 0.1
"""Inputs left as they are, so that a target with a state gets into one."""


class Hung(BaseException):
    """One input took longer than HANG_S. No `except Exception` on the way stops it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that crashed, hung, grew or broke what must hold."""

    target: str
    seed: int
    number: int
    data: bytes
    story: str

    def replay(self) -> str:
        """The command that shows it again."""
        return f"python -m tests.fuzz --replay {self.target} --seed {self.seed} --at {self.number}"


@dataclass
class Report:
    """What became of the inputs of one target."""

    target: str
    seed: int
    inputs_count: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest_number: int = 0
    growth_bytes: int = 0
    wall_s: float = 0.0
    findings: list[Finding] = field(default_factory=list)


def mutated(kind: Kind, target: Target, seed: int, number: int) -> bytes:
    """The input with this number: a seed of `kind` as it is, or changed."""
    rng = random.Random(f"{kind.name}:{seed}:{number}")
    good = target.fresh(rng.choice(kind.seeds), number % LIFE)
    if rng.random() < GOOD_RATIO:
        return good
    door, body = good[:1], good[1:]
    others = [other[1:] for other in kind.seeds]
    mutator = Mutator(rng)
    if kind.how == "json" and body.startswith(b"{"):
        return door + mutator.message(body, others)
    return door + (mutator.file if kind.how == "text" else mutator.raw)(body, others)


def fuzz(
    kind: Kind, *, count: int, seed: int, first: int = 0, findings_max: int = FINDINGS_MAX
) -> Report:
    """Feed `count` inputs from number `first` on, which must begin a life; less once it broke."""
    assert first % LIFE == 0
    report = Report(kind.name, seed)
    began_s = time.monotonic()
    target: Target | None = None
    with _watch(), quiet():
        peak_bytes = _peak_bytes()
        for number in range(first, first + count):
            if target is None or number % LIFE == 0:
                if target is not None:
                    target.close()
                target = kind.build()
                _forget_peak()
                peak_bytes = _peak_bytes()
            data = mutated(kind, target, seed, number)
            peak_bytes = max(peak_bytes, _peak_bytes())  # what making it took is not the target's
            story = _feed(target, data, number, report)
            grown_bytes = _peak_bytes() - peak_bytes
            peak_bytes += grown_bytes
            report.growth_bytes = max(report.growth_bytes, grown_bytes)
            if grown_bytes > GROWTH_BYTES_MAX:
                story = story or f"grew by {grown_bytes / 1e6:.0f} MB"
            if story:
                report.findings.append(Finding(kind.name, seed, number, data, story))
                target = None  # what broke may be broken: begin a new life
                if len(report.findings) >= findings_max:
                    break
        if target is not None:
            target.close()
    report.wall_s = time.monotonic() - began_s
    return report


def replay(kind: Kind, *, seed: int, number: int) -> Report:
    """Feed the life of one input again, up to that input."""
    first = number - number % LIFE
    return fuzz(kind, count=number - first + 1, seed=seed, first=first)


def _feed(target: Target, data: bytes, number: int, report: Report) -> str:
    """Feed one input; returns the story of what went wrong, empty when nothing did."""
    story, outcome = "", "BROKEN"
    began_s = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    try:
        outcome = target.feed(data)
    except Hung:
        story = f"took longer than {HANG_S:g} s\n{traceback.format_exc()[-2_000:]}"
    except Exception:  # noqa: BLE001  whatever it is, it is a finding
        story = traceback.format_exc()[-3_000:]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    took_s = time.process_time() - began_s
    report.inputs_count += 1
    report.outcomes[outcome] += 1
    if took_s > report.slowest_s:
        report.slowest_s, report.slowest_number = took_s, number
    return story


def _ring(_number: int, _frame: FrameType | None) -> None:
    raise Hung


@contextmanager
def _watch() -> Iterator[None]:
    """Have the alarm of a hanging input ring in this thread."""
    before = signal.signal(signal.SIGPROF, _ring)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def quiet() -> Iterator[None]:
    """Logs of a million refusals help nobody."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _forget_peak() -> None:
    """Begin a new peak of resident memory (proc(5), clear_refs), where the kernel lets us."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    """The highest resident memory of this process since the last `_forget_peak`."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024
