"""What was recorded is there after the controller was killed, and nobody has changed it."""

from __future__ import annotations

import time
from typing import Final

import pytest

from daemon.store.audit import READ_MAX, Audit
from daemon.store.chain import verify_audit
from daemon.store.history import EventFilter
from daemon.store.sqlite import SqliteHistory
from tests.system.conftest import on_mosquitto
from tests.system.processes import wait_until
from tests.system.rig import Rig

pytestmark = [pytest.mark.integration, on_mosquitto]

LOST_S: Final = 2.0
"""History may lose its last second, counted in whole ones."""
BEFORE_S: Final = 3.0
AFTER: Final = "after-the-crash"
BEFORE: Final = "before-the-crash"


def ordered_by(rig: Rig, name: str) -> None:
    """Leave a trace: an operator's request under a name, until history has it."""
    rig.ask("drain", by=name, node="n03", on=False)
    wait_until(lambda: told(rig, name), "history has it", but=rig.story)


def told(rig: Rig, name: str) -> bool:
    """Whether the file, read from outside, has an event of this source."""
    history = SqliteHistory(rig.store / "history.db")
    return bool(history.events(EventFilter(source=name)))


def audited(rig: Rig, name: str) -> bool:
    """Whether the audit log has a request of this operator."""
    records = Audit(rig.store / "audit.db").records(limit=READ_MAX)
    return any(name in record.body for record in records)


def test_history_and_audit_survive_a_killed_controller_and_go_on(rig: Rig) -> None:
    begun_s = time.time()
    ordered_by(rig, BEFORE)
    wait_until(lambda: time.time() > begun_s + BEFORE_S, "some roll-ups are there")
    rig.controller.kill()
    killed_s = time.time()
    history = SqliteHistory(rig.store / "history.db")
    assert told(rig, BEFORE)
    rollups = history.domain_rollups("row-1", since_s=begun_s, until_s=killed_s)
    stamps_s = [rollup.at_s for rollup in rollups]
    assert stamps_s == list(range(stamps_s[0], stamps_s[-1] + 1)), "no second is missing"
    assert stamps_s[0] <= begun_s + 1.0
    assert stamps_s[-1] >= killed_s - LOST_S - 1.0
    assert all(rollup.power_w > 0.0 for rollup in rollups)
    assert history.node_rollups("n01", since_s=begun_s, until_s=killed_s)
    report = verify_audit(rig.store / "audit.db")
    assert not report.problems
    assert audited(rig, BEFORE)
    rig.heal()
    ordered_by(rig, AFTER)
    assert told(rig, BEFORE)
    again = verify_audit(rig.store / "audit.db", anchor=report.head)
    assert not again.problems
    assert again.head.seq > report.head.seq
