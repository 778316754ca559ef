"""What each sender may cost the controller, so that one that floods harms nobody but itself.

A sender is what the broker's access list can tell apart by topic: a node, an operator's verb, a
domain. It decides who is over budget, and when that is worth an alarm; the inbox decides what
becomes of the message.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from facility.budget import Budget, Rate

NODE_MESSAGES_PER_S: Final = 20.0
"""Beside telemetry: state, reports of writes and events at twice an agent's ten steps a second."""
FRAMES_MAX: Final = 4.0
"""Frames of telemetry in the time of one."""
NODE_BURST_S: Final = 5.0
NODE_BYTES: Final = Rate(per_s=512 * 1_024, burst=1_024 * 1_024)
"""A frame of 64 GPUs with ten samples each is about 30 kB; four of the largest message at once."""

ORDER_MESSAGES: Final = Rate(per_s=20.0, burst=100.0)
"""Of each verb, and of emergencies of each domain: people and scripts, not machines."""
ORDER_BYTES: Final = Rate(per_s=128 * 1_024, burst=512 * 1_024)

STRANGERS: Final = "strangers"
"""Everybody who is not in the site file, together."""
ALARM_AGAIN_S: Final = 300.0
"""A sender that floods on and on is told of this often."""


class Senders:
    """Budgets of messages and bytes by sender; as many as the site has, and no more."""

    def __init__(self, known: Collection[str], *, telemetry_s: float) -> None:
        """Know these senders; whoever else comes shares the budget of `STRANGERS`."""
        per_s = NODE_MESSAGES_PER_S + FRAMES_MAX / telemetry_s
        self._node_messages = Rate(per_s=per_s, burst=NODE_BURST_S * per_s)
        self._known = frozenset(known)
        self._budgets: dict[str, tuple[Budget, Budget]] = {}
        self._told_s: dict[str, float] = {}

    def named(self, sender: str) -> str:
        """The sender whose budget is spent: itself, or all strangers."""
        return sender if sender in self._known else STRANGERS

    def admit(self, now_s: float, sender: str, size_bytes: int, *, order: bool) -> bool:
        """Whether a message of this size is within the sender's budget, which it then spends.

        Args:
            now_s: monotonic time.
            sender: as `named`.
            size_bytes: of the payload.
            order: a request or an emergency, which have a smaller budget than a node.
        """
        budgets = self._budgets.get(sender)
        if budgets is None:
            messages = ORDER_MESSAGES if order else self._node_messages
            size = ORDER_BYTES if order else NODE_BYTES
            budgets = self._budgets[sender] = (Budget(messages, now_s), Budget(size, now_s))
        return budgets[0].spend(now_s) and budgets[1].spend(now_s, size_bytes)

    def alarm(self, now_s: float, sender: str) -> bool:
        """Whether that a sender is over budget is news now."""
        last_s = self._told_s.get(sender)
        if last_s is not None and now_s - last_s < ALARM_AGAIN_S:
            return False
        self._told_s[sender] = now_s
        return True
