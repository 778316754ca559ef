"""Text to plain values, strictly: YAML 1.2 core scalars, no duplicate keys, bounded, with lines.

Owns what a configuration file may look like as text. It never decides what the values mean and
never opens a file. Plain YAML 1.1 would read `off` as false, `010` as eight and `10:30` as 630.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import yaml

from facility.topology import Key

TEXT_CHARS_MAX: Final = 2 * 1024 * 1024
"""Largest file. Ten thousand nodes, one per line, are about 1 MB."""
DEPTH_MAX: Final = 32
"""Deepest nesting; a site file needs six."""
ITEMS_MAX: Final = 250_000
"""Most keys and items in the text: each costs a kilobyte while it is read. Ten thousand nodes have
half as many."""
ALIASED_MAX: Final = 50_000
"""Most keys and items that aliases repeat, so that no alias bomb goes off."""
DIGITS_MAX: Final = 32
"""Longest integer; a longer one is a mistake, and slow to convert."""

_TAG: Final = "tag:yaml.org,2002:"
_CORE: Final = {
    "null": re.compile(r"(?:|~|null|Null|NULL)"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
    ),
}
"""The scalars of the YAML 1.2 core schema; everything else is text. Integers are tried first."""


@dataclass(frozen=True, slots=True)
class TextProblem:
    """One thing wrong with the text: its line (from 1), the key it belongs to, and what it is."""

    line: int
    key: Key
    text: str


class Unreadable:
    """Stands where a value was refused, so that whoever checks the rest does not report it twice.

    It is neither a mapping nor a list nor a scalar, so no type accepts it.
    """


@dataclass(frozen=True, slots=True)
class Document:
    """The value of a file, the line of each of its keys and items, and what is wrong with it."""

    value: object
    lines: Mapping[Key, int]
    problems: tuple[TextProblem, ...]

    def line(self, key: Key) -> int:
        """The line of `key`, or of the nearest key above it that is in the file."""
        for length in range(len(key), 0, -1):
            if (found := self.lines.get(key[:length])) is not None:
                return found
        return self.lines.get((), 1)


class _CoreLoader(yaml.SafeLoader):
    """Composes nodes with YAML 1.2 core tags and bounded nesting; constructs nothing."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  PyYAML's own class-level registry, made ours
    depth = 0
    items_count = 0
    items_max = ITEMS_MAX

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node, refusing nesting or a number that would exhaust the memory."""
        self.items_count += 1
        if self.items_count > self.items_max:
            what = f"more than {self.items_max} keys and items"
            raise yaml.composer.ComposerError(None, None, what, self.get_mark())
        self.depth += 1
        try:
            if self.depth > DEPTH_MAX:
                raise yaml.composer.ComposerError(None, None, _TOO_DEEP, self.get_mark())
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


_TOO_DEEP: Final = f"nested deeper than {DEPTH_MAX} levels"

for _name, _pattern in _CORE.items():
    _CoreLoader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern.pattern})\Z"), None)


class _TooMuch(Exception):
    """The text expands beyond a bound; what was read so far is discarded."""

    def __init__(self, line: int, key: Key, text: str) -> None:
        super().__init__(text)
        self.problem = TextProblem(line, key, text)


def parse(text: str, *, items_max: int = ITEMS_MAX) -> Document:
    """Read one YAML document into mappings, lists and scalars, noting the line of everything.

    Never raises for bad text: what is wrong is in `problems`. A syntax error leaves `value`
    Unreadable; a bad scalar leaves only that scalar Unreadable.
    """
    if len(text) > TEXT_CHARS_MAX:
        what = f"{len(text)} characters are too many; at most {TEXT_CHARS_MAX} are accepted"
        return _refused(TextProblem(1, (), what))
    reader = _Reader(text)
    try:
        root = _compose(text, items_max)
        if root is None:
            return _refused(TextProblem(1, (), "the file is empty"))
        value = reader.read(root, ())
    except yaml.reader.ReaderError as error:
        what = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        return _refused(TextProblem(reader.line_at(error.position), (), what))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = reader.line_at(mark.index) if mark else 1
        return _refused(TextProblem(line, (), f"not valid YAML: {_syntax_text(error)}"))
    except _TooMuch as error:
        return _refused(error.problem)
    return Document(value, reader.lines, tuple(reader.problems))


def _compose(text: str, items_max: int) -> yaml.Node | None:
    loader = _CoreLoader(text)
    loader.items_max = items_max
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _refused(problem: TextProblem) -> Document:
    return Document(Unreadable(), {}, (problem,))


def _syntax_text(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return ", ".join(parts) or "syntax error"


@dataclass
class _Reader:
    """Turns composed nodes into values; collects lines and problems on the way."""

    text: str
    lines: dict[Key, int] = field(default_factory=dict)
    problems: list[TextProblem] = field(default_factory=list)
    aliased_count: int = 0
    seen: set[int] = field(default_factory=set)
    """Nodes read before, by identity: the composer gives the same one for every alias."""

    def __post_init__(self) -> None:
        """Index the line ends: editors count those, PyYAML also counts U+2028 and the like."""
        self._ends = [match.start() for match in re.finditer("\n", self.text)]

    def line_at(self, index: int) -> int:
        """The line, from 1, of the character at `index`."""
        last = len(self._ends) - (1 if self.text.endswith("\n") else 0)
        return min(bisect.bisect_left(self._ends, index), last) + 1

    def read(self, node: yaml.Node, key: Key) -> object:
        """The value of `node`, which stands at `key`."""
        line = self.line_at(node.start_mark.index)
        self.lines.setdefault(key, line)
        if id(node) in self.seen:
            self.aliased_count += 1
            if self.aliased_count > ALIASED_MAX:
                raise _TooMuch(line, key, f"more than {ALIASED_MAX} keys and items through aliases")
        self.seen.add(id(node))
        if len(key) > DEPTH_MAX:
            raise _TooMuch(line, key[:3], _TOO_DEEP)
        tag = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(tag, node.value, line, key)
        if isinstance(node, yaml.MappingNode) and tag == "map":
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode) and tag == "seq":
            return [self.read(item, (*key, place)) for place, item in enumerate(node.value)]
        return self._bad(line, key, f"the tag {node.tag!r} is not allowed; leave it out")

    def _bad(self, line: int, key: Key, text: str) -> Unreadable:
        self.problems.append(TextProblem(line, key, text))
        return Unreadable()

    def _scalar(self, tag: str, raw: str, line: int, key: Key) -> object:
        if tag == "str":
            return raw
        pattern = _CORE.get(tag)
        if pattern is None or not pattern.fullmatch(raw):
            return self._bad(line, key, f"the tag {tag!r} is not allowed here; leave it out")
        if tag == "null":
            return None
        if tag == "bool":
            return raw.lower() == "true"
        if tag == "int":
            if len(raw) > DIGITS_MAX:
                return self._bad(line, key, f"a number of more than {DIGITS_MAX} digits")
            return int(raw, 0) if raw.startswith(("0o", "0x")) else int(raw)
        number = float(raw) if raw[-1] in "0123456789." else math.inf
        if not math.isfinite(number):
            return self._bad(line, key, f"{raw} is not allowed; expected a finite number")
        return number

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, object]:
        found: dict[str, object] = {}
        for name_node, value_node in node.value:
            line = self.line_at(name_node.start_mark.index)
            if not isinstance(name_node, yaml.ScalarNode):
                self._bad(line, key, "a mapping or a list cannot be a key; expected a name")
                continue
            name = name_node.value
            if name_node.tag != _TAG + "str":
                self._bad(line, (*key, name), "a key must be text; put it in quotes")
            if name in found:
                first = self.lines[*key, name]
                self._bad(line, (*key, name), f"is there twice; the first is on line {first}")
                continue
            self.lines[*key, name] = line
            found[name] = self.read(value_node, (*key, name))
        return found
