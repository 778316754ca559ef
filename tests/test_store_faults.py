"""History in SQLite when things go wrong: crashes, full disks, damage, age and floods."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.store import sqlite_sink
from daemon.store.history import EventFilter, StoreError
from daemon.store.sqlite import DAY_S, INBOX_MAX, SqliteHistory
from daemon.store.writer import Inbox
from tests.history_stores import Clock, flushed, integrity, pragma, started
from tests.history_values import NOW_S, child, event, frame, gpu


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "history.db"


@pytest.fixture
def history(path: Path, clock: Clock) -> Iterator[SqliteHistory]:
    store = started(path, clock)
    yield store
    store.close()


# Crashes, full disks, damage


def test_kill_9_loses_nothing_that_was_stored(path: Path, clock: Clock) -> None:
    process = child("record_until_killed", path)
    assert process.stdout is not None
    stored_s = -1
    for line in process.stdout:
        stored_s = int(line)
        if stored_s == 25:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.read()
    assert process.wait(timeout=10.0) == -signal.SIGKILL
    store = started(path, clock)
    events = store.events(EventFilter(limit=10_000))
    assert {f"number {n}" for n in range(10 * (stored_s + 1))} <= {e.sentence for e in events}
    rollups = store.node_rollups("n1", since_s=NOW_S, until_s=NOW_S + 1_000)
    assert len(rollups) >= stored_s + 1
    minute = store.gpu_minute("GPU-a", minute_s=int(NOW_S))
    assert minute is not None
    assert len(minute.at_s) >= 2 * (stored_s + 1)
    assert store.take_events() == ()
    store.close()
    assert integrity(path) == "ok"


def test_a_full_disk_costs_the_oldest_rows_and_is_told(path: Path, clock: Clock) -> None:
    process = child("history_on_full_disk", path)
    output, _ = process.communicate(timeout=20.0)
    assert process.returncode == 0
    assert output.splitlines() == [
        "stored False",
        "failing True",
        "alarms ['history-failing']",
        # 24,001 events and the alarm wait, and 20,000 may.
        "dropped 4002",
        "stored True",
        "alarms ['history-recovered']",
        "recorded 24003",
    ]
    store = started(path, clock)
    sentences = [one.sentence for one in store.events(EventFilter(limit=10_000))]
    assert store.events(EventFilter(event="history-recovered")) != []
    oldest = store.events(EventFilter(until_s=NOW_S, event="test", limit=10_000))
    store.close()
    assert "number 24002" in sentences
    assert len(oldest) == 10_000
    assert integrity(path) == "ok"
    connection = sqlite3.connect(path)
    kept = connection.execute("SELECT sentence FROM event WHERE event = 'test' ORDER BY id")
    numbers = [int(row[0].removeprefix("number ")) for row in kept]
    connection.close()
    assert numbers == [0, *range(4_002, 24_003)]


def test_history_leaves_the_last_of_the_disk_to_the_audit_log(path: Path, clock: Clock) -> None:
    store = SqliteHistory(path, wall_s=clock, free_bytes_min=2**62)
    store.start()
    store.record_event(event(1))
    assert not store.flush(timeout_s=10.0)
    assert store.counters()["failing"]
    assert "audit log" in store.counters()["last_error"]
    assert [one.severity for one in store.take_events()] == ["warning"]
    store.close()
    assert store.counters()["dropped"]["event"] == 2  # the event and the alarm about it


def test_a_damaged_file_is_kept_aside_and_a_new_one_begun(path: Path, clock: Clock) -> None:
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\0" + os.urandom(8_192))
    damaged = path.read_bytes()
    store = started(path, clock)
    store.record_event(event(1))
    flushed(store)
    (alarm,) = store.take_events()
    kept = [one.event for one in store.events(EventFilter())]
    store.close()
    (aside,) = path.parent.glob("history.db.corrupt-*")
    assert aside.read_bytes() == damaged
    assert (alarm.event, alarm.severity) == ("history-corrupt", "critical")
    assert aside.name in alarm.sentence
    assert sorted(kept) == ["history-corrupt", "test"]


def test_an_alarm_of_the_store_itself_is_kept_once(path: Path, clock: Clock) -> None:
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\0" + os.urandom(8_192))
    store = started(path, clock)
    for alarm in store.take_events():
        store.record_event(alarm)
    forged = event(1, event="history-corrupt", source="history")
    store.record_event(forged)
    flushed(store)
    assert len(store.events(EventFilter(event="history-corrupt"))) == 2
    assert forged in store.events(EventFilter())
    store.close()


def test_a_damaged_page_is_found_at_start(path: Path, clock: Clock) -> None:
    store = started(path, clock)
    for number in range(2_000):
        store.record_event(event(number))
    flushed(store).close()
    with path.open("r+b") as file:
        file.seek(20 * 4_096)
        file.write(os.urandom(3 * 4_096))
    store = started(path, clock)
    assert [one.event for one in store.take_events()] == ["history-corrupt"]
    store.close()
    assert integrity(path) == "ok"


def test_damage_while_in_use_is_found_and_costs_no_waiting_row(
    history: SqliteHistory, path: Path
) -> None:
    for number in range(2_000):
        history.record_event(event(number))
    flushed(history)
    pragma(path, "wal_checkpoint(truncate)")  # the writer must read the file again
    with path.open("r+b") as file:
        file.seek(4_096)
        file.write(os.urandom(path.stat().st_size - 4_096))
    history.record_event(event(7_777))
    history.flush(timeout_s=10.0)
    flushed(history)
    flushed(history)
    alarms = [one.event for one in history.take_events()]
    assert alarms == ["history-corrupt", "history-failing", "history-recovered"]
    assert "number 7777" in {one.sentence for one in history.events(EventFilter())}
    assert history.counters()["last_error"] == ""
    assert len(list(path.parent.glob("history.db.corrupt-*"))) == 1
    assert integrity(path) == "ok"


def test_a_file_removed_while_in_use_is_noticed(history: SqliteHistory, path: Path) -> None:
    history.record_event(event(1))
    flushed(history)
    for file in path.parent.glob("history.db*"):
        file.unlink()
    history.record_event(event(2))
    flushed(history)
    flushed(history)
    assert [one.event for one in history.take_events()] == ["history-lost"]
    assert {one.sentence for one in history.events(EventFilter(event="test"))} == {"number 2"}


def test_a_newer_schema_is_refused_and_left_alone(path: Path, clock: Clock) -> None:
    started(path, clock).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(StoreError, match=r"schema is version 2, this program knows 1"):
        started(path, clock)
    assert list(path.parent.glob("*corrupt*")) == []


def test_a_file_of_another_program_is_refused_and_left_alone(path: Path, clock: Clock) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not an Ampacity history"):
        started(path, clock)
    assert path.read_bytes() == before


def test_a_second_controller_on_the_same_file_is_refused(
    history: SqliteHistory, path: Path, clock: Clock
) -> None:
    with pytest.raises(StoreError, match="another process writes this history"):
        started(path, clock)
    history.record_event(event(1))
    flushed(history)


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot open the history.*store\.directory"):
        started(tmp_path / "file" / "history.db", clock)


# Retention


def test_retention_deletes_what_is_too_old_and_keeps_the_rest(
    history: SqliteHistory, clock: Clock
) -> None:
    for number in range(3):
        history.record_event(event(number, at_s=NOW_S + number))
        history.record_telemetry(frame(gpu(), at_s=NOW_S + 3_600 * number))
    flushed(history)
    clock.now_s = NOW_S + 7 * DAY_S + 3_601
    flushed(history)
    flushed(history)
    fine = history.node_rollups("n1", since_s=NOW_S, until_s=NOW_S + 7_200)
    coarse = history.node_rollups("n1", since_s=NOW_S, until_s=NOW_S + 7_200, period_s=60)
    assert [rollup.at_s - NOW_S for rollup in fine] == [7_200]
    assert len(coarse) == 3
    assert history.gpu_minute("GPU-a", minute_s=int(NOW_S) + 3_600) is None
    assert history.gpu_minute("GPU-a", minute_s=int(NOW_S) + 7_200) is not None
    clock.now_s = NOW_S + 30 * DAY_S + 1.0
    flushed(history)
    flushed(history)
    assert [e.sentence for e in history.events(EventFilter())] == ["number 2", "number 1"]


def test_retention_works_in_small_steps_and_the_file_shrinks(
    history: SqliteHistory, path: Path, clock: Clock
) -> None:
    steps_count = 3
    for number in range(steps_count * sqlite_sink.DELETES_MAX):
        history.record_event(event(number))
    flushed(history)
    pages_count = int(pragma(path, "page_count"))
    clock.now_s += 31 * DAY_S
    before = history.counters()["deleted_count"]
    history.flush(timeout_s=10.0)
    deleted_count = history.counters()["deleted_count"] - before
    assert 0 < deleted_count <= 2 * sqlite_sink.DELETES_MAX  # the clock may strike in between
    for _ in range(10):
        flushed(history)
    history.close()
    assert history.counters()["deleted_count"] == steps_count * sqlite_sink.DELETES_MAX
    assert int(pragma(path, "page_count")) < 0.3 * pages_count


# The queue


def test_a_full_queue_drops_and_counts_by_kind_and_never_waits(path: Path, clock: Clock) -> None:
    store = SqliteHistory(path, wall_s=clock, free_bytes_min=0)  # not started: nobody takes
    one = frame(gpu())
    for _ in range(INBOX_MAX["telemetry"] + 5):
        store.record_telemetry(one)
    store.record_event(event(1))
    assert store.counters()["dropped"] == {"telemetry": 5}
    store.start()
    flushed(store)
    assert len(store.events(EventFilter())) == 1
    assert store.counters()["dropped"] == {"telemetry": 5}
    store.close()
    store.record_event(event(2))
    assert store.counters()["dropped"]["event"] == 1


@pytest.mark.parametrize(("waiting_count", "taken"), [(2, True), (3, False)])
def test_each_kind_has_its_own_limit(waiting_count: int, taken: bool) -> None:
    inbox = Inbox({"a": 3, "b": 1})
    assert inbox.put("b", 0)
    for number in range(waiting_count):
        assert inbox.put("a", number)
    assert inbox.put("a", 99) is taken
    items, refused = inbox.take()
    assert [item for _, item in items] == [0, *range(waiting_count), *([99] if taken else [])]
    assert refused == ({} if taken else {"a": 1})
    assert inbox.put("a", 0)


def test_a_value_that_cannot_be_stored_is_counted_and_the_rest_goes_on(
    history: SqliteHistory,
) -> None:
    history.record_event("no event")  # type: ignore[arg-type]
    history.record_event(event(1))
    flushed(history)
    assert history.counters()["dropped"] == {"event": 1}
    assert len(history.events(EventFilter())) == 1
