"""The bus over real brokers that die, hang and come back."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from daemon.bus import BusLimits
from facility.topics import COMMAND, SAMPLE, STATE
from tests.buses import STATUS, BrokerKind, at, both_brokers, broker, listening, speaking
from tests.servers import Server, until

__all__ = ["broker"]  # a fixture is found by its name


@both_brokers
@pytest.mark.parametrize("persistent", [True, False], ids=["kept", "forgotten"])
async def test_all_resumes_by_itself_after_the_broker_was_killed(
    kind: BrokerKind, persistent: bool, tmp_path: Path
) -> None:
    with kind(tmp_path, persistent=persistent) as server:
        config = at(server)
        async with listening(config, "t/+", STATUS) as heard, speaking(config) as bus:
            bus.publish(STATUS, b"ready", STATE)
            await until(lambda: heard.payloads == [b"ready"], "the birth")
            server.restart()
            await until(lambda: bus.counters.reconnects == 1, "the speaker to be back")
            await until(lambda: heard.bus.counters.reconnects == 1, "the listener to be back")
            assert await bus.flush(timeout_s=5)
            bus.publish("t/1", b"after", SAMPLE)
            await until(lambda: b"after" in heard.payloads, "a message after the restart")
            async with listening(config, STATUS, identifier="late") as late:
                await until(lambda: late.messages, "state for a late subscriber")
                assert late.messages == [(STATUS, b"ready", True)]


async def test_while_the_broker_is_away_nothing_blocks_and_the_queue_is_bounded(
    broker: Server,
) -> None:
    config = at(broker)
    limits = BusLimits(queue_max=100, backoff_s_min=0.02, backoff_s_max=0.1)
    async with speaking(config, limits=limits) as bus:
        broker.kill()
        await until(lambda: not bus.connected, "the loss to be noticed")
        for number in range(5_000):
            bus.publish("t/1", b"%d" % number, SAMPLE)
            bus.publish("s/1", b"%d" % number, STATE)
        assert bus.queued_count == 100 + 1
        assert bus.counters.dropped_samples == 4_900
        assert not await bus.flush(timeout_s=0.01)
        broker.start()
        async with listening(config, "s/+") as heard:
            await until(lambda: heard.payloads == [b"4999"], "the latest state, and only that")
        assert await bus.flush(timeout_s=5)


async def test_a_command_that_was_not_acknowledged_is_sent_again(broker: Server) -> None:
    config = at(broker)
    slow = BusLimits(backoff_s_min=2.0, backoff_s_max=2.0)  # the listener shall be there first
    async with speaking(config, limits=slow) as bus:
        broker.pause()
        bus.publish("c/1", b"act", COMMAND)
        await until(lambda: bus.unconfirmed_count == 1, "the command to be on its way")
        broker.restart()
        async with listening(config, "c/+") as heard:
            await until(lambda: heard.payloads == [b"act"], "the command")
            assert await bus.flush(timeout_s=5)
            assert bus.unconfirmed_count == 0


async def test_a_hung_broker_is_left_and_found_again_without_a_leak(broker: Server) -> None:
    config = at(broker, keepalive_s=1)
    async with speaking(config) as bus:
        files = len(os.listdir("/proc/self/fd"))
        broker.pause()
        began_s = time.monotonic()
        bus.publish("t/1", b"x" * 1_000, SAMPLE)
        bus.publish("s/1", b"x", STATE)
        assert time.monotonic() - began_s < 0.5
        await until(lambda: not bus.connected, "the hang to be noticed", timeout_s=8)
        broker.resume()
        await bus.wait_connected(timeout_s=10)
        assert await bus.flush(timeout_s=5)
        await until(
            lambda: len(os.listdir("/proc/self/fd")) <= files, "sockets to be closed", timeout_s=8
        )


async def test_a_reconnect_is_said_once_and_not_per_attempt(
    broker: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="daemon.bus")
    async with speaking(at(broker)) as bus:
        broker.kill()
        await until(lambda: bus.counters.failed_attempts >= 3, "three attempts")
        broker.start()
        await bus.wait_connected(timeout_s=10)
    said = [line.split()[0] for line in caplog.messages]
    assert said == ["event=broker-connected", "event=broker-unreachable", "event=broker-connected"]
