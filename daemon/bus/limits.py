"""What a bus is given: its bounds, how long it waits between attempts, what it says at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from facility.wire import MESSAGE_BYTES_MAX

TOPIC_BYTES_MAX: Final = 1_024


class BusUnavailable(Exception):
    """The broker is not there or does not let us in. One-shot commands exit with `exit_code`."""

    exit_code: Final = 69


@dataclass(frozen=True, slots=True)
class LastWords:
    """Retained payloads for a topic: `lost` is the broker's will, `disconnected` a clean stop's."""

    topic: str
    lost: bytes
    disconnected: bytes


@dataclass(frozen=True, slots=True)
class BusLimits:
    """Bounds of queues and retries.

    A retry waits `backoff_s_min`, doubled each time up to `backoff_s_max`, times a random half to
    one. A connection shorter than `stable_s` does not reset the doubling: two clients with the same
    identifier would otherwise throw each other out without end.
    """

    queue_max: int = 2_048
    states_max: int = 20_000
    backoff_s_min: float = 0.1
    backoff_s_max: float = 3.0
    stable_s: float = 5.0
    resubscribe_s: float = 30.0


def backoff_s(failures_count: int, jitter: float, limits: BusLimits) -> float:
    """Return the pause before the next attempt; `jitter` is uniform in 0 to 1."""
    doubled_s = limits.backoff_s_min * 2.0 ** min(failures_count, 32)
    return min(doubled_s, limits.backoff_s_max) * (0.5 + 0.5 * jitter)


def check_message(topic: str, payload: bytes) -> None:
    """Raise ValueError unless `payload` may be published to `topic`."""
    if not topic or "+" in topic or "#" in topic or "\0" in topic:
        raise ValueError(f"{topic!r} cannot be published to: it is empty or has a wildcard")
    if len(topic.encode()) > TOPIC_BYTES_MAX:
        raise ValueError(f"topic of more than {TOPIC_BYTES_MAX} bytes: {topic[:80]!r}...")
    if len(payload) > MESSAGE_BYTES_MAX:
        raise ValueError(f"{len(payload)} bytes for {topic}, at most {MESSAGE_BYTES_MAX}")
