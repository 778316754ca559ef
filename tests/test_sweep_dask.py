"""A sweep on a real Dask cluster gives the same bytes as on this machine's processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import distributed
import pytest

from simulator.experiments.dask_engine import DaskEngine
from simulator.experiments.pool import EngineError, ProcessEngine
from simulator.experiments.units import Unit, UnitError, make_units
from tests.test_sweep_resume import REPORT, SWEEP, await_gone, in_session

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT: Final = Path(__file__).parent.parent
DEADLINE_S: Final = 90.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    """Two workers in processes of their own."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as found:
        yield found


def contents(**changes: object) -> list[dict[str, object]]:
    base = {"added": [0.0, 0.3], "late": True, "pause_s": 0.2, "broken": False, "deadly": False}
    return [{"policy": "polca", "seed": seed, **base, **changes} for seed in (1, 2, 3)]


def outcomes(engine: DaskEngine | ProcessEngine, units: list[Unit]) -> dict[str, object]:
    return {unit.id: outcome for unit, outcome in engine.run(units, lambda _, __: None)}


def test_a_cluster_that_is_there_gives_the_bytes_of_processes(
    cluster: distributed.LocalCluster,
) -> None:
    units = make_units("tests.toy_sweep", contents())
    told: dict[str, list[float]] = {}
    engine = DaskEngine(cluster.scheduler_address, 1)
    found = {
        unit.id: outcome
        for unit, outcome in engine.run(units, lambda n, f: told.setdefault(n, []).append(f))
    }
    assert found == outcomes(ProcessEngine(2), units)
    assert set(told) == {unit.id for unit in units}
    assert all(fractions == sorted(fractions) for fractions in told.values())


def test_a_unit_that_fails_there_says_why(cluster: distributed.LocalCluster) -> None:
    units = make_units("tests.toy_sweep", contents(broken=True))
    (first, *_) = outcomes(DaskEngine(cluster.scheduler_address, 1), units).values()
    assert isinstance(first, UnitError)
    assert str(first) == "ValueError: the toy is broken"


def test_a_worker_with_other_code_refuses(cluster: distributed.LocalCluster) -> None:
    (unit, *_) = make_units("tests.toy_sweep", contents())
    other = Unit(unit.id, unit.role, "0" * 24, unit.content)
    (outcome,) = outcomes(DaskEngine(cluster.scheduler_address, 1), [other]).values()
    assert isinstance(outcome, UnitError)
    assert "another version of the code" in str(outcome)


def test_no_scheduler_is_told_with_its_address() -> None:
    units = make_units("tests.toy_sweep", contents())
    with pytest.raises(EngineError, match=r"dask=tcp://127\.0\.0\.1:9"):
        outcomes(DaskEngine("tcp://127.0.0.1:9", 1, connect_s=0.3), units)


def command(document: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sweep_child", str(document), "--seed", "1..2",
         "--out", str(out), "--jobs", "2", *options],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def test_a_killed_sweep_goes_on_with_another_engine_to_the_same_report(tmp_path: Path) -> None:
    document = tmp_path / "toy.yaml"
    document.write_text(SWEEP)
    whole = command(document, tmp_path / "whole")
    assert whole.wait(DEADLINE_S) == 0
    killed = command(document, tmp_path / "killed", "--engine", "dask")
    deadline_s = time.monotonic() + DEADLINE_S
    while not list((tmp_path / "killed").glob("units/*.json")):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    await_gone(killed.pid)
    again = command(document, tmp_path / "killed", "--engine", "dask")
    _, errors = again.communicate(timeout=DEADLINE_S)
    assert again.returncode == 0
    assert "are done already" in errors
    for name in REPORT:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not in_session(again.pid)
    for child in (whole, killed):
        child.communicate()


def test_ctrl_c_ends_a_local_cluster(tmp_path: Path) -> None:
    document = tmp_path / "toy.yaml"
    document.write_text(SWEEP)
    child = command(document, tmp_path / "out", "--engine", "dask", "--set", "pause_s=30")
    deadline_s = time.monotonic() + DEADLINE_S
    assert child.stderr is not None
    while "of the work" not in child.stderr.readline():
        assert time.monotonic() < deadline_s
    os.killpg(child.pid, signal.SIGINT)
    output, errors = child.communicate(timeout=DEADLINE_S)
    assert (child.returncode, output) == (130, "")
    assert "stopped; to go on: ampacity simulate" in errors
    assert "--engine dask" in errors
    assert "Traceback" not in errors
    await_gone(child.pid)
