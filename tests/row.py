"""A scripted row for the tests of the control cycle: nodes that draw what the test says.

It speaks the real messages through the real inbox and codec; what a node draws is a share of the
worst case under its ceiling, so that a test can push a row to any load. Time is the test's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from controllers.cycle import ControlCycle
from controllers.inbox import Inbox
from facility.compiler import compile_site
from facility.config import PolicyName, SiteConfig
from facility.decisions import Decision
from facility.example import row_site
from facility.topics import Topics
from facility.topology import Site
from facility.wire import (
    Applied,
    Codec,
    DomainState,
    Emergency,
    GpuApplied,
    GpuIdentity,
    GpuReading,
    NodeInfo,
    NodeStatus,
    NodeTelemetry,
    Request,
    Response,
    encode,
)

WALL_START_S = 1_700_000_000.0


def site_of(
    *,
    nodes: int = 8,
    policy: PolicyName = "ampacity",
    config: SiteConfig | None = None,
    **control: float,
) -> Site:
    """The example row with another number of nodes, policy or control settings."""
    base = config or row_site(nodes=nodes)
    settings = msgspec.structs.replace(base.control, policy=policy, **control)
    return compile_site(msgspec.structs.replace(base, control=settings))


@dataclass
class Row:
    """Nodes of a site under the real inbox and cycle, stepped by the test.

    `load_ratio` is the share of its worst case above idle that each node draws under its ceiling.
    """

    site: Site
    load_ratio: float = 0.8
    now_s: float = 100.0
    epoch: int = 7
    silent: set[str] = field(default_factory=set)
    loads: dict[str, float] = field(default_factory=dict)
    margins_c: dict[str, float] = field(default_factory=dict)
    inlets_c: dict[str, float] = field(default_factory=dict)
    ceiling_mhz: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Every node is born at its safe ceiling."""
        self.topics = Topics(self.site.name)
        self.inbox = Inbox(self.site, codec=Codec())
        self.cycle = ControlCycle(self.site, epoch=self.epoch, started_at_s=self.now_s)
        self.seq = 0
        for name, node in self.site.nodes.items():
            self.ceiling_mhz.setdefault(name, node.model.gpu.safe_ceiling_mhz)
            self.is_born(name)

    @property
    def wall_s(self) -> float:
        """Time of day of the row."""
        return WALL_START_S + self.now_s

    def send(self, topic: str, message: msgspec.Struct) -> None:
        """Put a message into the inbox as the bus would."""
        self.inbox.receive(self.now_s, self.wall_s, topic, encode(message))

    def uuids(self, node: str) -> list[str]:
        """The GPUs of a node."""
        return [f"GPU-{node}-{place}" for place in range(self.site.nodes[node].model.gpu_count)]

    def is_born(self, node: str, *, session: str = "s1", can_actuate: bool = True) -> None:
        """A node says what it is."""
        gpu = self.site.nodes[node].model.gpu
        self.send(
            self.topics.node(node, "info"),
            NodeInfo(
                node=node,
                session=session,
                agent_version="1",
                started_at_s=self.wall_s,
                gpus=tuple(
                    GpuIdentity(uuid=uuid, index=place, model="H100")
                    for place, uuid in enumerate(self.uuids(node))
                ),
                safe_ceiling_mhz=gpu.safe_ceiling_mhz,
                brake_ceiling_mhz=gpu.brake_ceiling_mhz,
                telemetry_s=1.0,
                can_actuate=can_actuate,
                cannot_actuate_because="" if can_actuate else "no permission",
            ),
        )

    def frame(self, node: str) -> NodeTelemetry:
        """What a node would report now."""
        model = self.site.nodes[node].model
        worst_w = model.gpu.power_w_at(self.ceiling_mhz[node])
        load = self.loads.get(node, self.load_ratio)
        power_w = model.gpu.idle_power_w + load * (worst_w - model.gpu.idle_power_w)
        return NodeTelemetry(
            node=node,
            session="s1",
            seq=self.seq,
            sampled_at_s=self.wall_s,
            inlet_temperature_c=self.inlets_c.get(node, 22.0),
            gpus=tuple(
                GpuReading(
                    uuid=uuid,
                    power_w=power_w,
                    power_w_max=power_w,
                    ceiling_mhz=self.ceiling_mhz[node],
                    margin_c=self.margins_c.get(node, 30.0),
                )
                for uuid in self.uuids(node)
            ),
        )

    def step(self, elapsed_s: float = 1.0) -> Decision:
        """One second: every node that speaks reports, the cycle decides, its leases apply."""
        self.now_s += elapsed_s
        self.seq += 1
        for node in self.site.nodes:
            if node not in self.silent:
                self.send(self.topics.node(node, "telemetry"), self.frame(node))
        snapshot = self.inbox.snapshot(self.now_s, self.wall_s, self.cycle.orders.active)
        decision = self.cycle.step(snapshot)
        for lease in decision.leases:
            self.ceiling_mhz[lease.node] = min(lease.ceilings_mhz.values())
        return decision

    def run(self, seconds: int) -> Decision:
        """Step for a while and return the last decision."""
        for _ in range(seconds - 1):
            self.step()
        return self.step()

    def order(
        self, verb: str, *, dry_run: bool = False, **args: str | float | bool
    ) -> tuple[Response, tuple[Emergency, ...]]:
        """An operator's request between two cycles; the nodes obey what they hear."""
        request = Request(verb=verb, args=args, dry_run=dry_run, by="test")
        responses, emergencies, _ = self.cycle.handle((request,), self.wall_s)
        return responses[0], emergencies

    def reports(
        self, node: str, cause: str, *, epoch: int | None = None, reason: str = "lease"
    ) -> None:
        """A node reports what became of its last write, under whose epoch and for which reason."""
        self.send(
            self.topics.node(node, "applied"),
            Applied(
                node=node,
                session="s1",
                decision_id="",
                epoch=epoch or self.epoch,
                sequence=1,
                reason=reason,
                applied_at_s=self.wall_s,
                gpus={self.uuids(node)[0]: GpuApplied(requested_mhz=1005, cause=cause)},
            ),
        )

    def says(self, node: str, state: str) -> None:
        """A node's status, as its agent or the broker's will publishes it."""
        status = NodeStatus(node=node, session="s1", state="ready")
        payload = encode(status).replace(b'"ready"', f'"{state}"'.encode())
        topic = self.topics.node(node, "status")
        self.inbox.receive(self.now_s, self.wall_s, topic, payload)


def domain(decision: Decision, name: str) -> DomainState:
    """One domain's state in a decision."""
    return next(state for state in decision.domains if state.domain == name)


def ceilings(decision: Decision, nodes: Iterable[str]) -> list[int]:
    """The decided ceilings of some nodes."""
    wanted = set(nodes)
    return [node.ceiling_mhz for node in decision.nodes if node.node in wanted]


def by_priority(site: Site, priority: str) -> list[str]:
    """Nodes of one priority."""
    return [name for name, node in site.nodes.items() if node.priority == priority]
