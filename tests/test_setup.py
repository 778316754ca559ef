"""Setting up says clearly what is missing, and touches nothing when it cannot go on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from benchmarks.__main__ import main as run_benchmarks

SETUP: Final = Path(__file__).resolve().parents[1] / "deploy" / "setup"
NOBODY: Final = 65_534


def program(folder: Path, name: str, body: str) -> None:
    """Put a small program on a PATH of the test's own."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def setup(
    script: str, *arguments: str, path: str, cwd: Path, user: int | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a set-up script, read from its standard input so that any user may."""
    return subprocess.run(
        ["/bin/bash", "-s", "--", *arguments],
        input=(SETUP / script).read_text(),
        cwd=cwd, user=user, env={"PATH": path, **more}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_an_old_python_is_refused_by_its_version(tmp_path: Path) -> None:
    program(tmp_path / "bin", "python3", 'test "$1" = --version && echo Python 3.9.2; exit 1')
    run = setup("venv", path=f"{tmp_path / 'bin'}:/bin", cwd=tmp_path, PYTHON="python3")
    assert run.returncode == 1
    assert "Python 3.11 or newer is needed; found: Python 3.9.2" in run.stderr
    assert "make setup PYTHON=" in run.stderr
    assert not (tmp_path / ".venv").exists()


def test_without_apt_the_missing_packages_are_named(tmp_path: Path) -> None:
    program(tmp_path / "bin", "true", "exit 0")
    run = setup("debian", "tests need it", "haproxy", path=str(tmp_path / "bin"), cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr.startswith("setup: tests need it; missing")
    assert "haproxy" in run.stderr


def test_who_may_not_install_is_told_the_command() -> None:
    user = NOBODY if os.geteuid() == 0 else None
    run = setup(
        "debian", "why", "haproxy", "gcc", path=os.environ["PATH"], cwd=Path("/"), user=user
    )
    assert run.returncode == 1
    assert "sudo apt-get install -y --no-install-recommends haproxy gcc" in run.stderr


def test_the_servers_of_this_machine_are_found_without_a_word() -> None:
    run = subprocess.run([SETUP / "servers"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_an_unknown_benchmark_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_benchmarks(["no-such"]) == 2
    assert "no no-such; there are:" in capsys.readouterr().err
