"""What has arrived, and what of it may be believed.

Callbacks only store here; the cycle takes a snapshot when it is ready. A message that is garbage,
impossible, out of time, from nobody we know or over its sender's budget changes nothing but a
counter.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final, TypeVar

from controllers.door import Door, DoorClosed
from controllers.heard import Heard
from controllers.operator import VERBS
from controllers.senders import Senders
from controllers.snapshot import NodeView, Snapshot
from facility.signing import Verifier
from facility.topics import Topics
from facility.topology import Site
from facility.wire import (
    Applied,
    Codec,
    Emergency,
    Event,
    NodeInfo,
    NodeStatus,
    NodeTelemetry,
    Request,
    Response,
    WireError,
)

REQUESTS_MAX: Final = 256
FRAMES_MAX: Final = 16_384
"""Frames and reports kept between two cycles: several of every node of a large row."""
FRAMES_BYTES_MAX: Final = 64 * 1_024 * 1_024
"""Most kept as sent; what is beyond reaches the cycle, but not the history."""
EPOCH_AHEAD_MAX: Final = 10_000_000_000
"""An epoch further ahead of the time of day than any clock that ever set one: a lie, which would
drive ours beyond what fits a message."""
SENDERS_MAX: Final = 4_096
"""Refusals are counted per sender up to this many senders, and under `other` beyond."""

_FORGERIES: Final = frozenset(
    {"unsigned", "unknown-key", "bad-signature", "wrong-role", "replayed", "may-not-end"}
)
"""Somebody speaks who should not, or a signing key is not where it belongs: a person must look."""

_TELL_AT: Final = {"no-birth": 5}
"""A birth certificate is acknowledged and telemetry is not: at a start it may come second."""

ItemT = TypeVar("ItemT")


def _taken(queue: deque[ItemT]) -> tuple[ItemT, ...]:
    items = tuple(queue)
    queue.clear()
    return items


class Inbox:
    """Stores the latest believable word of every node, and the operators' requests in order."""

    def __init__(self, site: Site, *, codec: Codec, door: Door | None = None) -> None:
        """Start with nothing heard; without a `door` every request and emergency is believed."""
        self._site = site
        self._topics = Topics(site.name)
        self._codec = codec
        self._door = door or Door(Verifier(None))
        self._heard = {name: Heard() for name in site.nodes}
        self._requests: deque[Request] = deque(maxlen=REQUESTS_MAX)
        self._answers: deque[Response] = deque(maxlen=REQUESTS_MAX)
        self._emergencies: deque[Emergency] = deque(maxlen=REQUESTS_MAX)
        self._frames: deque[NodeTelemetry] = deque(maxlen=FRAMES_MAX)
        self._applied: deque[Applied] = deque(maxlen=FRAMES_MAX)
        self._events: deque[Event] = deque(maxlen=REQUESTS_MAX)
        self._node_events: deque[Event] = deque(maxlen=FRAMES_MAX)
        self._frames_bytes = 0
        self._late: dict[str, tuple[float, str, bytes]] = {}
        """By domain the newest emergency message that was over its budget: when, topic, payload."""
        self._senders = Senders(
            {
                *(f"node/{name}" for name in site.nodes),
                *(f"event/{name}" for name in site.nodes),
                *(f"request/{verb}" for verb in VERBS),
                *(f"domain/{name}" for name in site.domains),
            },
            telemetry_s=site.control.telemetry_s,
        )
        self.refused: Counter[tuple[str, str]] = Counter()
        self.accepted: Counter[str] = Counter()

    def receive(self, now_s: float, wall_s: float, topic: str, payload: bytes) -> None:
        """Take one message off the bus. Never raises; what cannot be believed is counted."""
        place = self._topics.split(topic)
        if place is None:
            self._refuse(wall_s, "elsewhere", "foreign-topic", topic)
            return
        kind, name, what = place
        try:
            if kind == "node" and self._admits(now_s, wall_s, f"node/{name}", payload):
                self._receive_node(now_s, wall_s, name, what, payload)
            elif kind == "request" and self._admits(now_s, wall_s, f"request/{name}", payload):
                self._receive_request(wall_s, topic, payload)
            elif kind == "domain" and what == "emergency":
                if self._admits(now_s, wall_s, f"domain/{name}", payload):
                    self._receive_emergency(wall_s, topic, payload)
                elif name in self._site.domains:
                    # The last one says all of it: it is never lost.
                    self._late[name] = (wall_s, topic, payload)
            elif kind == "event":
                self._receive_event(now_s, wall_s, payload)
        except DoorClosed as error:
            self._refuse(wall_s, error.who or name, error.reason, str(error))
            if error.answer is not None:
                self._answers.append(error.answer)
        except WireError as error:
            self._refuse(wall_s, name, "garbage", str(error))

    def _admits(self, now_s: float, wall_s: float, sender: str, payload: bytes) -> bool:
        """Whether the sender's budget covers a message; if not it is counted, and alarmed once."""
        sender = self._senders.named(sender)
        order = not sender.startswith(("node/", "event/"))
        if self._senders.admit(now_s, sender, len(payload), order=order):
            return True
        self.refused[sender, "rate-limited"] += 1
        if self._senders.alarm(now_s, sender):
            self._events.append(
                Event(
                    event="rate-limited",
                    severity="warning",
                    at_s=wall_s,
                    source="inbox",
                    subject=sender,
                    sentence=f"{sender} sends more than its budget: what is above is dropped",
                )
            )
        return False

    def _receive_request(self, wall_s: float, topic: str, payload: bytes) -> None:
        """Keep a request; of too many the newest is refused, never an older one forgotten."""
        request = self._door.request(wall_s, topic, payload, self._codec)
        if len(self._requests) >= REQUESTS_MAX:
            self._refuse(wall_s, request.by or "operator", "too-many-requests", request.verb)
            return
        self._requests.append(request)
        self.accepted["request"] += 1

    def _receive_emergency(self, wall_s: float, topic: str, payload: bytes) -> None:
        emergency = self._door.emergency(topic, payload, self._codec)
        place = self._topics.split(topic)
        domain = emergency.domain
        if place is None or domain != place[1] or domain not in self._site.domains:
            self._refuse(wall_s, domain, "unknown-domain", f"says domain {emergency.domain}")
            return
        self._emergencies.append(emergency)
        self.accepted["emergency"] += 1

    def _receive_event(self, now_s: float, wall_s: float, payload: bytes) -> None:
        """A node's own account; our own events come back on the same topic and are passed over.

        Everybody's events share one topic, so their budget is apart from the node's.
        """
        event = self._codec.decode(payload, Event)
        kind, _, node = event.source.partition("/")
        if kind != "node" or node not in self._heard:
            return
        if self._admits(now_s, wall_s, f"event/{node}", payload):
            self._node_events.append(event)
            self.accepted["event"] += 1

    def _receive_node(
        self, now_s: float, wall_s: float, name: str, what: str, payload: bytes
    ) -> None:
        heard = self._heard.get(name)
        if heard is None:
            self._refuse(wall_s, name, "unknown-node", "no such node in the site file")
            return
        match what:
            case "telemetry":
                frame = self._codec.decode(payload, NodeTelemetry)
                if frame.node == name and not self._untimely(wall_s, frame):
                    heard.follow(frame, now_s, stale_s=self._site.control.stale_s)
                reason = self._doubt(wall_s, name, heard, frame)
                if reason:
                    self._refuse(wall_s, name, *reason)
                    return
                heard.telemetry, heard.received_at_s = frame, now_s
                self._frames_bytes += len(payload)
                if self._frames_bytes <= FRAMES_BYTES_MAX:
                    self._frames.append(frame)
            case "info":
                info = self._codec.decode(payload, NodeInfo)
                if info.node != name:
                    self._refuse(wall_s, name, "wrong-node", f"says node {info.node}")
                    return
                if info.session in heard.past_sessions:
                    # No session comes back: an old certificate would silence the one that lives.
                    detail = f"session {info.session} has ended"
                    self._refuse(wall_s, name, "old-session", detail)
                    return
                if heard.other is not None and heard.other.info.session == info.session:
                    heard.other.info = info
                elif heard.info is None or heard.info.session != info.session:
                    heard.begin(info)
                else:
                    heard.info = info
            case "status":
                status = self._codec.decode(payload, NodeStatus)
                if status.node != name:
                    self._refuse(wall_s, name, "wrong-node", f"says node {status.node}")
                    return
                heard.status, heard.status_at_s = status, now_s
            case "applied":
                applied = self._codec.decode(payload, Applied)
                if applied.node != name:
                    self._refuse(wall_s, name, "wrong-node", f"says node {applied.node}")
                    return
                if applied.epoch > wall_s + EPOCH_AHEAD_MAX:
                    self._refuse(wall_s, name, "impossible-epoch", f"epoch {applied.epoch}")
                    return
                heard.take_applied(applied, now_s)
                self._applied.append(applied)
            case _:
                return
        self.accepted[what] += 1

    def _untimely(self, wall_s: float, frame: NodeTelemetry) -> tuple[str, str] | None:
        control = self._site.control
        if frame.sampled_at_s > wall_s + control.clock_skew_s:
            return "from-the-future", f"{frame.sampled_at_s - wall_s:.1f} s ahead"
        if frame.sampled_at_s < wall_s - control.stale_s - control.clock_skew_s:
            return "too-old", f"sampled {wall_s - frame.sampled_at_s:.1f} s ago"
        return None

    def _doubt(
        self, wall_s: float, name: str, heard: Heard, frame: NodeTelemetry
    ) -> tuple[str, str] | None:
        """Why `frame` may not be believed: a reason and its detail, or None."""
        if frame.node != name:
            return "wrong-node", f"says node {frame.node}"
        if heard.info is None:
            return "no-birth", "telemetry before the node said what it is"
        if frame.session != heard.info.session:
            return "old-session", f"session {frame.session}, not {heard.info.session}"
        untimely = self._untimely(wall_s, frame)
        if untimely is not None:
            return untimely
        if heard.telemetry is not None and frame.seq <= heard.telemetry.seq:
            return "out-of-order", f"frame {frame.seq} after {heard.telemetry.seq}"
        if {gpu.uuid for gpu in frame.gpus} != {gpu.uuid for gpu in heard.info.gpus}:
            return "other-gpus", "its GPUs are not those of its birth certificate"
        return None

    def _refuse(self, wall_s: float, sender: str, reason: str, detail: str) -> None:
        """Count; say it once per sender and reason, so that a flood cannot drown the log."""
        if sender not in self._heard and len(self.refused) >= SENDERS_MAX:
            sender = "other"
        self.refused[sender, reason] += 1
        count = self.refused[sender, reason]
        is_forgery = reason in _FORGERIES
        # A forger may come back after months: told at the 1st, 2nd, 4th, 8th, ...
        if count == _TELL_AT.get(reason, 1) or (is_forgery and count & (count - 1) == 0):
            many = f" ({count} by now)" if count > 1 and is_forgery else ""
            self._events.append(
                Event(
                    event="message-refused",
                    severity="critical" if is_forgery else "warning",
                    at_s=wall_s,
                    source="inbox",
                    subject=sender[:128],
                    sentence=f"refused a message from {sender[:128]}: {reason}: {detail[:256]}"
                    + many,
                )
            )

    def refused_by_reason(self) -> dict[str, int]:
        """How many messages were refused for each reason, whoever sent them."""
        found: Counter[str] = Counter(dict.fromkeys(_FORGERIES, 0))
        for (_sender, reason), count in self.refused.items():
            found[reason] += count
        return found

    def take_requests(self) -> tuple[Request, ...]:
        """The operators' requests since the last call, oldest first."""
        return _taken(self._requests)

    def take_answers(self) -> tuple[Response, ...]:
        """What to tell those whose requests were not let in, since the last call."""
        return _taken(self._answers)

    def take_node_events(self) -> tuple[Event, ...]:
        """What nodes told of themselves since the last call."""
        return _taken(self._node_events)

    def take_events(self) -> tuple[Event, ...]:
        """What there is to tell since the last call."""
        return _taken(self._events)

    def take_emergencies(self) -> tuple[Emergency, ...]:
        """Emergency messages since the last call, oldest first, our own included."""
        late, self._late = self._late, {}
        for domain, (wall_s, topic, payload) in late.items():
            try:
                self._receive_emergency(wall_s, topic, payload)
            except DoorClosed as error:
                self._refuse(wall_s, error.who or domain, error.reason, str(error))
            except WireError as error:
                self._refuse(wall_s, domain, "garbage", str(error))
        return _taken(self._emergencies)

    def take_frames(self) -> tuple[NodeTelemetry, ...]:
        """Frames that were believed since the last call, for whoever keeps or shows them."""
        self._frames_bytes = 0
        return _taken(self._frames)

    def take_applied(self) -> tuple[Applied, ...]:
        """What nodes reported of their writes since the last call."""
        return _taken(self._applied)

    def snapshot(self, now_s: float, wall_s: float, active: frozenset[str]) -> Snapshot:
        """Freeze what is known now. Staleness is judged by the time of arrival."""
        return Snapshot(
            now_s,
            wall_s,
            {name: self._view(now_s, name) for name in self._heard},
            active,
        )

    def _view(self, now_s: float, name: str) -> NodeView:
        heard = self._heard[name]
        why = self._why_missing(now_s, heard)
        return NodeView(
            self._site.nodes[name],
            heard.info,
            heard.telemetry,
            heard.received_at_s,
            heard.applied,
            bool(why),
            why,
            why == "agent disconnected",
            heard.applied_at_s,
        )

    def _why_missing(self, now_s: float, heard: Heard) -> str:
        if heard.info is None:
            return "never heard"
        if heard.received_at_s is None:
            return "no telemetry in this session"
        age_s = now_s - heard.received_at_s
        silent = age_s > self._site.control.stale_s
        gone = heard.gone
        if gone and (silent or heard.status_at_s >= heard.received_at_s):
            return f"agent {gone}"
        return f"silent for {age_s:.1f} s" if silent else ""
