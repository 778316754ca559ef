"""InfluxDB line protocol: what a value becomes, and that no name can forge a line."""

from __future__ import annotations

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from daemon.store.changes import ChangeLog
from daemon.store.lineprotocol import Lines, line, tag_value
from facility.wire import Mode, Quality
from tests.history_values import NOW_S, decision, domain, event, frame, gpu, node_decision

Parsed = tuple[str, dict[str, str], dict[str, float | str], int]


def parsed(text: str) -> Parsed:
    """Read one line by the rules of the protocol, independently of the code that wrote it.

    Unescaped commas, equals signs and spaces separate; quotes count in field values only.
    """
    head, rest = split_at(text, " ", quotes=False)
    fields_text, at = split_at(rest, " ", quotes=True)
    measurement, *tag_parts = split_all(head, ",", quotes=False)
    pairs = [split_at(part, "=", quotes=False) for part in tag_parts]
    tags = {unescaped(key): unescaped(value) for key, value in pairs}
    assert len(tags) == len(pairs)
    fields: dict[str, float | str] = {}
    for part in split_all(fields_text, ",", quotes=True):
        key, value = split_at(part, "=", quotes=True)
        assert key not in fields
        if value.startswith('"'):
            assert value.endswith('"')
            assert len(value) >= 2
            fields[key] = re.sub(r"\\(.)", r"\1", value[1:-1])
        else:
            fields[key] = float(value)
            assert any(c in value for c in ".e"), f"{value} is no float"
    return measurement, tags, fields, int(at)


def split_all(text: str, separator: str, *, quotes: bool) -> list[str]:
    """Split at every separator that is neither escaped nor, with `quotes`, quoted."""
    parts, current, quoted, index = [], "", False, 0
    while index < len(text):
        char = text[index]
        if char == "\\" and index + 1 < len(text):
            current += text[index : index + 2]
            index += 2
            continue
        quoted ^= quotes and char == '"'
        if char == separator and not quoted:
            parts.append(current)
            current = ""
        else:
            current += char
        index += 1
    assert not quoted, f"a quote is open in {text!r}"
    return [*parts, current]


def split_at(text: str, separator: str, *, quotes: bool) -> tuple[str, str]:
    """Split at the first separator that is neither escaped nor quoted."""
    first = split_all(text, separator, quotes=quotes)[0]
    assert len(first) < len(text), f"no {separator!r} in {text!r}"
    return first, text[len(first) + 1 :]


def unescaped(text: str) -> str:
    return text.replace("\\,", ",").replace("\\=", "=").replace("\\ ", " ")


def test_a_frame_becomes_lines_with_floats_and_units() -> None:
    lines = Lines(site="s")
    one = frame(gpu(), meter_w=900.0, at_s=NOW_S + 1)
    first, node = map(parsed, lines.telemetry(one))
    assert first[:2] == ("gpu", {"site": "s", "node": "n1", "gpu": "GPU-a"})
    assert first[2]["power_w"] == 550.0
    assert first[2]["sm_clock_mhz"] == 1_410.0
    assert first[3] == (NOW_S + 1) * 1_000_000
    assert node[:2] == ("node", {"site": "s", "node": "n1"})
    assert (node[2]["meter_power_w"], node[2]["gpus_power_w"]) == (900.0, 550.0)
    samples = [parsed(text) for text in lines.gpu_samples(one)]
    assert [(s[2]["power_sample_w"], s[3] - first[3]) for s in samples] == [
        (500.0, -500_000),
        (600.0, 0),
    ]


def test_a_missing_reading_is_left_out_and_its_worst_case_is_named_so() -> None:
    reading = gpu(samples_w=(700.0,), quality=Quality.MISSING, temperature_c=None)
    lines = Lines(site="s")
    _, _, fields, _ = parsed(lines.telemetry(frame(reading))[0])
    assert "power_w" not in fields
    assert "temperature_c" not in fields
    assert fields["worst_case_power_w"] == 700.0
    assert lines.gpu_samples(frame(reading)) == []


def test_a_decision_becomes_domains_and_changes() -> None:
    one = decision(domain(mode=Mode.BRAKE, temperature_c=31.0), nodes=(node_decision(),))
    lines = Lines(site="s")
    (state,) = [parsed(text) for text in lines.domains(one)]
    assert state[:2] == ("domain", {"site": "s", "domain": "row-1", "kind": "row"})
    assert (state[2]["mode_level"], state[2]["capacity_w"]) == (3.0, 50_000.0)
    changes = [parsed(text) for text in lines.changes(one, ChangeLog().changes(one))]
    assert [change[1].get("subject", "") for change in changes] == ["", "row-1", "n1"]
    assert changes[2][2]["ceiling_mhz"] == 1_500.0
    assert changes[2][2]["decision_id"] == "d1"


def test_events_of_the_same_instant_do_not_overwrite_each_other() -> None:
    lines = Lines(site="s")
    times = [parsed(lines.event(event(number)))[3] for number in range(3)]
    assert times == [NOW_S * 1_000_000 + offset for offset in range(3)]
    assert parsed(lines.event(event(at_s=NOW_S - 60.0)))[3] == (NOW_S - 60.0) * 1_000_000


nasty = st.text(
    st.sampled_from('a\\,= "\n\r\t\x00\u2028é') | st.characters(exclude_categories=["Cs"])
)


@given(nasty, nasty, nasty, st.floats())
def test_no_name_or_sentence_can_add_a_tag_a_field_or_a_line(
    tag: str, other: str, sentence: str, number: float
) -> None:
    tags = (("tag", tag), ("other", other))
    text = line("m", tags, (("x_w", number), ("y_w", 1.0)), NOW_S, (("sentence", sentence),))
    assert len(text.splitlines()) == 1
    measurement, read_tags, fields, at = parsed(text)
    assert (measurement, at) == ("m", int(NOW_S * 1e6))
    assert set(read_tags) == {key for key, value in tags if tag_value(value)}
    assert set(fields) == {"y_w", "sentence"} | ({"x_w"} if math.isfinite(number) else set())
    if math.isfinite(number):
        assert fields["x_w"] == number
    if sentence.isprintable():
        assert fields["sentence"] == sentence
    if tag.isprintable() and "\\" not in tag and tag == tag.strip() and tag:
        assert read_tags["tag"] == tag


def test_a_line_without_a_field_is_no_line() -> None:
    assert line("m", (("tag", "x"),), (("x_w", None), ("y_w", math.nan)), NOW_S) == ""
