"""InfluxDB line protocol: what a reading, a decision and an event look like as lines.

Strings are built by hand: 264,000 lines a second against 24,000 with the client's `Point`
(components 3). Tags are what one groups by and come from the site file; fields are floats with the
unit in the key, so that no field ever changes its type, and sentences are strings. The precision is
microseconds everywhere. Names and texts are data here: nothing in them can add a tag, a field or a
line. Nothing here sends anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Final

from daemon.store.changes import Change
from daemon.store.rollups import MODES
from facility.decisions import Decision
from facility.wire import DomainState, Event, GpuReading, NodeTelemetry, Quality

FRAME_S_MAX: Final = 5.0

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]+")
_TAG_SPECIAL: Final = re.compile(r"([,= ])")
_FIELD_SPECIAL: Final = re.compile(r'(["\\])')


def tag_value(text: str) -> str:
    """A tag's value, escaped; empty means that the tag must be left out.

    Line breaks become spaces and backslashes slashes: the protocol has no safe way to write either
    in a tag (a backslash at the end would swallow the comma after it).
    """
    clean = _CONTROL.sub(" ", text).replace("\\", "/").strip()
    return _TAG_SPECIAL.sub(r"\\\1", clean)


def text_field(text: str) -> str:
    """A string field's value with its quotes; line breaks become spaces."""
    return '"' + _FIELD_SPECIAL.sub(r"\\\1", _CONTROL.sub(" ", text)) + '"'


def line(
    measurement: str,
    tags: Iterable[tuple[str, str]],
    numbers: Iterable[tuple[str, float | None]],
    at_s: float,
    texts: Iterable[tuple[str, str]] = (),
) -> str:
    """One line; a number that is missing or not finite is left out, and "" is all that is left.

    Measurement and keys are ours and plain. Values are escaped.
    """
    head = measurement
    for key, value in tags:
        escaped = tag_value(value)
        if escaped:
            head += f",{key}={escaped}"
    fields = [
        f"{key}={float(value)!r}"
        for key, value in numbers
        if value is not None and math.isfinite(value)
    ]
    fields += [f"{key}={text_field(text)}" for key, text in texts]
    return f"{head} {','.join(fields)} {_micros(at_s)}" if fields else ""


class Lines:
    """Turns values into lines of one site. One thread uses it."""

    def __init__(self, *, site: str) -> None:
        """Start without a past: the first frame of a node is taken to span 1 s."""
        self._site = ("site", site)
        self._frame_s: dict[str, float] = {}
        self._heads: dict[tuple[str, str], str] = {}
        self._event_us = 0

    def gpu_samples(self, frame: NodeTelemetry) -> list[str]:
        """Every raw sample of the frame, as `gpu` lines that carry power alone."""
        last_s = self._frame_s.get(frame.node, frame.sampled_at_s - 1.0)
        self._frame_s[frame.node] = frame.sampled_at_s
        span_s = frame.sampled_at_s - last_s
        span_us = 1e6 * (min(span_s, FRAME_S_MAX) if span_s > 0.0 else 1.0)
        end_us = _micros(frame.sampled_at_s)
        lines: list[str] = []
        for gpu in frame.gpus:
            samples_w = () if gpu.quality is Quality.MISSING else gpu.power_samples_w
            if not samples_w:
                continue
            head = self._head(frame.node, gpu.uuid)
            step_us = span_us / len(samples_w)
            begin_us = end_us - step_us * (len(samples_w) - 1)
            lines += [
                f"{head} power_sample_w={float(power_w)!r} {int(begin_us + i * step_us)}"
                for i, power_w in enumerate(samples_w)
            ]
        return lines

    def telemetry(self, frame: NodeTelemetry) -> list[str]:
        """One `gpu` line per GPU and one `node` line."""
        lines = [
            f"{self._head(frame.node, gpu.uuid)} {fields} {_micros(frame.sampled_at_s)}"
            for gpu in frame.gpus
            if (fields := _gpu_fields(gpu))
        ]
        numbers = (
            ("gpus_power_w", sum(gpu.power_w for gpu in frame.gpus)),
            ("gpus_power_w_max", sum(gpu.power_w_max for gpu in frame.gpus)),
            ("meter_power_w", frame.node_power_w),
            ("inlet_temperature_c", frame.inlet_temperature_c),
            ("gpus_missing_count", sum(gpu.quality is Quality.MISSING for gpu in frame.gpus)),
        )
        tags = (self._site, ("node", frame.node))
        return [*lines, line("node", tags, numbers, frame.sampled_at_s)]

    def domains(self, decision: Decision) -> list[str]:
        """One `domain` line per domain of the cycle; the mode as its severity, 0 to 3."""
        return [self._domain(state, decision.wall_s) for state in decision.domains]

    def changes(self, decision: Decision, changes: Sequence[Change]) -> list[str]:
        """One `decision` line per change: the sentence, and the ceiling where there is one."""
        lines = []
        for change in changes:
            tags = (self._site, ("kind", change.kind), ("subject", change.subject))
            ceiling_mhz = change.detail.get("ceiling_mhz")
            texts = (
                ("sentence", change.sentence),
                ("mode", change.mode),
                ("decision_id", decision.decision_id),
            )
            numbers = (("changes_count", 1.0), ("ceiling_mhz", ceiling_mhz))
            lines.append(line("decision", tags, numbers, decision.wall_s, texts))
        return lines

    def event(self, event: Event) -> str:
        """One `event` line. Its time is moved by microseconds: equal times would overwrite."""
        at_us = _micros(event.at_s)
        if at_us <= self._event_us < at_us + 1_000_000:
            at_us = self._event_us + 1
        self._event_us = at_us
        tags = (
            self._site,
            ("event", event.event),
            ("severity", event.severity),
            ("source", event.source),
            ("subject", event.subject),
        )
        texts = (("sentence", event.sentence), ("decision_id", event.decision_id))
        return line("event", tags, (("events_count", 1.0),), at_us / 1e6, texts)

    def _domain(self, state: DomainState, wall_s: float) -> str:
        tags = (self._site, ("domain", state.domain), ("kind", state.kind))
        numbers = (
            ("power_w", state.power_w),
            ("forecast_w", state.forecast_w),
            ("exposure_w", state.exposure_w),
            ("capacity_w", state.capacity_w),
            ("temperature_c", state.temperature_c),
            ("mode_level", float(MODES.index(state.mode))),
            ("nodes_count", state.nodes_count),
            ("nodes_missing_count", state.nodes_missing_count),
        )
        return line("domain", tags, numbers, wall_s)

    def _head(self, node: str, gpu: str) -> str:
        """Measurement and tags of a GPU, escaped once: there are eleven lines a second of each."""
        head = self._heads.get((node, gpu))
        if head is None:
            tags = ((key, tag_value(text)) for key, text in (self._site, ("node", node)))
            head = "gpu" + "".join(f",{key}={text}" for key, text in tags)
            head += f",gpu={tag_value(gpu) or '-'}"
            self._heads[node, gpu] = head
        return head


def _gpu_fields(gpu: GpuReading) -> str:
    """The fields of one GPU, missing ones left out: a worst case must not look like a reading."""
    missing = gpu.quality is Quality.MISSING
    numbers: tuple[tuple[str, float | None], ...] = (
        ("power_w", None if missing else gpu.power_w),
        ("power_w_max", None if missing else gpu.power_w_max),
        ("worst_case_power_w", gpu.power_w if missing else None),
        ("power_limit_w", gpu.power_limit_w),
        ("sm_clock_mhz", gpu.sm_clock_mhz or None),
        ("ceiling_mhz", gpu.ceiling_mhz or None),
        ("temperature_c", gpu.temperature_c),
        ("margin_c", gpu.margin_c),
        ("memory_temperature_c", gpu.memory_temperature_c),
        ("energy_j", gpu.energy_j),
        ("power_throttle_s", gpu.power_throttle_s),
        ("thermal_throttle_s", gpu.thermal_throttle_s),
        ("brake_s", gpu.brake_s),
    )
    return ",".join(
        f"{key}={float(value)!r}"
        for key, value in numbers
        if value is not None and math.isfinite(value)
    )


def _micros(at_s: float) -> int:
    return round(at_s * 1e6)
