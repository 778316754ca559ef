"""Hands routings to routers in the background: none of them may hold up a cycle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from daemon.clock import Clock
from facility.ports import RouterPort
from facility.wire import Event, Routing

ROUTER_TIMEOUT_S: Final = 2.0


class Steering:
    """The routers of one controller; `tell` hears what they refuse."""

    def __init__(
        self, routers: Sequence[RouterPort], clock: Clock, tell: Callable[[Event], None]
    ) -> None:
        self._routers = routers
        self._clock = clock
        self._tell = tell
        self._tasks: set[asyncio.Task[None]] = set()

    def apply(self, routing: Routing, decision_id: str) -> None:
        """Begin to apply one routing everywhere."""
        for router in self._routers:
            task = asyncio.create_task(self._steer(router, routing, decision_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _steer(self, router: RouterPort, routing: Routing, decision_id: str) -> None:
        """Apply one routing; a router that refuses or hangs is told of and changes nothing else."""
        problems: Sequence[str] = ("the router did not answer in time",)
        with contextlib.suppress(TimeoutError):
            problems = await asyncio.wait_for(router.apply(routing), ROUTER_TIMEOUT_S)
        for problem in problems:
            self._tell(
                Event(
                    event="routing-refused",
                    severity="warning",
                    at_s=self._clock.wall_s(),
                    source="router",
                    subject=routing.service,
                    sentence=problem[:1024],
                    decision_id=decision_id,
                )
            )
