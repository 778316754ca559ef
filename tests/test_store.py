"""History in SQLite: what comes back, what a crash or a full disk costs, what is refused."""

from __future__ import annotations

import math
import sqlite3
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.store.blocks import BlockError, decode, encode
from daemon.store.changes import wording
from daemon.store.history import EventFilter, open_history
from daemon.store.rollups import NodeRollup, node_rollups
from daemon.store.sqlite import SqliteHistory
from facility.config import StoreConfig
from facility.wire import Mode, Quality
from tests.history_stores import Clock, flushed, integrity, started
from tests.history_values import NOW_S, decision, domain, event, frame, gpu, node_decision

ROOT = Path(__file__).parents[1]


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


# Roll-ups


def test_cycles_of_one_second_become_one_rollup_with_mean_and_worst(history: SqliteHistory) -> None:
    first = domain(power_w=40_000.0, temperature_c=None)
    second = domain(power_w=44_000.0, mode=Mode.SHAVING, temperature_c=31.0)
    history.record_decision(decision(first, at_s=NOW_S + 0.1))
    history.record_decision(decision(second, at_s=NOW_S + 0.9, number=2))
    history.record_decision(decision(first, at_s=NOW_S + 1.0, number=3))
    found = flushed(history).domain_rollups("row-1", since_s=NOW_S, until_s=NOW_S + 10)
    assert [rollup.at_s for rollup in found] == [NOW_S, NOW_S + 1]
    assert found[0].power_w == 42_000.0
    assert found[0].power_w_max == 44_000.0
    assert found[0].forecast_w_max == 45_000.0
    assert found[0].exposure_w_max == 46_000.0
    assert found[0].mode is Mode.SHAVING
    assert found[0].temperature_c_max == 31.0
    assert found[0].cycles_count == 2


def test_a_minute_goes_on_where_it_was_before_a_restart(path: Path, clock: Clock) -> None:
    for start_s in (0, 30):
        store = started(path, clock)
        for second in range(start_s, start_s + 30):
            power_w = 40_000.0 + second
            store.record_decision(decision(domain(power_w=power_w), at_s=NOW_S + second))
            store.record_telemetry(frame(gpu(), at_s=NOW_S + second, seq=second))
        store.close()
    store = started(path, clock)
    (minute,) = store.domain_rollups("row-1", since_s=NOW_S, until_s=NOW_S + 59, period_s=60)
    (node,) = store.node_rollups("n1", since_s=NOW_S, until_s=NOW_S + 59, period_s=60)
    samples = store.gpu_minute("GPU-a", minute_s=int(NOW_S))
    store.close()
    assert (minute.cycles_count, minute.power_w_max) == (60, 40_059.0)
    assert minute.power_w == pytest.approx(40_029.5)
    assert (node.frames_count, node.power_w, node.power_w_max) == (60, 550.0, 600.0)
    assert samples is not None
    assert len(samples.at_s) == 119  # the first frame's first sample is of the minute before
    assert list(samples.at_s) == sorted(samples.at_s)


rollup_values = st.builds(
    lambda power_w, meter_w, temperature_c: node_rollups(
        frame(gpu(samples_w=(power_w,), temperature_c=temperature_c), meter_w=meter_w)
    )[0],
    st.floats(0.0, 1_000.0),
    st.none() | st.floats(0.0, 10_000.0),
    st.none() | st.floats(-50.0, 150.0),
)


@given(st.lists(rollup_values, min_size=2, max_size=6), st.integers(1, 5))
def test_rollups_merge_the_same_in_memory_and_in_any_grouping(
    rollups: list[NodeRollup], at: int
) -> None:
    def together(some: list[NodeRollup]) -> NodeRollup:
        one = some[0]
        for other in some[1:]:
            one = one.merged(other)
        return one

    at = min(at, len(rollups) - 1)
    whole = together(rollups)
    halves = together(rollups[:at]).merged(together(rollups[at:]))
    assert halves.power_w == pytest.approx(whole.power_w)
    assert halves.power_w_max == whole.power_w_max
    assert halves.frames_count == whole.frames_count == len(rollups)
    assert halves.temperature_c_max == whole.temperature_c_max
    meters = [r.meter_power_w for r in rollups if r.meter_power_w is not None]
    expected = sum(meters) / len(meters) if meters else None
    assert halves.meter_power_w == pytest.approx(expected)


def test_rollups_merge_the_same_in_the_file(history: SqliteHistory) -> None:
    meters_w = (None, 900.0, None, 1_100.0, 1_000.0)
    frames = [frame(gpu(samples_w=(100.0 * i,)), meter_w=m) for i, m in enumerate(meters_w)]
    for one in frames:
        history.record_telemetry(one)
        flushed(history)  # each in a transaction of its own: the file does the merging
    whole = node_rollups(frames[0])[0]
    for one in frames[1:]:
        whole = whole.merged(node_rollups(one)[0])
    (found,) = history.node_rollups("n1", since_s=NOW_S, until_s=NOW_S)
    assert found == whole
    assert found.meter_power_w == 1_000.0


def test_one_node_is_read_alone_and_only_in_the_interval(history: SqliteHistory) -> None:
    for second in range(5):
        for node in ("n1", "n2"):
            history.record_telemetry(frame(gpu(), node=node, at_s=NOW_S + second))
    found = flushed(history).node_rollups("n2", since_s=NOW_S + 1, until_s=NOW_S + 3)
    assert [(rollup.node, rollup.at_s - NOW_S) for rollup in found] == [
        ("n2", 1.0),
        ("n2", 2.0),
        ("n2", 3.0),
    ]


# Events and sentences


def test_events_come_newest_first_and_filtered(history: SqliteHistory) -> None:
    history.record_event(event(1, at_s=NOW_S + 1, severity="critical", subject="row-1"))
    history.record_event(event(2, at_s=NOW_S + 3))
    history.record_decision(decision(events=(event(3, at_s=NOW_S + 2, event="trip"),)))
    flushed(history)
    everything = history.events(EventFilter())
    assert [one.sentence for one in everything] == ["number 2", "number 3", "number 1"]
    assert history.events(EventFilter(limit=1)) == everything[:1]
    assert history.events(EventFilter(severity="critical")) == everything[2:]
    assert history.events(EventFilter(subject="row-1")) == everything[2:]
    assert history.events(EventFilter(event="trip")) == everything[1:2]
    assert history.events(EventFilter(since_s=NOW_S + 2, until_s=NOW_S + 2)) == everything[1:2]
    assert history.events(EventFilter(source="nobody")) == []


def test_only_changed_sentences_are_kept(history: SqliteHistory) -> None:
    for cycle in range(20):
        sentence = f"power {40 + cycle} kW is below 50 kW"
        history.record_decision(decision(domain(sentence=sentence), at_s=NOW_S + cycle))
    shaving = domain(sentence="power 61 kW is below 50 kW", mode=Mode.SHAVING)
    history.record_decision(decision(shaving, at_s=NOW_S + 20))
    found = flushed(history).sentences("row-1")
    assert [one.at_s - NOW_S for one in found] == [20.0, 10.0, 0.0]
    assert (found[0].mode, found[1].mode) == ("shaving", "normal")


def test_a_node_has_a_new_sentence_when_its_ceiling_moves(history: SqliteHistory) -> None:
    for cycle, ceiling_mhz in enumerate((1_500, 1_500, 1_410)):
        node = node_decision(ceiling_mhz=ceiling_mhz)
        history.record_decision(decision(nodes=(node,), at_s=NOW_S + cycle))
    found = flushed(history).sentences("n1")
    assert [one.sentence for one in found] == ["leased 1410 MHz", "leased 1500 MHz"]


def test_figures_are_no_wording_but_names_are() -> None:
    assert wording("41.2 kW > 40.0 kW in 30s") == wording("9 kW > 1,000 kW in 5s")
    assert wording("slowed n12 in row-1") != wording("slowed n13 in row-1")
    assert wording("slowed n12 in row-1") != wording("slowed n12 in row-2")


# Raw samples


def test_raw_samples_come_back_with_their_times(history: SqliteHistory) -> None:
    for second in (1, 2):
        readings = gpu(samples_w=(100.0 * second, 100.5 * second), temperature_c=61.5)
        history.record_telemetry(frame(readings, at_s=NOW_S + second))
    minute = flushed(history).gpu_minute("GPU-a", minute_s=int(NOW_S))
    assert minute is not None
    assert minute.at_s == pytest.approx([NOW_S + offset for offset in (0.5, 1.0, 1.5, 2.0)])
    assert minute.power_w == (100.0, 100.5, 200.0, 201.0)
    assert minute.sm_clock_mhz == (1_410.0,) * 4
    assert minute.temperature_c == (61.5,) * 4
    assert history.gpu_minute("GPU-a", minute_s=int(NOW_S) + 60) is None
    assert history.gpu_minute("GPU-b", minute_s=int(NOW_S)) is None


def test_a_frame_across_a_minute_is_split(history: SqliteHistory) -> None:
    samples_w = (1.0, 2.0, 3.0, 4.0)
    history.record_telemetry(frame(gpu(samples_w=samples_w), at_s=NOW_S + 60.25))
    flushed(history)
    before = history.gpu_minute("GPU-a", minute_s=int(NOW_S))
    after = history.gpu_minute("GPU-a", minute_s=int(NOW_S) + 60)
    assert before is not None
    assert after is not None
    assert (before.power_w, after.power_w) == ((1.0, 2.0), (3.0, 4.0))
    assert after.at_s == (NOW_S + 60.0, NOW_S + 60.25)


def test_samples_out_of_order_overwrite_nothing(history: SqliteHistory) -> None:
    for offset_s in (59.0, 61.0, 58.0, 62.0, 59.0):
        history.record_telemetry(frame(gpu(samples_w=(offset_s,)), at_s=NOW_S + offset_s))
        flushed(history)
    minute = history.gpu_minute("GPU-a", minute_s=int(NOW_S))
    assert minute is not None
    assert minute.power_w == (58.0, 59.0, 59.0)


def test_what_a_gpu_did_not_give_is_nan_and_never_zero(history: SqliteHistory) -> None:
    missing = gpu(samples_w=(700.0,), quality=Quality.MISSING, temperature_c=None)
    history.record_telemetry(frame(missing))
    flushed(history)
    minute = history.gpu_minute("GPU-a", minute_s=int(NOW_S))
    assert minute is not None
    assert math.isnan(minute.power_w[0])
    assert math.isnan(minute.temperature_c[0])
    (rollup,) = history.node_rollups("n1", since_s=NOW_S, until_s=NOW_S)
    assert (rollup.power_w, rollup.gpus_missing_count_max) == (700.0, 1)
    assert rollup.temperature_c_max is None


float32 = st.floats(width=32, allow_nan=True)


@given(st.lists(st.tuples(st.integers(0, 59_999), float32, float32, float32), max_size=50))
def test_a_block_gives_back_exactly_what_went_in(
    samples: list[tuple[int, float, float, float]],
) -> None:
    columns = list(zip(*samples, strict=True)) or [(), (), (), ()]
    values = [array("f", column) for column in columns[1:]]
    data = encode(array("H", columns[0]), *values)
    offsets_ms, decoded = decode(data, len(samples))
    assert offsets_ms.tolist() == list(columns[0])
    assert decoded.astype("<f4").tobytes() == b"".join(column.tobytes() for column in values)


@pytest.mark.parametrize("damage", ["cut", "flipped", "count"])
def test_a_damaged_block_is_an_error_and_no_samples(damage: str) -> None:
    power_w = array("f", [1.0, 2.0, 3.0])
    data = encode(array("H", [0, 100, 200]), power_w, power_w, power_w)
    broken = {"cut": data[:-3], "flipped": data[:4] + b"\xff\xff" + data[6:], "count": data}
    with pytest.raises(BlockError, match=r"damaged|samples need"):
        decode(broken[damage], 4 if damage == "count" else 3)


def test_a_minute_at_ten_hertz_takes_less_than_21_bytes_a_sample(history: SqliteHistory) -> None:
    for second in range(60):
        walk = [400.0 + 40.0 * math.sin((10 * second + i) / 7.0) + (i * 37) % 11 for i in range(10)]
        readings = gpu(samples_w=tuple(walk))
        history.record_telemetry(frame(readings, at_s=NOW_S + second + 0.9))
    history.close()
    connection = sqlite3.connect(history._database.path)
    rows = connection.execute("SELECT samples_count, length(data) FROM raw").fetchall()
    connection.close()
    assert [row[0] for row in rows] == [600]
    assert rows[0][1] / rows[0][0] < 21.0


# The factory


def test_the_default_store_is_sqlite_in_the_directory(tmp_path: Path) -> None:
    store = open_history(StoreConfig(directory=str(tmp_path)), site="test")
    store.record_event(event(1))
    store.close()
    assert integrity(tmp_path / "history.db") == "ok"
