"""`ampacity demo` as people and scripts run it: one document, an honest verdict, a clean end."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any, Final

import pytest

from tests.system.processes import (
    Process,
    ampacity,
    answer,
    descendants_of,
    is_alive,
    wait_until,
)
from tests.system.web import get

pytestmark = pytest.mark.integration

CONTRACT: Final = {
    "verdict": str,
    "row_power_ratio_max": float,
    "seconds_over_capacity": float,
    "tripped": bool,
    "leases_granted": int,
    "leases_expired": int,
    "requests_served": int,
    "ttft_p99_s_high": float,
    "ttft_p99_s_low": float,
    "throttle_events": int,
    "emergency_reaction_s": float,
}
"""What every report has, and as what."""
END_S: Final = 2.0
FAST: Final = ("--speed", 50, "--json", "--port", 0)


def report_of(*arguments: object) -> dict[str, Any]:
    """The one document that a run prints."""
    said = answer("demo", *arguments, timeout_s=60)
    assert said.code == 0, said.err
    document: dict[str, Any] = json.loads(said.out)  # fails on anything beside it
    return document


def test_a_run_prints_one_document_with_every_key_of_the_contract_and_nothing_trips() -> None:
    report = report_of("--duration-s", 20, *FAST)
    for key, kind in CONTRACT.items():
        assert isinstance(report[key], kind), f"{key} is {report[key]!r}"
    assert report["tripped"] is False
    assert report["verdict"].startswith("HELD")
    assert report["leases_granted"] > 0
    assert report["requests_served"] > 0


@pytest.mark.slow
def test_without_control_the_same_failure_trips_a_breaker() -> None:
    report = report_of("--duration-s", 90, "--policy", "none", *FAST)
    assert report["tripped"] is True
    assert report["verdict"].startswith("TRIPPED")
    assert report["row_power_ratio_max"] > 1.0
    assert report["requests_lost"] > 0


def test_ctrl_c_ends_the_demo_clean_within_two_seconds(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = ampacity("demo", "--duration-s", 600, "--port", 0)
    with Process("demo", command, tmp_path, {"TMPDIR": str(scratch)}) as demo:
        wait_until(lambda: "watch http://" in demo.log, "it runs", but=demo.tail)
        url = demo.log.partition("watch ")[2].split()[0]
        wait_until(lambda: get(f"{url}/api/v1/decision")[0] == 200, "it decides", but=demo.tail)
        children = list(descendants_of(demo.pid))
        assert children, "the broker is a child"
        assert list(scratch.iterdir()), "its store is somewhere"
        begun_s = time.monotonic()
        demo.signal(signal.SIGINT)
        assert demo.wait(timeout_s=5.0) == 130
        assert time.monotonic() - begun_s <= END_S
    assert not any(is_alive(pid) for pid in children)
    assert list(scratch.iterdir()) == []
    assert "Traceback" not in demo.log
    assert "INTERRUPTED" in demo.out_path.read_text()
