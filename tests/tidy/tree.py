"""A checkout as the rules see it: its text files, and its Python files parsed once.

Reads files and runs nothing; knows no rule.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

TEXT_SUFFIXES: Final = frozenset({
    ".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".c", ".h", ".html", ".css", ".js",
    ".service", ".conf", ".cfg", ".json", ".sh",
})  # fmt: skip
BUILT: Final = frozenset({"build", "dist"})


@dataclass(frozen=True)
class Source:
    """One Python file of the tree."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text, self.path)

    @property
    def layer(self) -> str:
        """The top-level folder."""
        return self.path.partition("/")[0]

    @property
    def module(self) -> str:
        """The name it is imported by."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def imports(self) -> Iterator[tuple[int, str]]:
        """Every imported module with its line; `from a import b` gives a, and a.b as well.

        A module that is imported late, `import_module("a.b")`, counts like any other.
        """
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, name.name) for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.lineno, node.module or "."
                yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)
            elif isinstance(node, ast.Call) and (dotted(node.func) or "").endswith("import_module"):
                names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                yield from ((node.lineno, str(name)) for name in names)


@dataclass(frozen=True)
class Tree:
    """A checkout: its text files, without what is built or hidden."""

    root: Path

    @cached_property
    def texts(self) -> dict[str, str]:
        """Every text file by its path from the root."""
        return {path.relative_to(self.root).as_posix(): path.read_text("utf-8")
                for path in sorted(self._walk(self.root))}  # fmt: skip

    def _walk(self, folder: Path) -> Iterator[Path]:
        for path in folder.iterdir():
            hidden = path.name.startswith((".", "__pycache__")) and path.name != ".ci"
            if hidden or path.name in BUILT or path.suffix == ".egg-info" or path.is_symlink():
                continue
            if path.is_dir():
                yield from self._walk(path)
            elif is_text(path):
                yield path

    @cached_property
    def sources(self) -> list[Source]:
        """Every Python file."""
        return [Source(path, text) for path, text in self.texts.items() if path.endswith(".py")]

    def within(self, *layers: str) -> list[Source]:
        """The Python files of these top-level folders."""
        return [source for source in self.sources if source.layer in layers]


def is_text(path: Path) -> bool:
    """Whether a file is ours to judge: code or prose, by its suffix; the licence is not ours."""
    if path.suffix:
        return path.suffix in TEXT_SUFFIXES
    return path.name != "LICENSE" and b"\0" not in path.read_bytes()[:1_024]


def is_package_file(path: Path) -> bool:
    """Whether a path inside a package is a file of the package: not compiled, not hidden."""
    hidden = any(part == "__pycache__" or part.startswith(".") for part in path.parts[-3:])
    return path.is_file() and not hidden and path.suffix not in (".pyc", ".so")


def dotted(node: ast.expr) -> str | None:
    """`a.b.c` of a name or attribute, None for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else None
    return None
