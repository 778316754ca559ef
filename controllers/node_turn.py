"""One turn of a node: decide, write, and decide on what the writes gave.

The one order in which brain and hands meet, whoever turns the crank: the live actuator, the demo or
an offline run. It decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from controllers.node import NodeBrain, NodeOutputs
from controllers.node_hands import Hands, HandsReport, NodeInputs
from controllers.node_local import LocalTrigger
from controllers.node_mail import OperatorEmergency, Refusal
from facility.wire import Emergency, Lease

WRITE_ROUNDS_MAX: Final = 3
"""Writes whose results are known at once may lead to others; so many rounds in one turn."""


def take_turn(
    brain: NodeBrain,
    hands: Hands,
    report: HandsReport,
    now_s: float,
    wall_s: float,
    *,
    leases: Sequence[Lease] = (),
    emergencies: Sequence[Emergency] = (),
    orders: Sequence[OperatorEmergency] = (),
    refusals: Sequence[Refusal] = (),
    local: Sequence[LocalTrigger] = (),
) -> tuple[NodeOutputs, ...]:
    """Run the brain once on what came in, and again on results that are known at once.

    Args:
        brain: decides.
        hands: write.
        report: what the hands have just seen (`hands.poll`).
        now_s: monotonic clock.
        wall_s: time of day, only reported.
        leases: that came in.
        emergencies: that came in from controllers.
        orders: emergencies that operators declared themselves.
        refusals: what came in and is not believed.
        local: what UPSs of this node's own say.

    Returns:
        The outputs in the order in which they are to be told.
    """
    inputs = NodeInputs(report, leases, emergencies, orders, refusals, local)
    outputs = [brain.step(now_s, wall_s, inputs)]
    for _ in range(WRITE_ROUNDS_MAX):
        results = hands.write(outputs[-1].writes) if outputs[-1].writes else ()
        if not results:
            break
        known = msgspec.structs.replace(report, samples=(), results=results)
        outputs.append(brain.step(now_s, wall_s, NodeInputs(known)))
    return tuple(outputs)
