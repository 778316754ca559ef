"""The codec: bounds of both sides, unknown keys, and the page that explains it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facility.wire import (
    MESSAGE_BYTES_MAX,
    Codec,
    Emergency,
    Lease,
    Message,
    NodeStatus,
    WireError,
    encode,
)

DOCUMENT = (Path(__file__).parents[1] / "docs" / "mqtt.md").read_text()
STATUS = NodeStatus(node="n01", session="s1", state="ready")


def changed(**keys: object) -> bytes:
    """A node status with some keys changed."""
    return json.dumps({**json.loads(encode(STATUS)), **keys}).encode()


def test_what_is_encoded_is_decoded() -> None:
    assert Codec().decode(encode(STATUS), NodeStatus) == STATUS


def test_unknown_keys_are_ignored_so_that_either_side_may_be_newer() -> None:
    assert Codec().decode(changed(colour="blue"), NodeStatus) == STATUS


@pytest.mark.parametrize(
    "keys",
    [
        {"node": ""},
        {"node": "n01\n"},
        {"node": "N01"},
        {"node": "a/b"},
        {"node": "+"},
        {"node": "n" * 64},
        {"state": "alive"},
        {"type": "lease"},
        {"session": None},
    ],
)
def test_what_is_not_allowed_is_refused(keys: dict[str, object]) -> None:
    with pytest.raises(WireError):
        Codec().decode(changed(**keys), NodeStatus)


@pytest.mark.parametrize("node", ["n", "n" * 63, "a-b", "0"])
def test_names_at_the_bounds_are_read(node: str) -> None:
    assert Codec().decode(changed(node=node), NodeStatus).node == node


def test_a_message_at_the_size_limit_is_read_and_one_above_is_not() -> None:
    room = MESSAGE_BYTES_MAX - len(changed(pad=""))
    assert Codec().decode(changed(pad="x" * room), NodeStatus) == STATUS
    with pytest.raises(WireError, match="at most"):
        Codec().decode(changed(pad="x" * (room + 1)), NodeStatus)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_wire_error(data: bytes) -> None:
    for kind in (Lease, Emergency):
        with pytest.raises(WireError):
            Codec().decode(data, kind)


def test_deep_nesting_is_refused_not_suffered() -> None:
    with pytest.raises(WireError):
        Codec().decode(b'{"a":' + b"[" * 100_000, Lease)


@pytest.mark.parametrize("kind", get_args(Message), ids=lambda kind: kind.__name__)
def test_every_message_is_on_the_page(kind: type[msgspec.Struct]) -> None:
    assert f"`{kind.__name__}`" in DOCUMENT


@pytest.mark.parametrize("kind", [Lease, Emergency], ids=lambda kind: kind.__name__)
def test_every_key_of_what_agents_obey_is_on_the_page(kind: type[msgspec.Struct]) -> None:
    missing = [name for name in kind.__struct_fields__ if f'"{name}"' not in DOCUMENT]
    assert not missing
