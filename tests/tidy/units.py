"""Which names are numbers that measure something, and whether they say in which unit."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Final

QUANTITIES: Final = re.compile(
    r"power|temperature|clock|energy|interval|timeout|duration|delay|latency|period|age|cap"
    r"|ceiling|capacity|airflow|margin|exposure|patience|reaction|horizon|voltage|frequency"
)
UNITS: Final = frozenset({
    "w", "kw", "mw", "uw", "wh", "kwh", "j", "kj", "mj", "c", "mc", "k", "mhz", "hz", "s", "ms",
    "us", "ns", "minutes", "hours", "days", "cfm", "v", "a", "m3", "kg", "ratio", "factor",
    "share", "count", "counts", "index", "id", "ids", "seconds", "bytes", "kib", "mib", "tokens",
    "requests", "usd", "bits", "mask", "level", "rank", "seed", "port", "exponent",
})  # fmt: skip
AFTER_UNIT: Final = re.compile(
    r"min|max|mean|median|total|default|requested|step|low|high|before|after|at|for|by|per|p\d+"
)
NUMERIC: Final = re.compile(
    r"(float|int)(16|32|64)?|NDArray|\w*Array|Floats|Mhz|\w+Mhz|Ratio|Seconds|PeriodS|WallS"
    r"|\w*PowerW|PositiveW|NonNegativeW|TemperatureC"
)


def numbers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Numeric fields, parameters and module constants, each with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            yield from ((arg.lineno, arg.arg) for arg in every if is_numeric(arg.annotation))
        elif isinstance(node, ast.ClassDef):
            yield from fields(node)
    for item in tree.body:
        if isinstance(item, ast.Assign | ast.AnnAssign) and is_number(item.value):
            targets = item.targets if isinstance(item, ast.Assign) else [item.target]
            yield from ((item.lineno, t.id) for t in targets if isinstance(t, ast.Name))


def fields(node: ast.ClassDef) -> Iterator[tuple[int, str]]:
    """Numeric annotated names in the body of a class."""
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not is_numeric(item.annotation):
            continue
        if isinstance(item.target, ast.Name):
            yield item.lineno, item.target.id


def is_number(value: ast.expr | None) -> bool:
    """Whether a module constant is one measured number; an int may be bits or a count."""
    return isinstance(value, ast.Constant) and isinstance(value.value, float)


def is_numeric(annotation: ast.expr | None) -> bool:
    """Whether an annotation holds numbers, alone or in a container; a callable holds none."""
    if annotation is None:
        return False
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    names = {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(annotation)
        if isinstance(node, ast.Name | ast.Attribute)
    }
    return "Callable" not in names and any(NUMERIC.fullmatch(name) for name in names)


def lacks_unit(name: str) -> bool:
    """Whether a name speaks of a quantity and does not say its unit where it belongs."""
    words = name.lower().strip("_").split("_")
    if not any(QUANTITIES.fullmatch(singular(word)) for word in words):
        return False
    for place in range(len(words) - 1, -1, -1):
        if words[place] in UNITS:
            rest = words[place + 1 :]
            return not (not rest or words[place] == "seconds" or AFTER_UNIT.fullmatch(rest[0]))
    return True


def singular(word: str) -> str:
    """`powers` -> `power`, `capacities` -> `capacity`."""
    return re.sub(r"ies$", "y", word) if word.endswith("ies") else word.removesuffix("s")
