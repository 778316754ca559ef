"""Where each message goes on the wire: topic, retention and quality of service.

Fixed depth, one word per level, version in the prefix, so that wildcards and broker access lists
stay simple. Nothing here sends anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

NAME_PATTERN: Final = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a kind of message travels: MQTT retain flag and quality of service."""

    retain: bool
    qos: int


STATE: Final = Delivery(retain=True, qos=1)
"""The last value is the truth and a late subscriber must see it."""
COMMAND: Final = Delivery(retain=False, qos=1)
"""Acted on once, now, or never."""
SAMPLE: Final = Delivery(retain=False, qos=0)
"""The next one comes soon; a lost one is worth no retry."""


def check_name(name: str) -> str:
    """Return `name` if it may be one topic level, else raise ValueError."""
    if not NAME_PATTERN.fullmatch(name):
        raise ValueError(
            f"{name!r} is no topic level: use a-z, 0-9 and inner dashes, at most 63 characters"
        )
    return name


@dataclass(frozen=True, slots=True)
class Topics:
    """Every topic of one site."""

    site: str

    def __post_init__(self) -> None:
        """Refuse a site name that would break the topic tree."""
        check_name(self.site)

    @property
    def prefix(self) -> str:
        """The levels before the kind of thing."""
        return f"ampacity/v1/{self.site}"

    def node(self, node: str, what: str) -> str:
        """`what` is status, info, telemetry, lease or applied; `+` as node matches every node."""
        return f"{self.prefix}/node/{node}/{what}"

    def domain(self, domain: str, what: str) -> str:
        """`what` is state or emergency; `+` as domain matches every domain."""
        return f"{self.prefix}/domain/{domain}/{what}"

    def service_routing(self, service: str) -> str:
        """Endpoint weights and drains of one service."""
        return f"{self.prefix}/service/{service}/routing"

    def controller_status(self, controller: str) -> str:
        """Leader flag and epoch of one controller."""
        return f"{self.prefix}/controller/{controller}/status"

    def request(self, verb: str) -> str:
        """An operator's request."""
        return f"{self.prefix}/request/{verb}"

    def response(self, verb: str) -> str:
        """The answer to it."""
        return f"{self.prefix}/response/{verb}"

    @property
    def event(self) -> str:
        """Append-only facts."""
        return f"{self.prefix}/event"

    def split(self, topic: str) -> tuple[str, str, str] | None:
        """Return (kind, name, what) of a topic under this site, None for any other.

        `event` gives ("event", "", ""); `request/<verb>` gives ("request", verb, "").
        """
        head = self.prefix + "/"
        if not topic.startswith(head):
            return None
        kind, _, rest = topic[len(head) :].partition("/")
        name, _, what = rest.partition("/")
        return None if "/" in what else (kind, name, what)
