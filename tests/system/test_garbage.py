"""What anybody may shout onto the bus changes nothing but a counter."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from facility.wire import Lease, encode
from tests.system.processes import wait_until
from tests.system.rig import Rig

pytestmark = pytest.mark.integration

REFUSED: Final = "ampacity_messages_refused_total"
LEASES_AFTER: Final = 4
"""So many cycles are looked at after the last bad message."""

Frame = dict[str, Any]
Change = Callable[[Frame], Frame]


def first_gpu(frame: Frame, **keys: Any) -> Frame:
    """The frame with other values on its first GPU."""
    gpus = [gpu | keys if place == 0 else gpu for place, gpu in enumerate(frame["gpus"])]
    return frame | {"gpus": gpus, "seq": frame["seq"] + 1_000_000}


CHANGES: Final[dict[str, Change]] = {
    "negative": lambda frame: first_gpu(frame, power_w=-1.0),
    "beyond any GPU": lambda frame: first_gpu(frame, power_w=1e9),
    "a text for a number": lambda frame: first_gpu(frame, power_w="much"),
    "from the future": lambda frame: (
        first_gpu(frame) | {"sampled_at_s": frame["sampled_at_s"] + 3_600.0}
    ),
    "from long ago": lambda frame: (
        first_gpu(frame) | {"sampled_at_s": frame["sampled_at_s"] - 3_600.0}
    ),
    "of another session": lambda frame: first_gpu(frame) | {"session": "another-life"},
    "of an earlier frame": lambda frame: frame | {"seq": 0},
    "in another node's name": lambda frame: first_gpu(frame) | {"node": "n02"},
    "of other GPUs": lambda frame: first_gpu(frame, uuid="GPU-of-somebody-else"),
}
RAW: Final = {
    "bytes": b"\xff\x00\xfe not a message",
    "nothing": b"",
    "a number": b"42",
    "cut off": b'{"type":"telemetry","node":"n01"',
}


def bad_frames(frame: Frame) -> list[bytes]:
    """Every bad message there is, made from one good frame."""
    not_a_number = json.dumps(first_gpu(frame, power_w=float("nan"))).encode()
    infinite = json.dumps(first_gpu(frame, power_w=123.25)).encode().replace(b"123.25", b"1e999")
    assert b"NaN" in not_a_number
    assert b"1e999" in infinite
    changed = [json.dumps(change(frame)).encode() for change in CHANGES.values()]
    return [*RAW.values(), not_a_number, infinite, *changed]


def wait_for_more_leases(rig: Rig) -> None:
    """Wait until every node has been sent some more leases."""
    before = {name: len(rig.listener.messages("lease", node=name)) for name in rig.hosts}
    wait_until(
        lambda: all(
            len(rig.listener.messages("lease", node=name)) >= count + LEASES_AFTER
            for name, count in before.items()
        ),
        "leases go on",
        but=rig.story,
    )


def writes_counts(rig: Rig) -> list[int]:
    return [truth.writes_count for host in rig.hosts.values() for truth in host.fake.truths()]


def test_garbage_telemetry_changes_a_counter_and_nothing_else(rig: Rig) -> None:
    wait_for_more_leases(rig)  # and so frames have been heard
    frame = json.loads(rig.listener.messages("telemetry", node="n01")[-1].payload)
    refused_before, writes_before = rig.metric(REFUSED), writes_counts(rig)
    epoch_before = rig.api("/api/v1/decision")["decision"]["decision_id"].split("-")[0]
    topic = rig.topics.node("n01", "telemetry")
    messages = bad_frames(frame)
    for message in messages:
        rig.listener.say(topic, message)
    stranger = json.dumps(frame | {"node": "n99"}).encode()
    rig.listener.say(rig.topics.node("n99", "telemetry"), stranger)
    sent = len(messages) + 1
    wait_until(
        lambda: rig.metric(REFUSED) >= refused_before + sent,
        f"{sent} messages are counted as refused",
        but=rig.story,
    )
    wait_for_more_leases(rig)
    assert rig.metric(REFUSED) == refused_before + sent
    assert writes_counts(rig) == writes_before
    assert all(rig.leased(name) for name in rig.hosts)
    assert not any(rig.node(name)["missing"] for name in rig.hosts)
    assert {node["node"] for node in rig.api("/api/v1/nodes")} == set(rig.hosts)
    again = rig.api("/api/v1/decision")["decision"]["decision_id"].split("-")[0]
    assert again == epoch_before


def test_leases_and_alarms_of_nobody_in_charge_change_no_clock(rig: Rig) -> None:
    wait_for_more_leases(rig)
    writes_before = writes_counts(rig)
    real = rig.listener.read(Lease, "lease", node="n01")[-1]
    low = dict.fromkeys(real.ceilings_mhz, 345)
    forged: dict[str, Frame] = {
        "an old epoch": {"epoch": real.epoch - 1, "sequence": real.sequence + 1_000},
        "another session": {"session": "another-life", "sequence": real.sequence + 1_000},
        "a frame that never was": {"basis_seq": real.basis_seq + 10_000},
    }
    topic = rig.topics.node("n01", "lease")
    for changes in forged.values():
        rig.listener.say(
            topic, json.dumps(as_json(real) | {"ceilings_mhz": low} | changes).encode()
        )
    rig.listener.say(topic, b"\x00garbage")
    rig.listener.say(rig.topics.domain("row-1", "emergency"), b"\x00garbage")
    wait_for_more_leases(rig)
    assert writes_counts(rig) == writes_before
    assert all(rig.leased(name) for name in rig.hosts)


def as_json(lease: Lease) -> Frame:
    found: Frame = json.loads(encode(lease))
    return found
