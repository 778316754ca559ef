"""What UPSs and meters make the controller order: contingencies and brakes, at once and without it.

It looks, and gives orders like an operator would, under names of its own, so that it ends only what
it began. Nothing is kept for later: while there is no broker an order waits as state, and what is
over by then is never told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from collectors.nut import NutDevice
from controllers.meter import MeterWatch
from controllers.node_ups import Notice, UpsWatch
from controllers.operator import OrdersState
from daemon.ups import NutPollers, UpsPollers, as_event, nut_client
from facility.compiler import did_you_mean
from facility.config import ControllerConfig
from facility.decisions import Decision
from facility.nut import NutReading
from facility.topology import Problem, Site
from facility.wire import Event, Request


def supply_problems(config: ControllerConfig, site: Site) -> tuple[Problem, ...]:
    """What the controller's UPSs and meters name that the site does not have."""
    found = []
    for place, ups in enumerate(config.ups):
        if ups.contingency not in site.contingencies:
            hint = did_you_mean(ups.contingency, list(site.contingencies))
            text = f"no contingency is named {ups.contingency!r}{hint}"
            found.append(Problem(("ups", place, "contingency"), text))
    for place, meter in enumerate(config.meters):
        domain = site.domains.get(meter.domain)
        if domain is None:
            hint = did_you_mean(meter.domain, list(site.domains))
            text = f"no domain is named {meter.domain!r}{hint}"
            found.append(Problem(("meters", place, "domain"), text))
        elif domain.is_zone:
            text = f"{meter.domain!r} is a zone: its capacity is heat, a meter reads power"
            found.append(Problem(("meters", place, "domain"), text))
    return tuple(found)


class Supplies:
    """All UPSs and meters of one controller."""

    def __init__(
        self,
        config: ControllerConfig,
        site: Site,
        *,
        order: Callable[[Request], None],
        note: Callable[[Event], None],
        failed: Callable[[], None],
    ) -> None:
        """Nothing is looked at before `start`.

        Args:
            config: names the UPSs and meters.
            site: what they may order about.
            order: carries out a request of ours.
            note: tells an event.
            failed: called if looking has ended by a bug.
        """
        self._site = site
        self._order = order
        self._note = note
        self._orders = OrdersState()
        self._nodes_w: dict[str, float] = {}
        self._pollers = NutPollers(failed)
        self._ups = UpsPollers(config.ups, self.take_ups, failed=failed)
        self._meters = [MeterWatch(meter) for meter in config.meters]
        self._said: dict[str, bool] = {}
        """What each UPS and meter last ordered."""
        self._braked: set[str] = set()
        """Meters whose brake was seen to be carried out."""

    def start(self, orders: OrdersState) -> None:
        """Begin to look, with the orders that stand from before."""
        self._orders = orders
        self._ups.start()
        for watch in self._meters:
            meter = watch.config
            device = NutDevice(nut_client(meter), power=meter.variable, has_status=False)
            self._pollers.add(meter.name, device, meter.poll_s, partial(self._see_meter, watch))

    async def stop(self) -> None:
        """Look no more; what was ordered stands."""
        await self._ups.stop()
        await self._pollers.stop()

    def ordered(self, orders: OrdersState) -> None:
        """Orders have changed, by whomever."""
        self._orders = orders

    def decided(self, decision: Decision) -> None:
        """A cycle has ended: what the nodes of each domain report, if all of them do."""
        self._nodes_w = {
            state.domain: state.power_w
            for state in decision.domains
            if state.nodes_missing_count == 0
        }

    def counters(self) -> dict[str, float]:
        """Counts for the metrics."""
        looks = self._ups.looks + self._pollers.looks
        lost = sum(count for (_, state), count in looks.items() if state != "fresh")
        return {
            "ups_alarms": float(sum(sum(one.triggers.values()) for one in self._ups.watches)),
            "meter_brakes": float(sum(one.trips_count for one in self._meters)),
            "supply_looks": float(sum(looks.values())),
            "supply_looks_failed": float(lost),
        }

    def take_ups(self, watch: UpsWatch, notices: Sequence[Notice]) -> None:
        """A UPS was looked at: order first, tell after."""
        ups = watch.config
        if watch.is_on is not None:
            self._say(
                f"nut:{ups.name}",
                f"contingency/{ups.contingency}",
                watch.is_on,
                Request(verb="contingency", args={"contingency": ups.contingency}),
            )
        self._tell(ups.name, notices)

    def _see_meter(self, watch: MeterWatch, reading: NutReading) -> None:
        meter, by = watch.config, f"meter:{watch.config.name}"
        key = f"brake/{meter.domain}"
        if not watch.is_on:
            self._braked.discard(by)
        elif meter.domain in self._orders.brakes:
            self._braked.add(by)
        elif by in self._braked:
            self._braked.discard(by)
            watch.lifted()  # by an operator: it is judged anew
            self._said[by] = False
        notices = watch.see(
            time.monotonic(),
            reading,
            capacity_w=self._site.capacity_w(meter.domain, frozenset(self._orders.contingencies)),
            nodes_w=self._nodes_w.get(meter.domain),
        )
        request = Request(verb="brake" if watch.is_on else "release", args={"domain": meter.domain})
        self._say(by, key, watch.is_on, request)
        self._tell(meter.name, notices)

    def _say(self, by: str, key: str, on: bool, request: Request) -> None:
        """Order what is new, and end what is ours, be it from an earlier life."""
        ours = by in self._orders.holders.get(key, ())
        if on == self._said.get(by, ours):
            return
        self._said[by] = on
        args = request.args if request.verb != "contingency" else {**request.args, "on": on}
        self._order(Request(verb=request.verb, by=by, args=args))

    def _tell(self, name: str, notices: Sequence[Notice]) -> None:
        for notice in notices:
            self._note(as_event(notice, source="controller", subject=name))
