"""What an operator and a driver do to a GPU host, over the real agent and the real binding."""

from __future__ import annotations

import signal
import time
from functools import partial
from itertools import pairwise
from typing import Any, Final

import pytest

from facility.wire import NodeStatus, NodeTelemetry, Quality
from tests.system.conftest import on_mosquitto
from tests.system.processes import monotonic_ns, wait_until
from tests.system.rig import CONTROL, Rig

pytestmark = [pytest.mark.integration, on_mosquitto]

RELOADED: Final = "event=reloaded needs_restart"
HANG_S: Final = 1.5
FRAME_GAP_S: Final = 2.0 * CONTROL.telemetry_s
"""A frame may be late by its own period before anybody would notice."""


def reload(rig: Rig, name: str, **keys: Any) -> None:
    """Change a node's file and have the running agent read it."""
    host = rig.hosts[name]
    rig.rewrite_agent(name, **keys)
    reloads = host.agent.log.count(RELOADED)
    host.agent.signal(signal.SIGHUP)
    wait_until(lambda: host.agent.log.count(RELOADED) > reloads, "it is read", but=rig.story)


def test_an_agent_that_ends_leaves_what_its_policy_says_and_a_goodbye(rig: Rig) -> None:
    policies = {"n01": "hold", "n02": "safe", "n03": "restore"}
    for name, on_exit in policies.items():
        reload(rig, name, on_exit=on_exit)
    wait_until(lambda: all(rig.leased(name) for name in policies), "all hold leases")
    begun_ns = monotonic_ns()
    for name in policies:  # all at once: a node that is missing would slow the others
        rig.hosts[name].agent.signal(signal.SIGTERM)
    for name in policies:
        assert rig.hosts[name].agent.wait() == 0
        wait_until(
            partial(said_goodbye, rig, name), f"{name} said goodbye", but=rig.hosts[name].agent.tail
        )
        rig.rewrite_agent(name)
    written_mhz = {name: rig.hosts[name].written_mhz(since_ns=begun_ns) for name in policies}
    assert written_mhz == {"n01": set(), "n02": {rig.safe_mhz}, "n03": {0}}
    assert rig.hosts["n01"].ceilings_mhz == {rig.top_mhz}
    assert rig.hosts["n02"].ceilings_mhz == {rig.safe_mhz}


def said_goodbye(rig: Rig, name: str) -> bool:
    return rig.listener.read(NodeStatus, "status", node=name)[-1].state == "disconnected"


def test_a_bad_file_is_refused_on_reload_with_its_line_and_control_goes_on(rig: Rig) -> None:
    host = rig.hosts["n01"]
    good = host.config_path.read_text()
    host.config_path.write_text(good.replace("safe_ceiling_mhz: ", "safe_ceilling_mhz: "))
    line = good[: good.index("safe_ceiling_mhz: ")].count("\n") + 1
    host.agent.signal(signal.SIGHUP)
    wait_until(lambda: "event=reload-refused" in host.agent.log, "it says so", but=rig.story)
    assert f"{host.config_path}:{line}: " in host.agent.log
    assert "did you mean 'safe_ceiling_mhz'?" in host.agent.log
    pid, seen = host.agent.pid, len(rig.listener.messages("lease", node="n01"))
    wait_until(lambda: len(rig.listener.messages("lease", node="n01")) > seen + 3, "leases go on")
    assert rig.leased("n01")
    assert host.agent.pid == pid
    assert host.ceilings_mhz == {rig.top_mhz}
    host.config_path.write_text(good)


def test_a_good_file_is_obeyed_on_reload_without_a_restart(rig: Rig) -> None:
    host, lower_mhz = rig.hosts["n02"], rig.safe_mhz - 90
    pid = host.agent.pid
    reload(rig, "n02", safe_ceiling_mhz=lower_mhz)
    rig.controller.kill()
    rig.wait_ceilings(lambda mhz: mhz == lower_mhz, f"at {lower_mhz} MHz", names=("n02",))
    assert host.agent.pid == pid
    reload(rig, "n02")
    rig.wait_safe()


def test_a_hanging_read_blinds_one_gpu_and_stops_neither_frames_nor_heartbeat(rig: Rig) -> None:
    host = rig.hosts["n01"]
    begun_s = time.time()
    host.fake.hang(3, reads_s=HANG_S)
    blind = host.fake.gpu_uuid(3)

    def frames() -> list[NodeTelemetry]:
        heard = rig.listener.read(NodeTelemetry, "telemetry", node="n01")
        return [frame for frame in heard if frame.sampled_at_s > begun_s]

    def blinded() -> list[NodeTelemetry]:
        return [
            frame
            for frame in frames()
            if any(gpu.uuid == blind and gpu.quality is not Quality.GOOD for gpu in frame.gpus)
        ]

    wait_until(lambda: len(blinded()) >= 2, "the GPU is blind in the telemetry", but=rig.story)
    others = [gpu.quality for gpu in blinded()[-1].gpus if gpu.uuid != blind]
    assert others == [Quality.GOOD] * (host.fake.gpu_count - 1)
    wait_until(lambda: time.time() > begun_s + HANG_S, "the hang is over")
    stamps_s = [frame.sampled_at_s for frame in frames()]
    gaps_s = [after - before for before, after in pairwise(stamps_s)]
    assert max(gaps_s) <= FRAME_GAP_S
    assert "event=io-ended" not in host.agent.log[-4_000:]
    wait_until(lambda: len(frames()) - len(blinded()) >= 2, "it sees again")


def test_a_driver_that_reloads_gets_its_locks_again(rig: Rig) -> None:
    host, brake_mhz = rig.hosts["n03"], rig.site.nodes["n03"].model.gpu.brake_ceiling_mhz
    rig.ask("brake", domain="rack-01")
    rig.wait_ceilings(lambda mhz: mhz == brake_mhz, "braked")
    begun_ns = monotonic_ns()
    host.fake.reload_driver(down_s=0.3)
    assert host.ceilings_mhz == {rig.top_mhz}, "the reload has lifted the locks"
    rig.wait_ceilings(lambda mhz: mhz <= rig.safe_mhz, "locked again", names=("n03",))
    rig.wait_ceilings(lambda mhz: mhz == brake_mhz, "braked again", names=("n03",))
    written = host.written_mhz(since_ns=begun_ns)
    assert max(written) <= rig.safe_mhz, "nothing was allowed before a lease of the new life"
    assert 0 not in written
    rig.ask("release", domain="rack-01")


def test_a_node_that_may_not_write_says_so_and_counts_at_its_worst(rig: Rig) -> None:
    host, worst_w = rig.hosts["n02"], rig.site.nodes["n02"].model.power_w_max
    host.agent.terminate()
    host.fake.deny_writes()
    host.agent.start()
    wait_until(
        lambda: rig.node("n02").get("controllable") is False and not rig.node("n02")["missing"],
        "it is shown as uncontrollable",
        but=rig.story,
    )
    node = rig.node("n02")
    assert node["sentence"].startswith("uncontrollable: ")
    assert node["exposure_w"] == pytest.approx(worst_w)
    host.fake.heal()
