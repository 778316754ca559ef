"""Says in words what a configuration type allows and what a file has there instead.

Owns the wording of problems and nothing else; what is wrong is found in `facility.loader`.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import inspect

from facility.compiler import did_you_mean
from facility.wire import Name

SHOWN_CHARS_MAX: Final = 60
"""Longest piece of a file that a message repeats."""

_NAME_WORDS: Final = "a name: lower case letters, digits and inner dashes, at most 63 characters"
_QUANTITY: Final = re.compile(r"[-+]?[0-9.,]+ *[A-Za-z%]+")


def described(value: object) -> str:
    """What a file has there: short, quoted, one line."""
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 3] + "..."


def allowed(kind: object) -> str:
    """What a type accepts, for people: `a number above 0 and at most 1e+09`."""
    return _allowed(inspect.type_info(kind))


def hint(value: object, kind: object) -> str:
    """A closing half-sentence that guesses the slip, empty when there is no guess."""
    info = _inner(inspect.type_info(kind))
    if isinstance(info, inspect.StrType) and isinstance(value, bool | int | float):
        return "; put it in quotes"
    if isinstance(info, inspect.LiteralType) and str(value) in info.values:
        return "; put it in quotes"
    if isinstance(info, inspect.LiteralType) and isinstance(value, str):
        return did_you_mean(value, [str(word) for word in info.values])
    numeric = isinstance(info, inspect.IntType | inspect.FloatType)
    if numeric and isinstance(value, str) and _QUANTITY.fullmatch(value):
        return "; write the number alone, its unit is in the key"
    if numeric and isinstance(value, str) and _is_number(value):
        return "; leave the quotes out"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _inner(info: inspect.Type) -> inspect.Type:
    """The type without `None`."""
    if isinstance(info, inspect.UnionType):
        return next(item for item in info.types if not isinstance(item, inspect.NoneType))
    return info


def _allowed(info: inspect.Type) -> str:
    match info:
        case inspect.IntType():
            return "a whole number" + _bounds(info)
        case inspect.FloatType():
            return "a number" + _bounds(info)
        case inspect.StrType():
            return _text(info)
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values=values):
            return ("one of " if len(values) > 1 else "") + ", ".join(map(str, values))
        case inspect.StructType(fields=fields):
            required = [field.encode_name for field in fields if field.required]
            return "a mapping" + (f" with at least {', '.join(required)}" if required else "")
        case inspect.DictType(value_type=value_type):
            return f"a mapping{_length(info, 'entries')}, each {_allowed(value_type)}"
        case inspect.VarTupleType(item_type=item_type):
            return f"a list{_length(info, 'items')}, each {_allowed(item_type)}"
        case inspect.TupleType(item_types=item_types):
            return "[" + ", ".join(_allowed(item) for item in item_types) + "]"
        case inspect.UnionType():
            return _allowed(_inner(info))
        case _:
            return "a value"


def _bounds(info: inspect.IntType | inspect.FloatType) -> str:
    bounds = {
        "above": info.gt,
        "of at least": info.ge,
        "below": info.lt,
        "at most": info.le,
    }
    said = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
    return " " + " and ".join(said) if said else ""


def _text(info: inspect.StrType) -> str:
    name = inspect.type_info(Name)
    assert isinstance(name, inspect.StrType)
    if info.pattern is None:
        return "text" + _length(info, "characters")
    return _NAME_WORDS if info.pattern == name.pattern else f"text that matches {info.pattern}"


def _length(info: inspect.StrType | inspect.DictType | inspect.VarTupleType, what: str) -> str:
    low, high = info.min_length, info.max_length
    if low is not None and high is not None:
        return f" ({what}: {low} to {high})"
    if low is not None:
        return f" ({what}: at least {low})"
    return f" ({what}: at most {high})" if high is not None else ""
