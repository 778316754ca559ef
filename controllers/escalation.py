"""What is taken from requests when clocks are not enough, step by step, and given back.

Order after the lock: reroute, then the batch, then quality, then low priority off; in each, low
priority gives before high. It owns who has given what and when the next step is due. It moves no
clock and remembers nothing of an earlier life: a new controller begins with nothing taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

from controllers.need import Need
from controllers.steps import WINDOW_S, StepBudget
from facility.topology import Site
from facility.wire import Severity

REROUTE_AFTER_S: Final = 5.0
"""A domain must be under pressure this long before requests move: clocks first."""
ZONE_SETTLE_S: Final = 30.0
"""Air takes this long to show what a step has changed (physics C.6)."""
GAP_S: Final = 3.0
"""A need that is not seen for so long is over: forecasts waver around a limit."""
CALM_FACTOR_MAX: Final = 16
"""A step that had to be taken again is kept twice as long, and at most this many times longer."""
BURST_S: Final = 1.0
"""Endpoints get back at once what would have come back one by one in this time."""
NAMES_MAX: Final = 8

_S: Final = 1e-6
"""Rounding of times that were added up."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One step: what it takes, of which priority; `quality_level` counts rungs of quality."""

    takes: Literal["batch", "quality", "off"]
    priority: str
    quality_level: int = 0

    @property
    def words(self) -> str:
        """For people."""
        if self.takes == "batch":
            return f"smaller batch of {self.priority} priority"
        if self.takes == "quality":
            return f"quality of {self.priority} priority lowered by {self.quality_level}"
        return f"{self.priority} priority off"


@dataclass(frozen=True, slots=True)
class Taken:
    """What one endpoint gives now."""

    batch: bool = False
    quality_level: int = 0
    off: bool = False


NOTHING_TAKEN: Final = Taken()


@dataclass(frozen=True, slots=True)
class Change:
    """One rung taken from, or given back to, some endpoints in one cycle, for one domain."""

    domain: str
    rung: Rung
    endpoints: tuple[str, ...]
    given_back: bool
    why: str

    @property
    def severity(self) -> Severity:
        """A service that is switched off must be seen by a person."""
        if self.given_back:
            return "info"
        return "critical" if self.rung.takes == "off" else "warning"

    @property
    def sentence(self) -> str:
        """What was done, where and why."""
        where = named(self.endpoints)
        if self.given_back:
            return f"{self.domain}: {self.rung.words} is over on {where}: {self.why}"
        return f"{self.domain}: {self.rung.words} on {where}: {self.why}"


@dataclass(slots=True)
class _Climb:
    """How far one domain has gone. `rungs` are in the order in which they were taken."""

    settle_s: float
    calm_s: float
    pressed_since_s: float | None = None
    need_since_s: float | None = None
    need_last_s: float = float("-inf")
    room_since_s: float | None = None
    settled_since_s: float = float("-inf")
    rungs: list[Rung] = field(default_factory=list)
    given_back: set[Rung] = field(default_factory=set)
    waiting: int = 0

    def needs_for_s(self, now_s: float) -> float:
        """How long it has been in need; negative when it is not, in this very cycle."""
        if self.need_since_s is None or self.need_last_s < now_s:
            return -1.0
        return now_s - self.need_since_s


class Escalation:
    """Who gives what for which domain; a rung is a step for each endpoint that it touches.

    Args:
        site: the compiled site; `control` says how fast, and how much a minute.
        budget: automatic steps of the whole site.
    """

    def __init__(self, site: Site, budget: StepBudget) -> None:
        self._site = site
        self._budget = budget
        control = site.control
        self._settle_s, self._calm_s = control.escalation_settle_s, control.escalation_calm_s
        # The other policies are baselines: they are clocks and weights alone.
        self._climbs_at_all = control.policy == "ampacity" and budget.per_minute_max > 0
        self._climbs: dict[str, _Climb] = {}
        self._given: dict[str, dict[Rung, str]] = {}
        """Per endpoint its rungs, and the domain that each was taken for."""
        self._next_back_s = float("-inf")
        self._givers: dict[tuple[str, Rung], tuple[str, ...]] = {}

    @cached_property
    def rungs(self) -> tuple[Rung, ...]:
        """Every step that this site has, in order."""
        levels = {
            priority: max(
                (n.quality_levels for n in self._site.nodes.values() if n.priority == priority),
                default=0,
            )
            for priority in ("low", "high")
        }
        return (
            Rung("batch", "low"),
            Rung("batch", "high"),
            *(
                Rung("quality", priority, level)
                for priority, count in levels.items()
                for level in range(1, count + 1)
            ),
            Rung("off", "low"),
        )

    def pressed(self, now_s: float) -> frozenset[str]:
        """Domains that have been under pressure long enough for requests to leave them."""
        return frozenset(
            name
            for name, climb in self._climbs.items()
            if climb.pressed_since_s is not None
            and now_s - climb.pressed_since_s >= REROUTE_AFTER_S - _S
        )

    def taken(self, endpoint: str) -> Taken:
        """What `endpoint` gives now."""
        rungs = self._given.get(endpoint)
        if not rungs:
            return NOTHING_TAKEN
        return Taken(
            batch=any(rung.takes == "batch" for rung in rungs),
            quality_level=max(rung.quality_level for rung in rungs),
            off=any(rung.takes == "off" for rung in rungs),
        )

    def step(self, now_s: float, needs: Mapping[str, Need], *, hold: bool) -> tuple[Change, ...]:
        """Take the next steps, and give back what is no longer needed.

        Args:
            now_s: monotonic time.
            needs: of every domain, as this cycle sees it.
            hold: too much of the site is silent: what is unknown is no reason for anything.
        """
        for domain, need in needs.items():
            climb = self._climbs.get(domain)
            if climb is None:
                if not need.pressed:
                    continue
                settle_s = self._settle_s
                if self._site.domains[domain].is_zone:
                    settle_s = max(settle_s, ZONE_SETTLE_S)
                climb = self._climbs[domain] = _Climb(settle_s, self._calm_s)
            self._note(now_s, climb, need, hold=hold)
            if self._climbs_at_all and not hold:
                self._climb(now_s, domain, climb, need)
            if climb.pressed_since_s is None and not climb.rungs and climb.need_since_s is None:
                del self._climbs[domain]
        if hold or not self._climbs_at_all:
            return ()
        return (*self._take(now_s, needs), *self._give_back(now_s))

    def _note(self, now_s: float, climb: _Climb, need: Need, *, hold: bool) -> None:
        """How long has which state lasted."""
        if not need.pressed:
            climb.pressed_since_s = None
        elif climb.pressed_since_s is None:
            climb.pressed_since_s = now_s
        if (need.over or need.starved) and not hold:
            climb.need_last_s = now_s
            if climb.need_since_s is None:
                climb.need_since_s = now_s
        elif now_s - climb.need_last_s > GAP_S + _S:
            climb.need_since_s = None
        if not need.room or hold:
            climb.room_since_s = None
        elif climb.room_since_s is None:
            climb.room_since_s = now_s

    def _climb(self, now_s: float, domain: str, climb: _Climb, need: Need) -> None:
        """One rung up when the last has had its time and was not enough; one down when calm."""
        if any(self._outstanding(domain, rung) for rung in climb.rungs):
            climb.settled_since_s = now_s
        pressed_s = now_s - climb.pressed_since_s if climb.pressed_since_s is not None else 0.0
        lasted_s = min(
            climb.needs_for_s(now_s), now_s - climb.settled_since_s, pressed_s - REROUTE_AFTER_S
        )
        if lasted_s >= climb.settle_s - _S:
            rung = self._next(domain, climb, need)
            if rung is not None:
                climb.rungs.append(rung)
                climb.settled_since_s = now_s
                if rung in climb.given_back:
                    climb.calm_s = min(2 * climb.calm_s, CALM_FACTOR_MAX * self._calm_s)
        elif (
            climb.rungs
            and climb.room_since_s is not None
            and now_s - climb.room_since_s >= climb.calm_s - _S
            and not self._owed(domain)
        ):
            climb.given_back.add(climb.rungs.pop())
            climb.room_since_s = now_s

    def _next(self, domain: str, climb: _Climb, need: Need) -> Rung | None:
        """The first rung that anybody below can still give.

        High priority gives only for power: to slow it because it is slow would help nobody.
        """
        for rung in self.rungs:
            if rung in climb.rungs or (rung.priority == "high" and not need.over):
                continue
            if self._below(domain, rung):
                return rung
        return None

    def _below(self, domain: str, rung: Rung) -> tuple[str, ...]:
        """Endpoints below `domain` that `rung` can be taken from, in site order."""
        key = (domain, rung)
        if key not in self._givers:
            nodes = (self._site.nodes[name] for name in self._site.domains[domain].nodes)
            self._givers[key] = tuple(
                node.name
                for node in nodes
                if node.routable
                and node.priority == rung.priority
                and node.quality_levels >= rung.quality_level
            )
        return self._givers[key]

    def _outstanding(self, domain: str, rung: Rung) -> list[str]:
        """Endpoints that were to give `rung` for `domain` and have not yet."""
        return [name for name in self._below(domain, rung) if rung not in self._given.get(name, ())]

    def _take(self, now_s: float, needs: Mapping[str, Need]) -> list[Change]:
        """Take what is due, first rungs first, as far as this minute allows.

        What must wait is asked for again only while its domain still needs it.
        """
        for climb in self._climbs.values():
            climb.waiting = 0
        changes = []
        for rung in self.rungs:
            for domain, climb in self._climbs.items():
                due = climb.needs_for_s(now_s) >= climb.settle_s - _S
                if not due or rung not in climb.rungs:
                    continue
                wanted = self._outstanding(domain, rung)
                taken = self._within_budget(now_s, wanted)
                climb.waiting += len(wanted) - len(taken)
                for name in taken:
                    self._given.setdefault(name, {})[rung] = domain
                if taken:
                    changes.append(Change(domain, rung, taken, False, needs[domain].why))
        return changes

    def _give_back(self, now_s: float) -> list[Change]:
        """Give back what no domain above an endpoint asks for any more, last rungs first.

        One endpoint after the other, spread over the minute: load that comes back all at once
        would be a spike of our own making.
        """
        changes = []
        for rung in reversed(self.rungs):
            groups: dict[str, list[str]] = {}
            for name, rungs in self._given.items():
                if rung in rungs and not self._asked(name, rung):
                    groups.setdefault(rungs[rung], []).append(name)
            for domain, names in groups.items():
                given = []
                for name in names:
                    if now_s < self._next_back_s - _S or not self._budget.take(now_s):
                        break
                    spacing_s = WINDOW_S / self._budget.per_minute_max
                    self._next_back_s = max(self._next_back_s, now_s - BURST_S) + spacing_s
                    del self._given[name][rung]
                    given.append(name)
                if given:
                    changes.append(Change(domain, rung, tuple(given), True, "clocks alone will do"))
        return changes

    def _asked(self, endpoint: str, rung: Rung) -> bool:
        above = self._site.nodes[endpoint].ancestors
        return any(rung in self._climbs[name].rungs for name in above if name in self._climbs)

    def _owed(self, domain: str) -> bool:
        """Whether an endpoint below `domain` still gives what nobody asks for any more."""
        return any(
            not self._asked(name, rung)
            for name, rungs in self._given.items()
            if domain in self._site.nodes[name].ancestors
            for rung in rungs
        )

    def _within_budget(self, now_s: float, names: Iterable[str]) -> tuple[str, ...]:
        taken = []
        for name in names:
            if not self._budget.take(now_s):
                break
            taken.append(name)
        return tuple(taken)

    def words(self, domain: str) -> str:
        """What has been taken for `domain`, in its sentence; empty for nothing."""
        climb = self._climbs.get(domain)
        if climb is None or not climb.rungs:
            return ""
        parts, said = [], set()
        # The last rung says it all of an endpoint: whoever is off has no batch worth a word.
        for rung in reversed(self.rungs):
            names = [
                name
                for name in self._below(domain, rung)
                if rung in climb.rungs and rung in self._given.get(name, ()) and name not in said
            ]
            said.update(names)
            if names:
                parts.append(f"{rung.words} on {named(names)}")
        if climb.waiting:
            limit = self._budget.per_minute_max
            parts.append(f"{climb.waiting} more steps wait, at most {limit} a minute")
        return ", ".join(parts)


def named(names: Iterable[str]) -> str:
    """A few names in full, many as a count."""
    listed = list(names)
    if len(listed) <= NAMES_MAX:
        return ", ".join(listed)
    return f"{', '.join(listed[:NAMES_MAX])} and {len(listed) - NAMES_MAX} more"
