"""Which format a recording is in, by its content; and the recordings that come with the package.

A format says what a file is; what becomes of it is a trace to replay or a workload to draw from.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Final

from simulator.loads import rates, trace
from simulator.loads.lengths import CDF, read_cdf, servegen_lengths, with_margins
from simulator.loads.rates import Rates
from simulator.loads.rows import BYTES_MAX, TraceError, shown, unpacked
from simulator.loads.trace import Trace, read_azure, read_mooncake
from simulator.loads.workload import Kind, Lengths, Workload

BUILT_IN: Final = "azure/AzureLLMInferenceTrace_conv.csv.gz"
RATES: Final[dict[tuple[str, ...], tuple[str, Callable[[str, str], Rates]]]] = {
    rates.CLIENTS: ("ServeGen per client", rates.read_clients),
    rates.AGGREGATE: ("ServeGen aggregate", rates.read_aggregate),
    rates.WEEK: ("digitised Azure 2024", rates.read_week),
}
FORMATS: Final = "; ".join([
    f"{','.join(trace.AZURE)} (Azure 2023 and 2024)",
    *(f"{','.join(columns)} ({name})" for columns, (name, _) in RATES.items()),
    f"or lines of JSON with {', '.join(trace.MOONCAKE)} (Mooncake)",
])  # fmt: skip


def shipped(path: str) -> str:
    """The text of a recording in `simulator/data/`, whose licence is beside it."""
    data = resources.files("simulator").joinpath("data", *path.split("/")).read_bytes()
    return unpacked(path, data, BYTES_MAX)


def built_in_trace() -> Trace:
    """Azure's conversations of 2023, an hour (`simulator/data/azure/README.md`)."""
    return read_azure(BUILT_IN, shipped(BUILT_IN))


def load_file(path: Path) -> Trace | Workload:
    """Read a recording in any of the formats, plain or gzip: requests, or rates over time.

    Raises:
        TraceError: unreadable, in no known format, or with bad rows: all of them are named, at most
            20 in the text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    return parse_file(str(path), data)


def load_trace(path: Path) -> Trace:
    """Read recorded requests. Raises TraceError as `load_file`, and for a file of rates."""
    return _requests(load_file(path))


def parse_trace(name: str, data: bytes, *, bytes_max: int = BYTES_MAX) -> Trace:
    """Turn the bytes of a file into recorded requests. Raises TraceError as `load_trace`."""
    return _requests(parse_file(name, data, bytes_max=bytes_max))


def _requests(found: Trace | Workload) -> Trace:
    if isinstance(found, Workload):
        raise TraceError(f"{found.name}: a recording of rates; expected one of requests")
    return found


def parse_file(name: str, data: bytes, *, bytes_max: int = BYTES_MAX) -> Trace | Workload:
    """Turn the bytes of a file into what it holds; `name` is for messages.

    Raises:
        TraceError: as `load_file`.
    """
    text = unpacked(name, data, bytes_max)
    if text.lstrip().startswith("{"):
        return read_mooncake(name, text)
    header = text[: text.find("\n")] if "\n" in text else text
    columns = tuple(cell.strip() for cell in header.split(","))
    if columns == trace.AZURE or not text.strip():
        return read_azure(name, text)
    if columns in RATES:
        return _workload(RATES[columns][1](name, text))
    if columns == CDF:
        raise TraceError(f"{name}: a distribution of lengths says nothing about arrivals")
    raise TraceError(f"{name}: row 1 is {shown(header.strip())}; expected the header {FORMATS}")


def _workload(found: Rates) -> Workload:
    """Rates of a service; its requests have the lengths that the source's services have."""
    if found.whose == "azure":
        lengths = week_lengths()
    else:
        lengths = servegen_lengths(found.prompt_mean, found.generated_mean)
    try:
        return Workload(found.name, found.envelope, (Kind("all", 1.0, lengths),), cv=found.cv)
    except ValueError as error:
        raise TraceError(str(error)) from error


def week_lengths() -> Lengths:
    """Azure's conversations of 2024: distributions of that week, dependence of the hour of 2023."""
    hour = built_in_trace()
    names = [f"azure/cdf_{side}_tokens_conv_2024week.csv" for side in ("input", "output")]
    prompt, generated = (read_cdf(name, shipped(name)) for name in names)
    return with_margins(Lengths(hour.context_tokens, hour.generated_tokens), prompt, generated)
