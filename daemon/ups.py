"""Looks at UPSs and meters as often as files say, and hands on what was seen.

One task per device, so that one that hangs delays no other. It decides nothing: the watches do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from collectors.nut import NutClient, NutDevice
from controllers.node_ups import Notice, UpsWatch
from facility.config import MeterConfig, UpsConfig
from facility.nut import NutReading, nut_address
from facility.wire import Event

LOG = logging.getLogger(__name__)

Tell = Callable[[UpsWatch, Sequence[Notice]], None]
"""Called after every look, with what has changed by it; must not block."""


def nut_client(config: UpsConfig | MeterConfig) -> NutClient:
    """The client of what a file names."""
    return NutClient(
        nut_address(config.source),
        username=config.username,
        password_file=config.password_file,
    )


def as_event(notice: Notice, *, source: str, subject: str) -> Event:
    """A notice for audit and broker, as of now."""
    return Event(
        event=notice.event,
        severity=notice.severity,
        at_s=time.time(),
        source=source,
        subject=subject,
        sentence=notice.sentence,
    )


class NutPollers:
    """Tasks that look at devices, one each; a bug in one is told and never passed over."""

    def __init__(self, failed: Callable[[], None]) -> None:
        """`failed` is called if a task ends by a bug: its owner must not go on as if it had not."""
        self.looks: Counter[tuple[str, str]] = Counter()
        """How often each device was looked at, by (name, state of the reading)."""
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    def add(
        self, name: str, device: NutDevice, period_s: float, see: Callable[[NutReading], object]
    ) -> None:
        """Begin to look at a device every `period_s`; `see` takes each reading, must not block."""
        task = asyncio.create_task(self._poll(name, device, period_s, see), name=f"nut-{name}")
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    async def stop(self) -> None:
        """Look no more."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(
        self, name: str, device: NutDevice, period_s: float, see: Callable[[NutReading], object]
    ) -> None:
        try:
            while True:
                reading = await device.look()
                self.looks[name, reading.state] += 1
                see(reading)
                await asyncio.sleep(device.wait_s(reading, period_s))
        finally:
            device.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        LOG.critical("event=bug task=%s", task.get_name(), exc_info=task.exception())
        self._failed()


class UpsPollers:
    """The watches of several UPSs, and the tasks that look for them."""

    def __init__(
        self, configs: Sequence[UpsConfig], tell: Tell, *, failed: Callable[[], None]
    ) -> None:
        """Nothing is looked at before `start`; `tell` takes what was seen."""
        self.watches = [UpsWatch(config) for config in configs]
        self._tell = tell
        self._pollers = NutPollers(failed)

    @property
    def looks(self) -> Counter[tuple[str, str]]:
        """How often each UPS was looked at, by (name, state of the reading)."""
        return self._pollers.looks

    def start(self) -> None:
        """Begin to look."""
        for watch in self.watches:
            device = NutDevice(nut_client(watch.config), power=None)
            see = partial(self._see, watch)
            self._pollers.add(watch.config.name, device, watch.config.poll_s, see)

    async def stop(self) -> None:
        """Look no more."""
        await self._pollers.stop()

    def _see(self, watch: UpsWatch, reading: NutReading) -> None:
        self._tell(watch, watch.see(time.monotonic(), reading))
