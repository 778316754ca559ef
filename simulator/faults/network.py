"""A broker and its connections in virtual time: delay, loss, duplicates, disorder and partitions.

A connection is like TCP under MQTT: what is sent into a cut waits and arrives late when the cut
heals, or is lost with the connection when it does not. Retained state is kept by the broker and
repeated by its sender after every reconnect, as the live bus does. Payloads are never looked into.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from msgspec import Struct

from facility.topics import Delivery
from simulator.faults.timeline import Timeline

Handler = Callable[[str, bytes, bool], None]
Tap = Callable[[str, bytes], None]

KEEPALIVE_S: Final = 7.5
"""One and a half times the default keepalive: a silent connection is given up."""
QUEUE_MAX: Final = 1_000
RECORDED_MAX: Final = 400
"""Messages kept for replays."""


@dataclass(slots=True)
class Weather:
    """What the network does to every message now; ratios are probabilities."""

    delay_s_min: float = 0.001
    delay_s_max: float = 0.02
    loss_ratio: float = 0.0
    duplicate_ratio: float = 0.0
    reorder_ratio: float = 0.0
    extra_s_max: float = 0.0


@dataclass(slots=True)
class Traffic:
    """Counts of one connection, under the names of the live bus."""

    published: int = 0
    dropped: int = 0
    reconnects: int = 0


class _Message(Struct, frozen=True):
    topic: str
    payload: bytes
    retain: bool
    qos: int
    expires_at_s: float


@dataclass(slots=True)
class _Subscription:
    topic_filter: str
    handler: Handler
    _known: dict[str, bool] = field(default_factory=dict)

    def matches(self, topic: str) -> bool:
        found = self._known.get(topic)
        if found is None:
            found = self._known[topic] = is_under(topic, self.topic_filter)
        return found


def is_under(topic: str, topic_filter: str) -> bool:
    """Whether a filter, in which `+` stands for any one level, takes a topic."""
    if "+" not in topic_filter:
        return topic == topic_filter
    levels, wanted = topic.split("/"), topic_filter.split("/")
    return len(levels) == len(wanted) and all(
        mine in ("+", theirs) for mine, theirs in zip(wanted, levels, strict=True)
    )


class Broker:
    """Keeps retained state and hands messages on. It may be down, or stand still."""

    def __init__(self, timeline: Timeline, rng: Random, weather: Weather) -> None:
        self.timeline = timeline
        self.rng = rng
        self.weather = weather
        self.up = True
        self.frozen = False
        self.retained: dict[str, bytes] = {}
        self.recorded: list[tuple[str, bytes, bool]] = []
        self.taps: list[Tap] = []
        """Called with every message that the broker has taken: witnesses, and nothing else."""
        self.arrived_s = 0.0
        """When the message that they are called with came to the broker, which may have stood."""
        self._lines: list[Line] = []
        self._stalled: list[tuple[float, _Message]] = []
        self._routes: dict[str, list[tuple[Line, Handler]]] = {}

    def join(self, line: Line) -> None:
        """A client connects for the first time."""
        self._lines.append(line)

    def leave(self, line: Line) -> None:
        """A client is gone for good."""
        if line in self._lines:
            self._lines.remove(line)
        self.reroute()

    def reroute(self) -> None:
        """Subscriptions have changed."""
        self._routes.clear()

    def stop(self, *, keep_retained: bool) -> None:
        """The broker dies; its clients notice at once."""
        self.up = False
        self.frozen = False
        self._stalled.clear()
        if not keep_retained:
            self.retained.clear()
        for line in list(self._lines):
            line.lose(will=False)

    def start(self) -> None:
        """The broker is back; clients find it by themselves."""
        self.up = True

    def freeze(self) -> None:
        """It stands still: nothing goes in or out."""
        self.frozen = True

    def thaw(self) -> None:
        """It goes on, with everything that has waited."""
        self.frozen = False
        stalled, self._stalled = self._stalled, []
        for arrived_s, message in stalled:
            self._hand(message, arrived_s)

    def take(self, topic: str, payload: bytes, *, retain: bool, qos: int) -> None:
        """A message has reached the broker."""
        if not self.up:
            return
        message = _Message(topic, payload, retain, qos, 0.0)
        if self.frozen:
            self._stalled.append((self.timeline.now_s, message))
        else:
            self._hand(message, self.timeline.now_s)

    def _hand(self, message: _Message, arrived_s: float) -> None:
        topic, payload, qos = message.topic, message.payload, message.qos
        if message.retain:
            self.retained[topic] = payload
        if qos and len(self.recorded) < RECORDED_MAX:
            self.recorded.append((topic, payload, message.retain))
        self.arrived_s = arrived_s
        for tap in self.taps:
            tap(topic, payload)
        route = self._routes.get(topic)
        if route is None:
            route = self._routes[topic] = self._route(topic)
        for line, handler in route:
            line.send_down(topic, payload, handler, retained=False, qos=qos)

    def _route(self, topic: str) -> list[tuple[Line, Handler]]:
        return [
            (line, item.handler)
            for line in self._lines
            for item in line.subscriptions
            if item.matches(topic)
        ]

    def repeat(self, line: Line, subscriptions: Sequence[_Subscription]) -> None:
        """Hand retained state to a client that subscribes."""
        for topic, payload in list(self.retained.items()):
            for item in subscriptions:
                if payload and item.matches(topic):
                    line.send_down(topic, payload, item.handler, retained=True, qos=1)


@dataclass(slots=True)
class _Way:
    """One direction of a connection."""

    cut: bool = False
    held: list[Callable[[], None]] = field(default_factory=list)
    last_s: float = 0.0


class Line:
    """One client's connection with its queue, under the interface of the live bus."""

    def __init__(
        self,
        broker: Broker,
        *,
        will: tuple[str, bytes] | None,
        woken: Callable[[], None] = lambda: None,
    ) -> None:
        """Not connected yet. `woken` is called after each message that was handed over."""
        self.counters = Traffic()
        self.subscriptions: list[_Subscription] = []
        self.will = will
        self.connected = False
        self._broker = broker
        self._woken = woken
        self._states: dict[str, _Message] = {}
        self._queue: list[_Message] = []
        self._up, self._down = _Way(), _Way()
        self._life = 0
        self._closed = False
        self._paused: list[Callable[[], None]] | None = None
        broker.join(self)

    @property
    def detail(self) -> str:
        """For people."""
        return "connected" if self.connected else "the broker cannot be reached"

    @property
    def is_cut(self) -> bool:
        """Whether either direction is cut."""
        return self._up.cut or self._down.cut

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:  # noqa: ARG002
        """Hand messages under `topic_filter` to `handler` from now on."""
        item = _Subscription(topic_filter, handler)
        self.subscriptions.append(item)
        self._broker.reroute()
        if self.connected:
            self._broker.repeat(self, [item])

    def publish(
        self,
        topic: str,
        payload: bytes,
        delivery: Delivery,
        expiry_s: float | None = None,
        *,
        urgent: bool = False,  # noqa: ARG002 - nothing queues in front of a message here
    ) -> bool:
        """Send a message, or keep it until there is a connection."""
        expires_at_s = float("inf") if expiry_s is None else self._broker.timeline.now_s + expiry_s
        message = _Message(topic, payload, delivery.retain, delivery.qos, expires_at_s)
        if message.retain:
            self._states[topic] = message
        if self.connected:
            self._send_up(message)
        elif not message.retain:
            if len(self._queue) >= QUEUE_MAX:
                self._queue.pop(0)
                self.counters.dropped += 1
            self._queue.append(message)
        return True

    def connect(self) -> None:
        """Try to connect, and go on trying."""
        if self._closed or self.connected:
            return
        broker = self._broker
        away = self._up.cut or self._down.cut or self._paused is not None
        if not broker.up or broker.frozen or away:
            broker.timeline.after(0.5 + broker.rng.random(), self.connect)
            return
        self.connected = True
        self.counters.reconnects += 1
        now_s = broker.timeline.now_s
        broker.repeat(self, self.subscriptions)
        queue, self._queue = self._queue, []
        for message in [*self._states.values(), *queue]:
            if message.expires_at_s > now_s:
                self._send_up(message)

    def lose(self, *, will: bool) -> None:
        """The connection breaks; what was on its way in either direction is lost."""
        if self._closed:
            return
        if will and self.connected and self.will is not None and self._broker.up:
            topic, payload = self.will
            self._broker.take(topic, payload, retain=True, qos=1)
        self.connected = False
        self._life += 1
        for way in (self._up, self._down):
            way.held.clear()
        broker = self._broker
        broker.timeline.after(0.1 + broker.rng.random(), self.connect)

    def close(self, *, will: bool) -> None:
        """The process is gone."""
        if self._closed:
            return
        self.lose(will=will)
        self._closed = True
        self._broker.leave(self)

    def pause(self) -> None:
        """The process stands still: what arrives waits for it, and in the end nobody pings."""
        if self._paused is None:
            self._paused = []
            life = self._life
            self._broker.timeline.after(KEEPALIVE_S, lambda: self._give_up(life))

    def resume(self) -> None:
        """The process goes on, and reads what has waited."""
        waiting, self._paused = self._paused or [], None
        for arrive in waiting:
            arrive()

    def cut(self, *, up: bool, down: bool) -> None:
        """Partition one direction or both. A cut that lasts ends the connection."""
        self._up.cut, self._down.cut = self._up.cut or up, self._down.cut or down
        life = self._life
        self._broker.timeline.after(KEEPALIVE_S, lambda: self._give_up(life))

    def _give_up(self, life: int) -> None:
        silent = self._up.cut or self._down.cut or self._paused is not None
        if life == self._life and self.connected and silent:
            self.lose(will=True)

    def heal(self) -> None:
        """The partition is over: what waited in it arrives late, if the connection still stands."""
        for way in (self._up, self._down):
            way.cut = False
            held, way.held = way.held, []
            for act in held:
                self._travel(way, act, qos=1)

    def _send_up(self, message: _Message) -> None:
        self.counters.published += 1
        broker = self._broker

        def arrive() -> None:
            broker.take(message.topic, message.payload, retain=message.retain, qos=message.qos)

        self._send(self._up, arrive, message.qos)

    def send_down(
        self, topic: str, payload: bytes, handler: Handler, *, retained: bool, qos: int
    ) -> None:
        """The broker sends a message to this client."""
        if not self.connected:
            return

        def arrive() -> None:
            handler(topic, payload, retained)
            self._woken()

        self._send(self._down, arrive, qos)

    def _send(self, way: _Way, arrive: Callable[[], None], qos: int) -> None:
        if way.cut:
            if len(way.held) < QUEUE_MAX:
                way.held.append(arrive)
            return
        self._travel(way, arrive, qos=qos)

    def _travel(self, way: _Way, arrive: Callable[[], None], *, qos: int) -> None:
        broker = self._broker
        rng, weather = broker.rng, broker.weather
        lost = weather.loss_ratio > 0.0 and rng.random() < weather.loss_ratio
        if lost and qos == 0:
            return
        wait_s = weather.delay_s_min + rng.random() * (weather.delay_s_max - weather.delay_s_min)
        if lost:
            wait_s += 0.2 + 0.8 * rng.random()  # sent again, as TCP does
        if weather.extra_s_max > 0.0:
            wait_s += rng.random() * weather.extra_s_max
        at_s = broker.timeline.now_s + wait_s
        if not (weather.reorder_ratio > 0.0 and rng.random() < weather.reorder_ratio):
            at_s = max(at_s, way.last_s)
            way.last_s = at_s
        life = self._life

        def land() -> None:
            if life != self._life or self._closed:
                return
            if self._paused is not None:
                self._paused.append(arrive)
            else:
                arrive()

        broker.timeline.at(at_s, land)
        if qos and weather.duplicate_ratio > 0.0 and rng.random() < weather.duplicate_ratio:
            broker.timeline.at(at_s + rng.random(), land)
