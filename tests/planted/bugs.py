"""The bugs: each one mutation of production logic at one named place, and how soon it is found.

This suite alone replaces attributes of production classes: the mutation is the point. `within` is
the number of seeds, from 1 on, of which at least one must fail inside the assumptions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
import pytest

from controllers.cycle import ControlCycle
from controllers.ledger import Ledger
from controllers.node_gpu import GpuLock
from controllers.node_lease import ContingencyBook, LeaseBook
from controllers.node_limits import HeatLimit
from controllers.nodes_power import NodesPower
from controllers.patience import LeaseLimits
from daemon.faults_parts import PortKeeper
from daemon.store.changes import ChangeLog
from facility.trip import TripCurve

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Bug:
    """One mutation: what was done to which place, and within how many seeds it must be found."""

    name: str
    place: str
    plant: Plant
    within: int
    only: str = ""
    """The one kind of fault to draw, empty for all."""


def _wrapped(owner: type, name: str, change: Callable[..., Any]) -> Plant:
    """Replace `owner.name` by `change(original, self, ...)`."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, name)

        def mutant(*args: Any, **values: Any) -> Any:
            return change(original, *args, **values)

        patch.setattr(owner, name, mutant)

    return plant


def _refusals_forgotten(*reasons: str) -> Callable[..., str]:
    def change(original: Callable[..., str], *args: Any, **values: Any) -> str:
        refusal = original(*args, **values)
        return "" if refusal in reasons else refusal

    return change


def _lease_without_end(original: Callable[..., float | None], *args: Any) -> float | None:
    expires_s = original(*args)
    return None if expires_s is None else expires_s + 3_600.0


def _lease_from_arrival(
    original: Callable[..., str], book: LeaseBook, lease: Any, now_s: float, gpus: Any
) -> str:
    refusal = original(book, lease, now_s, gpus)
    if not refusal:
        book.expires_s = now_s + lease.lease_s
    return refusal


def _next_row(_original: Callable[..., float], curve: TripCurve, patience_s: float) -> float:
    tolerated = sum(seconds >= patience_s for _, seconds in curve.points)
    beyond = curve.points[-1][0] * 1.5
    return [*(ratio for ratio, _ in curve.points), beyond][tolerated]


def _more_room(original: Callable[..., Any], *args: Any) -> Any:
    rows = original(*args)
    return dataclasses.replace(rows, limit_w=rows.limit_w * 1.5)


def _without_failures(original: Callable[..., Any], *args: Any) -> Any:
    rows = original(*args)
    kept = [not state for state in rows.states]
    return dataclasses.replace(rows, limit_w=np.where(kept, rows.limit_w, np.inf))


def _unclamped(
    original: Callable[..., Any], ledger: Any, now_s: float, proposed: Any, **values: Any
) -> Any:
    clamped = original(ledger, now_s, proposed, **values)
    return dataclasses.replace(clamped, ceiling_mhz=proposed)


def _without_ramp(original: Callable[..., Any], *args: Any, **values: Any) -> Any:
    situation = original(*args, **values)
    free = msgspec.structs.replace(situation.control, raise_ratio_per_s=1.0)
    return dataclasses.replace(situation, control=free)


def _nothing(_original: Callable[..., Any], *_args: Any, **_values: Any) -> None:
    return None


def _always(value: Any) -> Callable[..., Any]:
    def change(_original: Callable[..., Any], *_args: Any, **_values: Any) -> Any:
        return value

    return change


def _not_at_start(
    original: Callable[..., bool], lock: GpuLock, target_mhz: int, now_s: float
) -> bool:
    if not lock.requested_mhz and target_mhz < 10_000:
        return lock.answered and original(lock, target_mhz, now_s)
    return original(lock, target_mhz, now_s)


def _lowering_unrecorded(original: Callable[..., bool], log: Any, change: Any, *args: Any) -> bool:
    return change.kind != "node" and original(log, change, *args)


def _blind_to_power(
    original: Callable[..., Any], power: Any, now_s: float, views: Any, highest: Any
) -> Any:
    seen = original(power, now_s, views, highest)
    return np.where([view.missing for view in views], 0.0, 0.5 * seen)


def _same_epoch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("daemon.faults_parts.epoch_after", lambda *_args, **_values: 1_700_000_000)


BUGS: Final = (
    Bug(
        "agents ignore the epoch", "LeaseBook._refusal",
        _wrapped(LeaseBook, "_refusal", _refusals_forgotten("old-epoch")), 4,
    ),
    Bug(
        "a lease never ends on the node", "LeaseBook._expires_s",
        _wrapped(LeaseBook, "_expires_s", _lease_without_end), 3,
    ),
    Bug(
        "a lease counts from its arrival", "LeaseBook.offer",
        _wrapped(LeaseBook, "offer", _lease_from_arrival), 4,
    ),
    Bug(
        "a replayed lease is accepted", "LeaseBook._refusal",
        _wrapped(
            LeaseBook, "_refusal", _refusals_forgotten("other-session", "replayed", "old-epoch")
        ), 4,
    ),
    Bug(
        "patience is read one row too far", "TripCurve.load_ratio_for",
        _wrapped(TripCurve, "load_ratio_for", _next_row), 20,
    ),
    Bug(
        "the ledger counts half as much capacity again", "LeaseLimits._build",
        _wrapped(LeaseLimits, "_build", _more_room), 4,
    ),
    Bug(
        "the clamp forgets declared failures", "LeaseLimits._build",
        _wrapped(LeaseLimits, "_build", _without_failures), 60,
    ),
    Bug(
        "the clamp is not applied", "Ledger.clamp",
        _wrapped(Ledger, "clamp", _unclamped), 4,
    ),
    Bug(
        "ceilings rise without a ramp", "ControlCycle._situation",
        _wrapped(ControlCycle, "_situation", _without_ramp), 3,
    ),
    Bug(
        "missing nodes count as zero, others as half", "NodesPower.estimate_w",
        _wrapped(NodesPower, "estimate_w", _blind_to_power), 3,
    ),
    Bug(
        "emergencies are ignored", "ContingencyBook.offer",
        _wrapped(ContingencyBook, "offer", _always("")), 10,
    ),
    Bug(
        "an agent forgets its epoch in a restart", "PortKeeper.keep",
        _wrapped(PortKeeper, "keep", _nothing), 80,
    ),
    Bug(
        "no safe ceiling is written at the start", "GpuLock.due",
        _wrapped(GpuLock, "due", _not_at_start), 3,
    ),
    Bug(
        "heat is ignored", "HeatLimit.observe",
        _wrapped(HeatLimit, "observe", _nothing), 40, "heatsink-clogged",
    ),
    Bug("an epoch is used twice", "epoch_after", _same_epoch, 10),
    Bug(
        "changed ceilings are not in the audit", "ChangeLog._is_new",
        _wrapped(ChangeLog, "_is_new", _lowering_unrecorded), 3,
    ),
)  # fmt: skip
"""In the order of docs/fault-machine.md."""
