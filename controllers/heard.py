"""What one node has said, and which of its lives is the present one.

A node begins anew with each session. Certificates may come twice, late, or from whoever recorded
them: what tells the life that is there from one that is over is that it sends new frames.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from facility.wire import Applied, NodeInfo, NodeStatus, NodeTelemetry

PAST_SESSIONS_MAX: Final = 32
"""So many sessions of a node are known to be over; none of them comes back."""


@dataclass(slots=True)
class _Session:
    """One life of an agent: its certificate, and its last frame."""

    info: NodeInfo
    telemetry: NodeTelemetry | None
    received_at_s: float | None


@dataclass(slots=True)
class Heard:
    """What one node has said, and the sessions that it has left behind."""

    info: NodeInfo | None = None
    status: NodeStatus | None = None
    status_at_s: float = 0.0
    telemetry: NodeTelemetry | None = None
    received_at_s: float | None = None
    applied: Applied | None = None
    applied_at_s: float | None = None
    other: _Session | None = None
    """The life before this one, which is over unless it is the one that still sends frames."""
    past_sessions: deque[str] = field(
        default_factory=lambda: deque(maxlen=PAST_SESSIONS_MAX), repr=False
    )

    @property
    def gone(self) -> str:
        """How the present session has ended by the last word about it; empty if it has not.

        The word may be of an earlier connection of that session and come late, or again: whoever
        sends frames after it is there.
        """
        status = self.status
        if status is None or self.info is None or status.session != self.info.session:
            return ""
        return status.state if status.state in ("lost", "disconnected") else ""

    def begin(self, info: NodeInfo) -> None:
        """A certificate of a session that was not known."""
        if self.other is not None:
            self.past_sessions.append(self.other.info.session)
        if self.info is not None:
            self.other = _Session(self.info, self.telemetry, self.received_at_s)
        self.info, self.telemetry, self.received_at_s = info, None, None

    def take_applied(self, applied: Applied, now_s: float) -> None:
        """What holds on the node, and when its lease was answered.

        A rise that had to wait, or a limit that comes later, is told under the same lease again:
        that is news, and no late answer.
        """
        before = self.applied
        again = before is not None and _lease_of(before) == _lease_of(applied)
        if before is None or not again or not _is_answered(before):
            self.applied_at_s = now_s
        self.applied = applied

    def follow(self, frame: NodeTelemetry, now_s: float, *, stale_s: float) -> None:
        """Go back to the other session if that is the one that lives: it sends new frames.

        Then the certificate of this one was an old one sent again, or a last frame of the other had
        come late. While this one is heard, only the first frame of a session says that it lives.
        """
        other = self.other
        if other is None or self.info is None or frame.session != other.info.session:
            return
        quiet = self.received_at_s is None or now_s - self.received_at_s > stale_s
        first = other.telemetry is None
        if first or (quiet and other.telemetry is not None and frame.seq > other.telemetry.seq):
            self.other = _Session(self.info, self.telemetry, self.received_at_s)
            self.info, self.telemetry = other.info, other.telemetry
            self.received_at_s = other.received_at_s


def _lease_of(applied: Applied) -> tuple[str, int, int]:
    return applied.session, applied.epoch, applied.sequence


def _is_answered(applied: Applied) -> bool:
    """Whether the driver has answered, well or not, for every GPU."""
    return all(gpu.accepted_mhz is not None or gpu.cause for gpu in applied.gpus.values())
