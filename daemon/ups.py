"""Looks at UPSs as often as their files say, and hands on what has changed.

One task per UPS, so that one that hangs delays no other. It decides nothing: `UpsWatch` does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from collectors.nut import NutClient, NutDevice
from controllers.node_ups import Notice, UpsWatch
from facility.config import UpsConfig
from facility.nut import nut_address
from facility.wire import Event

LOG = logging.getLogger(__name__)
LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}

Tell = Callable[[UpsWatch, Sequence[Notice]], None]
"""Called after every look, with what has changed by it; must not block."""


def ups_device(config: UpsConfig, *, power: bool) -> NutDevice:
    """The device that a file names; `power` asks for its watts as well."""
    client = NutClient(
        nut_address(config.source),
        username=config.username,
        password_file=config.password_file,
    )
    return NutDevice(client, power="ups.realpower" if power else None)


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


class UpsPollers:
    """The watches of several UPSs, and the tasks that look for them."""

    def __init__(
        self, configs: Sequence[UpsConfig], tell: Tell, *, failed: Callable[[], None], power: bool
    ) -> None:
        """Nothing is looked at before `start`.

        Args:
            configs: the UPSs.
            tell: takes what was seen.
            failed: called if a task ends by a bug; whoever owns this must not go on as if nothing
                had happened.
            power: whether to ask for power and load as well.
        """
        self.watches = [UpsWatch(config) for config in configs]
        self.looks: Counter[tuple[str, str]] = Counter()
        """How often each UPS was looked at, by (name, state of the reading)."""
        self._tell = tell
        self._failed = failed
        self._power = power
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look."""
        for watch in self.watches:
            task = asyncio.create_task(self._poll(watch), name=f"ups-{watch.config.name}")
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    async def stop(self) -> None:
        """Look no more."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self, watch: UpsWatch) -> None:
        device = ups_device(watch.config, power=self._power)
        try:
            while True:
                reading = await device.look()
                self.looks[watch.config.name, reading.state] += 1
                notices = watch.see(time.monotonic(), reading)
                for notice in notices:
                    text = "event=%s ups=%s %s"
                    LOG.log(
                        LEVELS[notice.severity],
                        text,
                        notice.event,
                        watch.config.name,
                        notice.sentence,
                    )
                self._tell(watch, notices)
                await asyncio.sleep(device.wait_s(reading, watch.config.poll_s))
        finally:
            device.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        LOG.critical("event=bug task=%s", task.get_name(), exc_info=task.exception())
        self._failed()
