"""The audit log's chain: nothing can be edited, removed or pushed in unnoticed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.store.audit import Audit
from daemon.store.chain import Head, Record, digest, verify_audit
from daemon.store.history import StoreError
from tests.history_values import NOW_S, event


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


def test_a_log_continues_its_chain_after_a_restart(path: Path) -> None:
    for number in range(3):
        log = started(path)
        log.record_event(event(number))
        log.close()
    report = verify_audit(path)
    assert (report.records_count, report.head.seq, report.problems) == (3, 3, ())


def test_records_cannot_be_changed_or_deleted_by_sql(audit: Audit, path: Path) -> None:
    audit.record_event(event(1))
    flushed(audit)
    connection = sqlite3.connect(path)
    for statement in ("DELETE FROM record", "UPDATE record SET body = ''"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()
    assert verify_audit(path).problems == ()


def tampered(path: Path, *statements: str) -> tuple[str, ...]:
    """Ten records, then somebody who may write the file does this to it."""
    log = started(path)
    for number in range(10):
        log.record_event(event(number))
    flushed(log).close()
    assert verify_audit(path).problems == ()
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER record_kept")
    connection.execute("DROP TRIGGER record_unchanged")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return verify_audit(path).problems


@pytest.mark.parametrize("column", ["body", "kind", "subject", "decision_id", "at_s", "hash"])
def test_an_edited_record_is_found(path: Path, column: str) -> None:
    value = "'x'" if column != "at_s" else "at_s + 0.001"
    value = "zeroblob(32)" if column == "hash" else value
    problems = tampered(path, f"UPDATE record SET {column} = {value} WHERE seq = 4")
    assert problems[0] == "record 4 was edited, or does not follow the one before it"


def test_a_missing_record_is_found(path: Path) -> None:
    problems = tampered(path, "DELETE FROM record WHERE seq BETWEEN 4 AND 5")
    assert problems == ("records 4 to 5 are missing",)


def test_a_missing_beginning_is_found(path: Path) -> None:
    problems = tampered(path, "DELETE FROM record WHERE seq <= 3")
    assert problems == ("records 1 to 3 are missing",)


def test_a_missing_end_is_found_and_stays_found(path: Path) -> None:
    problems = tampered(path, "DELETE FROM record WHERE seq >= 9")
    assert problems == ("records 9 to 10 are missing at the end",)
    log = started(path)
    assert [one.event for one in log.take_events()] == ["audit-tampered"]
    log.record_event(event(11))
    log.close()
    assert verify_audit(path).problems == ("records 9 to 10 are missing",)


def test_a_record_pushed_in_is_found(path: Path) -> None:
    problems = tampered(
        path,
        "DELETE FROM record WHERE seq = 5",
        "INSERT INTO record SELECT 5, at_s, kind, subject, decision_id, body, hash FROM record"
        " WHERE seq = 4",
    )
    assert problems[0] == "record 5 was edited, or does not follow the one before it"


def rebuilt(path: Path) -> None:
    """Edit record 4 and compute every later hash anew, as one who owns the file could."""
    connection = sqlite3.connect(path)
    connection.execute("UPDATE record SET body = 'x' WHERE seq = 4")
    rows = connection.execute(
        "SELECT at_s, kind, subject, decision_id, body, seq FROM record ORDER BY seq"
    ).fetchall()
    previous = connection.execute("SELECT hash FROM genesis").fetchone()[0]
    for row in rows:
        previous = digest(previous, Record(*row), row[5])
        connection.execute("UPDATE record SET hash = ? WHERE seq = ?", (previous, row[5]))
    connection.execute("UPDATE head SET hash = ?", (previous,))
    connection.commit()
    connection.close()


def test_a_rebuilt_chain_is_found_with_a_head_noted_elsewhere(path: Path) -> None:
    log = started(path)
    log.record_event(event(0))
    counters = flushed(log).counters()
    log.close()
    noted = Head(counters["head_seq"], bytes.fromhex(counters["head_hash"]))
    path_2 = path.with_name("other.db")
    tampered(path_2)
    rebuilt(path_2)
    assert verify_audit(path_2).problems == ()  # the chain alone cannot tell
    (problem,) = verify_audit(path_2, anchor=noted).problems
    assert problem == "record 1 is not the one noted elsewhere: the chain is rebuilt"
    assert verify_audit(path, anchor=noted).problems == ()


@given(
    st.tuples(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4), st.text(max_size=4)),
    st.tuples(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4), st.text(max_size=4)),
)
def test_records_hash_alike_only_when_they_are_alike(
    one: tuple[str, str, str, str], other: tuple[str, str, str, str]
) -> None:
    same = digest(b"", Record(1.0, *one), 1) == digest(b"", Record(1.0, *other), 1)
    assert same == (one == other)


def test_what_is_no_audit_log_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        verify_audit(tmp_path / "missing.db")
    (tmp_path / "text.db").write_text("not a database" * 100)
    with pytest.raises(StoreError, match="cannot be"):
        verify_audit(tmp_path / "text.db")
