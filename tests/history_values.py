"""Values to record, and small programs that record them in a process of their own.

The programs are killed, or run out of disk, which the test's own process must not.
Run as `python -m tests.history_values PROGRAM FILE`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from daemon.store.audit import Audit
from daemon.store.sqlite import SqliteHistory
from facility.decisions import Decision, NodeDecision
from facility.wire import DomainState, Event, GpuReading, Mode, NodeTelemetry, Quality

NOW_S: Final = 1_800_000_000.0
"""A whole minute, so that seconds and minutes in the tests can be counted."""

NO_ROOM_BYTES: Final = 4_096
"""The log's header fits, no page does: from then on every transaction fails."""


def event(number: int = 0, *, at_s: float = NOW_S, **fields: str) -> Event:
    """An event whose sentence carries its number."""
    values = {"event": "test", "severity": "info", "source": "tests", **fields}
    return Event(at_s=at_s, sentence=f"number {number}", **values)  # type: ignore[arg-type]


def gpu(
    uuid: str = "GPU-a",
    *,
    samples_w: tuple[float, ...] = (500.0, 600.0),
    temperature_c: float | None = 60.0,
    quality: Quality = Quality.GOOD,
) -> GpuReading:
    """One reading: its mean and maximum follow from the samples."""
    return GpuReading(
        uuid=uuid,
        quality=quality,
        power_w=sum(samples_w) / len(samples_w),
        power_w_max=max(samples_w),
        power_samples_w=samples_w,
        sm_clock_mhz=1_410,
        ceiling_mhz=1_500,
        temperature_c=temperature_c,
    )


def frame(
    *gpus: GpuReading,
    node: str = "n1",
    seq: int = 1,
    at_s: float = NOW_S,
    meter_w: float | None = None,
) -> NodeTelemetry:
    """One frame of one node."""
    return NodeTelemetry(
        node=node, session="s1", seq=seq, sampled_at_s=at_s, gpus=gpus, node_power_w=meter_w
    )


def domain(
    name: str = "row-1",
    *,
    power_w: float = 40_000.0,
    mode: Mode = Mode.NORMAL,
    sentence: str = "nothing to do",
    temperature_c: float | None = None,
    capacity_w: float = 50_000.0,
) -> DomainState:
    """One domain after one cycle."""
    return DomainState(
        domain=name,
        kind="row",
        decision_id="d",
        at_s=NOW_S,
        power_w=power_w,
        forecast_w=power_w + 1_000.0,
        exposure_w=power_w + 2_000.0,
        capacity_w=capacity_w,
        mode=mode,
        sentence=sentence,
        nodes_count=40,
        nodes_missing_count=1,
        temperature_c=temperature_c,
    )


def node_decision(name: str = "n1", *, ceiling_mhz: int = 1_500) -> NodeDecision:
    """What was decided for one node."""
    return NodeDecision(
        node=name,
        ceiling_mhz=ceiling_mhz,
        contingency_ceilings_mhz={"ups-a-lost": 1_005},
        power_w=4_000.0,
        exposure_w=5_000.0,
        missing=False,
        controllable=True,
        sentence=f"leased {ceiling_mhz} MHz",
    )


def decision(
    *domains: DomainState,
    number: int = 1,
    at_s: float = NOW_S,
    nodes: tuple[NodeDecision, ...] = (),
    events: tuple[Event, ...] = (),
) -> Decision:
    """One cycle."""
    return Decision(
        decision_id=f"d{number}",
        at_s=0.0,
        wall_s=at_s,
        sentence="all domains are within their capacity",
        domains=domains,
        nodes=nodes,
        leases=(),
        routing=(),
        emergencies=(),
        events=events,
    )


def child(program: str, path: Path) -> subprocess.Popen[str]:
    """Run one of the programs below in a process of its own; its output is what it says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.history_values", program, str(path)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def say(text: str) -> None:
    """One line to the parent."""
    print(text, flush=True)


def limit_files(bytes_max: int) -> None:
    """Let no file grow beyond `bytes_max`: a full disk for this process, root or not."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, hard))


def record_until_killed(path: Path) -> None:
    """Record ten events and a second of telemetry at a time; say which are stored; never end."""
    history = SqliteHistory(path, wall_s=lambda: NOW_S, free_bytes_min=0)
    history.start()
    for second in range(1_000_000):
        for number in range(10):
            history.record_event(event(10 * second + number, at_s=NOW_S + second))
        history.record_telemetry(frame(gpu(), at_s=NOW_S + second + 0.5, seq=second + 1))
        history.record_decision(decision(domain(), at_s=NOW_S + second))
        assert history.flush(timeout_s=10.0)
        say(str(second))


def audit_until_killed(path: Path) -> None:
    """Record ten refusals at a time; say how many are stored; never end."""
    audit = Audit(path, wall_s=lambda: NOW_S)
    audit.start()
    for batch in range(1_000_000):
        for number in range(10):
            audit.record_event(event(10 * batch + number))
        assert audit.flush(timeout_s=10.0)
        say(str(10 * (batch + 1)))


def history_on_full_disk(path: Path) -> None:
    """Fill the disk, then make room: say what was counted before and after."""
    history = SqliteHistory(path, wall_s=lambda: NOW_S, free_bytes_min=0, retry_s_min=0.01)
    history.start()
    history.record_event(event(0))
    assert history.flush(timeout_s=10.0)
    limit_files(NO_ROOM_BYTES)
    history.record_event(event(1))
    say(f"stored {history.flush(timeout_s=10.0)}")
    say(f"failing {history.counters()['failing']}")
    say(f"alarms {[e.event for e in history.take_events()]}")
    number = 2
    for _ in range(6):
        for _ in range(4_000):
            history.record_event(event(number))
            number += 1
        history.flush(timeout_s=10.0)
    say(f"dropped {history.counters()['dropped']['event']}")
    limit_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    history.record_event(event(number))
    say(f"stored {history.flush(timeout_s=10.0)}")
    say(f"alarms {[e.event for e in history.take_events()]}")
    history.close()
    say(f"recorded {number + 1}")


def audit_on_full_disk(path: Path) -> None:
    """Fill the disk and the memory behind it, then make room: say what was counted."""
    audit = Audit(path, records_max=100, wall_s=lambda: NOW_S, retry_s_min=0.01)
    audit.start()
    audit.record_event(event(0))
    assert audit.flush(timeout_s=10.0)
    limit_files(NO_ROOM_BYTES)
    audit.record_event(event(1))
    say(f"stored {audit.flush(timeout_s=10.0)}")
    number = 2
    said = audit.record_event(event(number))
    say(f"told {said} {audit.failing} {[e.event for e in audit.take_events()]}")
    for _ in range(200):
        number += 1
        audit.record_event(event(number))
    audit.flush(timeout_s=10.0)
    say(f"waiting {audit.counters()['pending_count']}")
    say(f"dropped {audit.counters()['dropped'].get('event', 0)}")
    limit_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    say(f"stored {audit.flush(timeout_s=10.0)}")
    said = audit.record_event(event(number + 1))
    say(f"told {said} {audit.failing} {[e.event for e in audit.take_events()]}")
    audit.close()
    say(f"recorded {number + 2}")


PROGRAMS: Final[dict[str, Callable[[Path], None]]] = {
    program.__name__: program
    for program in (
        record_until_killed,
        audit_until_killed,
        history_on_full_disk,
        audit_on_full_disk,
    )
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](Path(sys.argv[2]))
