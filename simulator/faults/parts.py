"""The production parts that the machine runs, as protocols; who wires processes brings them.

The simulator may not import processes, so agents and controllers come from outside, whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from controllers.node import NodeBrain
from controllers.node_hands import CeilingWriter, Hands
from facility.config import AgentConfig
from facility.ports import GpuPort
from facility.topology import Site
from facility.wire import GpuIdentity
from simulator.faults.disk import Disk
from simulator.faults.election import Candidacy
from simulator.faults.network import Line
from simulator.faults.timeline import HostClock


class CannotStart(Exception):
    """A process that ends at its start, as it should: its disk does not take what it must keep."""


@dataclass(frozen=True, slots=True)
class AgentSeat:
    """Where one life of an agent runs."""

    config: AgentConfig
    hands: Hands
    disk: Disk
    line: Line
    clock: HostClock
    session: str


@dataclass(frozen=True, slots=True)
class ControllerSeat:
    """Where one life of a controller runs; without a candidacy it leads alone."""

    site: Site
    name: str
    session: str
    disk: Disk
    line: Line
    clock: HostClock
    candidacy: Candidacy | None = None


class AgentLife(Protocol):
    """One life of the production agent."""

    @property
    def brain(self) -> NodeBrain:
        """For witnesses only."""
        ...

    def cycle(self, now_s: float, wall_s: float) -> None:
        """Take what came in, act, and publish."""
        ...

    def next_deadline_s(self) -> float:
        """When `cycle` must run at the latest."""
        ...


class ControllerLife(Protocol):
    """One life of the production controller."""

    @property
    def failures_count(self) -> int:
        """Cycles that ended in an exception: a bug each."""
        ...

    def begin(self) -> None:
        """Take up the cycle."""
        ...

    def serve(self) -> bool:
        """Carry out requests that have come; whether it has just begun to lead."""
        ...

    def decide(self) -> None:
        """One cycle."""
        ...

    def keep_records(self) -> None:
        """What the audit's writer does twice a second."""
        ...


class AuditRecord(Struct, frozen=True):
    """One committed record. `body` is JSON."""

    at_s: float
    kind: str
    subject: str
    decision_id: str
    body: str


class Parts(Protocol):
    """Makes the production parts."""

    def writer(self, port: GpuPort, identity: GpuIdentity) -> CeilingWriter:
        """What writes one GPU's ceiling."""
        ...

    def agent(self, seat: AgentSeat) -> AgentLife:
        """A new life of an agent; it has read its disk."""
        ...

    def controller(self, seat: ControllerSeat) -> ControllerLife:
        """A new life of a controller. Raises CannotStart."""
        ...

    def audit(self, disk: Disk) -> tuple[Sequence[AuditRecord], Sequence[str]]:
        """All committed records on a disk, and what is wrong with their chain."""
        ...
