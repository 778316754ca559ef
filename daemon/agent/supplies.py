"""The node's own eyes on its UPSs: what they say goes to the actuator without any broker.

It runs in the unprivileged I/O process and tells the actuator the present state, never a history.
Whether a ceiling follows is the actuator's to decide.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from controllers.node_local import LocalTrigger, LocalTriggers
from controllers.node_ups import Notice, UpsWatch
from daemon.agent.metrics import Sample, family
from daemon.ups import UpsPollers, as_event
from facility.config import AgentConfig
from facility.wire import encode

LOG = logging.getLogger(__name__)
LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}


class LocalSupplies:
    """All UPSs of one agent's file."""

    def __init__(
        self,
        config: AgentConfig,
        send: Callable[[str, bytes], None],
        say: Callable[[bytes], None],
        failed: Callable[[], None],
    ) -> None:
        """Nothing happens before `start`.

        Args:
            config: names the UPSs.
            send: takes a frame for the actuator.
            say: takes an event for the broker.
            failed: called if looking has ended by a bug.
        """
        self._source = f"node/{config.node}"
        self._send = send
        self._say = say
        self._told: LocalTriggers | None = None
        self._pollers = UpsPollers(config.ups, self._take, failed=failed)

    def start(self) -> None:
        """Begin to look."""
        self._pollers.start()

    async def stop(self) -> None:
        """Look no more. What was said stays said."""
        await self._pollers.stop()

    def _take(self, watch: UpsWatch, notices: Sequence[Notice]) -> None:
        self._tell_actuator()
        for notice in notices:
            level, name = LEVELS[notice.severity], watch.config.name
            LOG.log(level, "event=%s ups=%s %s", notice.event, name, notice.sentence)
            # What has begun or ended the actuator tells itself, once it has acted.
            if notice.event in ("ups-missing", "ups-back"):
                event = as_event(notice, source=self._source, subject=watch.config.name)
                self._say(encode(event))

    def _tell_actuator(self) -> None:
        """Say what is known when it has changed; a UPS not seen yet is left as it was."""
        known = LocalTriggers(
            triggers=tuple(
                LocalTrigger(ups=watch.config.name, on=watch.is_on, cause=watch.cause)
                for watch in self._pollers.watches
                if watch.is_on is not None
            )
        )
        if known.triggers and known != self._told:
            self._told = known
            self._send("local", encode(known))

    def metric_lines(self) -> list[str]:
        """What is known of the UPSs, for Prometheus."""
        watches = self._pollers.watches
        on: list[Sample] = []
        for watch in watches:
            labels = {"ups": watch.config.name, "contingency": watch.config.contingency}
            on.append((labels, None if watch.is_on is None else float(watch.is_on)))
        missing: list[Sample] = [
            ({"ups": watch.config.name}, float(watch.is_missing)) for watch in watches
        ]
        triggers: list[Sample] = [
            ({"ups": watch.config.name, "word": word}, count)
            for watch in watches
            for word, count in sorted(watch.triggers.items())
        ]
        looks: list[Sample] = [
            ({"ups": name, "state": state}, count)
            for (name, state), count in sorted(self._pollers.looks.items())
        ]
        prefix = "ampacity_agent_ups"
        return [
            *family(f"{prefix}_contingency_on", "gauge", "1 while its word holds it on.", on),
            *family(f"{prefix}_missing", "gauge", "1 while nothing is known of it.", missing),
            *family(f"{prefix}_triggers_total", "counter", "Contingencies begun.", triggers),
            *family(f"{prefix}_looks_total", "counter", "Looks at it, by outcome.", looks),
        ]
