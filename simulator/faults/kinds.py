"""The alphabet of faults: each kind begins, and returns what heals it.

A kind draws its own target. It returns None when there is nothing that it could befall now. Kinds
that loosen a node's lock register the node as a suspect, so that a plan can stay within what the
proof assumes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from simulator.faults import kinds_bus, kinds_control, kinds_node
from simulator.faults.world import World

Heal = Callable[[], None]
Begin = Callable[[World], Heal | None]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault: how it begins, how long it lasts, and what it takes away.

    `loosens`: a node's lock cannot be relied on while it lasts. `deafens`: control, or the way to a
    node, may be gone, so that it must not meet a contingency whose proof relies on both.
    """

    begin: Begin
    duration_s: tuple[float, float] = (0.5, 12.0)
    weight: int = 2
    loosens: bool = False
    deafens: bool = False


KINDS: Final[dict[str, Kind]] = {
    "agent-restart": Kind(kinds_node.agent_restart, (0.3, 0.8), deafens=True),
    "agent-crash": Kind(kinds_node.agent_crash, (1.0, 12.0), loosens=True, deafens=True),
    "agent-hang": Kind(kinds_node.agent_hang, (0.5, 10.0), loosens=True, deafens=True),
    "io-crash": Kind(kinds_node.io_crash, (0.5, 6.0), deafens=True),
    "node-reboot": Kind(kinds_node.node_reboot, (1.0, 6.0), deafens=True),
    "node-removed": Kind(kinds_node.node_removed, (8.0, 20.0), 1, deafens=True),
    "nvml-hang": Kind(kinds_node.nvml_hang, (0.5, 12.0), loosens=True),
    "lock-ignored": Kind(kinds_node.lock_ignored, (2.0, 20.0), loosens=True),
    "foreign-unlock": Kind(kinds_node.foreign_unlock, (0.1, 0.2), loosens=True),
    "foreign-limit": Kind(kinds_node.foreign_limit, (2.0, 20.0)),
    "driver-reload": Kind(kinds_node.driver_reload, (0.5, 5.0), loosens=True),
    "gpu-lost": Kind(kinds_node.gpu_lost, (2.0, 15.0), loosens=True),
    "power-stuck": Kind(kinds_node.power_stuck, (1.0, 15.0)),
    "power-nan": Kind(kinds_node.power_nan, (0.5, 10.0)),
    "power-drift": Kind(kinds_node.power_drift, (5.0, 25.0)),
    "power-lie": Kind(kinds_node.power_lie, (2.0, 20.0)),
    "thermometer-stuck": Kind(kinds_node.thermometer_stuck, (5.0, 30.0)),
    "inlet-lost": Kind(kinds_node.inlet_lost, (2.0, 20.0)),
    "heatsink-clogged": Kind(kinds_node.heatsink_clogged, (25.0, 40.0), 6),
    "meter-lost": Kind(kinds_node.meter_lost, (2.0, 25.0)),
    "meter-lie": Kind(kinds_node.meter_lie, (2.0, 25.0)),
    "agent-disk-full": Kind(kinds_node.disk_full, (2.0, 20.0)),
    "clock-jump": Kind(kinds_node.clock_jump, (1.0, 25.0)),
    "load-spike": Kind(kinds_node.load_spike, (2.0, 15.0), 6),
    "load-drop": Kind(kinds_node.load_drop, (2.0, 8.0), 3),
    "controller-crash": Kind(kinds_control.controller_crash, (0.5, 30.0), 3, deafens=True),
    "controller-hang": Kind(kinds_control.controller_hang, (0.5, 30.0), 3, deafens=True),
    "controller-disk-full": Kind(kinds_control.disk_full, (2.0, 20.0)),
    "standby-crash": Kind(kinds_control.standby_crash, (0.5, 10.0)),
    "store-lost": Kind(kinds_control.store_lost, (0.3, 10.0), 3, deafens=True),
    "operator-mistake": Kind(kinds_control.operator_mistake, (2.0, 15.0)),
    "operator-garbage": Kind(kinds_control.operator_garbage, (0.5, 2.0)),
    "broker-restart": Kind(kinds_bus.broker_restart, (0.3, 30.0), deafens=True),
    "broker-amnesia": Kind(kinds_bus.broker_amnesia, (0.3, 10.0), deafens=True),
    "broker-rollback": Kind(kinds_bus.broker_rollback, (0.3, 5.0), deafens=True),
    "broker-hang": Kind(kinds_bus.broker_hang, (0.5, 8.0), deafens=True),
    "partition-node": Kind(kinds_bus.partition_node, (0.5, 30.0), 3, deafens=True),
    "partition-controller": Kind(kinds_bus.partition_controller, (0.5, 30.0), 3, deafens=True),
    "delay": Kind(kinds_bus.delay, (2.0, 15.0), deafens=True),
    "loss": Kind(kinds_bus.loss, (2.0, 15.0), deafens=True),
    "duplicates": Kind(kinds_bus.duplicates, (2.0, 20.0)),
    "reorder": Kind(kinds_bus.reorder, (2.0, 20.0), deafens=True),
    "replay": Kind(kinds_bus.replay, (2.0, 20.0), 3),
    "old-epoch": Kind(kinds_bus.old_epoch, (2.0, 20.0), 3),
    "flood": Kind(kinds_bus.flood, (0.5, 2.0)),
}
"""Every kind but the contingencies, which the plan places."""
