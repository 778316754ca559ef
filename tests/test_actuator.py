"""The actuator: bytes in, ceilings on the hardware, bytes out, and what survives it."""

from __future__ import annotations

from collections import Counter

import pytest

from actuators.clocks import ClockActuator
from controllers.node_lease import NodeMemory
from daemon.agent.actuator import Actuator
from daemon.agent.state import FoundClocks, MemoryKeeper, NodeState
from facility.config import AgentConfig
from facility.ports import GpuDenied
from facility.wire import (
    MESSAGE_BYTES_MAX,
    Applied,
    Codec,
    Event,
    MessageT,
    NodeInfo,
    NodeStatus,
    NodeTelemetry,
    encode,
)
from simulator.hands import InlineHands, PlainWriter
from tests.node_fakes import BRAKE_MHZ, SAFE_MHZ, FakeHost, agent_config, emergency, lease

CODEC = Codec()


class Node:
    """An actuator over a fake host, as the demo runs it."""

    def __init__(
        self, config: AgentConfig | None = None, keeper: MemoryKeeper | None = None
    ) -> None:
        self.host = FakeHost(2)
        self.keeper = keeper or MemoryKeeper()
        self.actuator = Actuator(
            config or agent_config(),
            InlineHands(self.host, make_writer=ClockActuator),
            self.keeper,
            session="s1",
        )
        self.actuator.start()
        self.said: list[tuple[str, bytes]] = []

    def cycle(self, now_s: float, *incoming: tuple[str, bytes]) -> list[tuple[str, bytes]]:
        said = self.actuator.cycle(now_s, now_s, incoming)
        self.said += said
        return said

    def heard(self, kind: str, message: type[MessageT]) -> list[MessageT]:
        """Everything of a kind that has been said, decoded as a controller would."""
        return [CODEC.decode(data, message) for what, data in self.said if what == kind]

    def ceilings(self) -> list[int]:
        return [gpu.ceiling_mhz or 0 for gpu in self.host.gpus]


def leased(config: AgentConfig | None = None) -> Node:
    """A node that runs at 1800 MHz under a lease."""
    node = Node(config)
    node.cycle(0.0)
    node.cycle(1.0, ("lease", encode(lease())))
    assert node.ceilings() == [1800, 1800]
    return node


def test_the_first_cycle_makes_the_node_safe_and_introduces_it() -> None:
    node = Node()
    said = node.cycle(0.0)
    assert node.ceilings() == [SAFE_MHZ, SAFE_MHZ]
    assert [kind for kind, _ in said] == ["status", "info", "telemetry", "applied"]
    assert node.heard("status", NodeStatus)[0].state == "ready"
    assert node.heard("info", NodeInfo)[0].can_actuate
    assert node.heard("telemetry", NodeTelemetry)[0].seq == 1
    assert node.actuator.is_ready


def test_a_lease_in_bytes_moves_the_hardware_and_is_reported_in_the_same_cycle() -> None:
    node = Node()
    node.cycle(0.0)
    said = node.cycle(1.0, ("lease", encode(lease())))
    assert node.ceilings() == [1800, 1800]
    applied = [CODEC.decode(data, Applied) for kind, data in said if kind == "applied"]
    assert [(one.decision_id, one.gpus["GPU-1"].accepted_mhz) for one in applied] == [("d1", 1800)]


def test_an_emergency_in_bytes_is_obeyed_in_the_same_cycle() -> None:
    node = leased()
    node.cycle(1.5, ("emergency", encode(emergency())))
    assert node.ceilings() == [900, 900]


def test_an_emergency_counts_before_a_lease_of_the_same_cycle() -> None:
    node = leased()
    node.cycle(2.5, ("lease", encode(lease(1900, sequence=2))), ("emergency", encode(emergency())))
    assert [max(gpu.locks_mhz) for gpu in node.host.gpus] == [1800, 1800]
    assert node.ceilings() == [900, 900]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\xff",
        b"null",
        b"[" * 100_000,
        b'{"type":"lease"}',
        encode(lease()).replace(b'"lease_s":4.0', b'"lease_s":NaN'),
        encode(lease()).replace(b'"lease_s":4.0', b'"lease_s":-4.0'),
        encode(lease()).replace(b'"lease_s":4.0', b'"lease_s":1e300'),
        encode(lease()).replace(b"1800", b"-1"),
        encode(lease()).replace(b"1800", b"99999"),
        encode(emergency()),
        b" " * (MESSAGE_BYTES_MAX + 1),
    ],
)
def test_garbage_is_counted_and_changes_nothing(garbage: bytes) -> None:
    node = leased()
    node.cycle(1.5, ("lease", garbage), ("emergency", garbage[:-1]), ("spanner", b"{}"))
    assert node.ceilings() == [1800, 1800]
    assert node.actuator.undecodable == Counter({"lease": 1, "emergency": 1, "other": 1})


def test_a_sound_lease_after_garbage_is_taken_in_the_same_cycle() -> None:
    node = Node()
    node.cycle(0.0)
    node.cycle(1.0, ("lease", b"garbage"), ("lease", encode(lease())))
    assert node.ceilings() == [1800, 1800]


# --- what survives -------------------------------------------------------------------------------


def test_the_epoch_is_kept_when_it_changes_and_refuses_old_leaders_after_a_restart() -> None:
    keeper = MemoryKeeper()
    first = Node(keeper=keeper)
    first.cycle(0.0)
    first.cycle(1.0, ("lease", encode(lease(epoch=9))))
    assert keeper.state.memory.epoch == 9
    second = Node(keeper=keeper)
    second.cycle(0.0)
    second.cycle(1.0, ("lease", encode(lease(epoch=8, sequence=99))))
    assert second.ceilings() == [SAFE_MHZ, SAFE_MHZ]


def test_an_emergency_is_kept_at_once_and_holds_after_a_restart() -> None:
    keeper = MemoryKeeper()
    first = Node(keeper=keeper)
    first.cycle(0.0, ("emergency", encode(emergency())))
    second = Node(keeper=keeper)
    second.cycle(0.0)
    assert second.ceilings() == [BRAKE_MHZ, BRAKE_MHZ]


def test_what_was_found_first_is_never_overwritten() -> None:
    keeper = MemoryKeeper()
    keeper.state = NodeState(found={"GPU-0": FoundClocks(clock_mhz_max=1980, lock_mhz=1410)})
    node = Node(keeper=keeper)
    node.cycle(0.0)
    assert keeper.state.found["GPU-0"].lock_mhz == 1410
    assert keeper.state.found["GPU-1"] == FoundClocks(clock_mhz_max=1980)


def test_renewals_of_a_lease_do_not_reach_the_disk() -> None:
    class Counting(MemoryKeeper):
        count = 0

        def keep(self, state: NodeState) -> None:
            self.count += 1
            super().keep(state)

    keeper = Counting()
    node = Node(keeper=keeper)
    node.cycle(0.0)
    node.cycle(1.0, ("lease", encode(lease())))
    before = keeper.count
    for second in range(2, 50):
        node.cycle(second, ("lease", encode(lease(basis_seq=second, sequence=second))))
    assert keeper.count == before


def test_a_sick_disk_raises_an_alarm_once_and_the_node_goes_on() -> None:
    node = leased()
    node.keeper.problem = "cannot write /var/lib/ampacity: No space left on device"
    for tenth in range(11, 20):
        node.cycle(tenth / 10)
    told = [event.event for event in node.heard("event", Event)]
    assert told == ["state-problem"]
    assert node.ceilings() == [1800, 1800]
    assert "No space left" in node.actuator.sentence(2.0)
    node.keeper.problem = ""
    node.cycle(2.0)
    assert [event.event for event in node.heard("event", Event)][-1] == "state-restored"


# --- a clean stop --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_exit", "left"), [("hold", [1800] * 2), ("safe", [SAFE_MHZ] * 2), ("restore", [0] * 2)]
)
def test_a_clean_stop_leaves_what_the_policy_says(on_exit: str, left: list[int]) -> None:
    node = leased(agent_config(on_exit=on_exit))
    said = node.actuator.stop(1.5)
    assert node.actuator.stopped(1.5)
    node.actuator.close()
    assert node.ceilings() == left
    assert CODEC.decode(said[0][1], NodeStatus).state == "disconnected"


def test_a_safe_stop_in_an_emergency_does_not_raise_anything() -> None:
    node = leased(agent_config(on_exit="safe"))
    node.cycle(1.5, ("emergency", encode(emergency())))
    node.actuator.stop(1.6)
    assert node.ceilings() == [900, 900]


def test_restoring_puts_back_a_lock_that_was_recorded_and_forgets_it() -> None:
    keeper = MemoryKeeper()
    keeper.state = NodeState(
        memory=NodeMemory(epoch=3),
        found={"GPU-0": FoundClocks(clock_mhz_max=1980, lock_mhz=1410)},
    )
    node = Node(agent_config(on_exit="restore"), keeper)
    node.cycle(0.0)
    node.actuator.stop(0.1)
    node.actuator.close()
    assert node.ceilings() == [1410, 0]
    assert keeper.state.found == {}
    assert keeper.state.memory.epoch == 3


def test_a_read_only_agent_leaves_everything_alone_at_its_end() -> None:
    node = Node(agent_config(actuate=False, on_exit="restore"))
    node.cycle(0.0)
    node.actuator.stop(0.1)
    assert [gpu.locks_mhz for gpu in node.host.gpus] == [[], []]


def test_a_stop_that_the_hardware_refuses_still_ends() -> None:
    node = leased(agent_config(on_exit="safe"))
    node.host.gpus[0].write_error = GpuDenied("no")
    node.actuator.stop(1.5)
    assert node.actuator.stopped(1.5)
    assert node.ceilings() == [1800, SAFE_MHZ]


# --- hands without threads -----------------------------------------------------------------------


def test_plain_hands_snap_down_to_the_clocks_that_the_gpu_knows() -> None:
    gpu = FakeHost(1).gpus[0]
    writer = PlainWriter(gpu, gpu.identity())
    assert writer.write(1214).accepted_mhz == 1200
    assert writer.write(1215).accepted_mhz == 1215
    assert writer.write(100).accepted_mhz == 345
    assert writer.write(0).accepted_mhz == 0
    assert gpu.locks_mhz == [1200, 1215, 345, 0]


def test_hands_open_a_driver_that_comes_late() -> None:
    node = Node()
    node.host.go_away()
    node.cycle(0.0)
    assert node.heard("telemetry", NodeTelemetry) == []
    node.host.come_back()
    for tenth in range(1, 15):
        node.cycle(tenth / 10)
    assert node.ceilings() == [SAFE_MHZ, SAFE_MHZ]
    assert node.heard("info", NodeInfo)[-1].can_actuate


def test_hands_sample_at_their_own_rate_however_often_they_are_asked() -> None:
    hands = InlineHands(FakeHost(1), sample_hz=2.0)
    taken = sum(len(hands.poll(tick / 100).samples) for tick in range(201))
    assert taken == 5
