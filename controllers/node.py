"""The node's brain: which ceiling each GPU of this node must hold now, and what to tell about it.

At no time does it ask for a ceiling above the safe ceiling without a valid lease, and a lease ends
on this node's own clock. Contingencies, heat and the power brake pin only ever lower what a lease
or the safe ceiling allows. It has no clock, does no I/O and never waits: the shell calls `step` and
carries out what comes back.
"""

from __future__ import annotations

import math
from collections import Counter

from msgspec import Struct

from controllers.node_events import EventLog
from controllers.node_hands import CeilingWrite, NodeInputs
from controllers.node_lease import (
    ContingencyBook,
    LeaseBook,
    NodeMemory,
    contingency_ceiling_mhz,
)
from controllers.node_limits import Ramp
from controllers.node_local import LocalBook, LocalTrigger
from controllers.node_mail import Refusal
from controllers.node_report import NodeReporter
from controllers.node_view import NodeView
from facility.config import AgentConfig
from facility.wire import Applied, Emergency, Event, Lease, NodeInfo, NodeTelemetry


class NodeOutputs(Struct, frozen=True):
    """What one step asks the shell to do: write, persist and publish; None is nothing new."""

    writes: tuple[CeilingWrite, ...] = ()
    memory: NodeMemory | None = None
    telemetry: NodeTelemetry | None = None
    info: NodeInfo | None = None
    applied: Applied | None = None
    events: tuple[Event, ...] = ()


class NodeBrain:
    """One node. Build one per process life, with a `session` that no other life ever had."""

    def __init__(
        self, config: AgentConfig, *, session: str, memory: NodeMemory, version: str = ""
    ) -> None:
        """Start at the safe ceiling, with the epoch and the emergencies remembered from before."""
        self.config = config
        self.session = session
        self.book = LeaseBook(
            node=config.node, session=session, epoch=memory.epoch, sequence=memory.sequence
        )
        self.contingencies = ContingencyBook(memory.emergencies)
        self.contingencies.keep_only(config.domains)
        self.local = LocalBook(config.ups, memory.local)
        self.events = EventLog(config.node)
        self.view = NodeView(config, self.events)
        self.ramp = Ramp()
        self.reason = "no-lease"
        self._report = NodeReporter(self.view, self.book, session=session, version=version)
        self._remembered = memory
        self._begun = False
        self._deadline_s = math.inf

    @property
    def lease(self) -> Lease | None:
        """The lease in force."""
        return self.book.lease

    @property
    def refused(self) -> Counter[str]:
        """Leases and emergencies refused, by reason; samples that cannot be true as `reading`."""
        return self.view.refused

    @property
    def ceilings_mhz(self) -> dict[str, int]:
        """The ceiling last asked for per GPU, 0 for none."""
        return {uuid: gpu.lock.requested_mhz for uuid, gpu in self.view.gpus.items()}

    @property
    def is_ready(self) -> bool:
        """Whether the node has said what it is: readings have come, or the reason why not."""
        return self._report.has_introduced

    @property
    def memory(self) -> NodeMemory:
        """What must survive a restart."""
        return NodeMemory(
            epoch=self.book.epoch,
            sequence=self.book.sequence,
            emergencies=self.contingencies.records,
            local=self.local.records,
        )

    def next_deadline_s(self) -> float:
        """When the shell must step at the latest, on the clock of `step`."""
        expiry_s = self.book.expires_s if self.book.lease is not None else math.inf
        return min(expiry_s, self._report.frame_due_s)

    def sentence(self, now_s: float) -> str:
        """What holds now, in one sentence for people."""
        ceilings = sorted({mhz for mhz in self.ceilings_mhz.values() if mhz})
        span = "-".join(dict.fromkeys(str(mhz) for mhz in ceilings[:1] + ceilings[-1:])) or "none"
        text = f"{len(self.view.gpus)} GPUs, ceiling {span} MHz: {self.reason}"
        if self.book.lease is not None:
            text += f" {self.book.lease.decision_id}, {self.book.expires_s - now_s:.1f} s left"
        because = self.view.cannot_actuate_because()
        return f"{text}; cannot actuate: {because}" if because else text

    def reconfigure(self, config: AgentConfig) -> None:
        """Obey new limits from the next step on.

        Raises:
            ValueError: a change that needs a restart; nothing has changed then.
        """
        if (config.node, config.site) != (self.config.node, self.config.site):
            raise ValueError(
                f"a running agent of {self.config.site}/{self.config.node} cannot become"
                f" {config.site}/{config.node}: restart it"
            )
        if config.actuate != self.config.actuate:
            # Turned off here, locks above the safe ceiling would stay without a timer.
            raise ValueError("actuate cannot change in a running agent: restart it")
        self.config = self.view.config = config
        self.contingencies.keep_only(config.domains)
        self.local.reconfigure(config.ups)

    def step(self, now_s: float, wall_s: float, inputs: NodeInputs) -> NodeOutputs:
        """Take what has happened and say what to do now.

        Args:
            now_s: monotonic clock; never runs back.
            wall_s: time of day, only ever reported.
            inputs: what hands, controller and operators said since the last step.
        """
        if not self._begun:
            self._begun = True
            self._report.begin(now_s, wall_s)
        self.events.wall_s = wall_s
        self._report.late(now_s - self._deadline_s)
        # Before the readings: whatever is judged below must not rest on a lease that is over.
        self._expire(now_s)
        self.view.see(inputs.hands, now_s, self._cold_target_mhz)
        for refusal in inputs.refusals:
            self._refuse(refusal, now_s)
        for emergency in inputs.emergencies:
            self._obey(emergency, now_s)
        for order in inputs.orders:
            self._obey(order.emergency, now_s, key=order.key)
        for trigger in inputs.local:
            self._hear(trigger, now_s)
        for lease in inputs.leases:
            self._take(lease, now_s)
        outputs = NodeOutputs(
            writes=self._writes(now_s),
            memory=self._new_memory(),
            info=self._report.info(now_s),
            telemetry=self._report.frame(now_s, wall_s),
            applied=self._report.applied(now_s, wall_s, self.reason),
            events=self.events.drain(),
        )
        self._deadline_s = self.next_deadline_s()
        return outputs

    def _refuse(self, refusal: Refusal, now_s: float) -> None:
        """Count and tell what nobody trusted has said; a person must look who that was."""
        self.refused[refusal.reason] += refusal.count
        if refusal.reason in ("garbage", "oversized"):
            return  # nobody pretends anything: the log has it
        self.events.say(
            f"{refusal.kind}-refused",
            f"{refusal.count} {refusal.kind} refused: {refusal.reason}: {refusal.text}",
            now_s,
            subject=refusal.reason,
            severity="critical",
        )

    def _obey(self, emergency: Emergency, now_s: float, *, key: str = "") -> None:
        """Obey an emergency of a controller or, with `key`, of an operator."""
        before = set(self.contingencies.active)
        epochs = (record.epoch for record in self.contingencies.records)
        if key:
            refusal = self.contingencies.begin(emergency, self.config.domains, key)
        else:
            refusal = self.contingencies.offer(
                emergency, self.config.domains, max(self.book.epoch, *epochs, 0)
            )
        if refusal:
            self.refused[refusal] += 1
            what = ", ".join(emergency.active) or "all clear"
            self.events.say(
                "emergency-refused",
                f"{what} on {emergency.domain} was refused: {refusal}",
                now_s,
                subject=refusal,
                severity="warning",
            )
            return
        after = set(self.contingencies.active)
        for name in sorted(before ^ after):
            self.events.say(
                "contingency-on" if name in after else "contingency-off",
                f"{name} on {emergency.domain}" + (f", by {emergency.by}" if emergency.by else ""),
                now_s,
                subject=name,
                severity="info",  # the declaration was loud; that this node obeys is no alarm
                every_s=0.0,
            )

    def _hear(self, trigger: LocalTrigger, now_s: float) -> None:
        """A UPS of this node's own speaks: act as on an announcement, without one."""
        contingency = self.local.hear(trigger)
        if contingency is None:
            return
        if trigger.on:
            text = f"{trigger.ups} says {trigger.cause}: {contingency} is on, by this node's word"
        else:
            text = f"{trigger.ups} is on line: {contingency} is over, by this node's word"
        self.events.say(
            "local-contingency-on" if trigger.on else "local-contingency-off",
            text,
            now_s,
            subject=contingency,
            severity="critical" if trigger.on else "info",
        )

    def _take(self, lease: Lease, now_s: float) -> None:
        refusal = self.book.offer(lease, now_s, self.view.gpus)
        if refusal:
            self.refused[refusal] += 1
            self.events.say(
                "lease-refused",
                f"lease {lease.decision_id} was refused: {refusal}",
                now_s,
                subject=refusal,
                severity="warning",
                decision_id=lease.decision_id,
            )
            return
        missing = [uuid for uuid in self.view.gpus if uuid not in lease.ceilings_mhz]
        if missing:
            self.refused["missing-gpu"] += 1
            self.events.say(
                "lease-incomplete",
                f"lease {lease.decision_id} names no ceiling for {len(missing)} GPUs:"
                " they stay at the safe ceiling",
                now_s,
                severity="warning",
                decision_id=lease.decision_id,
            )

    def _expire(self, now_s: float) -> None:
        ended = self.book.expire(now_s)
        if ended is not None:
            self.events.say(
                "lease-expired",
                f"{ended.lease_s:g} s after frame {ended.basis_seq} there is no newer lease:"
                f" back to the safe ceiling of {self.config.safe_ceiling_mhz} MHz",
                now_s,
                severity="warning",
                decision_id=ended.decision_id,
                every_s=0.0,
            )

    def _cold_target_mhz(self, uuid: str, now_s: float) -> int:
        """The ceiling of one GPU if neither heat nor contingencies nor the brake mattered."""
        lease = self.book.lease
        if lease is None or now_s >= self.book.expires_s:
            return self.config.safe_ceiling_mhz
        return lease.ceilings_mhz.get(uuid, self.config.safe_ceiling_mhz)

    def _caps_mhz(self, now_s: float) -> tuple[list[int], str, bool]:
        """Ceilings over all GPUs, the contingency that binds, and whether the brake is pulled."""
        brake_mhz, last = self.config.brake_ceiling_mhz, self.book.last
        pulled = self.view.brake.is_pulled(now_s)
        active = {*self.contingencies.active, *self.local.active}
        if not active:
            return [brake_mhz] * pulled, "", pulled
        table_mhz = last.contingency_ceilings_mhz if last else {}
        # What the lease in force was decided under is in its ceilings already.
        lease = self.book.lease if now_s < self.book.expires_s else None
        unforeseen = active - set(lease.active) if lease else active
        contingency = contingency_ceiling_mhz(unforeseen, table_mhz, brake_mhz)
        named = contingency or contingency_ceiling_mhz(active, table_mhz, brake_mhz)
        caps_mhz = [contingency[0]] if contingency else []
        return caps_mhz + [brake_mhz] * pulled, named[1] if named else "", pulled

    def _writes(self, now_s: float) -> tuple[CeilingWrite, ...]:
        caps_mhz, contingency, pulled = self._caps_mhz(now_s)
        ramp_mhz = self._ramp_mhz(now_s, caps_mhz)
        writable, hot, ramped, writes = self.view.writable, False, False, []
        for uuid, gpu in self.view.gpus.items():
            target_mhz = self._cold_target_mhz(uuid, now_s)
            if ramp_mhz is not None and ramp_mhz < target_mhz:
                target_mhz, ramped = ramp_mhz, True
            heat_mhz = gpu.heat.ceiling_mhz
            if heat_mhz is not None and heat_mhz < target_mhz:
                target_mhz, hot = heat_mhz, True
            # A lease may say 0, which would mean no lock: the lowest clock is meant.
            target_mhz = max(target_mhz, 1)
            if writable and not gpu.lost and gpu.lock.due(target_mhz, now_s):
                gpu.lock.asked(target_mhz, now_s)
                writes.append(CeilingWrite(uuid, target_mhz))
        self._name_reason(pulled, contingency, hot, ramped, now_s)
        return tuple(writes)

    def _ramp_mhz(self, now_s: float, caps_mhz: list[int]) -> int | None:
        """What caps hold down now, or held down not long ago; None for nothing."""
        top_mhz = max(self.config.safe_ceiling_mhz, self.view.clock_mhz_max)
        rise_mhz = self.config.ramp_ratio_per_s * top_mhz
        return self.ramp.limit_mhz(
            now_s, min(caps_mhz, default=None), rise_mhz=rise_mhz, top_mhz=top_mhz
        )

    def safe_writes(self, now_s: float) -> tuple[CeilingWrite, ...]:
        """What to leave behind on a clean stop: the safe ceiling, or what caps it now."""
        caps_mhz, _, _ = self._caps_mhz(now_s)
        writes = []
        for uuid, gpu in self.view.gpus.items():
            heat_mhz = [gpu.heat.ceiling_mhz] if gpu.heat.ceiling_mhz is not None else []
            target_mhz = min([self.config.safe_ceiling_mhz, *caps_mhz, *heat_mhz])
            writes.append(CeilingWrite(uuid, max(target_mhz, 1)))
        return tuple(writes)

    def _name_reason(
        self, pulled: bool, contingency: str, hot: bool, ramped: bool, now_s: float
    ) -> None:
        before = self.reason
        if pulled:
            self.reason = "brake"
        elif contingency:
            self.reason = f"contingency:{contingency}"
        elif hot:
            self.reason = "thermal"
        elif self.book.lease is not None:
            self.reason = "ramp" if ramped else "lease"
        else:
            self.reason = "no-lease" if self.book.last is None else "lease-expired"
        if self.reason == before or not (pulled or self.reason == "thermal"):
            return
        sentence = (
            "the chassis pulls the power brake: brake ceiling"
            if pulled
            else f"a GPU is within {self.config.margin_c_min:g} C of its slowdown threshold"
        )
        self.events.say(
            "local-brake" if pulled else "local-heat",
            sentence,
            now_s,
            severity="critical" if pulled else "warning",
        )

    def _new_memory(self) -> NodeMemory | None:
        """What to persist, when the epoch or an emergency has changed."""
        before = self._remembered
        records = self.contingencies.records
        same = self.book.epoch == before.epoch and records == before.emergencies
        if same and self.local.records == before.local:
            return None
        self._remembered = self.memory
        return self._remembered
