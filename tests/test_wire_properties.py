"""Every kind of message: what is in bounds comes back as it was, what is out of them is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facility.loader import ConfigError, load_any
from facility.wire import Codec, GpuReading, Lease, Message, NodeStatus, WireError, encode
from tests.fuzz.files import check_refusal, config_seeds
from tests.fuzz.messages import wire_seeds

KINDS = get_args(Message)
GOOD = dict(zip(KINDS, (json.loads(seed[1:]) for seed in wire_seeds()), strict=True))


def bounds(kind: type[msgspec.Struct]) -> Iterator[tuple[str, float, float, type]]:
    """The numbers of a message at its top: key, least, most, and whether it is whole."""
    for field in msgspec.inspect.type_info(kind).fields:  # type: ignore[attr-defined]
        number = field.type
        if isinstance(number, msgspec.inspect.IntType | msgspec.inspect.FloatType):
            whole = int if isinstance(number, msgspec.inspect.IntType) else float
            if number.ge is not None and number.le is not None:
                yield field.encode_name, number.ge, number.le, whole


BOUNDED = [(kind, *found) for kind in KINDS for found in bounds(kind)]


@pytest.mark.parametrize(
    ("kind", "key", "least", "most", "whole"), BOUNDED, ids=lambda value: str(value)[-24:]
)
def test_a_number_at_its_bounds_is_read_and_beyond_them_is_not(
    kind: type[msgspec.Struct], key: str, least: float, most: float, whole: type
) -> None:
    codec = Codec()
    for value in (whole(least), whole(most)):
        message = codec.decode(json.dumps(GOOD[kind] | {key: value}).encode(), kind)
        assert getattr(message, key) == value
        assert codec.decode(encode(message), kind) == message
    for value in (least - 1, most + 1 if whole is int else most * 1.001):
        with pytest.raises(WireError, match=key):
            codec.decode(json.dumps(GOOD[kind] | {key: value}).encode(), kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("value", [None, [], {}, "\x00" * 5_000, float("nan"), 10**400])
def test_no_key_takes_a_value_of_another_kind(kind: type[msgspec.Struct], value: Any) -> None:
    codec = Codec()
    for key in GOOD[kind]:
        data = json.dumps(GOOD[kind] | {key: value}).encode()
        try:
            message = codec.decode(data, kind)
        except WireError:
            continue
        assert codec.decode(encode(message), kind) == message


names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
uuids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=96)
leases = st.builds(
    Lease,
    node=names,
    session=names,
    basis_seq=st.integers(0, 2**62),
    epoch=st.integers(0, 2**53),
    sequence=st.integers(0, 2**62),
    decision_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=1_024),
    lease_s=st.floats(0.0, 3_600.0, exclude_min=True),
    ceilings_mhz=st.dictionaries(uuids, st.integers(0, 10_000), max_size=64),
    contingency_ceilings_mhz=st.dictionaries(names, st.integers(0, 10_000), max_size=8),
)
readings = st.builds(
    GpuReading,
    uuid=uuids,
    power_w=st.floats(0.0, 20_000.0),
    power_w_max=st.floats(0.0, 20_000.0),
    power_samples_w=st.lists(st.floats(0.0, 20_000.0), max_size=20).map(tuple),
    temperature_c=st.none() | st.floats(-60.0, 200.0),
    event_reasons=st.integers(0, 2**62),
)


@given(leases | readings)
def test_whatever_is_in_bounds_comes_back_as_it_was(message: Lease | GpuReading) -> None:
    kind: type[Any] = type(message)
    assert Codec().decode(encode(message), kind) == message


@given(st.text(max_size=70))
def test_a_name_is_read_exactly_when_it_may_be_one_level_of_a_topic(text: str) -> None:
    from facility.topics import NAME_PATTERN

    data = json.dumps(GOOD[NodeStatus] | {"node": text}).encode()
    if NAME_PATTERN.fullmatch(text):
        assert Codec().decode(data, NodeStatus).node == text
    else:
        with pytest.raises(WireError):
            Codec().decode(data, NodeStatus)


pieces = st.sampled_from(
    ["a", "site", "nodes", ": ", ":", "- ", "\n", "  ", "[", "]", "{", "}", ",", "'", '"', "&x ",
     "*x", "!!int ", "#", "|", ">", "1", "-1", ".nan", "~", "\t", "\u2028", "? ", "---\n", "é"]
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(pieces, max_size=30).map("".join))
def test_any_text_loads_or_every_problem_has_a_line_of_it(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_any(text, "f")
    check_refusal(refused.value, text)


@given(st.integers(0, 7), st.data())
def test_a_good_file_cut_anywhere_loads_or_is_refused_by_line(place: int, data: Any) -> None:
    text = config_seeds()[place][1:].decode()
    cut = text[: data.draw(st.integers(0, len(text)))]
    try:
        load_any(cut, "f")
    except ConfigError as error:
        check_refusal(error, cut)
