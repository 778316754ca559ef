"""The document of the fault machine: what is drawn from, and what a run must show.

`scenarios/faults.yaml` is one. Rates are probabilities and bounds that each seed draws within.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from facility.config import Ratio
from facility.wire import Name

Seconds = Annotated[float, Meta(gt=0.0, le=3_600.0)]


class _Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping of the document: unknown keys are errors."""


class FaultsCheck(_Section, frozen=True, kw_only=True):
    """What one metric must be: within [min, max], both inclusive."""

    name: str
    metric: str
    min: float | None = None
    max: float | None = None


class FaultsScenario(_Section, frozen=True, kw_only=True):
    """How long a seed runs, how often what is drawn, and what is switched off.

    `calm_s` without faults, `storm_s` with them, `heal_s` to come back to full service.
    `outside_ratio` of the seeds may draw more than the proof assumes. `ledger` off keeps the sites
    and takes the ledger away. `lease_factor` makes every lease last so many times longer than the
    ledger and the proof believe. `alarm_s` is how soon what is beyond the proof must be told.
    """

    version: Literal[1]
    kind: Literal["faults"]
    scenario: Name
    description: str = ""
    calm_s: Seconds = 10.0
    storm_s: Seconds = 40.0
    heal_s: Seconds = 35.0
    nodes_max: Annotated[int, Meta(ge=2, le=32)] = 8
    outside_ratio: Ratio = 0.12
    ledger: bool = True
    lease_factor: Annotated[float, Meta(ge=1.0, le=100.0)] = 1.0
    alarm_s: Seconds = 30.0
    only: tuple[Name, ...] = ()
    checks: tuple[FaultsCheck, ...] = ()
