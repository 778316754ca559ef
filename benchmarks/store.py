"""History's raw layout against the obvious one: blocks per GPU-minute, and one row per sample.

Both write the same frames (320 GPUs, 10 samples a second each, two minutes of a random walk) to a
file of their own on the same disk, one after the other, with the same settings of SQLite: seconds
to store them, bytes a sample, and the time to read one minute of one GPU. What counts is the ratio.
The blocks' time includes the roll-ups, and writing each unfinished minute every 10 s, as a live
writer does. The budget that this serves: one controller, 1,250 nodes at 1 Hz, at most half a core
(DESIGN 8).
"""

from __future__ import annotations

import random
import sqlite3
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from daemon.store.database import Database
from daemon.store.health import Health
from daemon.store.sqlite import SqliteHistory
from daemon.store.sqlite_sink import SqliteSink
from daemon.store.tables import HISTORY
from facility.wire import GpuReading, NodeTelemetry

NODES_COUNT: Final = 40
GPUS_PER_NODE: Final = 8
SAMPLES_PER_S: Final = 10
SECONDS: Final = 120
START_S: Final = 1_800_000_000.0
READS_COUNT: Final = 20
RETENTION_S: Final = 86_400.0

ROWS_TABLE: Final = """CREATE TABLE sample (
    gpu TEXT, at_s REAL, power_w REAL, sm_clock_mhz REAL, temperature_c REAL)"""


def frames() -> list[NodeTelemetry]:
    """Two minutes of a row whose power walks at random, as NVML rounds it: to the milliwatt."""
    chance = random.Random(1)
    power_w = [500.0] * (NODES_COUNT * GPUS_PER_NODE)
    found = []
    for second in range(1, SECONDS + 1):
        for node in range(NODES_COUNT):
            gpus = []
            for gpu in range(node * GPUS_PER_NODE, (node + 1) * GPUS_PER_NODE):
                samples_w = []
                for _ in range(SAMPLES_PER_S):
                    power_w[gpu] = min(700.0, max(90.0, power_w[gpu] + chance.gauss(0.0, 8.0)))
                    samples_w.append(round(power_w[gpu], 3))
                gpus.append(
                    GpuReading(
                        uuid=f"GPU-{gpu:08x}-0000-4000-8000-000000000000",
                        power_w=sum(samples_w) / SAMPLES_PER_S,
                        power_w_max=max(samples_w),
                        power_samples_w=tuple(samples_w),
                        sm_clock_mhz=1_410 - 15 * chance.randrange(4),
                        temperature_c=float(60 + chance.randrange(5)),
                    )
                )
            found.append(
                NodeTelemetry(
                    node=f"n{node}",
                    session="s",
                    seq=second,
                    sampled_at_s=START_S + second - 0.05,
                    gpus=tuple(gpus),
                )
            )
    return found


def cpu_s() -> float:
    """Processor time of the whole process: both layouts are limited by it."""
    return time.process_time()


def write_blocks(path: Path, recorded: list[NodeTelemetry]) -> tuple[float, float]:
    """Seconds and processor seconds of the writer thread's work, a commit for each second."""
    clock_s = [0.0]
    health = Health(
        store="history", severity="warning", wall_s=lambda: START_S, monotonic_s=lambda: clock_s[0]
    )
    database = Database(path, HISTORY, wall_s=lambda: START_S)
    database.start()
    sink = SqliteSink(
        database,
        health,
        retention_s=(RETENTION_S, RETENTION_S),
        free_bytes_min=0,
        wall_s=lambda: START_S,
        monotonic_s=lambda: clock_s[0],
    )
    begin_s, begin_cpu_s = time.perf_counter(), cpu_s()
    for first in range(0, len(recorded), NODES_COUNT):
        for frame in recorded[first : first + NODES_COUNT]:
            sink.accept("telemetry", frame)
        clock_s[0] += 1.0
        sink.commit(everything=False)
    stored = sink.commit(everything=True)
    took_s, took_cpu_s = time.perf_counter() - begin_s, cpu_s() - begin_cpu_s
    if not stored or health.dropped:
        raise RuntimeError(f"not stored: {health.counters()}")
    sink.close()
    return took_s, took_cpu_s


def rows(frame: NodeTelemetry) -> Iterable[tuple[str, float, float, int, float | None]]:
    """One row per sample of a frame."""
    for gpu in frame.gpus:
        for index, power_w in enumerate(gpu.power_samples_w, start=1 - SAMPLES_PER_S):
            at_s = frame.sampled_at_s + index / SAMPLES_PER_S
            yield gpu.uuid, at_s, power_w, gpu.sm_clock_mhz, gpu.temperature_c


def write_rows(path: Path, recorded: list[NodeTelemetry]) -> tuple[float, float]:
    """The same with one row per sample, an index to find a GPU, and one transaction a second."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("PRAGMA synchronous = normal")
    connection.execute(ROWS_TABLE)
    connection.execute("CREATE INDEX sample_gpu ON sample (gpu, at_s)")
    begin_s, begin_cpu_s = time.perf_counter(), cpu_s()
    for first in range(0, len(recorded), NODES_COUNT):
        connection.execute("BEGIN")
        for frame in recorded[first : first + NODES_COUNT]:
            connection.executemany("INSERT INTO sample VALUES (?, ?, ?, ?, ?)", rows(frame))
        connection.execute("COMMIT")
    took_s, took_cpu_s = time.perf_counter() - begin_s, cpu_s() - begin_cpu_s
    connection.close()
    return took_s, took_cpu_s


def read_blocks(path: Path, gpu: str) -> float:
    """Seconds to read one minute of one GPU."""
    history = SqliteHistory(path, wall_s=lambda: START_S, free_bytes_min=0)
    begin_s = time.perf_counter()
    for _ in range(READS_COUNT):
        minute = history.gpu_minute(gpu, minute_s=int(START_S))
        if minute is None or len(minute.at_s) < 60 * SAMPLES_PER_S - 1:
            raise RuntimeError("the minute did not come back whole")
    return (time.perf_counter() - begin_s) / READS_COUNT


def read_rows(path: Path, gpu: str) -> float:
    """The same from rows."""
    begin_s = time.perf_counter()
    for _ in range(READS_COUNT):
        connection = sqlite3.connect(path)
        query = "SELECT * FROM sample WHERE gpu = ? AND at_s >= ? AND at_s < ? ORDER BY at_s"
        found = connection.execute(query, (gpu, START_S, START_S + 60.0)).fetchall()
        connection.close()
        if len(found) < 60 * SAMPLES_PER_S - 1:
            raise RuntimeError("the minute did not come back whole")
    return (time.perf_counter() - begin_s) / READS_COUNT


def main() -> None:
    """Print one row per figure: blocks, rows, and how many times better blocks are."""
    recorded = frames()
    samples_count = SECONDS * NODES_COUNT * GPUS_PER_NODE * SAMPLES_PER_S
    gpu = recorded[0].gpus[0].uuid
    with tempfile.TemporaryDirectory() as directory:
        blocks, plain = Path(directory) / "history.db", Path(directory) / "rows.db"
        blocks_s, blocks_cpu_s = write_blocks(blocks, recorded)
        rows_s, rows_cpu_s = write_rows(plain, recorded)
        raw = sqlite3.connect(blocks)
        blocks_bytes = raw.execute("SELECT sum(length(data) + length(gpu)) FROM raw").fetchone()[0]
        raw.close()
        rows_bytes = plain.stat().st_size
        figures = (
            ("one second of the row stored, ms", blocks_s / SECONDS * 1e3, rows_s / SECONDS * 1e3),
            ("processor, % of a core", blocks_cpu_s / SECONDS * 1e2, rows_cpu_s / SECONDS * 1e2),
            ("a raw sample, bytes", blocks_bytes / samples_count, rows_bytes / samples_count),
            ("a GPU-minute read, ms", read_blocks(blocks, gpu) * 1e3, read_rows(plain, gpu) * 1e3),
        )
    print(f"{samples_count} samples of {NODES_COUNT * GPUS_PER_NODE} GPUs at {SAMPLES_PER_S} Hz")
    print(f"{'':40} {'blocks':>10} {'rows':>10} {'ratio':>8}")
    for name, ours, theirs in figures:
        print(f"{name:40} {ours:10.2f} {theirs:10.2f} {theirs / ours:8.1f}")


if __name__ == "__main__":
    main()
