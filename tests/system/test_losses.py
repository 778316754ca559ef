"""Whatever dies, every GPU is at its safe ceiling in time, and control resumes by itself.

What is measured: the library stamps each lock write on the monotonic clock as it takes effect. A
lease counts on its node from when the frame that it answers was sampled, which is before the
controller died; so `kill + lease + 100 ms` bounds the last write whatever was on its way.
The sharper bound is the end of the very last lease that was sent, plus 100 ms.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Final

import pytest

from daemon.agent.child import SILENT_S
from facility.wire import DomainState
from simulator.gpu import H100_SXM
from tests.system.conftest import on_mosquitto
from tests.system.processes import children_of, is_alive, monotonic_ns, wait_until
from tests.system.rig import APPLY_S, LEASE_S, Rig

pytestmark = pytest.mark.integration

S_PER_NS: Final = 1e-9


def wall_to_ns(wall_s: float) -> int:
    """A time of day on the clock of the library's stamps; both are read now, on one machine."""
    return monotonic_ns() + int((wall_s - time.time()) / S_PER_NS)


def check_safe_in_time(rig: Rig, name: str, lost_ns: int) -> None:
    """One node reached its safe ceiling when its lease was over: not later, and by no unlock."""
    host = rig.hosts[name]
    reached_ns = host.reached_ns(rig.safe_mhz, since_ns=lost_ns)
    after_loss_s = (reached_ns - lost_ns) * S_PER_NS
    assert after_loss_s <= LEASE_S + APPLY_S, f"{name} took {after_loss_s:.3f} s after the loss"
    ends_wall_s = rig.listener.last_expiry_wall_s(name)
    assert ends_wall_s is not None
    late_s = (reached_ns - wall_to_ns(ends_wall_s)) * S_PER_NS
    assert late_s <= APPLY_S, f"{name} was {late_s:.3f} s later than its last lease"
    assert host.written_mhz(since_ns=lost_ns) == {rig.safe_mhz}


def test_killed_controller_means_safe_ceilings_within_the_lease_and_100_ms(rig: Rig) -> None:
    epoch = rig.api("/api/v1/decision")["decision"]["decision_id"].split("-")[0]
    lost_ns = rig.controller.kill()
    rig.wait_safe()
    for name in rig.hosts:
        check_safe_in_time(rig, name, lost_ns)
    rig.controller.start()
    rig.heal()
    again = rig.api("/api/v1/decision")["decision"]["decision_id"].split("-")[0]
    assert int(again) > int(epoch)


def test_a_host_that_comes_up_locks_first_and_is_raised_by_leases_alone(rig: Rig) -> None:
    begun_ns = rig.controller.kill()
    for host in rig.hosts.values():
        host.agent.kill()
        host.fake.unlock_behind(None)  # as after a reboot
    before = {name: [t.writes_count for t in h.fake.truths()] for name, h in rig.hosts.items()}
    for host in rig.hosts.values():
        host.agent.start()
    rig.wait_safe()
    for name, host in rig.hosts.items():
        assert host.written_mhz(since_ns=begun_ns) == {rig.safe_mhz}
        for gpu, count in enumerate(before[name]):
            assert host.fake.truth(gpu).writes_count == count + 1
    rig.controller.start()
    rig.heal()
    for host in rig.hosts.values():
        held = [truth.lock_mhz_min for truth in host.fake.truths()]
        assert held == [H100_SXM.clock_mhz_min] * host.fake.gpu_count
        assert 0 not in host.written_mhz(since_ns=begun_ns)


def test_a_dead_and_a_hanging_io_process_mean_safe_ceilings_by_the_actuator(rig: Rig) -> None:
    """`n01` loses its I/O process and gets a new one; that of `n02` hangs and comes back."""
    dead, hung = rig.hosts["n01"], rig.hosts["n02"]
    dead_pid, hung_pid = dead.io_pid, hung.io_pid
    agents = {name: host.agent.pid for name, host in rig.hosts.items()}
    lost_ns = monotonic_ns()
    os.kill(dead_pid, signal.SIGKILL)
    os.kill(hung_pid, signal.SIGSTOP)

    def both_have_written() -> bool:
        # Its successors die as well: one that were quick would renew the lease before we look.
        for pid in children_of(dead.agent.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return all(host.written_mhz(since_ns=lost_ns) for host in (dead, hung))

    wait_until(both_have_written, "both actuators have written", but=rig.story)
    for host in (dead, hung):
        check_safe_in_time(rig, host.name, lost_ns)
    os.kill(hung_pid, signal.SIGCONT)
    rig.heal()
    assert dead.io_pid != dead_pid
    assert hung.io_pid == hung_pid
    assert {name: host.agent.pid for name, host in rig.hosts.items()} == agents


@on_mosquitto
def test_an_io_process_that_hangs_for_ever_is_replaced_by_the_supervisor(rig: Rig) -> None:
    host = rig.hosts["n03"]
    hung_pid, agent_pid = host.io_pid, host.agent.pid
    os.kill(hung_pid, signal.SIGSTOP)
    wait_until(
        lambda: not is_alive(hung_pid),
        "the silent process is killed",
        timeout_s=SILENT_S + 5.0,
        but=rig.story,
    )
    rig.heal()
    assert host.io_pid != hung_pid
    assert host.agent.pid == agent_pid


def test_a_killed_agent_takes_its_io_along_and_its_node_counts_at_its_worst(rig: Rig) -> None:
    host, worst_w = rig.hosts["n02"], rig.site.nodes["n02"].model.power_w_max
    others_before_w = rig.node("n01")["power_w"] + rig.node("n03")["power_w"]
    io_pid = host.io_pid
    host.agent.kill()
    wait_until(lambda: not is_alive(io_pid), "its I/O process has ended too")
    wait_until(lambda: rig.node("n02").get("missing"), "the node is missing", but=rig.story)
    node, rack = rig.node("n02"), rig.domain("rack-01")
    assert node["exposure_w"] == pytest.approx(worst_w)
    assert node["power_w"] == pytest.approx(worst_w)
    assert rack["nodes_missing_count"] == 1
    assert rack["power_w"] >= worst_w + 0.8 * others_before_w
    states = rig.listener.read(DomainState, "state", node="rack-01")
    assert states[-1].nodes_missing_count == 1
    assert rig.leased("n01")
    assert rig.leased("n03")
    host.agent.start()
    rig.heal()
    assert rig.domain("rack-01")["nodes_missing_count"] == 0


def test_a_broker_that_restarts_empty_needs_nobody_else_to_restart(rig: Rig) -> None:
    pids = [process.pid for process in rig.processes]
    lost_ns = monotonic_ns()
    rig.broker.kill()
    rig.wait_safe()
    for name in rig.hosts:
        check_safe_in_time(rig, name, lost_ns)
    rig.broker.start()
    rig.heal()
    assert [process.pid for process in rig.processes] == pids
