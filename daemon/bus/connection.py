"""The MQTT bus: one connection that comes back by itself, and a queue in front that never blocks.

It owns the connection, the subscriptions and the retained state of one process, and repeats both
after every reconnect, because a broker may have lost them. A QoS 1 message that is not retained and
was not acknowledged is sent again: it arrives at least once, unless the queue overflows, which is
counted. It never looks into a payload. A publication that a broker refuses by MQTT 5 reason code
is not noticed: aiomqtt 2 hides it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Literal, Self

import aiomqtt

from daemon.bus.client import Secrets, failure_reason, make_client, publish_properties, subscribe
from daemon.bus.inbound import Handler, Inbound
from daemon.bus.limits import BusLimits, BusUnavailable, LastWords, backoff_s, check_message
from daemon.bus.outbox import BusCounters, Outbox, Outgoing
from facility.config import BrokerConfig
from facility.topics import STATE, Delivery

LOG = logging.getLogger(__name__)

IN_FLIGHT_MAX: Final = 64
CALL_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 1.0

State = Literal["idle", "connected", "unreachable", "refused", "stopped"]


class Bus:
    """One connection to the broker, for as long as the process runs. Not for use across threads."""

    def __init__(
        self,
        config: BrokerConfig,
        *,
        identifier: str,
        last_words: LastWords | None = None,
        limits: BusLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Remember what to connect to; `start` connects.

        Args:
            config: the broker, and the files with the secrets.
            identifier: MQTT client identifier, unique on the broker.
            last_words: what the broker says when we vanish, and what we say when we leave.
            limits: bounds of queues and retries.
            clock: monotonic seconds.
            jitter: uniform random numbers in 0 to 1.
        """
        self.counters = BusCounters()
        self._config = config
        self._identifier = identifier
        self._who = f"client={identifier} host={config.host} port={config.port}"
        self._last_words = last_words
        self._limits = limits or BusLimits()
        self._clock = clock
        self._jitter = jitter
        self._secrets = Secrets()
        self._inbound = Inbound(self.counters, identifier=identifier)
        self._outbox = Outbox(
            self.counters, queue_max=self._limits.queue_max, states_max=self._limits.states_max
        )
        self._in_flight: dict[asyncio.Task[None], Outgoing] = {}
        self._state: State = "idle"
        self._reason = ""
        self._changed_at_s = clock()
        self._dropped_before_count = 0
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._stopping = asyncio.Event()
        self._progress = asyncio.Event()
        self._run_task: asyncio.Task[None] | None = None

    @property
    def state(self) -> State:
        """What the connection is doing."""
        return self._state

    @property
    def connected(self) -> bool:
        """Whether the broker has us and has answered our subscriptions."""
        return self._state == "connected"

    @property
    def detail(self) -> str:
        """One sentence on the connection, for people."""
        where = f"the broker at {self._config.host}:{self._config.port}"
        if self.connected:
            denied = ", ".join(self._inbound.refusals)
            return f"connected to {where}" + (f", which refuses {denied}" if denied else "")
        what = "refuses us" if self._state == "refused" else "cannot be reached"
        return f"{where} {what}: {self._reason or 'no answer'}"

    @property
    def refusals(self) -> Mapping[str, str]:
        """Subscriptions that the broker denies now, with its reason; they are tried again."""
        return self._inbound.refusals

    @property
    def queued_count(self) -> int:
        """Messages that wait to be sent."""
        return len(self._outbox)

    @property
    def unconfirmed_count(self) -> int:
        """QoS 1 messages that were sent and not acknowledged yet."""
        return len(self._in_flight)

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        """Hand every message under `topic_filter` to `handler`, from now on and after reconnects.

        Filters of one bus must not overlap: a broker may deliver once for each. Several handlers
        of the same filter are fine, and a late one makes the broker repeat retained state to all.
        """
        self._inbound.add(topic_filter, handler, qos=qos)
        self._wake.set()

    def publish(
        self,
        topic: str,
        payload: bytes,
        delivery: Delivery,
        expiry_s: float | None = None,
        *,
        urgent: bool = False,
    ) -> bool:
        """Queue a message and return at once; False when it was given up, which is counted.

        Args:
            topic: where to; wildcards are refused.
            payload: what; empty deletes retained state.
            delivery: retained or not, QoS 0 or 1. Of retained state only the latest is sent.
            expiry_s: not sent when it waits longer; with MQTT 5 the broker forgets it as well.
            urgent: overtakes other retained state.

        Raises:
            ValueError: the topic cannot be published to, or the payload is too large.
        """
        check_message(topic, payload)
        if self._state == "stopped":
            return False
        expires_at_s = math.inf if expiry_s is None else self._clock() + expiry_s
        message = Outgoing(topic, payload, delivery, expires_at_s)
        taken = self._outbox.put(message, urgent=urgent)
        if not taken and self.counters.dropped_states == 1:
            LOG.error(
                "event=state-table-full states_max=%d topic=%s", self._limits.states_max, topic
            )
        self._settled.clear()
        self._wake.set()
        return taken

    async def start(self) -> None:
        """Read the secrets and begin to connect; returns without waiting for the broker.

        Raises:
            SecretsError: a password, certificate or key file cannot be used.
        """
        assert self._run_task is None, "already started"
        self._secrets = Secrets.read(self._config)
        self._run_task = asyncio.create_task(self._run(), name=f"bus-{self._identifier}")

    async def wait_connected(self, *, timeout_s: float, attempts_max: int | None = None) -> None:
        """Wait until the broker has us and has answered our subscriptions.

        Raises:
            BusUnavailable: not within `timeout_s`, or `attempts_max` attempts have failed; it says
                which broker and why.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self.connected:
                    if attempts_max is not None and self.counters.failed_attempts >= attempts_max:
                        raise BusUnavailable(self.detail)
                    await self._progress.wait()
        except TimeoutError:
            raise BusUnavailable(self.detail) from None

    async def wait_changed(self) -> None:
        """Wait for the next change of the connection, or the next attempt that failed."""
        await self._progress.wait()

    async def flush(self, *, timeout_s: float) -> bool:
        """Wait until everything queued is sent, and acknowledged if QoS 1; False if not in time."""
        try:
            await asyncio.wait_for(self._settled.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def stop(self, *, clean: bool = True, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Say the last words, send what waits, disconnect; takes at most twice `timeout_s`.

        With `clean` false the `lost` payload is published: what this bus speaks for has died.
        """
        if self._run_task is not None and not self._stopping.is_set():
            words = self._last_words
            if words is not None:
                self.publish(words.topic, words.disconnected if clean else words.lost, STATE)
            if self.connected:
                await self.flush(timeout_s=timeout_s)
            self._stopping.set()
            _, late = await asyncio.wait({self._run_task}, timeout=timeout_s)
            if late:
                self._run_task.cancel()
                await asyncio.wait({self._run_task})
        self._change("stopped", "stopped")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _run(self) -> None:
        """Connect, serve, and after every loss wait a little and connect again."""
        failures_count = 0
        while not self._stopping.is_set():
            began_s = self._clock()
            try:
                await self._connection()
            except (aiomqtt.exceptions.MqttConnectError, ConnectionRefusedError) as error:
                self._lost("refused", failure_reason(error))
            except (aiomqtt.MqttError, OSError, ValueError) as error:
                self._lost("unreachable", failure_reason(error))
            except Exception as error:
                LOG.exception("event=bus-bug %s", self._who)
                self._lost("unreachable", repr(error))
            if self._clock() - began_s >= self._limits.stable_s:
                failures_count = 0
            await self._pause(backoff_s(failures_count, self._jitter(), self._limits))
            failures_count += 1

    async def _pause(self, pause_s: float) -> None:
        await asyncio.wait(
            {stopping := asyncio.create_task(self._stopping.wait())}, timeout=pause_s
        )
        stopping.cancel()

    async def _connection(self) -> None:
        """Connect, subscribe, repeat state, and serve until the connection or the bus ends."""
        words = self._last_words
        client = make_client(
            self._config,
            self._secrets,
            identifier=self._identifier,
            will=(words.topic, words.lost) if words is not None else None,
            take=self._inbound.receive,
            in_flight_max=IN_FLIGHT_MAX,
            timeout_s=CALL_TIMEOUT_S,
        )
        async with client:
            try:
                self._inbound.ask_for_all()
                await self._subscribe_due(client)
                self._outbox.repeat_states()
                self._arrived()
                await self._serve(client)
            finally:
                client.timeout = CLOSE_TIMEOUT_S

    async def _serve(self, client: aiomqtt.Client) -> None:
        """Send until the connection is lost, which raises, or the bus is stopped."""
        tasks = [
            asyncio.create_task(_until_lost(client)),
            asyncio.create_task(self._send(client)),
            asyncio.create_task(self._stopping.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            unfinished = [*tasks, *self._in_flight]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
            for message in reversed(self._in_flight.values()):
                self._outbox.give_back(message)
            self._in_flight.clear()

    def _arrived(self) -> None:
        self.counters.connects += 1
        LOG.info(
            "event=broker-connected %s away_s=%.1f dropped_count=%d",
            self._who,
            self._clock() - self._changed_at_s,
            self.counters.dropped - self._dropped_before_count,
        )
        self._change("connected", "")

    def _lost(self, state: State, reason: str) -> None:
        """Note that there is no connection, and say so when that is news."""
        if self.connected:
            self.counters.disconnects += 1
            self._dropped_before_count = self.counters.dropped
        else:
            self.counters.failed_attempts += 1
        if self._outbox.has_states:
            self._settled.clear()  # they are due again
        level = logging.DEBUG if state == self._state else logging.WARNING
        LOG.log(level, "event=broker-%s %s reason=%r", state, self._who, reason)
        self._change(state, reason)

    def _change(self, state: State, reason: str) -> None:
        """Move to a state and wake those who wait for one."""
        if state != self._state:
            self._changed_at_s = self._clock()
        self._state, self._reason = state, reason
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()

    async def _subscribe_due(self, client: aiomqtt.Client) -> None:
        """Ask the broker for the filters that are due; what it denies is asked for again later."""
        asked, self._inbound.due = self._inbound.due, {}
        self._inbound.answered(asked, await subscribe(client, self._config, asked))
        if self._inbound.refusals.keys() & asked.keys():
            asyncio.get_running_loop().call_later(self._limits.resubscribe_s, self._ask_again)

    def _ask_again(self) -> None:
        self._inbound.ask_again()
        self._wake.set()

    async def _send(self, client: aiomqtt.Client) -> None:
        """Send whatever waits: QoS 0 one by one, QoS 1 up to `IN_FLIGHT_MAX` at a time."""
        window = asyncio.Semaphore(IN_FLIGHT_MAX)
        broken: list[BaseException] = []

        def confirmed(task: asyncio.Task[None]) -> None:
            window.release()
            if task.cancelled():
                return  # still in flight: `_serve` gives it back
            error = task.exception()
            if error is not None:
                broken.append(error)
                self._wake.set()
            else:
                del self._in_flight[task]
                self._settle()

        while not broken:
            if self._inbound.due:
                await self._subscribe_due(client)
            message = self._outbox.take(self._clock())
            if message is None:
                self._settle()
                self._wake.clear()
                await self._wake.wait()
            elif message.delivery.qos == 0:
                await self._transmit(client, message)
            else:
                await window.acquire()
                task = asyncio.create_task(self._transmit(client, message))
                self._in_flight[task] = message
                task.add_done_callback(confirmed)
        raise broken[0]

    def _settle(self) -> None:
        if not self._outbox and not self._in_flight:
            self._settled.set()

    async def _transmit(self, client: aiomqtt.Client, message: Outgoing) -> None:
        """Publish and wait until written (QoS 0) or acknowledged (QoS 1)."""
        left_s = message.expires_at_s - self._clock()
        await client.publish(
            message.topic,
            message.payload,
            qos=message.delivery.qos,
            retain=message.delivery.retain,
            properties=publish_properties(self._config, left_s),
            # Without a timeout of its own no task is made for it; keepalive finds a dead peer.
            timeout=math.inf if message.delivery.qos == 0 else None,
        )
        self.counters.published += 1


async def _until_lost(client: aiomqtt.Client) -> None:
    """Raise when the connection ends; messages are handed over, none comes by this iterator."""
    async for _ in client.messages:
        raise AssertionError("a message was queued instead of handed over")
