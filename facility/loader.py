"""Text in, typed configuration out, or every problem with the line where it is.

Owns how a problem reads: `path:line: key: what is wrong, what is allowed`. A file loads whole or
not at all. It never opens a file: whoever calls brings the text, and its path for the messages.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar, get_args, get_origin

import msgspec
from msgspec import Struct

from facility.compiler import compile_site, did_you_mean
from facility.config import AgentConfig, ControllerConfig, OperatorConfig, SiteConfig
from facility.crosscheck import agent_problems, controller_problems, operator_problems
from facility.strict_yaml import Document, Unreadable, parse
from facility.topology import Key, Problem, Site, SiteError
from facility.wording import allowed, described, hint

ConfigKind = type[SiteConfig] | type[AgentConfig] | type[ControllerConfig] | type[OperatorConfig]
KINDS: Final[dict[str, ConfigKind]] = {
    "site": SiteConfig,
    "agent": AgentConfig,
    "controller": ControllerConfig,
    "operator": OperatorConfig,
}
"""The four kinds of configuration file by their name on the command line."""

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

ConfigT = TypeVar("ConfigT", bound=Struct)


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing wrong with a file. Prints as `path:line: key: text`."""

    path: str
    line: int
    key: str
    text: str

    def __str__(self) -> str:
        """The line that an operator reads, and an editor jumps to."""
        key = f" {self.key}:" if self.key else ""
        return f"{self.path}:{self.line}:{key} {self.text}"


class ConfigError(ValueError):
    """A file that did not load, with every problem found, in the order of the lines."""

    def __init__(self, problems: tuple[ConfigProblem, ...]) -> None:
        """Keep all problems; the text has one of them on each line."""
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def load_site(text: str, path: str) -> Site:
    """Compile the site file `text`.

    Raises:
        ConfigError: with every problem of the file.
    """
    return load_site_config(text, path)[1]


def load_site_config(text: str, path: str) -> tuple[SiteConfig, Site]:
    """The site file `text` as written, with defaults, and compiled. Raises ConfigError."""
    document = parse(text)
    return _site(document, path)


def load_agent(text: str, path: str) -> AgentConfig:
    """Load the agent file `text`. Raises ConfigError with every problem."""
    return _agent(parse(text), path)


def load_controller(text: str, path: str) -> ControllerConfig:
    """Load the controller file `text`. Raises ConfigError with every problem."""
    return _controller(parse(text), path)


def load_any(
    text: str, path: str
) -> tuple[SiteConfig, Site] | AgentConfig | ControllerConfig | OperatorConfig:
    """Load a file of any kind, told apart by the keys at its top. Raises ConfigError."""
    document = parse(text)
    kind = _kind(document, path)
    if kind is SiteConfig:
        return _site(document, path)
    if kind is OperatorConfig:
        return _operator(document, path)
    return _agent(document, path) if kind is AgentConfig else _controller(document, path)


def load_document(text: str, path: str, kind: type[ConfigT], changes: Mapping[str, str]) -> ConfigT:
    """Load a document of any other kind, with values of some keys replaced beforehand.

    Args:
        text: the document.
        path: its name in messages.
        kind: the type it must have.
        changes: dotted keys, such as `control.lease_s`, and the YAML scalars to put there.

    Raises:
        ConfigError: with every problem; a change is reported under its key.
    """
    document = parse(text)
    refused = []
    for key, value in changes.items():
        steps = _steps(key)
        if not isinstance(document.value, Unreadable) and not _put(
            document.value, steps, parse(value).value
        ):
            refused.append(Problem(steps, "there is no such place in the document"))
    if refused:
        raise _error(document, path, tuple(refused))
    return _typed(document, kind, path)


def _steps(key: str) -> Key:
    """A key as people write it, `checks[0].max`, as the steps that lead there."""
    steps: list[str | int] = []
    for part in key.split("."):
        name, *places = part.split("[")
        steps += [name] if name else []
        steps += [int(place[:-1]) if place[:-1].isdecimal() else place for place in places]
    return tuple(steps)


def _put(tree: object, steps: Key, value: object) -> bool:
    """Set a value deep in mappings and lists, making mappings that are not there; False if not."""
    for place, step in enumerate(steps, start=1):
        old: object
        if isinstance(tree, dict) and isinstance(step, str):
            old = tree.get(step, {})
            tree[step] = old if place < len(steps) else value
        elif isinstance(tree, list) and isinstance(step, int) and step < len(tree):
            old = tree[step]
            tree[step] = old if place < len(steps) else value
        else:
            return False
        tree = old
    return bool(steps)


def located(text: str, path: str, problems: tuple[Problem, ...]) -> ConfigError:
    """Problems of a file that loads, found later, with the lines where they are."""
    return _error(parse(text), path, problems)


def dotted(key: Key) -> str:
    """A key as people write it: `domains[3].parents[0]`."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = part if _PLAIN_KEY.fullmatch(part) else described(part)
            text += f".{plain}" if text else plain
    return text


def _site(document: Document, path: str) -> tuple[SiteConfig, Site]:
    config = _typed(document, SiteConfig, path)
    try:
        return config, compile_site(config)
    except SiteError as error:
        raise _error(document, path, error.problems) from error


def _agent(document: Document, path: str) -> AgentConfig:
    config = _typed(document, AgentConfig, path)
    if problems := agent_problems(config):
        raise _error(document, path, problems)
    return config


def _controller(document: Document, path: str) -> ControllerConfig:
    config = _typed(document, ControllerConfig, path)
    if problems := controller_problems(config):
        raise _error(document, path, problems)
    return config


def _operator(document: Document, path: str) -> OperatorConfig:
    config = _typed(document, OperatorConfig, path)
    if problems := operator_problems(config):
        raise _error(document, path, problems)
    return config


def _error(document: Document, path: str, problems: tuple[Problem, ...]) -> ConfigError:
    found = [(item.line, item.key, item.text) for item in document.problems]
    found += [(document.line(item.key), item.key, item.text) for item in problems]
    found.sort(key=lambda item: item[0])
    return ConfigError(
        tuple(ConfigProblem(path, line, dotted(key), text) for line, key, text in found)
    )


def _kind(document: Document, path: str) -> ConfigKind:
    """The kind whose own keys, those that no other kind has, stand at the top of the file."""
    top = document.value if isinstance(document.value, Mapping) else {}
    fields = {kind: set(kind.__struct_fields__) for kind in KINDS.values()}
    scores = {}
    for kind, own in fields.items():
        others = set().union(*(names for other, names in fields.items() if other is not kind))
        scores[kind] = len((own - others) & set(top))
    best = max(scores, key=lambda kind: scores[kind])
    if scores[best] > 0 and list(scores.values()).count(scores[best]) == 1:
        return best
    if isinstance(document.value, Unreadable):
        raise _error(document, path, ())
    text = (
        "cannot tell what kind of file this is; a site file has `domains` and `nodes`,"
        " an agent file `node`, a controller file `site_file`, an operator file `operator`"
    )
    raise _error(document, path, (Problem((), text),))


def _typed(document: Document, kind: type[ConfigT], path: str) -> ConfigT:
    """The document as `kind`, or ConfigError with everything that its types forbid."""
    if not document.problems:
        try:
            return msgspec.convert(document.value, kind)
        except msgspec.ValidationError:
            pass  # it names the first problem only: the walk below finds them all
    walk = _Walk([])
    walk.check(document.value, kind, ())
    assert walk.problems or document.problems
    raise _error(document, path, tuple(walk.problems))


@dataclass(frozen=True, slots=True)
class _Walk:
    """Finds every value that its type forbids; runs only once a file is known to be wrong."""

    problems: list[Problem]

    def check(self, value: object, kind: object, key: Key) -> bool:
        """Whether `value` is a `kind`; if not, the innermost culprits are reported."""
        if isinstance(value, Unreadable):
            return False
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            if self._inside(value, kind, key):
                text = f"{described(value)} is not allowed; expected {allowed(kind)}"
                self.problems.append(Problem(key, text + hint(value, kind)))
            return False
        return True

    def _inside(self, value: object, kind: object, key: Key) -> bool:
        """Check what is in `value`; True when all of that is well, so the fault is its own."""
        kind = _bare(kind)
        origin = get_origin(kind) or kind
        if isinstance(value, dict):
            if isinstance(kind, type) and issubclass(kind, Struct):
                return self._struct(value, kind, key)
            if origin in (dict, Mapping):
                return self._mapping(value, kind, key)
        if isinstance(value, list) and origin is tuple:
            return self._sequence(value, get_args(kind), key)
        return True

    def _struct(self, value: dict[str, object], kind: type[Struct], key: Key) -> bool:
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        well = True
        for name in value:
            if name not in fields:
                text = f"unknown key; allowed are {', '.join(fields)}{did_you_mean(name, fields)}"
                self.problems.append(Problem((*key, name), text))
                well = False
        for name, field in fields.items():
            if name in value:
                well &= self.check(value[name], field.type, (*key, name))
            elif field.required:
                text = f"is missing; expected {allowed(field.type)}"
                self.problems.append(Problem((*key, name), text))
                well = False
        return well

    def _mapping(self, value: dict[str, object], kind: object, key: Key) -> bool:
        name_kind, item_kind = get_args(kind)
        well = True
        for name, item in value.items():
            well &= self.check(name, name_kind, (*key, name))
            well &= self.check(item, item_kind, (*key, name))
        return well

    def _sequence(self, value: list[object], kinds: tuple[object, ...], key: Key) -> bool:
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        elif len(kinds) != len(value):
            return True
        well = True
        for place, (item, item_kind) in enumerate(zip(value, kinds, strict=True)):
            well &= self.check(item, item_kind, (*key, place))
        return well


def _bare(kind: object) -> object:
    """A type without its bounds and without `None`."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in (types.UnionType, typing.Union):
        inner = [option for option in get_args(kind) if option is not types.NoneType]
        assert len(inner) == 1, "a configuration value has one type, and may be absent"
        return _bare(inner[0])
    return kind
