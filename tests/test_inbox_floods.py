"""What one sender may cost the controller: beyond its budget it harms nobody but itself."""

from __future__ import annotations

import msgspec
import pytest

from controllers.inbox import EPOCH_AHEAD_MAX, FRAMES_BYTES_MAX
from controllers.senders import (
    ALARM_AGAIN_S,
    FRAMES_MAX,
    NODE_BURST_S,
    NODE_BYTES,
    NODE_MESSAGES_PER_S,
    ORDER_MESSAGES,
)
from facility.wire import MESSAGE_BYTES_MAX, Emergency, Event, NodeStatus, Request, encode
from tests.row import WALL_START_S, Row, site_of

STATUS = NodeStatus(node="n01", session="s1", state="ready")


@pytest.fixture
def row() -> Row:
    row = Row(site_of(nodes=4))
    row.run(5)
    row.inbox.take_events()
    return row


def limited(row: Row, sender: str) -> int:
    return row.inbox.refused[sender, "rate-limited"]


def node_burst(row: Row) -> int:
    """How many messages a node may send after a quiet time."""
    frames = FRAMES_MAX / row.site.control.telemetry_s
    return int(NODE_BURST_S * (NODE_MESSAGES_PER_S + frames))


def test_a_node_may_send_a_burst_and_not_one_message_more(row: Row) -> None:
    row.now_s += 60.0
    for _ in range(node_burst(row)):
        row.send(row.topics.node("n01", "status"), STATUS)
    assert limited(row, "node/n01") == 0
    row.send(row.topics.node("n01", "status"), STATUS)
    assert limited(row, "node/n01") == 1


def test_a_nodes_bytes_are_limited_as_well_as_its_messages(row: Row) -> None:
    row.now_s += 60.0
    pad = b'"' + b"x" * (MESSAGE_BYTES_MAX - 2) + b'"'
    for _ in range(int(NODE_BYTES.burst / MESSAGE_BYTES_MAX)):
        row.inbox.receive(row.now_s, row.wall_s, row.topics.node("n01", "applied"), pad)
    assert limited(row, "node/n01") == 0
    row.send(row.topics.node("n01", "status"), STATUS)
    assert limited(row, "node/n01") == 1


def test_a_flood_in_one_nodes_name_harms_no_other(row: Row) -> None:
    others = set(row.site.nodes) - {"n01"}
    for _ in range(int(row.site.control.stale_s) + 2):
        for _ in range(2_000):
            row.inbox.receive(row.now_s, row.wall_s, row.topics.node("n01", "telemetry"), b"{}")
        decision = row.step()
        assert not {node.node for node in decision.nodes if node.missing} & others
        assert {lease.node for lease in decision.leases} >= others
    assert limited(row, "node/n01") > 8_000


def test_after_the_flood_the_node_is_heard_again(row: Row) -> None:
    for _ in range(5_000):
        row.inbox.receive(row.now_s, row.wall_s, row.topics.node("n01", "status"), b"x")
    assert limited(row, "node/n01") > 0
    assert "n01" in {lease.node for lease in row.run(2).leases}


def test_a_flood_is_alarmed_once_and_again_while_it_goes_on(row: Row) -> None:
    def flood() -> list[Event]:
        for _ in range(1_000):
            row.inbox.receive(row.now_s, row.wall_s, row.topics.node("n01", "status"), b"x")
        return [event for event in row.inbox.take_events() if event.event == "rate-limited"]

    assert [event.subject for event in flood()] == ["node/n01"]
    row.now_s += ALARM_AGAIN_S - 1.0
    assert flood() == []
    row.now_s += 2.0
    assert [event.subject for event in flood()] == ["node/n01"]


def test_strangers_share_one_budget_and_one_alarm(row: Row) -> None:
    for number in range(5_000):
        row.inbox.receive(row.now_s, row.wall_s, row.topics.node(f"x{number}", "info"), b"x")
    assert limited(row, "strangers") > 4_000
    alarms = [event for event in row.inbox.take_events() if event.event == "rate-limited"]
    assert [event.subject for event in alarms] == ["strangers"]
    assert not any(node.missing for node in row.step().nodes)


def test_a_flood_of_one_verb_leaves_the_others_open(row: Row) -> None:
    cap = Request(verb="cap", args={"domain": "row-1", "cap_w": 1_000.0})
    for _ in range(10_000):
        row.send(row.topics.request("cap"), cap)
    row.send(row.topics.request("brake"), Request(verb="brake", args={"domain": "row-1"}))
    requests = row.inbox.take_requests()
    assert len(requests) == int(ORDER_MESSAGES.burst) + 1
    assert requests[-1].verb == "brake"


def emergency(sequence: int, domain: str = "row-1") -> Emergency:
    return Emergency(domain=domain, active=("brake",), epoch=6, sequence=sequence, issued_at_s=0.0)


def test_of_a_flood_of_emergencies_the_last_one_is_always_kept(row: Row) -> None:
    for sequence in range(5_000):
        row.send(row.topics.domain("row-1", "emergency"), emergency(sequence))
    row.send(row.topics.domain("aisle-1", "emergency"), emergency(1, "aisle-1"))
    kept = row.inbox.take_emergencies()
    assert len(kept) == int(ORDER_MESSAGES.burst) + 2
    assert {message.domain for message in kept} == {"row-1", "aisle-1"}
    assert kept[-1].sequence == 4_999
    assert row.inbox.take_emergencies() == ()


def test_garbage_over_budget_on_an_emergency_topic_is_counted_when_it_is_read(row: Row) -> None:
    for _ in range(200):
        row.inbox.receive(row.now_s, row.wall_s, row.topics.domain("row-1", "emergency"), b"x")
    before = row.inbox.refused["row-1", "garbage"]
    assert row.inbox.take_emergencies() == ()
    assert row.inbox.refused["row-1", "garbage"] == before + 1


def test_events_told_in_a_nodes_name_do_not_cost_it_its_telemetry(row: Row) -> None:
    event = Event(event="x", severity="info", at_s=0.0, source="node/n01")
    for _ in range(5_000):
        row.send(row.topics.event, event)
    assert limited(row, "event/n01") > 4_000
    assert 0 < len(row.inbox.take_node_events()) <= node_burst(row)
    assert not any(node.missing for node in row.step().nodes)


def test_frames_beyond_the_bytes_that_are_kept_still_reach_the_cycle(row: Row) -> None:
    row.inbox.take_frames()
    frame = row.frame("n01")
    pad = b" " * (MESSAGE_BYTES_MAX - 20_000)
    row.now_s += 1.0
    sent = FRAMES_BYTES_MAX // MESSAGE_BYTES_MAX + 50
    for number in range(sent):
        row.now_s += 1.0
        frame = msgspec.structs.replace(frame, seq=1_000 + number, sampled_at_s=row.wall_s)
        payload = encode(frame) + pad
        row.inbox.receive(row.now_s, row.wall_s, row.topics.node("n01", "telemetry"), payload)
    view = row.inbox.snapshot(row.now_s, row.wall_s, frozenset()).nodes["n01"]
    assert view.telemetry == frame
    kept = row.inbox.take_frames()
    assert len(kept) * len(payload) <= FRAMES_BYTES_MAX < (len(kept) + 1) * len(payload)
    row.inbox.receive(row.now_s, row.wall_s, row.topics.node("n01", "telemetry"), payload)


@pytest.mark.parametrize(("ahead", "believed"), [(0, True), (1, False)])
def test_an_epoch_that_no_clock_could_set_is_not_believed(
    row: Row, ahead: int, believed: bool
) -> None:
    epoch = int(WALL_START_S + row.now_s) + EPOCH_AHEAD_MAX + ahead
    row.reports("n01", "", epoch=epoch, reason="no-lease")
    found, _ = row.inbox.snapshot(row.now_s, row.wall_s, frozenset()).epoch_above(
        row.epoch, fresh_s=4.0
    )
    assert (found == epoch) is believed
    assert row.inbox.refused["n01", "impossible-epoch"] == (not believed)
