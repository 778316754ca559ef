"""A value in a table on a terminal: what is missing is a dash, a switch a word."""

from __future__ import annotations


def cell(value: object, number: str) -> str:
    """`value` as people read it; `number` is the format of a float, such as `.3f`."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format(value, number) if isinstance(value, float) else str(value)
