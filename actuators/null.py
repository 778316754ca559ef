"""Actuators that touch nothing: shadow mode, and sites without a router."""

from __future__ import annotations

from collections.abc import Sequence

from facility.wire import Routing


class NullRouter:
    """A router that takes every weight and steers nobody."""

    async def apply(self, routing: Routing) -> Sequence[str]:  # noqa: ARG002  the port's signature
        """Accept the routing; nothing refuses."""
        return ()

    async def expire(self, now_s: float) -> Sequence[str]:  # noqa: ARG002  the port's signature
        """Nothing is steered, so nothing decays."""
        return ()

    async def close(self) -> None:
        """There is nothing to let go of."""
