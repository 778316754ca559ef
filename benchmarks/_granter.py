"""A stand-in for a controller: answers each frame of telemetry with a lease, and stamps arrivals.

It grants one ceiling to everybody and decides nothing. Real agents cannot tell the difference.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from facility.topics import Topics
from facility.wire import Codec, Emergency, Lease, NodeTelemetry, encode

HOST: Final = "127.0.0.1"
CONNECT_S: Final = 10.0


@dataclass
class Grants:
    """What every node is granted, to be changed at any time; `on` says whether to answer at all."""

    ceiling_mhz: int
    lease_s: float
    contingency_ceilings_mhz: dict[str, int] = field(default_factory=dict)
    on: bool = True


class Granter:
    """One client of the broker. `start` it, and `stop` it."""

    def __init__(self, port: int, site: str, grants: Grants) -> None:
        self.grants = grants
        self.frames: dict[str, tuple[float, NodeTelemetry]] = {}
        """The last frame of each node, and when it arrived, on the monotonic clock."""
        self.expiry_wall_s: dict[str, float] = {}
        """When the last lease of each node ends, by the node's own stamp."""
        self.topics = Topics(site)
        self.epoch = int(time.time())
        self._sequence = 0
        self._lock = threading.Lock()
        self._port = port
        self._codec = Codec()
        self._connected = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="granter")
        self._client.on_connect = self._subscribe
        self._client.on_message = self._answer

    def start(self) -> None:
        """Connect and begin to grant."""
        self._client.connect(HOST, self._port, keepalive=30)
        self._client.loop_start()
        if not self._connected.wait(CONNECT_S):
            raise RuntimeError("the broker does not answer")

    def stop(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def emergency(self, domain: str, *active: str) -> int:
        """Publish what is on in a domain; returns when it was handed to the socket, in ns."""
        message = Emergency(
            domain=domain,
            active=active,
            epoch=self.epoch,
            sequence=self._next(),
            issued_at_s=time.time(),
            by="benchmark",
        )
        payload = encode(message)
        at_ns = time.monotonic_ns()
        self._client.publish(self.topics.domain(domain, "emergency"), payload, qos=1, retain=True)
        return at_ns

    def say(self, topic: str, payload: bytes) -> int:
        """Publish anything; returns when it was handed to the socket, in ns."""
        at_ns = time.monotonic_ns()
        self._client.publish(topic, payload, qos=1)
        return at_ns

    def _next(self) -> int:
        with self._lock:
            self._sequence += 1
            return self._sequence

    def _subscribe(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(self.topics.node("+", "telemetry"))
        self._connected.set()

    def _answer(self, client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        frame = self._codec.decode(bytes(message.payload), NodeTelemetry)
        self.frames[frame.node] = (time.monotonic(), frame)
        grants = self.grants
        if not grants.on:
            return
        self.expiry_wall_s[frame.node] = frame.sampled_at_s + grants.lease_s
        sequence = self._next()
        lease = Lease(
            node=frame.node,
            session=frame.session,
            basis_seq=frame.seq,
            epoch=self.epoch,
            sequence=sequence,
            decision_id=f"bench-{sequence}",
            lease_s=grants.lease_s,
            ceilings_mhz={gpu.uuid: grants.ceiling_mhz for gpu in frame.gpus},
            contingency_ceilings_mhz=grants.contingency_ceilings_mhz,
        )
        topic = self.topics.node(frame.node, "lease")
        client.publish(topic, encode(lease), qos=1, retain=True)
