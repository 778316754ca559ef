"""One node's traffic on the bus: which frame goes to which topic, and which topic comes back.

It is the same for an agent of two processes and for one inside the demo. It validates no lease and
keeps none: payloads pass as bytes, and the actuator judges them. A flood on a topic passes at a
bounded rate, and of what waits the newest counts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from daemon.bus import Bus, LastWords
from facility.budget import Budget, Rate
from facility.config import AgentConfig
from facility.topics import COMMAND, SAMPLE, STATE, Delivery, Topics
from facility.wire import Event, NodeStatus, encode

LOG = logging.getLogger(__name__)

Deliver = Callable[[str, bytes], None]
"""Takes a frame for the actuator: its kind, `lease`, `emergency` or `heartbeat`, and its bytes."""

TELEMETRY_PERIODS_MAX: Final = 2
"""A frame of telemetry that waits longer is not sent: a newer one has made it worthless."""

COMMAND_RATE: Final = Rate(per_s=1_048_576.0, burst=2_097_152.0)
"""Bytes to the actuator from one topic: 250 small messages a second, where one is usual."""
COMMAND_COST_BYTES: Final = 4_096
"""What any message costs beside its bytes: it wakes the actuator."""
ALARM_AGAIN_S: Final = 300.0

_DELIVERIES: Final[dict[str, Delivery]] = {
    "status": STATE,
    "info": STATE,
    "telemetry": SAMPLE,
    "applied": STATE,
    "event": COMMAND,
}


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What the actuator is told about the connection, for its status line."""

    connected: bool
    detail: str


def agent_bus(config: AgentConfig, status: NodeStatus) -> Bus:
    """Return the bus of one agent, whose will says that the session of `status` is lost."""
    lost = msgspec.structs.replace(status, state="lost")
    disconnected = msgspec.structs.replace(status, state="disconnected")
    topic = Topics(config.site).node(config.node, "status")
    return Bus(
        config.broker,
        # Not to be guessed: who connects with our identifier throws us out (MQTT 3.1.1, 3.1.4-2).
        identifier=f"ampacity-agent-{config.site}-{config.node}-{os.urandom(6).hex()}",
        last_words=LastWords(topic, lost=encode(lost), disconnected=encode(disconnected)),
    )


class Timer(Protocol):
    """What a link needs of an event loop: its time, and to be called later."""

    def time(self) -> float:
        """Monotonic seconds."""
        ...

    def call_later(self, wait_s: float, callback: Callable[[str], object], topic: str, /) -> object:
        """Call in `wait_s`."""
        ...


class AgentLink:
    """Carries frames of one node between its actuator and a bus, which it does not own."""

    def __init__(
        self, bus: Bus, config: AgentConfig, deliver: Deliver, *, timer: Timer | None = None
    ) -> None:
        """Remember them; nothing is subscribed before `start`.

        Args:
            bus: connected or not; several links may share one.
            config: names the site, the node and the domains whose emergencies it obeys.
            deliver: called on the event loop with each frame for the actuator; must not block.
            timer: in place of the running event loop's, for who has another time.
        """
        self._given_timer = timer
        self.frames_sent: Counter[str] = Counter()
        """Frames taken from the actuator, by kind."""
        self.frames_delivered: Counter[str] = Counter()
        """Frames given to the actuator, by kind."""
        self.frames_dropped: Counter[str] = Counter()
        """Frames for the actuator that a newer one replaced in a flood."""
        self._budgets: dict[str, Budget] = {}
        self._held: dict[str, tuple[str, bytes]] = {}
        """By topic what waits for its budget: the newest message."""
        self._told_s: dict[str, float] = {}
        self._bus = bus
        self._config = config
        self._topics = Topics(config.site)
        self._deliver = deliver

    def start(self) -> None:
        """Subscribe to this node's leases and to the emergencies of its domains."""
        self._bus.subscribe(self._topics.node(self._config.node, "lease"), self._take_lease)
        for domain in self._config.domains:
            self._bus.subscribe(self._topics.domain(domain, "emergency"), self._take_emergency)

    def send(self, kind: str, payload: bytes) -> bool:
        """Queue a frame of the actuator for the broker; False when it was given up.

        Args:
            kind: status, info, telemetry, applied or event.
            payload: the encoded message, published unchanged.

        Raises:
            ValueError: an unknown kind, or a payload that is too large.
        """
        delivery = _DELIVERIES.get(kind)
        if delivery is None:
            raise ValueError(
                f"no frame of kind {kind!r} is published, only {', '.join(_DELIVERIES)}"
            )
        self.frames_sent[kind] += 1
        if kind == "event":
            return self._bus.publish(self._topics.event, payload, delivery)
        topic = self._topics.node(self._config.node, kind)
        waits_s = TELEMETRY_PERIODS_MAX * self._config.telemetry_s if kind == "telemetry" else None
        return self._bus.publish(topic, payload, delivery, waits_s)

    def beat(self) -> None:
        """Tell the actuator that this side is alive, and how the connection is."""
        beat = Heartbeat(connected=self._bus.connected, detail=self._bus.detail)
        self._give("heartbeat", msgspec.json.encode(beat))

    def _timer(self) -> Timer:
        return self._given_timer or asyncio.get_running_loop()

    def _now_s(self) -> float:
        return self._timer().time()

    def _take_lease(self, topic: str, payload: bytes, _retained: bool) -> None:
        self._pass("lease", topic, payload)

    def _take_emergency(self, topic: str, payload: bytes, _retained: bool) -> None:
        self._pass("emergency", topic, payload)

    def _pass(self, kind: str, topic: str, payload: bytes) -> None:
        """Give it on if its topic's budget allows, else keep it in place of any that waits.

        Each topic has a budget of its own, so no flood of leases holds up an emergency. Of leases
        and of emergencies of one domain the last one says all of it.
        """
        now_s = self._now_s()
        budget = self._budgets.setdefault(topic, Budget(COMMAND_RATE, now_s))
        if topic in self._held:
            self.frames_dropped[kind] += 1
            self._held[topic] = (kind, payload)
        elif budget.spend(now_s, COMMAND_COST_BYTES + len(payload)):
            self._give(kind, payload)
        else:
            self._held[topic] = (kind, payload)
            self._alarm(kind, topic)
            self._wait(topic, now_s)

    def _wait(self, topic: str, now_s: float) -> None:
        cost = COMMAND_COST_BYTES + len(self._held[topic][1])
        wait_s = self._budgets[topic].wait_s(now_s, cost)
        self._timer().call_later(wait_s, self._release, topic)

    def _release(self, topic: str) -> None:
        """Give on what waited, or wait on: what waits now may be larger."""
        now_s = self._now_s()
        kind, payload = self._held[topic]
        if self._budgets[topic].spend(now_s, COMMAND_COST_BYTES + len(payload)):
            del self._held[topic]
            self._give(kind, payload)
        else:
            self._wait(topic, now_s)

    def _alarm(self, kind: str, topic: str) -> None:
        """Say that somebody floods a topic: at once, and again while it goes on."""
        now_s = self._now_s()
        last_s = self._told_s.get(topic)
        if last_s is not None and now_s - last_s < ALARM_AGAIN_S:
            return
        self._told_s[topic] = now_s
        LOG.warning("event=rate-limited kind=%s topic=%s", kind, topic)
        event = Event(
            event="rate-limited",
            severity="warning",
            at_s=time.time(),
            source=f"node/{self._config.node}",
            subject=kind,
            sentence=f"{topic} brings more than an actuator is given: only the newest passes",
        )
        self.send("event", encode(event))

    def _give(self, kind: str, payload: bytes) -> None:
        if not payload:
            return  # retained state was deleted: a lease still runs out by its own clock
        self.frames_delivered[kind] += 1
        self._deliver(kind, payload)
