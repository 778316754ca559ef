"""How a site is, judged from its retained state: who leads, what is live, what needs somebody.

Pure: the picture and the time are arguments. What is old is not shown as live: its figures are
null, never the last ones. Old means older than `STALE_S`, or that much ahead of this host's clock.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from msgspec import Struct

from daemon.operator.picture import Picture
from facility.wire import Applied, ControllerStatus, DomainState, Mode

STALE_S: Final = 10.0
"""A controller repeats an unchanged domain every five cycles."""
NAMES_MAX: Final = 8
"""Names listed in a sentence before it says how many more there are."""

_RANK: Final = {Mode.BRAKE.value: 0, Mode.EMERGENCY.value: 1}
_KINDS: Final = ("feed", "row", "pdu", "rack", "zone")


class ControllerView(Struct, frozen=True, kw_only=True):
    """A controller; `age_s` is that of its last word on any domain, null when it has said none."""

    controller: str
    state: str
    leader: bool
    epoch: int
    age_s: float | None
    live: bool


class DomainView(Struct, frozen=True, kw_only=True):
    """A domain; every figure is null unless it is live. `age_s` is negative from the future."""

    domain: str
    kind: str
    live: bool
    age_s: float
    mode: str | None
    power_w: float | None
    forecast_w: float | None
    exposure_w: float | None
    capacity_w: float | None
    temperature_c: float | None
    nodes_count: int
    nodes_missing_count: int | None
    contingencies: tuple[str, ...]
    sentence: str


class NodesView(Struct, frozen=True, kw_only=True):
    """The nodes in numbers, and by name those that need somebody.

    `by_status` counts what agents (or the broker for them) last said; `by_reason` what holds the
    clocks of the nodes that are ready. `deviating` names what a GPU does not do, by node.
    """

    count: int
    by_status: dict[str, int]
    by_reason: dict[str, int]
    away: tuple[str, ...]
    uncontrollable: dict[str, str]
    deviating: dict[str, str]


class Overview(Struct, frozen=True, kw_only=True):
    """A site at `at_s` (UTC). `ok` is false when a domain is in emergency or nothing is live.

    `complete` is false when the broker may have kept something from us.
    """

    site: str
    broker: str
    at_s: float
    ok: bool
    live: bool
    headline: str
    alarms: tuple[str, ...]
    controllers: tuple[ControllerView, ...]
    domains: tuple[DomainView, ...]
    nodes: NodesView
    messages_invalid_count: int
    complete: bool


def overview(picture: Picture, *, broker: str, wall_s: float, away: str = "") -> Overview:
    """Judge `picture` at `wall_s`; `away` says why there is no broker now, empty if there is."""
    domains = tuple(
        sorted((domain_view(picture, heard.message, wall_s) for heard in picture.domains.values()),
               key=_urgency)
    )  # fmt: skip
    controllers = tuple(
        _controller(picture, heard.message, wall_s)
        for _, heard in sorted(picture.controllers.items(), key=lambda item: natural(item[0]))
    )
    nodes = _nodes(picture)
    live = any(domain.live for domain in domains)
    struck = [one for one in domains if one.mode in _RANK]
    led = not controllers or any(one.leader for one in controllers)
    heard = not domains or any(
        not one.nodes_count or (one.nodes_missing_count or 0) < one.nodes_count for one in domains
    )
    return Overview(
        site=picture.site,
        broker=broker,
        at_s=wall_s,
        ok=live and not struck and not away and led and heard,
        live=live and not away,
        headline=_headline(domains, struck, away=away),
        alarms=tuple(_alarms(controllers, domains, nodes, away)),
        controllers=controllers,
        domains=domains,
        nodes=nodes,
        messages_invalid_count=picture.invalid_count,
        complete=picture.complete,
    )


def is_live(at_s: float, wall_s: float) -> bool:
    """Whether something said at `at_s` still counts; ahead by more is a clock that is wrong."""
    return abs(wall_s - at_s) <= STALE_S


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """A key that puts rack-2 before rack-10."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


def names(found: list[str] | tuple[str, ...]) -> str:
    """Some names, and how many more there are."""
    shown = ", ".join(found[:NAMES_MAX])
    return shown + (f" and {len(found) - NAMES_MAX} more" if len(found) > NAMES_MAX else "")


def current_applied(picture: Picture, node: str) -> Applied | None:
    """What the hardware of a node last reported in its agent's present life."""
    status, applied = picture.statuses.get(node), picture.applied.get(node)
    if status is None or applied is None or applied.message.session != status.message.session:
        return None
    return applied.message


def deviation(applied: Applied) -> str:
    """The causes that a node's GPUs name, with how many of them; empty for none."""
    causes = Counter(gpu.cause for gpu in applied.gpus.values() if gpu.cause)
    return ", ".join(f"{cause} on {count}" for cause, count in causes.most_common())


def domain_view(picture: Picture, state: DomainState, wall_s: float) -> DomainView:
    """One domain at `wall_s`."""
    live = is_live(state.at_s, wall_s)
    standing = picture.emergencies.get(state.domain)
    return DomainView(
        domain=state.domain,
        kind=state.kind,
        live=live,
        age_s=round(wall_s - state.at_s, 3),
        mode=state.mode.value if live else None,
        power_w=state.power_w if live else None,
        forecast_w=state.forecast_w if live else None,
        exposure_w=state.exposure_w if live else None,
        capacity_w=state.capacity_w if live else None,
        temperature_c=state.temperature_c if live else None,
        nodes_count=state.nodes_count,
        nodes_missing_count=state.nodes_missing_count if live else None,
        contingencies=standing.message.active if standing is not None else (),
        sentence=state.sentence,
    )


def _urgency(domain: DomainView) -> tuple[int, int, tuple[tuple[int, str], ...]]:
    """Those that need somebody first, then from the feeds down."""
    rank = _RANK.get(domain.mode or "", 2 if not domain.live else 3)
    kind = _KINDS.index(domain.kind) if domain.kind in _KINDS else len(_KINDS)
    return rank, kind, natural(domain.domain)


def _controller(picture: Picture, status: ControllerStatus, wall_s: float) -> ControllerView:
    """A controller; its decisions carry its epoch, which tells whose word on a domain is whose."""
    said = [
        heard.message.at_s
        for heard in picture.domains.values()
        if heard.message.decision_id.partition("-")[0] == str(status.epoch)
    ]
    last_s = max(said, default=None)
    return ControllerView(
        controller=status.controller,
        state=status.state,
        leader=status.leader,
        epoch=status.epoch,
        age_s=None if last_s is None else round(wall_s - last_s, 3),
        live=status.state == "ready" and last_s is not None and is_live(last_s, wall_s),
    )


def _nodes(picture: Picture) -> NodesView:
    statuses = {
        name: picture.statuses[name].message.state if name in picture.statuses else "unknown"
        for name in sorted({*picture.statuses, *picture.infos}, key=natural)
    }
    ready = [name for name, state in statuses.items() if state == "ready"]
    applied = {name: current_applied(picture, name) for name in ready}
    reasons = Counter(one.reason if one else "not reported" for one in applied.values())
    uncontrollable = {
        name: info.message.cannot_actuate_because or "no reason given"
        for name in ready
        if (info := picture.infos.get(name)) is not None and not info.message.can_actuate
    }
    deviations = {name: deviation(one) for name, one in applied.items() if one is not None}
    return NodesView(
        count=len(statuses),
        by_status=dict(Counter(statuses.values()).most_common()),
        by_reason=dict(reasons.most_common()),
        away=tuple(name for name, state in statuses.items() if state != "ready"),
        uncontrollable=uncontrollable,
        deviating={name: text for name, text in deviations.items() if text},
    )


def _headline(domains: tuple[DomainView, ...], struck: list[DomainView], *, away: str) -> str:
    if away:
        return f"NO BROKER: {away}"
    live_count = sum(domain.live for domain in domains)
    if not live_count:
        return "NOTHING IS LIVE: no controller speaks for this site"
    if struck:
        modes = [f"{one.domain} ({one.mode})" for one in struck]
        return f"EMERGENCY: {names(modes)}"
    stale = f", {len(domains) - live_count} STALE" if live_count < len(domains) else ""
    return f"ok: {live_count} domain{'s'[: live_count != 1]} live{stale}, none in emergency"


def _alarms(
    controllers: tuple[ControllerView, ...],
    domains: tuple[DomainView, ...],
    nodes: NodesView,
    away: str,
) -> list[str]:
    """What a person should look at, the worst first."""
    found = [f"no broker: {away}"] if away else []
    if not controllers and not domains:
        found.append("nothing is known of this site here: is its name right, and the broker's?")
    if controllers and not any(one.leader for one in controllers):
        found.append("no controller leads: nodes go to their safe ceilings as their leases end")
    found += [
        f"controller {one.controller} says it is ready, but {_silence(one.age_s)}"
        for one in controllers
        if one.state == "ready" and not one.live
    ]
    stale = [one.domain for one in domains if not one.live]
    if stale:
        found.append(f"stale, not shown as live: {names(stale)}")
    if nodes.away:
        found.append(f"agents that are not ready: {names(nodes.away)}")
    if nodes.uncontrollable:
        found.append(f"nodes that cannot be controlled: {names(list(nodes.uncontrollable))}")
    if nodes.deviating:
        found.append(f"GPUs that do not follow, on: {names(list(nodes.deviating))}")
    return found


def _silence(age_s: float | None) -> str:
    if age_s is None:
        return "it has said nothing of any domain yet"
    if age_s < 0.0:
        return f"its time is {-age_s:.0f} s ahead of this host's: see `ampacity doctor`"
    return f"its last word is {age_s:.0f} s old: it hangs, or clocks differ (`ampacity doctor`)"
