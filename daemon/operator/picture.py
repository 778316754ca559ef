"""The last of everything that a site's retained topics say, as a command has heard it.

It stores messages and when they came, and counts what does not validate. It judges nothing: what is
stale, lost or worrying is decided in `daemon.operator.overview`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Generic, TypeVar

from msgspec import Struct

from daemon.operator.session import Session, Signal
from facility.topics import Topics
from facility.wire import (
    Applied,
    Codec,
    ControllerStatus,
    DomainState,
    Emergency,
    Lease,
    NodeInfo,
    NodeStatus,
    NodeTelemetry,
    WireError,
)

T = TypeVar("T", bound=Struct)

NODE_STATE: Final = ("status", "applied", "info")
"""What a summary needs of every node."""


@dataclass(frozen=True, slots=True)
class Heard(Generic[T]):
    """A message, whether the broker kept it for us, and when it came (monotonic)."""

    message: T
    retained: bool
    at_s: float


@dataclass(slots=True)
class Picture:
    """What is known of a site; every table is by name."""

    site: str
    clock: Callable[[], float] = time.monotonic
    changed: Signal = field(default_factory=Signal)
    controllers: dict[str, Heard[ControllerStatus]] = field(default_factory=dict)
    domains: dict[str, Heard[DomainState]] = field(default_factory=dict)
    emergencies: dict[str, Heard[Emergency]] = field(default_factory=dict)
    statuses: dict[str, Heard[NodeStatus]] = field(default_factory=dict)
    infos: dict[str, Heard[NodeInfo]] = field(default_factory=dict)
    applied: dict[str, Heard[Applied]] = field(default_factory=dict)
    leases: dict[str, Heard[Lease]] = field(default_factory=dict)
    telemetry: dict[str, Heard[NodeTelemetry]] = field(default_factory=dict)
    invalid_count: int = 0
    complete: bool = True
    """False when the broker may have kept something from us."""
    _codec: Codec = field(default_factory=Codec)

    async def fill(self, session: Session, *, node: str | None = None) -> None:
        """Ask for everything and wait until it is there; of `node` also for its lease and frames.

        One kind after the other, each waited for, because a broker drops what a client does not
        take fast enough. Raises BusUnavailable when we may not read something.
        """
        topics = session.topics
        steps = [
            [topics.controller_status("+"), topics.domain("+", "state"),
             topics.domain("+", "emergency")],
            *([topics.node("+", what)] for what in NODE_STATE),
        ]  # fmt: skip
        if node is not None:
            steps.append([topics.node(node, what) for what in ("lease", "telemetry")])
        self.complete = True
        while steps:
            # Once a marker stays away, waiting for each kind by itself gains nothing.
            now, steps = (steps[:1], steps[1:]) if self.complete else (steps, [])
            for topic_filter in chain.from_iterable(now):
                session.listen(topic_filter, self.receive)
            self.complete &= await session.settle()

    def receive(self, topic: str, payload: bytes, retained: bool) -> None:
        """Keep one message; a handler of the bus."""
        parts = Topics(self.site).split(topic)
        if parts is None:
            return
        kind, name, what = parts
        if (kind, what) == ("controller", "status"):
            self._keep(self.controllers, ControllerStatus, name, payload, retained)
        elif (kind, what) == ("domain", "state"):
            self._keep(self.domains, DomainState, name, payload, retained)
        elif (kind, what) == ("domain", "emergency"):
            self._keep(self.emergencies, Emergency, name, payload, retained)
        elif (kind, what) == ("node", "status"):
            self._keep(self.statuses, NodeStatus, name, payload, retained)
        elif (kind, what) == ("node", "info"):
            self._keep(self.infos, NodeInfo, name, payload, retained)
        elif (kind, what) == ("node", "applied"):
            self._keep(self.applied, Applied, name, payload, retained)
        elif (kind, what) == ("node", "lease"):
            self._keep(self.leases, Lease, name, payload, retained)
        elif (kind, what) == ("node", "telemetry"):
            self._keep(self.telemetry, NodeTelemetry, name, payload, retained)
        self.changed.ring()

    def _keep(
        self, table: dict[str, Heard[T]], kind: type[T], name: str, payload: bytes, retained: bool
    ) -> None:
        if not payload:
            table.pop(name, None)  # retained state was deleted
            return
        try:
            message = self._codec.decode(payload, kind)
        except WireError:
            self.invalid_count += 1
            return
        table[name] = Heard(message, retained, self.clock())
