"""One connection of a command to the broker, and how it knows that retained state is all there.

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
        self._marks_count = 0
        self._back_count = 0
        self._settled = asyncio.Event()
        self._quiet = contextlib.ExitStack()

    def listen(self, topic_filter: str, handler: Handler, *, qos: int = 0) -> None:
        """Hand every message under `topic_filter` to `handler`; filters must not overlap.

        Retained state is asked for with QoS 0: a broker queues a limited number of QoS 1 messages
        for a client (Mosquitto 2.0: 1,000 unless configured) and drops the rest without a word.
        """

        def heard(topic: str, payload: bytes, retained: bool) -> None:
            self._heard_s = time.monotonic()
            handler(topic, payload, retained)

        self.bus.subscribe(topic_filter, heard, qos=qos)

    async def __aenter__(self) -> Self:
        """Connect. Raises BusUnavailable with the reason, SecretsError."""
        self.bus.subscribe(self._marker, self._back, qos=0)
        self._quiet.enter_context(quiet_bus())
        try:
            await self.bus.start()
            await self.bus.wait_connected(timeout_s=self._timeout_s, attempts_max=ATTEMPTS_MAX)
            self._check()
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

    async def settle(self) -> bool:
        """Wait until all retained state asked for has arrived; False when that is not sure.

        A broker sends retained messages when it grants a subscription, before what comes later of
        the same quality of service. So we send ourselves a marker: when it is back, the rest is
        there. It does not come back to an account that may not publish, nor from a broker that
        drops messages because its queue is full; then half a second without anything new counts.
        Both within the session's time limit. Raises BusUnavailable when we may not read something.
        """
        self._marks_count += 1
        self._settled.clear()
        self._heard_s = time.monotonic()
        done = Response(verb="settled", transaction=str(self._marks_count), status="ok")
        self.bus.publish(self._marker, encode(done), COMMAND)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                while not self._settled.is_set():
                    left_s = self._heard_s + QUIET_S - time.monotonic()
                    if left_s <= 0.0:
                        break
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._settled.wait(), left_s)
        self._check()
        return self._settled.is_set()

    def _check(self) -> None:
        if self.bus.refusals:
            raise BusUnavailable(f"{self.bus.detail}: this account may not read it")

    def _back(self, _topic: str, _payload: bytes, _retained: bool) -> None:
        """Our marker is back; the broker keeps their order."""
        self._back_count += 1
        if self._back_count == self._marks_count:
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
