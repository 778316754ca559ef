"""What an actuator believes once it has a trust list: each refusal is counted and told."""

from __future__ import annotations

from typing import Any

import pytest

from actuators.clocks import ClockActuator
from controllers.node_local import LocalTrigger, LocalTriggers
from controllers.node_mail import MAIL_MAX, NodeMail
from daemon.agent.actuator import Actuator
from daemon.agent.state import MemoryKeeper
from facility.signing import Signer, Verifier
from facility.topics import Topics
from facility.wire import Codec, Emergency, Event, Lease, encode
from simulator.hands import InlineHands
from tests.node_fakes import BRAKE_MHZ, SAFE_MHZ, FakeHost, agent_config, emergency, lease
from tests.signatures import CONTROLLER, OPERATOR, STRANGER, TRUSTED

TOPICS = Topics("lab")
CODEC = Codec()


def granted(message: Lease, by: Signer = CONTROLLER, *, to: str = "") -> tuple[str, bytes]:
    """A signed lease as it arrives."""
    return "lease", by.seal(TOPICS.node(to or message.node, "lease"), encode(message))


def declared(message: Emergency, by: Signer = CONTROLLER) -> tuple[str, bytes]:
    """A signed emergency as it arrives."""
    return "emergency", by.seal(TOPICS.domain(message.domain, "emergency"), encode(message))


class Node:
    """An actuator that believes the controller's and the operator's key."""

    def __init__(self, keeper: MemoryKeeper | None = None, session: str = "s1") -> None:
        self.host = FakeHost(2)
        self.keeper = keeper or MemoryKeeper()
        self.events: list[Event] = []
        self.actuator = Actuator(
            agent_config(),
            InlineHands(self.host, make_writer=ClockActuator),
            self.keeper,
            session=session,
            verifier=Verifier(TRUSTED),
        )
        self.actuator.start()
        self.cycle(0.0)

    def cycle(self, now_s: float, *incoming: tuple[str, bytes]) -> None:
        for kind, data in self.actuator.cycle(now_s, now_s, incoming):
            if kind == "event":
                self.events.append(CODEC.decode(data, Event))

    @property
    def ceilings_mhz(self) -> set[int]:
        return {gpu.ceiling_mhz or 0 for gpu in self.host.gpus}

    def refuses(self, now_s: float, message: tuple[str, bytes], reason: str, event: str) -> None:
        """Send a message that must change nothing but one counter, and be told of once."""
        held_mhz, before = self.ceilings_mhz, self.actuator.refused[reason]
        self.events.clear()
        self.cycle(now_s, message)
        assert self.ceilings_mhz == held_mhz
        assert self.actuator.refused[reason] == before + 1
        (told,) = [one for one in self.events if one.subject == reason]
        assert told.event == event
        assert told.severity in ("warning", "critical")


@pytest.fixture
def node() -> Node:
    """A node that runs at 1800 MHz under a signed lease."""
    made = Node()
    made.cycle(1.0, granted(lease()))
    assert made.ceilings_mhz == {1800}
    return made


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (("lease", encode(lease(1950, sequence=2))), "unsigned"),
        (granted(lease(1950, sequence=2), STRANGER), "unknown-key"),
        (granted(lease(1950, sequence=2), OPERATOR), "wrong-role"),
        (granted(lease(1950, sequence=2), to="n2"), "bad-signature"),
        (granted(lease(1950, sequence=2, node="n2")), "wrong-node"),
        (granted(lease(1950, sequence=1)), "replayed"),
        (granted(lease(1950, sequence=2, epoch=0)), "old-epoch"),
        (granted(lease(1950, sequence=2, session="s0")), "other-session"),
        (granted(lease(1950, sequence=2, basis_seq=99)), "unknown-frame"),
    ],
)
def test_each_lease_that_must_not_be_believed(
    node: Node, message: tuple[str, bytes], reason: str
) -> None:
    node.refuses(1.5, message, reason, "lease-refused")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (("emergency", encode(emergency(sequence=2))), "unsigned"),
        (declared(emergency(sequence=2), STRANGER), "unknown-key"),
        (declared(emergency(sequence=2, domain="ups-b")), "foreign-domain"),
        (declared(emergency(False, sequence=2), OPERATOR), "may-not-end"),
    ],
)
def test_each_emergency_that_must_not_be_believed(
    node: Node, message: tuple[str, bytes], reason: str
) -> None:
    node.refuses(1.5, message, reason, "emergency-refused")


def test_an_emergency_signed_for_one_domain_is_none_for_another(node: Node) -> None:
    sealed = declared(emergency(domain="r1"))[1]
    node.refuses(
        1.5,
        ("emergency", sealed.replace(b'"domain":"r1"', b'"domain":"ups-a"')),
        "bad-signature",
        "emergency-refused",
    )


def test_a_forgery_is_critical_and_a_flood_of_them_is_told_once_in_ten_seconds(node: Node) -> None:
    for count in range(50):
        node.cycle(1.5 + count / 100, ("lease", encode(lease(1950, sequence=2))))
    told = [event for event in node.events if event.event == "lease-refused"]
    assert [event.severity for event in told] == ["critical"]
    assert node.actuator.refused["unsigned"] == 50
    node.cycle(12.0, ("lease", encode(lease(1950, sequence=2))))
    assert "and 49 more" in node.events[-1].sentence


def test_an_old_leader_is_refused_after_a_restart_too(node: Node) -> None:
    node.cycle(1.5, granted(lease(epoch=9)))
    again = Node(node.keeper, session="s2")
    again.refuses(1.0, granted(lease(epoch=8, session="s2")), "old-epoch", "lease-refused")
    assert again.ceilings_mhz == {SAFE_MHZ}


def test_a_lease_recorded_before_a_restart_is_worth_nothing_after_it(node: Node) -> None:
    again = Node(node.keeper, session="s2")
    again.refuses(1.0, granted(lease()), "other-session", "lease-refused")


def test_an_ended_emergency_does_not_come_back_by_replay_even_after_a_restart(node: Node) -> None:
    on, off = declared(emergency(sequence=1)), declared(emergency(False, sequence=2))
    node.cycle(1.5, on)
    node.cycle(2.0, off)
    node.cycle(3.0)
    node.refuses(3.5, on, "replayed", "emergency-refused")
    again = Node(node.keeper, session="s2")
    again.refuses(1.0, on, "replayed", "emergency-refused")


def test_an_operator_may_brake_without_a_controller_and_only_a_controller_ends_it(
    node: Node,
) -> None:
    brake = declared(emergency(contingency="brake", epoch=0, sequence=1_000), OPERATOR)
    node.cycle(1.5, brake)
    assert node.ceilings_mhz == {BRAKE_MHZ}
    node.refuses(
        2.0,
        declared(emergency(False, epoch=0, sequence=2_000), OPERATOR),
        "may-not-end",
        "emergency-refused",
    )
    node.cycle(2.5, declared(emergency(False, sequence=3)))
    node.cycle(2.6, brake)
    assert node.actuator.refused["replayed"] == 1
    assert not node.actuator.brain.contingencies.active
    again = Node(node.keeper, session="s2")
    again.refuses(1.0, brake, "replayed", "emergency-refused")


def test_an_operator_adds_to_what_a_controller_declared(node: Node) -> None:
    node.cycle(1.5, declared(emergency(sequence=5)))
    node.cycle(2.0, declared(emergency(contingency="brake", epoch=0, sequence=1), OPERATOR))
    assert node.actuator.brain.contingencies.active == ("brake", "ups-a-lost")
    node.cycle(2.5, declared(emergency(contingency="brake", epoch=0, sequence=1), OPERATOR))
    assert not node.actuator.refused, "the retained message comes again after a reconnect"


def test_trust_is_replaced_between_two_cycles_without_a_gap(node: Node) -> None:
    node.actuator.trust(Verifier((*TRUSTED, STRANGER.trusted)))
    node.cycle(1.5, granted(lease(1500, sequence=2), STRANGER))
    assert node.ceilings_mhz == {1500}
    node.actuator.trust(Verifier((STRANGER.trusted,)))
    node.refuses(2.0, granted(lease(1950, sequence=3)), "unknown-key", "lease-refused")
    node.cycle(2.5, granted(lease(1605, sequence=4), STRANGER))
    assert node.ceilings_mhz == {1605}


def test_a_flood_costs_a_bounded_time_and_the_last_message_counts(node: Node) -> None:
    flood: list[Any] = [("lease", b"{}")] * (3 * MAIL_MAX)
    node.cycle(1.5, *flood, granted(lease(1500, sequence=2)))
    assert node.ceilings_mhz == {1500}
    assert node.actuator.refused["flood"] == 2 * MAIL_MAX + 1
    assert node.actuator.refused["unsigned"] == MAIL_MAX - 1


def test_what_the_nodes_own_ups_says_is_not_drowned_by_a_flood() -> None:
    mail = NodeMail(site="lab", node="n1", verifier=Verifier(TRUSTED))
    local = encode(LocalTriggers(triggers=(LocalTrigger(ups="ups-a", on=True, cause="OB"),)))
    flood = [("local", local), *[("lease", b"{}")] * (2 * MAIL_MAX)]
    assert [one.ups for one in mail.read(flood).local] == ["ups-a"]
