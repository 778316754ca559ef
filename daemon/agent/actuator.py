"""The actuator: the one object that joins a node's brain to its hands, its memory and its messages.

It turns bytes into messages, lets the brain decide, has the hands write, keeps what must survive,
and returns bytes to publish. It has no clock and no thread and waits for nothing, so that the live
process and the demo run the same object. What it cannot read is counted, never raised.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from controllers.node import NodeBrain, NodeOutputs
from controllers.node_hands import CeilingWrite, Hands, HandsReport, WriteResult
from controllers.node_mail import Mail, NodeMail
from controllers.node_turn import take_turn
from daemon.agent.state import FoundClocks, Keeper, NodeState
from facility.config import AgentConfig
from facility.signing import Verifier
from facility.wire import Event, NodeStatus, encode

log = logging.getLogger(__name__)

SAVE_S: Final = 60.0
"""Ceilings are put on disk at most this often; they are for people."""

Message = tuple[str, bytes]
"""What it is (a word of `daemon.agent.pipe.KINDS`), and its JSON."""


class Actuator:
    """One node's actuator. `start` it, then call `cycle` at its deadlines, then `stop` it."""

    def __init__(
        self,
        config: AgentConfig,
        hands: Hands,
        keeper: Keeper,
        *,
        session: str,
        version: str = "",
        verifier: Verifier | None = None,
    ) -> None:
        """Use `hands` and `keeper`; `session` must be one that no other process life ever had.

        Without a `verifier` everybody is believed, signed or not.
        """
        self.config = config
        self.cycles_count = 0
        self._hands = hands
        self._keeper = keeper
        self._session = session
        self._version = version
        self._mail = NodeMail(
            site=config.site, node=config.node, verifier=verifier or Verifier(None)
        )
        self._state = NodeState()
        self._brain: NodeBrain | None = None
        self._told_state = ""
        self._told_problem = ""
        self._save_s = 0.0
        self._stop_waits: dict[str, int] = {}

    @property
    def brain(self) -> NodeBrain:
        """The brain. It exists once started."""
        assert self._brain is not None, "start() comes first"
        return self._brain

    @property
    def undecodable(self) -> Counter[str]:
        """Messages thrown away because they are none, by kind."""
        return self._mail.undecodable

    @property
    def refused(self) -> Counter[str]:
        """What was not believed or not obeyed, by reason."""
        return self.brain.refused

    def trust(self, verifier: Verifier) -> None:
        """Believe others from the next cycle on."""
        self._mail.verifier = verifier

    @property
    def is_ready(self) -> bool:
        """Whether a cycle has finished with readings, or with the reason why there are none."""
        return self._brain is not None and self._brain.is_ready

    def start(self) -> None:
        """Remember the last life, then begin to open the driver: the safe ceiling comes first."""
        self._state = self._keeper.load()
        self._brain = NodeBrain(
            self.config,
            session=self._session,
            memory=self._state.memory,
            version=self._version,
        )
        self._hands.start()

    def reconfigure(self, config: AgentConfig) -> None:
        """Swap the configuration between two cycles. Raises ValueError and keeps the old one."""
        self.brain.reconfigure(config)
        self.config = config

    def next_deadline_s(self) -> float:
        """When `cycle` must run at the latest."""
        return self.brain.next_deadline_s()

    def sentence(self, now_s: float) -> str:
        """What holds now, for people."""
        problem = f"; {self._keeper.problem}" if self._keeper.problem else ""
        return self.brain.sentence(now_s) + problem

    def cycle(self, now_s: float, wall_s: float, incoming: Sequence[Message]) -> list[Message]:
        """Take what came in, act, and return what to publish.

        Args:
            now_s: monotonic clock.
            wall_s: time of day, only reported.
            incoming: (`lease` or `emergency`, bytes as they came off the wire; or `local`).

        Returns:
            (`status`, `info`, `telemetry`, `applied` or `event`, JSON) in the order to publish.
        """
        mail = self._mail.read(incoming)
        self._log(mail)
        report = self._hands.poll(now_s)
        self._find(report)
        turn = take_turn(
            self.brain,
            self._hands,
            report,
            now_s,
            wall_s,
            leases=mail.leases,
            emergencies=mail.emergencies,
            orders=mail.orders,
            refusals=mail.refusals,
            local=mail.local,
        )
        messages = [message for outputs in turn for message in _messages(outputs)]
        self._save(turn, now_s)
        self.cycles_count += 1
        return self._status(messages) + self._alarm(wall_s)

    def _log(self, mail: Mail) -> None:
        """Say the first garbage of each kind; what is not believed is told by the brain."""
        for refusal in mail.refusals:
            garbage = refusal.reason in ("garbage", "oversized")
            if garbage and self.undecodable[refusal.kind] == 1:
                log.warning("event=message-refused kind=%s error=%s", refusal.kind, refusal.text)

    def _find(self, report: HandsReport) -> None:
        """Record what a GPU was like before the first write ever, and never overwrite that."""
        found = self._state.found
        new = [identity for identity in report.identities if identity.uuid not in found]
        if not new:
            return
        clocks = {i.uuid: FoundClocks(clock_mhz_max=max(i.clocks_mhz, default=0)) for i in new}
        self._state = NodeState(
            memory=self._state.memory,
            found={**found, **clocks},
            ceilings_mhz=self._state.ceilings_mhz,
        )
        self._keeper.keep(self._state)

    def _save(self, turn: Sequence[NodeOutputs], now_s: float) -> None:
        """Memory at once; ceilings, which are for people, now and then."""
        written = any(outputs.writes for outputs in turn) and now_s >= self._save_s
        if written or any(outputs.memory is not None for outputs in turn):
            self._save_s = now_s + SAVE_S
            self._keep()

    def _keep(self) -> None:
        self._state = NodeState(
            memory=self.brain.memory,
            found=self._state.found,
            ceilings_mhz=self.brain.ceilings_mhz,
        )
        self._keeper.keep(self._state)

    def _status(self, messages: list[Message]) -> list[Message]:
        state = "ready" if self.is_ready else "init"
        if state == self._told_state:
            return messages
        self._told_state = state
        return [self._status_message(state), *messages]

    def _status_message(self, state: str) -> Message:
        status = NodeStatus(
            node=self.config.node,
            session=self._session,
            state="ready" if state == "ready" else "init" if state == "init" else "disconnected",
        )
        return "status", encode(status)

    def _alarm(self, wall_s: float) -> list[Message]:
        """Tell once when the state on disk has gone wrong, and once when it is right again."""
        problem = self._keeper.problem
        if problem == self._told_problem:
            return []
        self._told_problem = problem
        event = Event(
            event="state-problem" if problem else "state-restored",
            severity="critical" if problem else "info",
            at_s=wall_s,
            source=f"node/{self.config.node}",
            sentence=problem[:1_024] or "the state directory takes writes again",
        )
        return [("event", encode(event))]

    def stop(self, now_s: float) -> list[Message]:
        """Begin a clean stop by the `on_exit` policy; call `stopped` until it says so."""
        writes: Sequence[CeilingWrite] = ()
        if self.config.actuate and self.config.on_exit == "safe":
            writes = self.brain.safe_writes(now_s)
        elif self.config.actuate and self.config.on_exit == "restore":
            writes = [
                CeilingWrite(uuid, found.lock_mhz or 0)
                for uuid, found in self._state.found.items()
                if uuid in self.brain.view.gpus
            ]
        self._stop_waits = {write.uuid: write.ceiling_mhz for write in writes}
        self._stop_results(self._hands.write(writes))
        return [self._status_message("disconnected")]

    def stopped(self, now_s: float) -> bool:
        """Whether every write of `stop` has come back."""
        if self._stop_waits:
            self._stop_results(self._hands.poll(now_s).results)
        return not self._stop_waits

    def _stop_results(self, results: Sequence[WriteResult]) -> None:
        for result in results:
            if self._stop_waits.get(result.uuid) != result.applied.requested_mhz:
                continue
            del self._stop_waits[result.uuid]
            if result.applied.cause:
                log.warning(
                    "event=exit-ceiling gpu=%s ceiling_mhz=%d cause=%s",
                    result.uuid,
                    result.applied.requested_mhz,
                    result.applied.cause,
                )

    def close(self) -> None:
        """Let go of hardware and disk. A restored node forgets what it had found."""
        if self.config.on_exit == "restore" and not self._stop_waits:
            self._state = NodeState(memory=self.brain.memory)
            self._keeper.keep(self._state)
        else:
            self._keep()
        self._hands.close()
        self._keeper.close()


def _messages(outputs: NodeOutputs) -> list[Message]:
    messages: list[Message] = []
    if outputs.info is not None:
        messages.append(("info", encode(outputs.info)))
    if outputs.telemetry is not None:
        messages.append(("telemetry", encode(outputs.telemetry)))
    if outputs.applied is not None:
        messages.append(("applied", encode(outputs.applied)))
    messages += [("event", encode(event)) for event in outputs.events]
    return messages
