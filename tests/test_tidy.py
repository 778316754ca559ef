"""The house rules hold in this tree, and each of them can fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.tidy import rules
from tests.tidy.tree import Tree
from tests.tidy.units import lacks_unit

ROOT: Final = Path(__file__).resolve().parents[1]

Rule = Callable[[Tree], list[str]]

PROJECT: Final = """
[project]
dependencies = ["nvidia-ml-py"]
scripts = { ampacity = "daemon.main:main" }
"""
CLEAN: Final = {
    "pyproject.toml": PROJECT,
    "facility/__init__.py": "",
    "facility/wire.py": "LEASE_S = 4.0\nclass Lease:\n    lease_s: float\n",
    "controllers/__init__.py": "",
    "controllers/node_lease.py": "from facility.wire import Lease\nKEEP = Lease\n",
    "collectors/__init__.py": "",
    "collectors/nvml.py": "import pynvml\nNVML = pynvml\n",
    "actuators/__init__.py": "",
    "actuators/clocks.py": "import facility.wire\nKEEP = facility.wire\n",
    "simulator/__init__.py": "",
    "simulator/plant.py": "import random\ndef draw(seed: int) -> random.Random:\n"
    "    return random.Random(seed)\n",
    "daemon/__init__.py": "",
    "daemon/agent.py": "import actuators.clocks\nimport collectors.nvml\n"
    "import controllers.node_lease\nfrom daemon import bus, sd_notify\n"
    "KEEP = (actuators, collectors, controllers, bus, sd_notify)\n",
    "daemon/bus.py": "",
    "daemon/sd_notify.py": "",
    "daemon/main.py": "import simulator.plant\nSTART = ('daemon.agent', simulator.plant)\n",
}
"""A small tree that keeps every rule: path and content."""

LONG_FUNCTION: Final = "def f() -> None:\n" + "    f()\n" * rules.FUNCTION_LINES_MAX
LONG_FILE: Final = "KEEP = 1\n" * (rules.FILE_LINES_MAX + 1)

PLANTED: Final[list[tuple[Rule, str, str, str]]] = [
    (rules.layers, "facility/a.py", "import daemon.main", "facility imports daemon"),
    (rules.layers, "collectors/a.py", "from predictors import b", "collectors imports predictors"),
    (rules.layers, "simulator/a.py", "import collectors.nvml", "simulator imports collectors"),
    (rules.layers, "controllers/a.py", "import tests.tidy", "controllers imports tests"),
    (rules.purity, "controllers/a.py", "import time", "imports time"),
    (rules.purity, "facility/a.py", "importlib.import_module('socket')", "imports socket"),
    (rules.purity, "predictors/a.py", "from random import gauss", "imports random"),
    (rules.purity, "predictors/a.py", "import numpy as np\nnp.random.rand()", "draws from np"),
    (rules.purity, "facility/a.py", "def f() -> None:\n    open('x')", "calls open()"),
    (rules.seeded, "simulator/a.py", "import time", "imports time"),
    (rules.seeded, "simulator/a.py", "from random import random", "imports random.random"),
    (rules.seeded, "simulator/a.py", "import random\nrandom.random()", "without a seed"),
    (rules.seeded, "simulator/a.py", "import random\nrandom.Random()", "without a seed"),
    (rules.seeded, "simulator/a.py", "import datetime\ndatetime.datetime.now()", "machine's time"),
    (rules.function_length, "daemon/a.py", LONG_FUNCTION, "f has 71 lines, at most 70"),
    (rules.file_length, "daemon/a.py", LONG_FILE, "split it by role"),
    (rules.units, "daemon/a.py", "def f(power: float) -> None: ...", "'power' is a quantity"),
    (rules.units, "daemon/a.py", "class A:\n    ceiling: int | None", "'ceiling' is a quantity"),
    (rules.units, "daemon/a.py", "class A:\n    power: dict[str, float]", "'power' is a quantity"),
    (rules.units, "daemon/a.py", "class A:\n    w_power: float", "'w_power' is a quantity"),
    (rules.units, "daemon/a.py", "TIMEOUT = 5.0", "'TIMEOUT' is a quantity"),
    (rules.docstrings, "daemon/a.py", "KEEP = 1", "no module docstring"),
    (rules.words, "docs/A.md", "see /ho" + "me/me/x", "path of somebody's machine"),
    (rules.words, "docs/A.md", "from pypi." + "org", "registry's host"),
    (rules.words, "deploy/run", "# TO" + "DO later", "unfinished"),
    (rules.words, "tests/test_a.py", "@pytest.mark.ski" + "p", "proves nothing"),
    (rules.folders, "loose.py", "KEEP = 1", "no place for code"),
    (rules.folders, "helpers/a.py", "KEEP = 1", "no place for code"),
    (rules.folders, "daemon/web/a.py", "KEEP = 1", "daemon/web/__init__.py is missing"),
    (rules.dead_files, "daemon/a.py", "KEEP = 1", "nobody imports or starts daemon.a"),
    (rules.one_nvml_module, "daemon/a.py", "from pynvml import nvmlInit", "2 modules"),
    (rules.one_nvml_module, "collectors/nvml.py", "KEEP = 1", "imported nowhere"),
    (rules.dependencies, "daemon/a.py", "import numpy", "imports numpy, which"),
    (rules.dependencies, "collectors/nvml.py", "KEEP = 1", "nvidia-ml-py is declared and never"),
    (rules.agent_memory, "facility/__init__.py", "import sqlite3", "the agent loads sqlite3"),
    (rules.agent_memory, "daemon/bus.py", "import no_such_module", "do not import"),
]


def plant(root: Path, files: dict[str, str]) -> Tree:
    """Write a tree of files; Python files get a docstring unless they are to have none."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return Tree(root)


def documented(files: dict[str, str]) -> dict[str, str]:
    """The same files, each Python file with a module docstring."""
    return {name: '"""What it owns."""\n' * name.endswith(".py") + files[name] for name in files}


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: Rule) -> None:
    found = rule(Tree(ROOT))
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_clean_tree_gives_no_finding(rule: Rule, tmp_path: Path) -> None:
    assert rule(plant(tmp_path, documented(CLEAN))) == []


@pytest.mark.parametrize(("rule", "path", "content", "expected"), PLANTED)
def test_a_planted_violation_is_found(
    rule: Rule, path: str, content: str, expected: str, tmp_path: Path
) -> None:
    found = rule(plant(tmp_path, documented(CLEAN) | {path: content}))
    assert any(expected in finding for finding in found), found


def test_every_rule_has_a_planted_violation() -> None:
    assert {rule for rule, *_ in PLANTED} == set(rules.RULES)


def test_a_function_of_the_limit_is_kept(tmp_path: Path) -> None:
    at_limit = LONG_FUNCTION.removesuffix("    f()\n")
    assert rules.function_length(plant(tmp_path, {"daemon/a.py": at_limit})) == []


def test_a_missing_part_of_the_agent_is_found(tmp_path: Path) -> None:
    """A renamed module must not silently leave the memory test."""
    files = documented({name: CLEAN[name] for name in CLEAN if name != "daemon/sd_notify.py"})
    found = rules.agent_memory(plant(tmp_path, files))
    assert "daemon.sd_notify: no such module; mend the table AGENT" in found


@pytest.mark.parametrize(
    "name",
    ["power_w", "power_w_max", "ceilings_mhz", "age_s", "power_w_p99", "capacity_ratio", "at_s",
     "power_w_by_node", "temperature_c_per_w", "LEASE_S", "message", "seconds_over_capacity",
     "page", "language", "escape"],
)  # fmt: skip
def test_a_name_with_its_unit_last_passes(name: str) -> None:
    assert not lacks_unit(name)


@pytest.mark.parametrize(
    "name", ["power", "max_power", "power_w_idle", "temperatures", "age", "capacities", "delay_max"]
)
def test_a_name_without_its_unit_or_with_it_inside_fails(name: str) -> None:
    assert lacks_unit(name)
