"""Hostile input, a slice of it: the same inputs at every run, fresh ones, and some by coverage.

The whole is `python -m tests.fuzz --messages 1000000 --files 100000` (docs/fuzzing.md).
"""

from __future__ import annotations

import platform
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facility.wire import Codec, NodeStatus, WireError
from tests.fuzz.catalogue import catalogue
from tests.fuzz.driver import HANG_S, Finding, Report, fuzz, replay
from tests.fuzz.target import ACCEPTED, LIFE, Kind, Plain, through

FIXED_SEED = 1
INPUTS = {"message": 600, "file": 40, "other": 100}
ROOT = Path(__file__).parents[1]

KINDS = catalogue()


def told(report: Report) -> str:
    """Every finding with the command that shows it again."""
    return "\n\n".join(
        f"{finding.replay()}\n{finding.data[:200]!r}\n{finding.story}"
        for finding in report.findings
    )


@pytest.mark.parametrize("name", KINDS)
def test_no_mutated_input_crashes_hangs_or_is_half_applied(name: str) -> None:
    fresh = secrets.randbelow(2**31)
    for seed in (FIXED_SEED, fresh):
        report = fuzz(KINDS[name], count=INPUTS[KINDS[name].family], seed=seed)
        assert not report.findings, told(report)
        assert report.inputs_count == INPUTS[KINDS[name].family]


@pytest.mark.parametrize("name", KINDS)
def test_good_input_is_accepted(name: str) -> None:
    kind = KINDS[name]
    report = fuzz(kind, count=INPUTS[kind.family], seed=FIXED_SEED)
    assert report.outcomes[ACCEPTED] > 0, report.outcomes
    assert len(report.outcomes) > 1, report.outcomes


class Broken(Plain):
    """A decoder with the mistakes that the machine is there to find."""

    def __init__(self) -> None:
        self.held: list[bytes] = []

    def feed(self, data: bytes) -> str:
        try:
            status = Codec().decode(data[1:], NodeStatus)
        except WireError:
            return "garbage"
        match data[0]:
            case 0:
                assert status.session == "s1"
            case 1 if status.session != "s1":
                end_s = time.process_time() + 3 * HANG_S
                while time.process_time() < end_s:
                    pass
            case 2 if status.session != "s1":
                self.held.append(b"x" * 100_000_000)
        return ACCEPTED


@pytest.mark.parametrize(
    ("door", "said"), [(0, "AssertionError"), (1, "took longer than"), (2, "grew by")]
)
def test_a_crash_a_hang_and_a_growth_are_found_and_replayed(door: int, said: str) -> None:
    good = b'{"type":"status","node":"n01","session":"s1","state":"ready"}'
    kind = Kind("broken", "message", "json", Broken, [through(door, good)])
    (found,) = fuzz(kind, count=LIFE, seed=FIXED_SEED, findings_max=1).findings
    assert said in found.story
    again = replay(kind, seed=found.seed, number=found.number).findings
    assert [same(item) for item in again][-1] == same(found)


def same(finding: Finding) -> tuple[int, bytes]:
    return finding.number, finding.data


def test_the_same_seed_gives_the_same_inputs_and_outcomes() -> None:
    first, second, other = (fuzz(KINDS["inbox"], count=300, seed=seed) for seed in (3, 3, 4))
    assert first.outcomes == second.outcomes
    assert first.outcomes != other.outcomes


if platform.machine() == "x86_64" and sys.version_info < (3, 14):  # there is a wheel of atheris

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["inbox", "config"])
    def test_coverage_guided_input_finds_nothing(name: str) -> None:
        command = [sys.executable, "-m", "tests.fuzz", "--atheris", name, "--seconds", "2"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-3_000:]
        assert "Done " in done.stderr
