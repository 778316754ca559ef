"""A sweep survives kill -9 at any moment: what was found is kept, the report is the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT: Final = Path(__file__).parent.parent
DEADLINE_S: Final = 60.0
KILLS_COUNT: Final = 4
REPORT: Final = ("report.html", "report.json", "points.csv", "checks.csv")
SWEEP: Final = """
version: 1
kind: sweep
scenario: toy-row
model: toy
policies:
  polca: {policy: polca, actuation: oob}
  ampacity: {policy: ampacity}
headline: {added_ratio: 0.1}
pause_s: 0.4
checks:
  - {name: no brake, policy: ampacity, metric: brakes, at: {}, max: 0}
curves:
  - {metric: brakes, against: added_ratio, title: Brakes, y_label: count}
"""


class Folder:
    """A document, and sweeps of it as processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.document = path / "toy.yaml"
        self.document.write_text(SWEEP)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, out: str, *options: str) -> subprocess.Popen[str]:
        """Start a sweep in a session of its own."""
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.sweep_child", str(self.document), "--seed", "1..4",
             "--out", str(self.path / out), "--jobs", "2", *options],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.started.append(child)
        return child

    def run(self, out: str, *options: str) -> tuple[int, str, str]:
        """Run a sweep to its end: exit code, stdout, stderr."""
        child = self.start(out, *options)
        output, errors = child.communicate(timeout=DEADLINE_S)
        return child.returncode, output, errors

    def report(self, out: str) -> dict[str, bytes]:
        return {name: (self.path / out / name).read_bytes() for name in REPORT}

    def results(self, out: str) -> list[Path]:
        return sorted((self.path / out / "units").glob("*.json"))

    def end(self) -> None:
        """End what still runs."""
        for child in self.started:
            if child.poll() is None:
                child.kill()
                child.communicate()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """A folder whose `out` was run from beginning to end."""
    found = Folder(tmp_path_factory.mktemp("whole"))
    assert found.run("out")[0] == 0
    yield found
    found.end()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """A folder in which nothing was run."""
    found = Folder(tmp_path)
    yield found
    found.end()


@pytest.fixture
def finished(whole: Folder, folder: Folder) -> Folder:
    """A copy of the whole sweep, to be tampered with."""
    shutil.copytree(whole.path / "out", folder.path / "out")
    return folder


def in_session(session: int) -> list[int]:
    """Processes of a session that have not ended."""
    alive = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its = entry.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its) == session and state != "Z":
            alive.append(int(entry.parent.name))
    return alive


def await_gone(session: int) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while in_session(session):
        assert time.monotonic() < deadline_s, "workers outlive the process that started them"
        time.sleep(0.02)


def test_kills_at_random_moments_change_no_byte_of_the_report(
    whole: Folder, folder: Folder
) -> None:
    draw = random.Random(time.time_ns())
    kept = 0
    for _ in range(KILLS_COUNT):
        child = folder.start("killed")
        await_results(folder, "killed", child, count=kept + draw.randint(0, 1))
        time.sleep(draw.uniform(0.0, 0.3))
        child.kill()
        child.communicate(timeout=DEADLINE_S)
        await_gone(child.pid)
        assert len(folder.results("killed")) >= kept, "a result was lost"
        kept = len(folder.results("killed"))
    code, _, errors = folder.run("killed")
    assert code == 0
    assert (f"{kept} of 8 units are done already" in errors) == (kept > 0)
    assert folder.report("killed") == whole.report("out")


def await_results(folder: Folder, out: str, child: subprocess.Popen[str], *, count: int) -> None:
    """Wait until a sweep has stored so many results, or is done."""
    deadline_s = time.monotonic() + DEADLINE_S
    while len(folder.results(out)) < count and child.poll() is None:
        assert time.monotonic() < deadline_s, f"never {count} results"
        time.sleep(0.01)


def polca_row(out: Path) -> subprocess.Popen[str]:
    """An hour of the real thing: four units on two cores."""
    options = ["--policy", "none", "--policy", "ampacity", "--seed", "1..2", "--jobs", "2"]
    options += ["--set", "duration_days=0.05", "--set", "sweep.added_ratio=[0.3, 0.5]"]
    return subprocess.Popen(
        [sys.executable, "-m", "daemon.main", "simulate", "polca-row", *options, "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def test_polcas_row_reports_the_same_after_a_kill_at_a_random_moment(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    polca_row(whole).communicate(timeout=DEADLINE_S)
    child = polca_row(killed)
    deadline_s = time.monotonic() + DEADLINE_S
    while not list((killed / "units").glob("*.json")):
        assert time.monotonic() < deadline_s
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(random.Random(time.time_ns()).uniform(0.0, 0.5))
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=DEADLINE_S)
    await_gone(child.pid)
    _, errors = polca_row(killed).communicate(timeout=DEADLINE_S)
    assert "units are done already" in errors
    assert [(killed / name).read_bytes() for name in REPORT] == [
        (whole / name).read_bytes() for name in REPORT
    ]


def test_a_finished_sweep_runs_nothing_again(finished: Folder) -> None:
    written = {path: path.stat().st_mtime_ns for path in finished.results("out")}
    code, _, errors = finished.run("out")
    assert code == 0
    assert "8 of 8 units are done already" in errors
    assert {path: path.stat().st_mtime_ns for path in finished.results("out")} == written


def test_torn_changed_and_foreign_files_are_named_and_run_again(finished: Folder) -> None:
    before = finished.report("out")
    torn, changed, foreign, emptied, *_ = finished.results("out")
    torn.write_bytes(torn.read_bytes()[:-40])
    changed.write_bytes(changed.read_bytes().replace(b'"sim_seconds":60.0', b'"sim_seconds":61.0'))
    foreign.write_bytes(emptied.read_bytes())
    emptied.write_bytes(b"")
    code, _, errors = finished.run("out")
    assert code == 0
    assert f"{torn}: torn" in errors
    assert f"{changed}: changed" in errors
    assert f"{foreign}: foreign" in errors
    assert f"{emptied}: torn" in errors
    assert "4 of 8 units are done already" in errors
    assert finished.report("out") == before


def test_a_changed_scenario_uses_no_old_result_and_says_so(finished: Folder) -> None:
    code, _, errors = finished.run("out", "--set", "sweep.added_ratio=[0, 0.1]")
    assert code == 0
    assert "8 results are of another scenario" in errors
    assert "done already" not in errors
    assert len(finished.results("out")) == 16


def test_more_seeds_run_only_the_new_ones(finished: Folder) -> None:
    _, _, errors = finished.run("out", "--seed", "1..5")
    assert "8 of 10 units are done already" in errors


def test_half_written_files_are_cleared(folder: Folder) -> None:
    (folder.path / "out" / "units").mkdir(parents=True)
    left = folder.path / "out" / "units" / "0123.json.tmp"
    left.write_bytes(b"{")
    assert folder.run("out")[0] == 0
    assert not left.exists()


@pytest.mark.parametrize("later_s", [0.0, 3.0], ids=["while workers start", "at work"])
def test_ctrl_c_ends_all_and_says_what_to_type(folder: Folder, later_s: float) -> None:
    child = folder.start("out", "--set", "pause_s=20")
    deadline_s = time.monotonic() + DEADLINE_S
    while len(in_session(child.pid)) < 4:  # the command, its resource tracker and two workers
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    time.sleep(later_s)
    os.killpg(child.pid, signal.SIGINT)
    output, errors = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 130
    assert output == ""
    assert "stopped; to go on: ampacity simulate" in errors
    assert "--seed 1..4 --set pause_s=20 --out" in errors
    assert "Traceback" not in errors
    await_gone(child.pid)


def test_a_folder_is_one_process_s(folder: Folder) -> None:
    first = folder.start("out", "--set", "pause_s=20")
    deadline_s = time.monotonic() + DEADLINE_S
    while not (folder.path / "out" / "units").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    code, _, errors = folder.run("out")
    assert code == 69
    assert "another process runs a sweep there" in errors
    os.killpg(first.pid, signal.SIGINT)
    first.communicate(timeout=DEADLINE_S)


def test_a_broken_unit_is_named_and_the_others_are_kept(folder: Folder) -> None:
    code, output, errors = folder.run("out", "--set", "broken=polca")
    assert (code, output) == (1, "")
    assert "polca seed 3: ValueError: the toy is broken" in errors
    assert "4 of 8 units failed; to try them again: ampacity simulate" in errors
    assert len(folder.results("out")) == 4
    assert not (folder.path / "out" / "report.html").exists()


def test_a_worker_that_dies_is_told_not_waited_for(folder: Folder) -> None:
    code, _, errors = folder.run("out", "--set", "deadly=ampacity")
    assert code == 1
    assert "a worker process died" in errors


def test_the_number_of_processes_changes_nothing(whole: Folder, folder: Folder) -> None:
    folder.run("out", "--jobs", "1")
    assert folder.report("out") == whole.report("out")


def test_stdout_is_the_contract_and_wall_time_is_only_there(finished: Folder) -> None:
    code, output, _ = finished.run("out", "--json")
    document = json.loads(output)
    assert code == 0
    assert set(document) == {
        "scenario", "seed", "sim_seconds", "wall_seconds", "policies", "checks",
    }  # fmt: skip
    assert {"name", "value", "band", "pass"} == set(document["checks"][0])
    assert document["policies"]["polca"]["runs"] == 4
    assert b"wall" not in finished.report("out")["report.json"]
