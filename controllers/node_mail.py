"""What comes in for a node: bytes to leases and emergencies that somebody trusted has signed.

It opens envelopes, asks whether the speaker may say what was said, and decodes. What the node's own
UPSs say comes from the agent's other half and is not signed. What it throws away it names in one
word. Whether a message is new, and whether to obey it, is decided in the books of
`controllers.node_lease`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import Struct

from controllers.node_local import LocalTrigger, LocalTriggers
from facility.signing import Role, SignatureRefused, Verifier
from facility.topics import Topics
from facility.wire import MESSAGE_BYTES_MAX, Codec, Emergency, Lease, Name, WireError

MAIL_MAX: Final = 128
"""Most messages read in one step; a signature takes some 0.1 ms to verify."""

MAY_GRANT: Final[tuple[Role, ...]] = ("controller",)
MAY_DECLARE: Final[tuple[Role, ...]] = ("controller", "operator")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was thrown away: a kind of frame or `other`, why in one word, and how many."""

    kind: str
    reason: str
    text: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class OperatorEmergency:
    """An emergency in an operator's own words, and the name of the key that signed it."""

    key: str
    emergency: Emergency


class Mail(Struct, frozen=True):
    """What one step of the brain is given, and what was thrown away on the way."""

    leases: tuple[Lease, ...] = ()
    emergencies: tuple[Emergency, ...] = ()
    orders: tuple[OperatorEmergency, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    local: tuple[LocalTrigger, ...] = ()


class _About(Struct):
    """Whom or what a message names; without a name it is about nothing that there is."""

    node: Name | None = None
    domain: Name = "nothing"


class NodeMail:
    """Reads one node's mail. `verifier` may be replaced between two readings."""

    def __init__(self, *, site: str, node: str, verifier: Verifier) -> None:
        """Start with nothing read."""
        self.verifier = verifier
        self.undecodable: Counter[str] = Counter()
        """Messages that are none, by kind."""
        self._topics = Topics(site)
        self._node = node
        self._codec = Codec()
        self._about = msgspec.json.Decoder(_About)

    def read(self, incoming: Sequence[tuple[str, bytes]]) -> Mail:
        """Read (`lease` or `emergency`, bytes off the wire; or `local`, ours); never raises."""
        leases: list[Lease] = []
        emergencies: list[Emergency] = []
        orders: list[OperatorEmergency] = []
        refusals: list[Refusal] = []
        local: list[LocalTrigger] = []
        for kind, data in self._newest(incoming, refusals):
            try:
                if kind == "lease":
                    leases.append(self._lease(data))
                elif kind == "emergency":
                    key, emergency = self._emergency(data)
                    if key:
                        orders.append(OperatorEmergency(key, emergency))
                    else:
                        emergencies.append(emergency)
                elif kind == "local":
                    local += self._codec.decode(data, LocalTriggers).triggers
                else:
                    raise WireError("a node takes leases, emergencies and its own UPSs' words only")
            except SignatureRefused as error:
                if error.reason == "oversized":
                    self.undecodable[kind] += 1
                refusals.append(Refusal(kind, error.reason, str(error)))
            except WireError as error:
                name = kind if kind in ("lease", "emergency", "local") else "other"
                self.undecodable[name] += 1
                refusals.append(Refusal(name, "garbage", str(error)))
        return Mail(tuple(leases), tuple(emergencies), tuple(orders), tuple(refusals), tuple(local))

    def _newest(
        self, incoming: Sequence[tuple[str, bytes]], refusals: list[Refusal]
    ) -> Sequence[tuple[str, bytes]]:
        """The last of what came in at once: a flood must not keep the node from its timers."""
        count = len(incoming) - MAIL_MAX
        if count <= 0:
            return incoming
        refusals.append(Refusal("other", "flood", f"more than {MAIL_MAX} at once", count))
        # The broker's flood must not drown what the node's own UPSs say, which is said once.
        own = [one for one in incoming[:count] if one[0] == "local"][-1:]
        return [*own, *incoming[count:]]

    def _lease(self, data: bytes) -> Lease:
        topic = self._topics.node(self._look(data).node or self._node, "lease")
        opened = self.verifier.open(topic, data, MAY_GRANT)
        return self._codec.decode(opened.body, Lease)

    def _emergency(self, data: bytes) -> tuple[str, Emergency]:
        """The key of the operator who declares it, empty for a controller; and the emergency."""
        topic = self._topics.domain(self._look(data).domain, "emergency")
        opened = self.verifier.open(topic, data, MAY_DECLARE)
        speaker = opened.speaker
        key = speaker.key if speaker is not None and speaker.role == "operator" else ""
        return key, self._codec.decode(opened.body, Emergency)

    def _look(self, data: bytes) -> _About:
        """What a message says that it is about, before it is believed.

        A signature fits one topic only, and which one that must be the message itself says: so a
        lease of another node is refused as that, and not as a forgery.
        """
        if len(data) > MESSAGE_BYTES_MAX:
            return _About()
        try:
            return self._about.decode(self.verifier.unwrap(data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _About()
