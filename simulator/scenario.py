"""An experiment as a document: which site, load, failure and policies, and what must come out.

The shape is declared here and nowhere else; reading files and printing are somebody else's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from facility.compiler import compile_site
from facility.config import ControlConfig, PolicyName
from facility.example import row_site
from facility.topology import Site
from facility.wire import Name
from simulator.hands import PlainWriter
from simulator.loads.named import WorkloadName, workload_named
from simulator.loads.trace import Trace
from simulator.loads.workload import Workload
from simulator.offline import Failure, MakeWriter, OfflineRun
from simulator.plant import PlantSettings
from simulator.truth import ReportValue
from simulator.watch import verdict

Seconds = Annotated[float, Meta(gt=0.0, le=6_048_000.0)]


class _Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping of a scenario file: unknown keys are errors."""


class RowScenario(_Section, frozen=True, kw_only=True):
    """The example row: so many nodes, and by how much their worst case passes the capacity."""

    nodes: Annotated[int, Meta(ge=1, le=4_096)] = 40
    oversubscription_ratio: Annotated[float, Meta(ge=0.1, le=10.0)] = 1.3


class LoadScenario(_Section, frozen=True, kw_only=True):
    """Requests: the trace scaled to a mean rate; `spread_s` shifts its copies (see the twin).

    A `workload` is drawn from instead, from its time `begin_s` on; the rate is its mean.
    """

    workload: WorkloadName | None = None
    begin_s: Annotated[float, Meta(ge=0.0, le=6_048_000.0)] = 0.0

    requests_per_node_s: Annotated[float, Meta(gt=0.0, le=1_000.0)] = 6.5
    spread_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] | None = None


class FailureScenario(_Section, frozen=True, kw_only=True):
    """A declared contingency of the site, and when it happens."""

    contingency: Name
    at_s: Seconds


class CheckScenario(_Section, frozen=True, kw_only=True):
    """What one metric of one policy must be: within [min, max], both inclusive; true counts 1."""

    name: str
    policy: PolicyName
    metric: str
    min: float | None = None
    max: float | None = None


class Scenario(_Section, frozen=True, kw_only=True):
    """One experiment. `control` overrides keys of the site's control section.

    `ledger` turns the lease rule on or off for every policy; by default only `ampacity` has it,
    because the others are compared as they were published.
    """

    version: Literal[1]
    scenario: Name
    description: str = ""
    duration_s: Seconds
    sample_hz: Annotated[float, Meta(gt=0.0, le=10.0)] = 2.0
    row: RowScenario = RowScenario()
    load: LoadScenario = LoadScenario()
    control: dict[str, object] = {}
    ledger: bool | None = None
    failure: FailureScenario | None = None
    policies: Annotated[tuple[PolicyName, ...], Meta(min_length=1)]
    checks: tuple[CheckScenario, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check after a run. A metric that was not measured fails."""

    name: str
    value: float | None
    band: tuple[float | None, float | None]
    passed: bool


def scenario_site(scenario: Scenario, policy: PolicyName) -> Site:
    """The site of a scenario under one policy.

    Raises:
        ValueError: `control` has an unknown key or a value that is not allowed.
        SiteError: the keys contradict each other.
    """
    config = row_site(
        nodes=scenario.row.nodes, oversubscription_ratio=scenario.row.oversubscription_ratio
    )
    ledger = policy == "ampacity" if scenario.ledger is None else scenario.ledger
    control = {
        **msgspec.to_builtins(config.control),
        "ledger": ledger,
        **scenario.control,
        "policy": policy,
    }
    try:
        typed = msgspec.convert(control, ControlConfig)
    except msgspec.ValidationError as error:
        raise ValueError(f"control: {error}") from error
    return compile_site(msgspec.structs.replace(config, control=typed))


def run_scenario(
    scenario: Scenario,
    policy: PolicyName,
    *,
    seed: int,
    trace: Trace | Workload | None = None,
    make_writer: MakeWriter = PlainWriter,
) -> dict[str, ReportValue | str]:
    """Run one policy of a scenario once; the same arguments give the same report.

    Raises:
        ValueError: the failure is no contingency of the site, or `control` is wrong.
    """
    site = scenario_site(scenario, policy)
    failure = None
    if scenario.failure is not None:
        failure = Failure(scenario.failure.contingency, scenario.failure.at_s)
        if failure.contingency not in site.contingencies:
            known = ", ".join(site.contingencies)
            raise ValueError(f"failure.contingency: {failure.contingency!r} is none of {known}")
    if trace is None and scenario.load.workload is not None:
        trace = workload_named(scenario.load.workload)
    settings = PlantSettings(
        seed=seed,
        requests_per_node_s=scenario.load.requests_per_node_s,
        spread_s=scenario.load.spread_s,
        load_begin_s=scenario.load.begin_s,
        trace=trace,
    )
    run = OfflineRun(
        site, settings, failure=failure, sample_hz=scenario.sample_hz, make_writer=make_writer
    )
    report = run.run(scenario.duration_s)
    return {"verdict": verdict(report), **report}


def judge(
    checks: Sequence[CheckScenario], policies: Mapping[str, Mapping[str, object]]
) -> tuple[CheckResult, ...]:
    """Hold the metrics of each policy against the checks that name it; others are left out."""
    results = []
    for check in checks:
        if check.policy not in policies:
            continue
        value = policies[check.policy].get(check.metric)
        number = float(value) if isinstance(value, int | float) else None
        passed = (
            number is not None
            and (check.min is None or number >= check.min)
            and (check.max is None or number <= check.max)
        )
        results.append(CheckResult(check.name, number, (check.min, check.max), passed))
    return tuple(results)
