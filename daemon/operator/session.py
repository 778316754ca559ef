"""One connection of a command to the broker, and how it knows that all retained state is there.

It carries messages and knows nothing of their meaning. A command runs once: the first refusal of
the broker is its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Final, Self

from daemon.bus import Bus, BusUnavailable, Handler
from daemon.operator.place import Place
from facility.topics import COMMAND, Topics
from facility.wire import Response, encode

QUIET_S: Final = 0.5
"""How long nothing new must come where the broker does not give our marker back."""
ATTEMPTS_MAX: Final = 1


class Session:
    """A connection, for as long as one command runs. Subscribe before entering."""

    def __init__(self, place: Place, *, timeout_s: float) -> None:
        """Remember where to connect to; entering connects.

        Args:
            place: the site and its broker.
            timeout_s: longest wait for the connection, and for retained state.
        """
        self.topics = Topics(place.site)
        self.bus = Bus(place.broker, identifier=f"ampacity-command-{secrets.token_hex(6)}")
        self._timeout_s = timeout_s
        self._heard_s = 0.0
        self._marker = self.topics.response(f"settled-{secrets.token_hex(6)}")
        self._settled = asyncio.Event()
        self._quiet = contextlib.ExitStack()

    def listen(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        """Hand every message under `topic_filter` to `handler`; filters must not overlap."""

        def heard(topic: str, payload: bytes, retained: bool) -> None:
            self._heard_s = time.monotonic()
            handler(topic, payload, retained)

        self.bus.subscribe(topic_filter, heard, qos=qos)

    async def __aenter__(self) -> Self:
        """Connect. Raises BusUnavailable with the reason, SecretsError."""
        self.bus.subscribe(self._marker, self._back)
        self._quiet.enter_context(quiet_bus())
        try:
            await self.bus.start()
            await self.bus.wait_connected(timeout_s=self._timeout_s, attempts_max=ATTEMPTS_MAX)
            refused = ", ".join(self.bus.refusals)
            if refused:
                raise BusUnavailable(f"{self.bus.detail}: this account may not read it")
        except BaseException:
            await self.__aexit__()
            raise
        self._heard_s = time.monotonic()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Disconnect."""
        try:
            await self.bus.stop()
        finally:
            self._quiet.close()

    async def settle(self) -> None:
        """Return once all retained state has arrived.

        A broker sends retained messages when it grants a subscription, before what comes later of
        the same quality of service. So we send ourselves a marker: when it is back, the rest is
        there. An account that may not publish never sees its marker; then half a second without
        anything new counts. Both within the session's time limit.
        """
        done = Response(verb="settled", status="ok")
        self.bus.publish(self._marker, encode(done), COMMAND)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                while not self._settled.is_set():
                    left_s = self._heard_s + QUIET_S - time.monotonic()
                    if left_s <= 0.0:
                        return
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._settled.wait(), left_s)

    def _back(self, _topic: str, _payload: bytes, _retained: bool) -> None:
        self._settled.set()


class Signal:
    """Wakes a waiter whenever something was heard."""

    def __init__(self) -> None:
        """Nothing has been heard."""
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Something was heard."""
        self._event.set()

    async def until(self, condition: Callable[[], bool], *, timeout_s: float) -> bool:
        """Wait for `condition`, looked at after every ring; False when it did not come in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._event.clear()
                    await self._event.wait()
        return condition()


@contextlib.contextmanager
def quiet_bus() -> Iterator[None]:
    """Keep the bus from logging what the command itself says, unless more was asked for."""
    logger = logging.getLogger("daemon.bus")
    before = logger.level
    if not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
