"""The control cycle: snapshot in, decision out.

Invariant: no lease leaves here that the ledger has not recorded first, and no ceiling rises while
too much of the site is silent. The same object runs live, in the demo and offline; time is an
argument.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controllers.alarms import EnvelopeAlarms
from controllers.contingency import Prearmed
from controllers.fleet import BoolArray, Fleet, FloatArray, IntArray
from controllers.holding import held
from controllers.ledger import Clamped, Ledger
from controllers.need import needs
from controllers.nodes_power import NodesPower
from controllers.operator import Orders
from controllers.policies import make_policy
from controllers.policy import Situation, ramp_share
from controllers.reaction import HopWatch, ReactionMeter
from controllers.readings import ReadingAlarms
from controllers.report import Outcome, Reporter, headline
from controllers.routing import Router, Steering
from controllers.silence import is_mass_silence, is_unlocked
from controllers.snapshot import NodeView, Snapshot, reported_ceiling_mhz
from controllers.thermal import ZoneBudgets, ZoneHeat
from facility.decisions import Decision
from facility.topology import Site
from facility.wire import (
    DomainState,
    Emergency,
    Event,
    Lease,
    Request,
    Response,
)
from predictors.power import PowerForecaster


class ControlCycle:
    """Decides for one site, one step per cycle.

    Args:
        site: the compiled site; its `control` section sets policy and timings.
        epoch: fencing number of this leadership; every lease and emergency carries it.
        started_at_s: monotonic time of the start: until one lease later anything may be in force.
    """

    def __init__(self, site: Site, *, epoch: int, started_at_s: float) -> None:
        control = site.control
        self.site = site
        self.orders = Orders(site)
        self._epoch = epoch
        self._fleet = Fleet(site)
        self._policy = make_policy(
            control.policy, domain_count=len(site.domains), cycle_s=control.cycle_s
        )
        self.reactions = ReactionMeter(control)
        self._hops = HopWatch(control, self.reactions, nodes_count=len(site.nodes))
        reaction = self.reactions.reaction
        self._ledger = Ledger(self._fleet, started_at_s=started_at_s, reaction=reaction)
        self._alarms = EnvelopeAlarms(grace_s=2.0 * reaction.without_control_s)
        self._forecaster = PowerForecaster.of(control, len(site.domains))
        self._nodes_power = NodesPower(self._fleet)
        self._reading_alarms = ReadingAlarms(self._fleet)
        self._zones = ZoneBudgets(site)
        self._zone_places = [(name, self._fleet.domain_index[name]) for name in self._zones.names]
        self._router = Router(site)
        self._prearmed = Prearmed(self._fleet)
        self._ceiling_mhz = self._fleet.safe_ceiling_mhz.astype(np.int64)
        self._was_movable = np.zeros(len(site.nodes), dtype=np.bool_)
        self._sessions = [""] * len(site.nodes)
        self._started_at_s = started_at_s
        self._reporter = Reporter(site)
        self._silent = control.shadow
        self._active: frozenset[str] = frozenset()
        self._was_silent = False
        self._prearmed_mhz: dict[str, IntArray] = {}
        self._last_s: float | None = None
        self._cycles = 0
        self._sequence = 0

    def lead_as(self, epoch: int, *, now_s: float) -> None:
        """Go on under a higher epoch, and say every standing order again under it.

        Whoever led under the epoch in between may have granted anything until just now.
        """
        assert epoch > self._epoch
        self._epoch = epoch
        self._ledger.inherit(now_s + self.site.control.lease_s)
        self.orders.say_again()

    def stand_by(self) -> None:
        """Go on deciding, and let nothing of it leave: somebody else leads, or nobody may."""
        self._silent = True

    def take_over(self, epoch: int, *, now_s: float, lease_s: float) -> None:
        """Lead from `now_s` on; until `lease_s` later any lease of an earlier leader may hold."""
        assert epoch > self._epoch
        self._epoch = epoch
        self._ledger.inherit(now_s + lease_s)
        self.go_on()

    def go_on(self) -> None:
        """Speak again; what was decided in silence was not done, so begin from what nodes say."""
        self._silent = self.site.control.shadow
        self._was_movable[:] = False
        self.orders.say_again()

    def handle(
        self, requests: Sequence[Request], wall_s: float
    ) -> tuple[tuple[Response, ...], tuple[Emergency, ...], tuple[Event, ...]]:
        """Carry out operators' requests between cycles: responses, emergencies and audit events.

        An emergency leaves at once; the ceilings for it are on the nodes already.
        """
        responses, events = self.orders.handle(requests, wall_s)
        return responses, self._announce(wall_s), events

    def _announce(self, wall_s: float) -> tuple[Emergency, ...]:
        if self._silent:
            return ()
        return self.orders.announce(epoch=self._epoch, wall_s=wall_s)

    def took(self, seconds: float) -> None:
        """The last step took so long, from its snapshot until its leases had left."""
        self._hops.took(seconds)

    def step(self, snapshot: Snapshot) -> Decision:
        """Decide once."""
        now_s, control = snapshot.now_s, self.site.control
        self._cycles += 1
        self._hops.look(snapshot)
        self._ledger.react_within(self.reactions.reaction)
        decision_id = f"{self._epoch}-{self._cycles}"
        mass_silence = is_mass_silence(snapshot, control.missing_ratio_max)
        if mass_silence != self._was_silent:
            # What is counted jumps to worst cases and back: that is no load, and nothing to learn.
            self._forecaster.forget(np.ones(len(self.site.domains), dtype=np.bool_))
            self._was_silent = mass_silence
        views = list(snapshot.nodes.values())
        missing = np.array([view.missing for view in views])
        since_start_s = now_s - self._started_at_s
        unlocked = np.array([is_unlocked(view, since_start_s, mass_silence) for view in views])
        movable = ~missing & ~unlocked
        self._welcome_back(views, movable)
        self._begin_contingencies(snapshot.active)
        exposure_w = self._ledger.exposure_w(now_s, unlocked)
        power_w = self._power_w(now_s, views, unlocked)
        heat = self._heat(snapshot, power_w)
        situation = self._situation(snapshot, power_w, movable, views, hold=mass_silence)
        proposal = self._policy.propose(situation)
        brake = proposal.brake | self._ordered_brakes()
        blind = self._blind(heat) | (control.ledger and self._ledger.inherits(now_s))
        held_mhz = held(situation, proposal, brake=brake, missing=missing, blind=blind)
        clamped = self._clamp(now_s, held_mhz, movable, unlocked)
        ceiling_mhz = clamped.ceiling_mhz
        prearmed = self._prearm(situation, exposure_w)
        leases = self._lease(snapshot, decision_id, movable, ceiling_mhz, prearmed)
        exposure_w = self._ledger.exposure_w(now_s, unlocked)
        self._ceiling_mhz = np.where(movable, ceiling_mhz, self._ceiling_mhz)
        self._was_movable = movable
        self._last_s = now_s
        outcome = Outcome(
            snapshot=snapshot,
            situation=situation,
            decision_id=decision_id,
            ceiling_mhz=self._ceiling_mhz,
            bound_by=proposal.bound_by,
            leased_for=clamped.bound_by,
            brake=brake,
            exposure_w=exposure_w,
            heat=heat,
            prearmed_mhz={
                name: np.where(self._prearmed.touches(name), mhz, 0)
                for name, mhz in prearmed.items()
            },
        )
        steering = self._steer(outcome, self._reporter.domains(outcome))
        domains = steering.domains
        nodes, events = self._reporter.nodes(outcome), self._reporter.events(outcome, domains)
        events += self._alarms.step(snapshot, exceeded=clamped.exceeded, slow=self.reactions.slow)
        events += self._reading_alarms.step(snapshot, self._nodes_power)
        return Decision(
            decision_id=decision_id,
            at_s=now_s,
            wall_s=snapshot.wall_s,
            sentence=headline(domains),
            domains=domains,
            nodes=nodes,
            leases=leases,
            routing=() if self._silent else steering.routing,
            # Last: what is announced counts as said, so nothing may fail after it.
            emergencies=self._announce(snapshot.wall_s),
            events=(*events, *steering.events),
            hops=self.reactions.hops,
        )

    def _steer(self, outcome: Outcome, domains: tuple[DomainState, ...]) -> Steering:
        """What happens to requests, after the clocks; in shadow it is decided and not sent."""
        situation = outcome.situation
        return self._router.step(
            outcome.snapshot,
            domains,
            needs(
                situation,
                ceiling_mhz=outcome.ceiling_mhz,
                bound_by=outcome.bound_by,
                modes={state.domain: state.mode for state in domains},
            ),
            decision_id=outcome.decision_id,
            drained=frozenset(self.orders.drained),
            hold=situation.hold,
        )

    def _welcome_back(self, views: list[NodeView], movable: BoolArray) -> None:
        """A node that can be moved again starts from where it says it is: un-capping is ramped."""
        for place, view in enumerate(views):
            session = view.info.session if view.info is not None else ""
            anew = session != self._sessions[place]
            self._sessions[place] = session
            if not movable[place] or (self._was_movable[place] and not anew):
                continue
            reported = reported_ceiling_mhz(view) or int(self._fleet.safe_ceiling_mhz[place])
            self._ceiling_mhz[place] = min(reported, int(self._fleet.clock_mhz_max[place]))

    def _begin_contingencies(self, active: frozenset[str]) -> None:
        """Nodes have locked by themselves: decide on from there."""
        for name in active - self._active:
            if name in self._prearmed_mhz:
                concerned = self._prearmed.touches(name)
                lower = np.minimum(self._ceiling_mhz, self._prearmed_mhz[name])
                self._ceiling_mhz = np.where(concerned, lower, self._ceiling_mhz)
        if active != self._active:
            before, after = self._fleet.shares(self._active), self._fleet.shares(active)
            self._forecaster.forget((before != after).any(axis=1))
        self._active = active

    def _power_w(self, now_s: float, views: list[NodeView], unlocked: BoolArray) -> FloatArray:
        """Per node what it draws, or all that it may draw when it is missing, W.

        What an earlier controller may have granted is left to the exposure: slowing the few that
        are heard for the many that are not heard yet would protect nobody.
        """
        granted_mhz = self._ledger.granted_mhz(now_s)
        highest_mhz = np.where(unlocked, self._fleet.clock_mhz_max, granted_mhz)
        return self._nodes_power.estimate_w(now_s, views, highest_mhz)

    def _heat(self, snapshot: Snapshot, power_w: FloatArray) -> dict[str, ZoneHeat]:
        heat_w = self._fleet.shares(snapshot.active) @ power_w
        capacity_w = self._fleet.capacity_w(snapshot.active)
        ratio = {
            name: float(heat_w[place] / capacity_w[place]) if capacity_w[place] > 0.0 else 1.0
            for name, place in self._zone_places
        }
        elapsed_s = self._elapsed_s(snapshot.now_s)
        return self._zones.step(snapshot, elapsed_s=elapsed_s, heat_ratio=ratio)

    def _elapsed_s(self, now_s: float) -> float:
        """Since the last decision; one cycle if there was none."""
        return self.site.control.cycle_s if self._last_s is None else max(now_s - self._last_s, 0.0)

    def _usable_w(self, active: frozenset[str]) -> FloatArray:
        """What contingencies, heat and operators' caps leave of each capacity, W."""
        usable_w = self._fleet.capacity_w(active).copy()
        for zone, place in self._zone_places:
            usable_w[place] *= self._zones.ratio(zone)
        for name, cap_w in self.orders.caps_w.items():
            place = self._fleet.domain_index[name]
            usable_w[place] = min(usable_w[place], cap_w)
        return usable_w

    def _situation(
        self,
        snapshot: Snapshot,
        power_w: FloatArray,
        movable: BoolArray,
        views: list[NodeView],
        *,
        hold: bool,
    ) -> Situation:
        shares = self._fleet.shares(snapshot.active)
        measured_mhz = self._ceiling_mhz.copy()
        for place in np.flatnonzero(movable).tolist():
            measured_mhz[place] = reported_ceiling_mhz(views[place]) or measured_mhz[place]
        tree, overhead_w = self._fleet.tree(shares), self._nodes_power.overhead_w
        forecast = self._forecaster.forecast(
            tree.load(power_w),
            free_w=tree.load(self._fleet.free_w(power_w, measured_mhz, overhead_w)),
            assumed_w=tree.load(self._nodes_power.assumed_w),
            now_s=snapshot.now_s,
            wall_s=snapshot.wall_s,
        )
        return Situation(
            now_s=snapshot.now_s,
            fleet=self._fleet,
            control=self.site.control,
            shares=shares,
            rated_w=self._fleet.capacity_w(snapshot.active),
            capacity_w=self._usable_w(snapshot.active),
            over_table=self._nodes_power.over_table.copy(),
            power_w=power_w,
            overhead_w=overhead_w,
            rise_w=forecast.rise_w,
            from_history=forecast.from_history,
            ceiling_mhz=self._ceiling_mhz.copy(),
            measured_mhz=measured_mhz,
            movable=movable,
            hold=hold,
            ramp_share=ramp_share(self._elapsed_s(snapshot.now_s), self.site.control.cycle_s),
        )

    def _ordered_brakes(self) -> BoolArray:
        ordered = np.zeros(len(self._fleet.domains), dtype=np.bool_)
        for name in self.orders.brakes:
            ordered[self._fleet.domain_index[name]] = True
        return ordered

    def _blind(self, heat: dict[str, ZoneHeat]) -> BoolArray:
        """Per node whether nobody in its zone reports a temperature."""
        zones = {name for name, reading in heat.items() if reading.excess_c is None}
        return np.array([node.zone in zones for node in self.site.nodes.values()])

    def _clamp(
        self, now_s: float, proposed_mhz: IntArray, movable: BoolArray, unlocked: BoolArray
    ) -> Clamped:
        """What the ledger lets pass; everything where it is off, to compare policies."""
        if not self.site.control.ledger:
            return Clamped(proposed_mhz, ("",) * len(proposed_mhz), ())
        return self._ledger.clamp(
            now_s, proposed_mhz, movable=movable, unlocked=unlocked, active=self._active
        )

    def _prearm(self, situation: Situation, exposure_w: FloatArray) -> dict[str, IntArray]:
        """Contingency ceilings per node: for what may come, and for what is on without a lease."""
        if not self._policy.prearms:
            free = self._fleet.clock_mhz_max.astype(np.int64)
            return dict.fromkeys(self.site.contingencies, free)
        self._prearmed_mhz = self._prearmed.ceilings_mhz(
            self._active,
            movable=situation.movable,
            stuck_w=exposure_w,
            usable_w=self._usable_w,
            limits=self._usable_w(frozenset()).tobytes(),
        )
        return self._prearmed_mhz

    def _lease(
        self,
        snapshot: Snapshot,
        decision_id: str,
        movable: BoolArray,
        ceiling_mhz: IntArray,
        prearmed: dict[str, IntArray],
    ) -> tuple[Lease, ...]:
        """Grant leases to whoever can hold one, each recorded before it is returned."""
        if self._silent:
            return ()
        leases: list[Lease] = []
        for place in np.flatnonzero(movable).tolist():
            name = self._fleet.nodes[place]
            view = snapshot.nodes[name]
            assert view.telemetry is not None
            assert view.received_at_s is not None
            lease_s = self.site.control.lease_s
            self._ledger.grant(
                int(place),
                ceiling_mhz=int(ceiling_mhz[place]),
                expires_at_s=view.received_at_s + lease_s,
            )
            self._sequence += 1
            leases.append(
                Lease(
                    node=name,
                    session=view.telemetry.session,
                    basis_seq=view.telemetry.seq,
                    epoch=self._epoch,
                    sequence=self._sequence,
                    decision_id=decision_id,
                    lease_s=lease_s,
                    ceilings_mhz={gpu.uuid: int(ceiling_mhz[place]) for gpu in view.telemetry.gpus},
                    contingency_ceilings_mhz=self._armed(int(place), prearmed),
                    active=tuple(sorted(self._active)) if self._policy.prearms else (),
                )
            )
        self._hops.leased(leases, snapshot.now_s)
        return tuple(leases)

    def _armed(self, place: int, prearmed: dict[str, IntArray]) -> dict[str, int]:
        """The contingencies that one node may be told of, with its ceiling for each."""
        return {
            name: int(mhz[place])
            for name, mhz in prearmed.items()
            if self._prearmed.hears(name)[place]
        }
