"""What a controller believes: everything else changes nothing but a counter."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.snapshot import Snapshot
from facility.wire import Applied, GpuApplied, NodeTelemetry, encode
from tests.row import Row, site_of


def seen(row: Row) -> Snapshot:
    """What the controller knows now."""
    return row.inbox.snapshot(row.now_s, row.wall_s, frozenset())


@pytest.fixture
def row() -> Row:
    """A row whose nodes have all reported once."""
    row = Row(site_of())
    row.step()
    row.seq += 1
    return row


def refused(row: Row, topic_node: str, payload: bytes) -> str:
    """Send a telemetry payload and return the one reason that it added to the counters."""
    before, known = dict(row.inbox.refused), seen(row)
    topic = row.topics.node(topic_node, "telemetry")
    row.inbox.receive(row.now_s, row.wall_s, topic, payload)
    added = {key for key, count in row.inbox.refused.items() if count != before.get(key, 0)}
    assert seen(row) == known, "a refused message must change nothing"
    assert len(added) == 1
    return added.pop()[1]


def altered(frame: NodeTelemetry, **changes: object) -> bytes:
    """A frame with some keys changed after encoding, so that bounds do not stop the test itself."""
    document = json.loads(encode(frame))
    document.update(changes)
    return json.dumps(document).encode()


def with_power(frame: NodeTelemetry, power_w: object) -> bytes:
    """A frame whose first GPU reports `power_w`."""
    document = json.loads(encode(frame))
    document["gpus"][0]["power_w"] = power_w
    return json.dumps(document).encode()


def test_a_good_frame_is_believed(row: Row) -> None:
    row.send(row.topics.node("n01", "telemetry"), row.frame("n01"))
    telemetry = seen(row).nodes["n01"].telemetry
    assert telemetry is not None
    assert telemetry.seq == row.seq
    assert not row.inbox.refused


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"\xff\xfe", b"null", b"[]", b"1e999", b'{"type":"telemetry"}', b"{" * 5_000],
)
def test_garbage_changes_nothing(row: Row, payload: bytes) -> None:
    assert refused(row, "n01", payload) == "garbage"


@pytest.mark.parametrize("power_w", [-1.0, 20_001.0, float("nan"), float("inf"), "700", None])
def test_an_impossible_power_changes_nothing(row: Row, power_w: object) -> None:
    assert refused(row, "n01", with_power(row.frame("n01"), power_w)) == "garbage"


@pytest.mark.parametrize("power_w", [0.0, 20_000.0])
def test_a_power_at_the_bounds_is_read(row: Row, power_w: float) -> None:
    topic = row.topics.node("n01", "telemetry")
    row.inbox.receive(row.now_s, row.wall_s, topic, with_power(row.frame("n01"), power_w))
    assert not row.inbox.refused


def test_a_frame_from_the_future_changes_nothing(row: Row) -> None:
    skew_s = row.site.control.clock_skew_s
    near = altered(row.frame("n01"), sampled_at_s=row.wall_s + skew_s - 0.01)
    far = altered(row.frame("n02"), sampled_at_s=row.wall_s + skew_s + 0.01)
    row.inbox.receive(row.now_s, row.wall_s, row.topics.node("n01", "telemetry"), near)
    assert not row.inbox.refused
    assert refused(row, "n02", far) == "from-the-future"


def test_a_frame_that_is_too_old_changes_nothing(row: Row) -> None:
    limit_s = row.site.control.clock_skew_s + row.site.control.stale_s
    young = altered(row.frame("n01"), sampled_at_s=row.wall_s - limit_s + 0.01)
    old = altered(row.frame("n02"), sampled_at_s=row.wall_s - limit_s - 0.01)
    row.inbox.receive(row.now_s, row.wall_s, row.topics.node("n01", "telemetry"), young)
    assert not row.inbox.refused
    assert refused(row, "n02", old) == "too-old"


def test_an_unknown_node_changes_nothing(row: Row) -> None:
    frame = altered(row.frame("n01"), node="n99")
    assert refused(row, "n99", frame) == "unknown-node"


def test_a_node_cannot_speak_for_another(row: Row) -> None:
    assert refused(row, "n02", encode(row.frame("n01"))) == "wrong-node"


def test_a_repeated_or_overtaken_frame_changes_nothing(row: Row) -> None:
    row.send(row.topics.node("n01", "telemetry"), row.frame("n01"))
    assert refused(row, "n01", encode(row.frame("n01"))) == "out-of-order"
    assert refused(row, "n01", altered(row.frame("n01"), seq=row.seq - 1)) == "out-of-order"


def test_a_frame_of_an_old_session_changes_nothing(row: Row) -> None:
    row.is_born("n01", session="s2")
    row.send(row.topics.node("n01", "telemetry"), new_life(row))
    assert refused(row, "n01", encode(row.frame("n01"))) == "old-session"


def new_life(row: Row) -> NodeTelemetry:
    """A frame of n01's session s2."""
    return msgspec.structs.replace(row.frame("n01"), session="s2")


def test_a_session_that_goes_on_speaking_was_not_ended_by_an_old_certificate(row: Row) -> None:
    """Somebody sends a certificate again that a restarted controller has never seen."""
    row.is_born("n01", session="s2")
    assert seen(row).nodes["n01"].missing
    row.send(row.topics.node("n01", "telemetry"), row.frame("n01"))
    assert not seen(row).nodes["n01"].missing


def test_a_last_frame_that_comes_late_does_not_hold_up_the_new_life(row: Row) -> None:
    row.is_born("n01", session="s2")
    row.send(row.topics.node("n01", "telemetry"), row.frame("n01"))
    row.send(row.topics.node("n01", "telemetry"), new_life(row))
    telemetry = seen(row).nodes["n01"].telemetry
    assert telemetry is not None
    assert telemetry.session == "s2"


def test_a_certificate_of_a_session_that_has_ended_does_not_silence_the_new_one(row: Row) -> None:
    topic = row.topics.node("n01", "info")
    first = seen(row).nodes["n01"].info
    assert first is not None
    second = msgspec.structs.replace(first, session="n01-second")
    for info in (second, first):
        row.inbox.receive(row.now_s, row.wall_s, topic, encode(info))
    assert seen(row).nodes["n01"].info == second
    third = msgspec.structs.replace(first, session="n01-third")
    for info in (third, first):
        row.inbox.receive(row.now_s, row.wall_s, topic, encode(info))
    assert seen(row).nodes["n01"].info == third
    assert row.inbox.refused["n01", "old-session"] == 1


def test_a_frame_with_other_gpus_changes_nothing(row: Row) -> None:
    frame = row.frame("n01")
    fewer = msgspec.structs.replace(frame, gpus=frame.gpus[1:])
    assert refused(row, "n01", encode(fewer)) == "other-gpus"


def test_a_will_of_an_old_session_does_not_lose_the_new_one(row: Row) -> None:
    row.says("n01", "lost")
    assert seen(row).nodes["n01"].why_missing == "agent lost"
    row.is_born("n01", session="s2")
    frame = msgspec.structs.replace(row.frame("n01"), session="s2")
    row.send(row.topics.node("n01", "telemetry"), frame)
    assert not seen(row).nodes["n01"].missing


@pytest.mark.parametrize("state", ["lost", "disconnected"])
def test_whoever_sends_frames_after_the_word_that_it_is_gone_is_there(row: Row, state: str) -> None:
    """The will of a connection that broke comes late, or again, when its agent is long back."""
    row.says("n01", state)
    assert seen(row).nodes["n01"].why_missing == f"agent {state}"
    row.now_s += 0.1
    row.send(row.topics.node("n01", "telemetry"), row.frame("n01"))
    assert not seen(row).nodes["n01"].missing


def test_a_last_frame_after_the_word_that_it_is_gone_keeps_a_node_until_it_is_stale(
    row: Row,
) -> None:
    row.says("n01", "disconnected")
    row.now_s += 0.1
    row.send(row.topics.node("n01", "telemetry"), row.frame("n01"))
    row.now_s += row.site.control.stale_s - 0.01
    assert not seen(row).nodes["n01"].missing
    row.now_s += 0.02
    assert seen(row).nodes["n01"].why_missing == "agent disconnected"
    assert seen(row).nodes["n01"].left


def test_a_flood_is_told_once_per_sender_and_counted_in_full(row: Row) -> None:
    topic = row.topics.node("n01", "telemetry")
    for _ in range(1_000):
        row.inbox.receive(row.now_s, row.wall_s, topic, b"garbage")
    refused = row.inbox.refused
    assert refused["n01", "garbage"] + refused["node/n01", "rate-limited"] == 1_000
    assert refused["n01", "garbage"] > 0
    events = [event for event in row.inbox.take_events() if event.event == "message-refused"]
    assert [event.subject for event in events] == ["n01"]


def test_a_flood_of_names_needs_bounded_memory(row: Row) -> None:
    for number in range(10_000):
        topic = row.topics.node(f"x{number}", "telemetry")
        row.inbox.receive(row.now_s, row.wall_s, topic, b"x")
    assert len(row.inbox.refused) <= 4_098
    assert sum(row.inbox.refused.values()) == 10_000


@given(st.binary(max_size=300), st.sampled_from(["telemetry", "info", "status", "applied", "x"]))
def test_no_bytes_on_any_topic_raise_or_are_believed(payload: bytes, what: str) -> None:
    row = Row(site_of(nodes=1))
    before = seen(row)
    row.inbox.receive(row.now_s, row.wall_s, row.topics.node("n01", what), payload)
    row.inbox.receive(row.now_s, row.wall_s, row.topics.request(what), payload)
    row.inbox.receive(row.now_s, row.wall_s, row.topics.domain("row-1", "emergency"), payload)
    row.inbox.receive(row.now_s, row.wall_s, f"elsewhere/{what}", payload)
    assert seen(row) == before
    assert row.inbox.take_requests() == ()


def answer_at_s(row: Row, after_s: float, accepted_mhz: int | None, *, sequence: int = 1) -> float:
    """A node reports under a lease; when that lease counts as answered."""
    row.now_s += after_s
    applied = Applied(
        node="n01",
        session="s1",
        decision_id="7-1",
        epoch=7,
        sequence=sequence,
        reason="lease",
        applied_at_s=row.wall_s,
        gpus={"GPU-n01-0": GpuApplied(requested_mhz=1200, accepted_mhz=accepted_mhz)},
    )
    row.send(row.topics.node("n01", "applied"), applied)
    view = seen(row).nodes["n01"]
    assert view.applied == applied
    assert view.applied_at_s is not None
    return view.applied_at_s


def test_a_rise_that_is_told_later_under_the_same_lease_is_no_late_answer(row: Row) -> None:
    first_s = answer_at_s(row, 0.1, 1100)
    assert answer_at_s(row, 0.8, 1200) == first_s
    assert answer_at_s(row, 0.1, 1200, sequence=2) == row.now_s


def test_a_lease_is_answered_when_the_driver_has_answered(row: Row) -> None:
    first_s = answer_at_s(row, 0.5, None)
    answered_s = answer_at_s(row, 0.8, 1100)
    assert answered_s == row.now_s > first_s
    assert answer_at_s(row, 0.8, 1200) == answered_s
