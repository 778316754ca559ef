"""The audit log: nothing is missing unnoticed, nothing can be edited unnoticed."""

from __future__ import annotations

import dataclasses
import json
import signal
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.store.audit import INBOX_MAX, Audit, open_audit
from daemon.store.chain import verify_audit
from daemon.store.history import StoreError
from facility.config import StoreConfig
from facility.wire import (
    Applied,
    Emergency,
    EndpointRoute,
    GpuApplied,
    Mode,
    Request,
    Response,
    Routing,
)
from tests.history_values import NOW_S, child, decision, domain, event, node_decision

ROOT = Path(__file__).parents[1]


def started(path: Path) -> Audit:
    audit = Audit(path, wall_s=lambda: NOW_S)
    audit.start()
    return audit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def audit(path: Path) -> Iterator[Audit]:
    log = started(path)
    yield log
    log.close()


def flushed(log: Audit) -> Audit:
    assert log.flush(timeout_s=10.0), log.counters()
    return log


def applied(sequence: int = 1) -> Applied:
    gpu = GpuApplied(requested_mhz=1_500, accepted_mhz=1_500, observed_mhz=1_410, cause="thermal")
    return Applied(
        node="n1",
        session="s1",
        decision_id="d1",
        epoch=3,
        sequence=sequence,
        reason="lease",
        applied_at_s=NOW_S,
        gpus={"GPU-a": gpu},
    )


# What is recorded


def test_every_kind_of_fact_is_recorded_in_order(audit: Audit) -> None:
    request = Request(verb="cap", by="ops", args={"domain": "row-1"})
    assert audit.record_request(request, at_s=NOW_S)
    assert audit.record_decision(decision(domain(), events=(event(7),)))
    assert audit.record_applied(applied())
    assert audit.record_refusal(at_s=NOW_S, subject="n1", what="lease", because="old epoch")
    assert audit.record_event(event(8, subject="row-1"))
    assert audit.record_response(Response(verb="cap", status="ok"), at_s=NOW_S)
    records = flushed(audit).records()
    assert [record.seq for record in records] == [1, 2, 3, 4, 5, 6, 7]
    assert [record.kind for record in records] == [
        "request",
        "decision",
        "event",
        "applied",
        "refusal",
        "event",
        "response",
    ]
    assert json.loads(records[0].body)["by"] == "ops"
    assert json.loads(records[3].body)["gpus"]["GPU-a"]["cause"] == "thermal"
    assert json.loads(records[4].body) == {"what": "lease", "because": "old epoch"}
    assert records[3].decision_id == records[1].decision_id == "d1"
    assert audit.records(kind="applied", subject="n1") == [records[3]]
    assert audit.records(since_seq=6, limit=1) == [records[5]]


def test_a_decision_that_changes_nothing_leaves_no_record(audit: Audit) -> None:
    nodes = (node_decision("n1"), node_decision("n2"))
    for number in range(1, 6):
        audit.record_decision(decision(domain(), nodes=nodes, number=number, at_s=NOW_S + number))
    (record,) = flushed(audit).records()
    changes = json.loads(record.body)["changes"]
    assert [change["subject"] for change in changes] == ["", "row-1", "n1", "n2"]


def test_a_leadership_begins_with_everything_that_holds(audit: Audit) -> None:
    for decision_id in ("7-1", "7-2", "9-3"):
        again = dataclasses.replace(decision(domain()), decision_id=decision_id)
        audit.record_decision(again)
    assert [record.decision_id for record in flushed(audit).records()] == ["7-1", "9-3"]


@pytest.mark.parametrize(
    ("second", "subjects"),
    [
        (decision(domain(mode=Mode.BRAKE), nodes=(node_decision(),), number=2), ["row-1"]),
        (decision(domain(capacity_w=25_000.0), nodes=(node_decision(),), number=2), ["row-1"]),
        (decision(domain(), nodes=(node_decision(ceiling_mhz=1_005),), number=2), ["n1"]),
        (decision(domain(power_w=1.0), nodes=(node_decision(),), number=2), []),
    ],
    ids=["mode", "capacity", "ceiling", "power alone"],
)
def test_only_what_changed_is_in_the_record(
    audit: Audit, second: object, subjects: list[str]
) -> None:
    audit.record_decision(decision(domain(), nodes=(node_decision(),)))
    audit.record_decision(second)  # type: ignore[arg-type]
    records = flushed(audit).records(since_seq=2)
    found = [change["subject"] for r in records for change in json.loads(r.body)["changes"]]
    assert found == subjects


def test_routes_and_emergencies_are_changes_once(audit: Audit) -> None:
    routing = Routing(
        service="chat",
        decision_id="d1",
        at_s=NOW_S,
        valid_s=60.0,
        endpoints=(
            EndpointRoute(endpoint="n1", weight_ratio=0.5),
            EndpointRoute(endpoint="n2", weight_ratio=0.5, drain=True, batch_ratio=0.5),
            EndpointRoute(endpoint="n3", weight_ratio=1.0, batch_ratio=0.5, quality_level=1),
        ),
    )
    emergency = Emergency(
        domain="row-1",
        active=("ups-a-lost",),
        epoch=1,
        sequence=1,
        issued_at_s=NOW_S,
        by="ops",
    )
    for _ in range(3):
        one = replace(decision(), routing=(routing,), emergencies=(emergency,))
        audit.record_decision(one)
    (record,) = flushed(audit).records()
    changes = json.loads(record.body)["changes"]
    assert [change["kind"] for change in changes] == ["site", "routing", "emergency"]
    assert changes[1]["detail"] == {
        "n1": 0.5,
        "n2": "drain",
        "n3": {"weight_ratio": 1.0, "batch_ratio": 0.5, "quality_level": 1},
    }
    assert changes[2]["detail"]["by"] == "ops"


# Crashes, full disks, overflow


def test_kill_9_loses_no_committed_record(path: Path) -> None:
    process = child("audit_until_killed", path)
    assert process.stdout is not None
    stored_count = 0
    for line in process.stdout:
        stored_count = int(line)
        if stored_count >= 200:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.read()
    assert process.wait(timeout=10.0) == -signal.SIGKILL
    log = started(path)
    assert log.take_events() == ()
    log.close()
    report = verify_audit(path)
    assert report.problems == ()
    assert report.records_count >= stored_count


def test_a_full_disk_is_told_and_leaves_an_explicit_gap(path: Path) -> None:
    output, _ = child("audit_on_full_disk", path).communicate(timeout=20.0)
    said = dict(line.partition(" ")[::2] for line in output.splitlines())
    assert said["stored"] == "True"
    assert "told False True ['audit-failing']\n" in output
    assert "told True False ['audit-recovered']\n" in output
    dropped_count = int(said["dropped"])
    # 202 events and one alarm came while the disk was full; 100 records could wait.
    assert dropped_count in (102, 103)
    log = started(path)
    records = log.records()
    log.close()
    assert verify_audit(path).problems == ()
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    tests = [json.loads(r.body)["sentence"] for r in records if '"test"' in r.body]
    # In order: what was written before, what waited, and what came after.
    kept_count = 202 - dropped_count
    assert tests == [*(f"number {n}" for n in range(kept_count + 1)), "number 203"]
    assert len([record for record in records if "audit-failing" in record.body]) == 1
    (gap,) = [record for record in records if record.kind == "gap"]
    assert json.loads(gap.body)["lost"] == {"event": dropped_count}
    assert "memory was full" in json.loads(gap.body)["because"]
    assert gap.seq == kept_count + 3  # right after the first event, what waited and the alarm


def test_a_full_queue_leaves_a_gap_record(path: Path) -> None:
    log = Audit(path, wall_s=lambda: NOW_S)  # not started: nobody takes
    for number in range(INBOX_MAX["record"]):
        assert log.record_event(event(number))
    assert not log.record_event(event(-1))
    assert log.counters()["dropped"] == {"record": 1}
    log.start()
    flushed(log)
    (gap,) = log.records(kind="gap")
    log.close()
    assert json.loads(gap.body)["lost"] == {"record": 1}
    assert gap.seq == INBOX_MAX["record"] + 1
    assert verify_audit(path).problems == ()


def test_a_fact_that_cannot_be_encoded_leaves_a_gap_record(audit: Audit) -> None:
    audit.record_event("no event")  # type: ignore[arg-type]
    audit.record_event(event(1))
    assert [record.kind for record in flushed(audit).records()] == ["event", "gap"]


def test_a_log_removed_while_in_use_is_told_with_its_last_hash(audit: Audit, path: Path) -> None:
    audit.record_event(event(1))
    head_hash = flushed(audit).counters()["head_hash"]
    for file in path.parent.glob("audit.db*"):
        file.unlink()
    audit.record_event(event(2))
    flushed(audit)
    (alarm,) = audit.take_events()
    assert (alarm.event, alarm.severity) == ("audit-lost", "critical")
    assert head_hash in alarm.sentence
    assert [record.seq for record in flushed(audit).records()] == [1, 2]
    assert verify_audit(path).problems == ()


def damage_file(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 32)


def remove_head(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM head")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("damage", [damage_file, remove_head])
def test_a_damaged_log_is_kept_aside_and_a_new_chain_begun(
    path: Path, damage: Callable[[Path], None]
) -> None:
    log = started(path)
    log.record_event(event(1))
    log.close()
    damage(path)
    log = started(path)
    (alarm,) = log.take_events()
    assert (alarm.event, alarm.severity) == ("audit-corrupt", "critical")
    records = flushed(log).records()
    log.close()
    assert len(list(path.parent.glob("audit.db.corrupt-*"))) == 1
    assert "audit-corrupt" in records[0].body
    assert verify_audit(path).problems == ()


def test_damage_while_in_use_begins_a_new_chain_and_names_the_old_one(
    audit: Audit, path: Path
) -> None:
    for number in range(1_000):
        audit.record_event(event(number))
    head_hash = flushed(audit).counters()["head_hash"]
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(truncate)")  # the writer must read the file again
    connection.close()
    with path.open("r+b") as file:
        file.seek(4_096)
        file.write(bytes(range(1, 256)) * (path.stat().st_size // 255 - 17))
    audit.record_event(event(7_777))
    audit.flush(timeout_s=10.0)
    flushed(audit)
    corrupt, failing, recovered = audit.take_events()
    assert (corrupt.event, corrupt.severity) == ("audit-corrupt", "critical")
    assert head_hash in corrupt.sentence
    assert (failing.event, recovered.event) == ("audit-failing", "audit-recovered")
    assert "number 7777" in audit.records()[0].body
    assert verify_audit(path).problems == ()


def test_a_second_controller_on_the_same_log_is_refused(audit: Audit, path: Path) -> None:
    with pytest.raises(StoreError, match="another process writes this audit log"):
        started(path)
    assert audit.record_event(event(1))


def test_a_newer_schema_is_refused(path: Path) -> None:
    started(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(StoreError, match="schema is version 9"):
        started(path)


def test_the_log_is_in_the_configured_directory(tmp_path: Path) -> None:
    log = open_audit(StoreConfig(directory=str(tmp_path / "deep" / "down")))
    log.record_event(event(1))
    log.close()
    assert verify_audit(tmp_path / "deep" / "down" / "audit.db").records_count == 1
