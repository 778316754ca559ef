"""Views as lines of text, with how loud each line is. It colours and never leaves anything out."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TextIO

from daemon.operator.overview import ControllerView, DomainView, NodesView, Overview
from facility.wire import Event

Level = Literal["plain", "head", "good", "notice", "bad"]

STYLES: Final[dict[Level, tuple[str, str]]] = {
    "plain": ("", ""),
    "head": ("1", "bold"),
    "good": ("32", "green"),
    "notice": ("33", "yellow"),
    "bad": ("1;31", "bold red"),
}
"""For each level the escape code of a terminal, and the same as `rich` calls it."""

SIGNS: Final = {"normal": "●", "shaving": "▼", "emergency": "▲", "brake": "■", "stale": "?"}
_MODE_LEVELS: Final[dict[str, Level]] = {
    "normal": "plain", "shaving": "notice", "emergency": "bad", "brake": "bad", "stale": "bad",
}  # fmt: skip
_SEVERITY_LEVELS: Final[dict[str, Level]] = {"warning": "notice", "critical": "bad"}
_HEAD: Final = ("domain", "kind", "mode", "power kW", "forecast", "capacity", "load", "missing", "")
_LEFT: Final = 3
"""Columns of words, which stand to the left; numbers stand to the right."""


INCOMPLETE: Final = (
    "this may not be all: the broker did not give our marker back, because this account may not"
    " publish, or because it drops messages (Mosquitto: raise max_queued_messages)"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text, and how loud it is."""

    text: str
    level: Level = "plain"


def overview_lines(view: Overview) -> list[Line]:
    """A site on a page: the verdict, the alarms, who leads, every domain, the nodes."""
    lines = [
        Line(f"site {view.site} at {view.broker}, {utc(view.at_s)}", "head"),
        Line(view.headline, "good" if view.ok else "bad"),
    ]
    lines += [Line(f"! {alarm}", "bad") for alarm in view.alarms]
    if view.controllers:
        lines += [Line(""), *(_controller(one) for one in view.controllers)]
    if view.domains:
        lines += [Line(""), *_domain_table(view.domains)]
    if view.nodes.count:
        lines += [Line(""), *_node_lines(view.nodes)]
    if view.messages_invalid_count:
        lines.append(Line(f"{view.messages_invalid_count} messages did not validate", "notice"))
    if not view.complete:
        lines.append(Line(INCOMPLETE, "notice"))
    return lines


def event_line(event: Event) -> Line:
    """An event: when, how loud, what, about whom, its sentence, and who says so."""
    source = f"  [{event.source}]" if event.source != "controller" else ""
    text = (
        f"{utc(event.at_s)}  {event.severity:<8}  {event.event:<16}  {event.subject or '-':<12}"
        f"  {event.sentence}{source}"
    )
    return Line(text, _SEVERITY_LEVELS.get(event.severity, "plain"))


def utc(at_s: float) -> str:
    """A time of day, RFC 3339 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))


def kilowatts(power_w: float | None) -> str:
    """Power in kW, a dash where it is not known."""
    return "-" if power_w is None else f"{power_w / 1000.0:.1f}"


def mhz(clock_mhz: int | None) -> str:
    """A clock, a question mark where it is not known."""
    return "? MHz" if clock_mhz is None else f"{clock_mhz} MHz"


def counted(counts: Mapping[str, int]) -> str:
    """`38 ready, 2 lost`."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def printable(text: str) -> str:
    """Text from the wire without anything that would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def has_colour(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to colour: on a terminal, unless NO_COLOR is set."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def write(lines: Sequence[Line], stream: TextIO) -> None:
    """Print lines, coloured where the stream is a terminal."""
    colour = has_colour(stream)
    for line in lines:
        code = STYLES[line.level][0] if colour else ""
        text = printable(line.text)
        print(f"\033[{code}m{text}\033[0m" if code else text, file=stream)


def domain_mode(domain: DomainView) -> str:
    """The word for what is done to a domain; stale instead of a mode that is no longer known."""
    return domain.mode or "stale"


def domain_level(domain: DomainView) -> Level:
    """How loud a domain is."""
    return _MODE_LEVELS[domain_mode(domain)]


def domain_sentence(domain: DomainView) -> str:
    """The controller's sentence, marked as old where it is."""
    if domain.live:
        return domain.sentence
    age = f"{domain.age_s:.0f} s ago" if domain.age_s >= 0.0 else f"in {-domain.age_s:.0f} s"
    return f"NOT LIVE, last word {age}: {domain.sentence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Rows in columns: the first `left` and the last to the left, numbers to the right."""
    cells = [list(head), *(list(row) for row in rows)]
    last = len(head) - 1
    widths = [max(len(row[place]) for row in cells) for place in range(last)] + [0]
    return [
        "  ".join(
            text.ljust(width) if place < left or place == last else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _controller(one: ControllerView) -> Line:
    role = "leader" if one.leader else "does not lead"
    if one.age_s is None:
        word = "no word yet"
    elif one.age_s < 0.0:
        word = f"last word {-one.age_s:.1f} s ahead of this clock"
    else:
        word = f"last word {one.age_s:.1f} s ago"
    text = f"controller {one.controller}: {one.state}, {role}, epoch {one.epoch}, {word}"
    return Line(text, "plain" if one.live else "bad")


def _domain_table(domains: Sequence[DomainView]) -> list[Line]:
    texts = table(_HEAD, [_domain_row(one) for one in domains], left=_LEFT)
    levels: list[Level] = ["head", *(domain_level(one) for one in domains)]
    return [Line(text, level) for text, level in zip(texts, levels, strict=True)]


def _domain_row(one: DomainView) -> tuple[str, ...]:
    load = (
        f"{100.0 * one.power_w / one.capacity_w:.0f} %" if one.power_w and one.capacity_w else "-"
    )
    missing = (
        "-" if one.nodes_missing_count is None else f"{one.nodes_missing_count}/{one.nodes_count}"
    )
    mode = domain_mode(one)
    on = f" [{', '.join(one.contingencies)} on]" if one.contingencies else ""
    return (
        one.domain,
        one.kind,
        f"{SIGNS[mode]} {mode}",
        kilowatts(one.power_w),
        kilowatts(one.forecast_w),
        kilowatts(one.capacity_w),
        load,
        missing,
        domain_sentence(one) + on,
    )


def _node_lines(nodes: NodesView) -> list[Line]:
    lines = [Line(f"nodes: {counted(nodes.by_status)}")]
    if nodes.by_reason:
        lines.append(Line(f"clocks held by: {counted(nodes.by_reason)}"))
    lines += [
        Line(f"  {name} cannot be controlled: {why}", "notice")
        for name, why in nodes.uncontrollable.items()
    ]
    lines += [
        Line(f"  {name} does not follow: {why}", "notice") for name, why in nodes.deviating.items()
    ]
    return lines
