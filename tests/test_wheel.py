"""The wheel carries everything: built, installed away from the tree, and run there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.tidy.rules import LAYERS
from tests.tidy.tree import is_package_file

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = [name for name in LAYERS if (ROOT / name).is_dir()]


def package_files() -> set[str]:
    """Every file that belongs to a package, by its path from the root."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if is_package_file(path)
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, built from a copy so that the tree stays as it is."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in package_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    made = tmp_path_factory.mktemp("dist")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(made), str(copy))
    [found] = made.iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--target", str(target), str(wheel))
    return target


def pip(*arguments: str) -> None:
    """Run pip without a network; what it says is shown when it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PIP_NO_INDEX": "1"}
    )
    assert run.returncode == 0, run.stdout + run.stderr


def run_installed(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python outside the tree, with the installed packages before anything else."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=installed.parent,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_carries_every_file_of_every_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert carried == package_files()


def test_every_package_is_imported_from_where_it_was_installed(installed: Path) -> None:
    program = (
        "import sys, importlib\nfor n in sys.argv[1:]: print(importlib.import_module(n).__file__)"
    )
    run = run_installed(installed, "-c", program, *PACKAGES)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(installed / name / "__init__.py") for name in PACKAGES]


def test_the_installed_command_says_its_version(installed: Path) -> None:
    run = run_installed(installed, "-m", "daemon.main", "version")
    assert run.returncode == 0, run.stderr
    assert "0.1.0" in run.stdout


def test_the_installed_command_finds_its_scenarios(installed: Path) -> None:
    """Scenarios are found by name away from the tree: their files are inside a package."""
    program = (
        "from importlib import resources\n"
        "names = [p.name for p in resources.files('scenarios').iterdir()]\n"
        "print(*sorted(n for n in names if n.endswith('.yaml')))"
    )
    run = run_installed(installed, "-c", program)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == sorted(path.name for path in ROOT.glob("scenarios/*.yaml"))
    assert run.stdout.strip()
