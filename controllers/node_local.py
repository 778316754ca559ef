"""Contingencies that a node has seen begin by itself, through a UPS client of its own.

They need no broker and no controller. They add to what is announced and only ever lower a ceiling.
Who says them is the unprivileged half of the agent: it can begin one that the node's file names, or
be silent, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from facility.config import UpsConfig
from facility.wire import Name

LOCAL_TRIGGERS_MAX = 16


class LocalTrigger(Struct, frozen=True, kw_only=True):
    """What one UPS says now: whether its contingency is on, and in which words."""

    ups: Name
    on: bool
    cause: Annotated[str, Meta(max_length=64)] = ""


class LocalTriggers(Struct, frozen=True, kw_only=True):
    """Every UPS of which something is known. One that is not named stays as it was."""

    triggers: Annotated[tuple[LocalTrigger, ...], Meta(max_length=LOCAL_TRIGGERS_MAX)]


class LocalBook:
    """Which UPSs hold their contingency on. A UPS that nobody speaks for stays as it was."""

    def __init__(self, config: Sequence[UpsConfig], on: Collection[str]) -> None:
        """Start from what was on before a restart."""
        self._on = set(on)
        self.reconfigure(config)

    def reconfigure(self, config: Sequence[UpsConfig]) -> None:
        """Obey the UPSs of a new file; what it does not name is forgotten."""
        self._contingencies = {ups.name: ups.contingency for ups in config}
        self._on &= set(self._contingencies)

    @property
    def records(self) -> tuple[str, ...]:
        """The UPSs to remember across a restart."""
        return tuple(sorted(self._on))

    @property
    def active(self) -> tuple[str, ...]:
        """The contingencies that are on, in order."""
        return tuple(sorted({self._contingencies[name] for name in self._on}))

    def hear(self, trigger: LocalTrigger) -> str | None:
        """Take one word; the contingency that it begins or ends, None when nothing changes."""
        if trigger.ups not in self._contingencies or trigger.on == (trigger.ups in self._on):
            return None
        (self._on.add if trigger.on else self._on.discard)(trigger.ups)
        return self._contingencies[trigger.ups]
