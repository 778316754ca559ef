"""What the operators have ordered: contingencies, brakes, caps and drains, until they lift them.

A request is answered with what was done or, in a dry run, with what would be done. Nothing is
half-applied: a request with anything wrong in it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from facility.compiler import did_you_mean
from facility.topology import Site
from facility.wire import Emergency, Event, Request, Response

VERBS: Final = ("contingency", "brake", "release", "cap", "drain")

AUTOMATIC: Final = ("nut:", "meter:")
"""Who gives an order and is no operator: what it began it may end, what an operator began not."""

Answer = dict[str, str | int | float | bool]


class OrdersState(Struct, frozen=True, kw_only=True):
    """The standing orders as a document; watts."""

    contingencies: tuple[str, ...] = ()
    brakes: tuple[str, ...] = ()
    drained: tuple[str, ...] = ()
    caps_w: dict[str, Annotated[float, Meta(gt=0.0)]] = {}
    holders: dict[str, tuple[str, ...]] = {}
    """Who holds an order that no operator gave, by `contingency/NAME` or `brake/DOMAIN`."""


class RequestError(ValueError):
    """A request that cannot be done; the text says what is allowed."""


class Orders:
    """The standing orders, and the emergency messages that announce them."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.contingencies: set[str] = set()
        self.brakes: set[str] = set()
        self.caps_w: dict[str, float] = {}
        self.drained: set[str] = set()
        self.unknown: dict[str, set[str]] = {}
        """Contingencies found on the bus that the site file does not know, by domain."""
        self._holders: dict[str, set[str]] = {}
        self._announced: dict[str, tuple[str, ...]] = {}
        self._said_as: dict[str, int] = {}
        self._again: set[str] = set()
        self._sequence = 0
        self._verbs: dict[str, Callable[[Request, bool], Answer]] = {
            "contingency": self._contingency,
            "brake": self._brake,
            "release": self._release,
            "cap": self._cap,
            "drain": self._drain,
        }

    def say_again(self) -> None:
        """Announce everything once more, ends too: who listens may have refused or missed it."""
        self._again |= self._announced.keys()

    def state(self) -> OrdersState:
        """What must survive a restart."""
        return OrdersState(
            contingencies=tuple(sorted(self.contingencies)),
            brakes=tuple(sorted(self.brakes)),
            drained=tuple(sorted(self.drained)),
            caps_w=dict(sorted(self.caps_w.items())),
            holders={key: tuple(sorted(who)) for key, who in sorted(self._holders.items())},
        )

    def restore(self, state: OrdersState) -> None:
        """Take over the orders of an earlier life; what the site no longer knows is dropped."""
        site = self._site
        self.contingencies |= set(state.contingencies) & set(site.contingencies)
        self.brakes |= set(state.brakes) & set(site.domains)
        self.drained |= set(state.drained) & set(site.nodes)
        on = {f"contingency/{name}" for name in self.contingencies}
        on |= {f"brake/{name}" for name in self.brakes}
        self._holders = {key: set(who) for key, who in state.holders.items() if who and key in on}
        for name, cap_w in state.caps_w.items():
            if name in site.domains:
                self.caps_w[name] = min(cap_w, site.domains[name].capacity_w)

    def follow(self, state: OrdersState) -> None:
        """Have exactly these orders: somebody else leads, and they are the leader's."""
        for mine in (self.contingencies, self.brakes, self.drained):
            mine.clear()
        self.caps_w.clear()
        self.unknown.clear()
        self.restore(state)

    @property
    def active(self) -> frozenset[str]:
        """Contingencies that are on."""
        return frozenset(self.contingencies)

    def handle(
        self, requests: Sequence[Request], wall_s: float
    ) -> tuple[tuple[Response, ...], tuple[Event, ...]]:
        """Carry out requests in order: a response and an event for the audit each."""
        responses = tuple(self.apply(request) for request in requests)
        events = tuple(
            Event(
                event="operator-request",
                severity="info" if response.status == "ok" else "warning",
                at_s=wall_s,
                source=request.by or "operator",
                subject=request.verb,
                sentence=f"{request.verb} {_spoken(request)}: {response.error or 'done'}"[:1024],
            )
            for request, response in zip(requests, responses, strict=True)
        )
        return responses, events

    def announce(self, *, epoch: int, wall_s: float) -> tuple[Emergency, ...]:
        """One message for every domain whose orders are not as announced."""
        wanted: dict[str, set[str]] = {domain: {"brake"} for domain in self.brakes}
        for name in self.contingencies:
            wanted.setdefault(self._site.contingencies[name].domain, set()).add(name)
        for domain, names in self.unknown.items():
            wanted.setdefault(domain, set()).update(names)
        messages = []
        for domain in sorted(wanted.keys() | self._announced.keys() | self._again):
            active = tuple(sorted(wanted.get(domain, ())))
            if active == self._announced.get(domain, ()) and domain not in self._again:
                continue
            self._again.discard(domain)
            self._announced[domain] = active
            self._said_as[domain] = epoch
            self._sequence += 1
            messages.append(
                Emergency(
                    domain=domain,
                    active=active,
                    epoch=epoch,
                    sequence=self._sequence,
                    issued_at_s=wall_s,
                    by=self._who_holds(domain, active),
                )
            )
        return tuple(messages)

    def adopt(self, emergency: Emergency) -> None:
        """Take over what an earlier controller, or somebody else, has declared.

        Only what is on: a message that ends something is no order of ours to end it. A name that
        the site file does not know (it was renamed while it was on) brakes nodes all the same: it
        stands until an operator ends it.
        """
        if emergency.domain not in self._site.domains:
            return
        if 0 < emergency.epoch < self._said_as.get(emergency.domain, 0):
            # A deposed leader's word of before ours, said again when it reconnected: what was
            # ended since stays ended, and what the broker keeps of it is replaced.
            self._again.add(emergency.domain)
            return
        if emergency.active:
            self._again.add(emergency.domain)  # under our own epoch, or nobody could end it
        for name in emergency.active:
            if name == "brake":
                self._adopt("brake", self.brakes, emergency.domain, emergency.by)
            elif name in self._site.contingencies:
                self._adopt("contingency", self.contingencies, name, emergency.by)
            else:
                self.unknown.setdefault(emergency.domain, set()).add(name)

    def _adopt(self, kind: str, on: set[str], name: str, by: str) -> None:
        """Take over what is on; what is on already stays its holder's."""
        if name not in on:
            for holder in by.split(","):
                self._set(kind, on, name, holder, wanted=True)

    def _set(self, kind: str, on: set[str], name: str, by: str, *, wanted: bool) -> bool:
        """Begin or end an order; whether that has changed anything.

        An operator's word counts for everybody: what he begins only he ends, and what he ends is
        over. What a UPS or a meter began ends when the last of them lets go.
        """
        key, was_on = f"{kind}/{name}", name in on
        if not by.startswith(AUTOMATIC):
            self._holders.pop(key, None)
            (on.add if wanted else on.discard)(name)
            return True
        holders = self._holders.get(key, set())
        if wanted and (holders or not was_on):
            self._holders[key] = holders | {by}
            on.add(name)
        elif not wanted and by in holders:
            holders.discard(by)
            if not holders:
                del self._holders[key]
                on.discard(name)
        return was_on != (name in on)

    def _who_holds(self, domain: str, active: Sequence[str]) -> str:
        """Whose word an announcement is, so that a successor knows who may end it."""
        keys = [f"brake/{domain}" if name == "brake" else f"contingency/{name}" for name in active]
        found = {",".join(sorted(self._holders.get(key, ()))) for key in keys}
        alone = found.pop() if len(found) == 1 else ""
        return alone[:1_024] or "controller"

    def apply(self, request: Request) -> Response:
        """Carry out one request; never raises."""
        try:
            verb = self._verbs.get(request.verb)
            if verb is None:
                raise RequestError(
                    f"no verb {request.verb!r}: use {', '.join(VERBS)}"
                    f"{did_you_mean(request.verb, VERBS)}"
                )
            data = verb(request, not request.dry_run)
        except RequestError as error:
            return Response(
                verb=request.verb,
                transaction=request.transaction,
                status="error",
                error=str(error)[:1024],
            )
        data["dry_run"] = request.dry_run
        return Response(verb=request.verb, transaction=request.transaction, status="ok", data=data)

    def _contingency(self, request: Request, act: bool) -> Answer:
        strange = sorted(set().union(*self.unknown.values()))
        name = self._named(request, "contingency", [*self._site.contingencies, *strange])
        on = self._on(request)
        if name in strange and on:
            raise RequestError(f"the site file knows no contingency {name!r}: it can only end")
        if act and name in strange:
            self._end_unknown(name)
        elif act and self._set("contingency", self.contingencies, name, request.by, wanted=on):
            # Said again even if it changes nothing here: a node may remember what we do not.
            self._again.add(self._site.contingencies[name].domain)
        return {"contingency": name, "active": on}

    def _end_unknown(self, name: str) -> None:
        for domain, names in self.unknown.items():
            if name in names:
                names.discard(name)
                self._again.add(domain)

    def _brake(self, request: Request, act: bool) -> Answer:
        domain = self._named(request, "domain", list(self._site.domains))
        if act:
            self._set("brake", self.brakes, domain, request.by, wanted=True)
        return {"domain": domain, "nodes": len(self._site.domains[domain].nodes)}

    def _release(self, request: Request, act: bool) -> Answer:
        domain = self._named(request, "domain", list(self._site.domains))
        if act and self._set("brake", self.brakes, domain, request.by, wanted=False):
            self._again.add(domain)
        return {"domain": domain, "nodes": len(self._site.domains[domain].nodes)}

    def _cap(self, request: Request, act: bool) -> Answer:
        domain = self._named(request, "domain", list(self._site.domains))
        capacity_w = self._site.domains[domain].capacity_w
        if request.args.get("clear") is True:
            if act:
                self.caps_w.pop(domain, None)
            return {"domain": domain, "capacity_w": capacity_w}
        cap_w = request.args.get("cap_w")
        if isinstance(cap_w, bool) or not isinstance(cap_w, int | float):
            raise RequestError("cap needs cap_w, a number of watts, or clear")
        if not 0.0 < cap_w <= capacity_w:
            raise RequestError(
                f"cap_w {cap_w:g} is outside 0 to {capacity_w:g}: a cap only lowers a capacity"
            )
        if act:
            self.caps_w[domain] = float(cap_w)
        return {"domain": domain, "capacity_w": float(cap_w)}

    def _drain(self, request: Request, act: bool) -> Answer:
        node = self._named(request, "node", list(self._site.nodes))
        on = self._on(request)
        if act:
            (self.drained.add if on else self.drained.discard)(node)
        return {"node": node, "drained": on}

    def _named(self, request: Request, key: str, known: list[str]) -> str:
        name = request.args.get(key)
        if not isinstance(name, str):
            raise RequestError(f"{request.verb} needs {key}: one of {', '.join(known[:20])}")
        if name not in known:
            raise RequestError(f"no {key} is named {name[:64]!r}{did_you_mean(name[:64], known)}")
        return name

    def _on(self, request: Request) -> bool:
        on = request.args.get("on", True)
        if not isinstance(on, bool):
            raise RequestError(f"{request.verb}: on must be true or false, not {str(on)[:64]!r}")
        return on


def _spoken(request: Request) -> str:
    """A request's arguments for people to read, bounded."""
    words = [f"{key}={value}" for key, value in sorted(request.args.items())]
    return " ".join(words)[:512] + (" (dry run)" if request.dry_run else "")
