"""Typed configuration out as YAML that people like to read, and that loads back to the same.

Owns the layout: sections apart, comments above, one node per line. It decides no value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from facility.strict_yaml import parse

_PLAIN: Final = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_./:+-]*")
_COMMENT_COLUMNS: Final = 98


def to_yaml(
    config: Struct, comments: Mapping[str, str] | None = None, *, defaults: bool = False
) -> str:
    """Write `config` as YAML.

    Values of the sections are written with their defaults, so that a reader sees what there is to
    turn; in the items of a list they are left out unless `defaults` is set. `comments` maps a key
    of the top level to what is said above it; the empty key is said at the top of the file.
    """
    said = comments or {}
    lines = list(_comment(said.get("", "")))
    for name, value in _shown(config, defaults=True):
        if isinstance(value, Struct) and not any(True for _ in _shown(value, defaults=True)):
            continue  # every key in it is absent, and so may the section be
        if name in said or isinstance(value, Struct | tuple | dict):
            lines.append("")
        lines += _comment(said.get(name, ""))
        lines += _section(name, value, defaults=defaults)
    return "\n".join(lines).lstrip("\n") + "\n"


def _comment(text: str) -> Iterator[str]:
    """`text` as comment lines; its own line breaks are kept, long lines are wrapped."""
    for line in text.splitlines():
        rest = line.strip()
        while len(rest) > _COMMENT_COLUMNS:
            cut = rest.rfind(" ", 0, _COMMENT_COLUMNS)
            yield f"# {rest[:cut]}"
            rest = rest[cut + 1 :]
        yield f"# {rest}".rstrip()


def _shown(config: Struct, *, defaults: bool) -> Iterator[tuple[str, object]]:
    """The fields worth a line: never an absent value, nor an empty list that may be left out."""
    for field in msgspec.structs.fields(config):
        value = getattr(config, field.name)
        if not field.required:
            default = field.default
            if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            if value == default and (not defaults or value is None or value in ((), {})):
                continue
        yield field.encode_name, value


def _section(name: str, value: object, *, defaults: bool) -> Iterator[str]:
    """One key of the top level, in block style down to the last mapping, which is one line."""
    if isinstance(value, Struct):
        yield f"{name}:"
        for inner, item in _shown(value, defaults=True):
            yield from _field("  ", inner, item)
    elif isinstance(value, dict):
        yield f"{name}:"
        for inner, item in value.items():
            yield f"  {_scalar(inner)}:"
            for key, part in _shown(item, defaults=True):
                yield from _field("    ", key, part)
    elif isinstance(value, tuple) and value and isinstance(value[0], Struct):
        yield f"{name}:"
        yield from _items(value, defaults=defaults)
    else:
        yield f"{name}: {_flow(value)}"


def _field(indent: str, name: str, value: object) -> Iterator[str]:
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        yield f"{indent}{name}:"
        for item in value:
            yield f"{indent}  - {_flow(item)}"
    else:
        yield f"{indent}{name}: {_flow(value)}"


def _items(items: tuple[Struct, ...], *, defaults: bool) -> Iterator[str]:
    """One item per line; a blank line where their kind changes."""
    last = getattr(items[0], "kind", None)
    for item in items:
        if (kind := getattr(item, "kind", None)) != last:
            yield ""
            last = kind
        yield f"  - {_flow(item, defaults=defaults)}"


def _flow(value: object, *, defaults: bool = False) -> str:
    if isinstance(value, Struct):
        pairs = _shown(value, defaults=defaults)
        return "{" + ", ".join(f"{name}: {_flow(item)}" for name, item in pairs) + "}"
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_scalar(name)}: {_flow(item)}" for name, item in value.items()) + "}"
        )
    if isinstance(value, tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _scalar(value)


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, int):
        return str(value)
    assert isinstance(value, str), f"no YAML for {type(value).__name__}"
    plain = _PLAIN.fullmatch(value) and ": " not in value and not value.endswith(":")
    if plain and parse(value).value == value:
        return value
    return '"' + "".join(_escaped(letter) for letter in value) + '"'


def _escaped(letter: str) -> str:
    code = ord(letter)
    if 0x20 <= code < 0x7F:
        return f"\\{letter}" if letter in '"\\' else letter
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
