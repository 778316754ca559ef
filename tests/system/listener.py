"""A third client of the broker, which shares nothing with our bus: it hears all and may say more.

Messages are stamped on the monotonic clock as they arrive. It reconnects by itself.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Any, TypeVar

import paho.mqtt.client as mqtt
from msgspec import Struct
from paho.mqtt.enums import CallbackAPIVersion

from facility.config import BrokerConfig
from facility.topics import Topics
from facility.wire import Codec, Lease, NodeTelemetry, WireError
from tests.servers import HOST
from tests.system.processes import monotonic_ns, wait_until

MessageT = TypeVar("MessageT", bound=Struct)


@dataclass(frozen=True, slots=True)
class Heard:
    """One message as it arrived."""

    at_ns: int
    topic: str
    payload: bytes
    retained: bool


class Listener:
    """Hears every message of a site. `start` it, and `stop` it."""

    def __init__(
        self,
        port: int,
        topics: Topics,
        *,
        name: str = "listener",
        tls: BrokerConfig | None = None,
    ) -> None:
        self.topics = topics
        self._port = port
        self._codec = Codec()
        self._lock = threading.Lock()
        self._messages: list[Heard] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name)
        if tls is not None:
            self._client.tls_set(tls.ca_file, tls.certificate_file, tls.key_file)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._connected
        self._client.on_message = self._heard

    def start(self) -> None:
        self._client.connect(HOST, self._port, keepalive=5)
        self._client.loop_start()
        wait_until(self._client.is_connected, "the listener is connected")

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish anything; returns when the broker has it."""
        said = self._client.publish(topic, payload, qos=1, retain=retain)
        said.wait_for_publish(10.0)
        assert said.is_published(), f"the broker did not take a message for {topic}"

    def messages(self, what: str = "", *, node: str = "+") -> list[Heard]:
        """What was heard, oldest first: of one kind, of one node, when told so."""
        with self._lock:
            heard = list(self._messages)
        kept = []
        for message in heard:
            place = self.topics.split(message.topic)
            if place is None or (what and what not in place) or node not in ("+", place[1]):
                continue
            kept.append(message)
        return kept

    def read(self, kind: type[MessageT], what: str, *, node: str = "+") -> list[MessageT]:
        """The same, decoded; what does not decode is left out."""
        found = []
        for message in self.messages(what, node=node):
            with contextlib.suppress(WireError):
                found.append(self._codec.decode(message.payload, kind))
        return found

    def last_expiry_wall_s(self, node: str) -> float | None:
        """When the last lease that was sent to a node ends: by the stamp of the frame it answers.

        None when no such pair of frame and lease was heard.
        """
        frames = {
            (frame.session, frame.seq): frame.sampled_at_s
            for frame in self.read(NodeTelemetry, "telemetry", node=node)
        }
        ends = [
            frames[lease.session, lease.basis_seq] + lease.lease_s
            for lease in self.read(Lease, "lease", node=node)
            if (lease.session, lease.basis_seq) in frames
        ]
        return max(ends, default=None)

    def _connected(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe(f"{self.topics.prefix}/#", qos=1)

    def _heard(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        heard = Heard(monotonic_ns(), message.topic, bytes(message.payload), message.retain)
        with self._lock:
            self._messages.append(heard)
