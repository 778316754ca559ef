"""The model `fluid`: rows of servers over weeks, all points of a sweep as rows of one run.

A unit is one competitor with one seed. The one without a policy is always run: what a limit costs
is told against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np

from controllers.proof import prove
from facility.config import ControlConfig
from facility.topology import SiteError
from simulator.chassis import SERVERS
from simulator.dispatch import Packing
from simulator.engine import engine_named
from simulator.experiments.document import At
from simulator.experiments.model import Content, Model, Progress
from simulator.experiments.results import (
    Figure,
    Line,
    MetricValue,
    Point,
    Series,
    UnitResult,
)
from simulator.fluid.actuation import Path
from simulator.fluid.book import Lengths
from simulator.fluid.comparison import (
    PRIORITIES,
    QUANTILES,
    added_max,
    proven_max,
    unlimited,
    with_cost,
)
from simulator.fluid.document import FluidSweep, FluidVariant, LoadSection
from simulator.fluid.loop import PolicyLoop
from simulator.fluid.run import FluidRun, Work
from simulator.fluid.site import RowPoint, layout_of, rows_site
from simulator.fluid.tables import Mix, ServerModel, ServerTables
from simulator.gpu import part_named
from simulator.loads.envelope import Noise
from simulator.loads.named import workload_named
from simulator.loads.nodes import NodeLoad
from simulator.loads.workload import Workload
from simulator.uncertain import ENGINE_FIGURES, engine_with

DAY_S: Final = 86_400.0
LENGTHS: Final = 256
"""Requests of each priority whose latency stands for all."""


class FluidLevel:
    """Runs points of a `FluidSweep`."""

    document = FluidSweep

    def units(
        self, scenario: FluidSweep, policies: Sequence[str], seeds: Sequence[int]
    ) -> list[Content]:
        """A unit for each competitor and seed. Raises ValueError for what cannot be run."""
        contents = []
        for name in dict.fromkeys((*policies, unlimited(scenario))):
            variant = scenario.policies[name]
            Bench(scenario, variant, seed=seeds[0])
            contents += [
                {
                    "label": f"{name} seed {seed}",
                    "cost": 0.5 if variant.policy == "none" else 1.0,
                    "name": name,
                    "seed": seed,
                    "variant": msgspec.to_builtins(variant),
                    "scenario": _deciding(scenario),
                }
                for seed in seeds
            ]
        return contents

    def run(self, content: Content, progress: Progress) -> UnitResult:
        """Run all points of one competitor with one seed."""
        scenario = msgspec.convert(content["scenario"], FluidSweep)
        variant = msgspec.convert(content["variant"], FluidVariant)
        bench = Bench(scenario, variant, seed=content["seed"])
        duration_s = scenario.duration_days * DAY_S
        bench.run.run(bench.load, bench.work, duration_s=duration_s, progress=progress)
        points = tuple(
            Point(policy=content["name"], seed=content["seed"], at=at, metrics=bench.metrics(row))
            for row, at in enumerate(bench.at)
        )
        return UnitResult(
            sim_seconds=duration_s * len(points),
            points=points,
            figures=tuple(bench.figures(content["name"], content["seed"], scenario.headline)),
        )

    def points(self, scenario: FluidSweep, results: Sequence[UnitResult]) -> tuple[Point, ...]:
        """All points, with what the limit cost at each."""
        points = [point for result in results for point in result.points]
        return with_cost(points, unlimited(scenario))

    def metrics(
        self, scenario: FluidSweep, points: Sequence[Point]
    ) -> dict[str, dict[str, MetricValue]]:
        """How many servers each competitor can add, in every seed, within POLCA's limits."""
        found: dict[str, dict[str, MetricValue]] = {}
        for name in scenario.policies:
            mine = [point for point in points if point.policy == name]
            if not mine:
                continue
            found[name] = {"added_ratio_max_proven": proven_max(mine)}
            for factor in scenario.sweep.power_factor:
                found[name][f"added_ratio_max_at_power_{factor:g}"] = added_max(mine, factor)
        return found

    def figures(self, _scenario: FluidSweep, _results: Sequence[UnitResult]) -> Sequence[Figure]:
        """Nothing beyond the units' own figures and the document's curves."""
        return ()

    def notes(self, scenario: FluidSweep) -> Sequence[str]:
        """What was simulated, and against what impacts are told."""
        return (
            f"Fluid level: {scenario.duration_days:g} days in steps of {scenario.tick_s:g} s, the"
            " live policies in the loop. A power reading is the mean of a step.",
            "Latency impact and throughput are told against a row with the same servers and the"
            f" same requests in which nobody is ever slowed (`{unlimited(scenario)}`).",
            "The ledger is not in the loop: what leases may add up to is judged by the lease proof"
            " (`lease_proof_holds`), and a controller refuses to actuate a row that fails it.",
        )


def model() -> Model[FluidSweep]:
    """The model of this module."""
    return FluidLevel()


def bench_of(scenario: FluidSweep, name: str, *, seed: int) -> Bench:
    """One competitor's run, to be driven by hand."""
    return Bench(scenario, scenario.policies[name], seed=seed)


def _deciding(scenario: FluidSweep) -> dict[str, Any]:
    """What decides a unit's result: not what is checked or shown."""
    plain = msgspec.structs.replace(scenario, checks=(), curves=(), metrics=(), description="")
    built: dict[str, Any] = msgspec.to_builtins(plain)
    built["policies"] = {"only": {"policy": "none"}}
    return built


class Bench:
    """One competitor's run, ready to go, and its figures afterwards."""

    def __init__(self, scenario: FluidSweep, variant: FluidVariant, *, seed: int) -> None:
        row, axes = scenario.row, scenario.sweep
        model = server_of(scenario)
        servers = [round(row.servers * (1.0 + added)) for added in axes.added_ratio]
        self.at: list[At] = [
            {"added_ratio": added, "power_factor": factor}
            for factor in axes.power_factor
            for added in axes.added_ratio
        ]
        points = [RowPoint(count, factor) for factor in axes.power_factor for count in servers]
        workload = workload_of(scenario.load)
        priorities = workload.node_priorities(max(servers))
        self._mixes = tuple(dict.fromkeys(priorities))
        self._lengths, mixes, self.work = _requests(workload, priorities, model)
        capacity_w = row.servers * row.provisioned_w
        control = _control(scenario, variant)
        try:
            site = rows_site(
                points,
                priorities,
                model,
                capacity_w=capacity_w,
                safe_ceiling_mhz=row.safe_ceiling_mhz,
                control=control,
            )
        except SiteError as error:
            raise ValueError(str(error)) from error
        failing = {proof.domain for proof in prove(site).rows if not proof.passed}
        self._proven = [domain not in failing for domain in site.domains]
        path = Path(variant.path.clock_s, variant.path.brake_s)
        self.run = FluidRun(
            PolicyLoop(site, path),
            layout_of(points, priorities),
            ServerTables(model, mixes),
            mixes,
            packing=Packing(scenario.load.packed_ratio, scenario.load.packed_batch),
            tick_s=scenario.tick_s,
            seed=seed,
        )
        peak = workload.envelope.peak_per_s
        scale = scenario.load.peak_requests_per_server_s / peak
        self.load = NodeLoad(workload, priorities=priorities, scale=scale, seed=seed)
        self._priorities = priorities
        self._servers = [point.servers for point in points]

    def metrics(self, row: int) -> dict[str, float | None]:
        """Everything that was measured at one point."""
        tally = self.run.tally
        found: dict[str, float | None] = {
            "row_power_ratio_max": float(tally.peak_ratio[row]),
            "row_power_ratio_mean": float(
                tally.energy_j[row] / tally.seconds / tally.capacity_w[row]
            ),
            "rise_ratio_max_2s": float(tally.rise_ratio[row]),
            "rise_ratio_max_40s": float(tally.long_rise_ratio[row]),
            "brakes": float(tally.brakes[row]),
            "brake_s": float(tally.brake_s[row]),
            "over_capacity_s": float(tally.over_s[row]),
            "energy_j": float(tally.energy_j[row]),
            "lease_proof_holds": float(self._proven[row]),
        }
        latencies_s = self.latencies(row)
        for name in PRIORITIES:
            group = self._group(row, name)
            servers = self._priorities[: self._servers[row]].count(name)
            found[f"capped_s_{name}"] = float(tally.capped_s[group])
            found[f"requests_{name}"] = float(tally.requests[group])
            found[f"capped_share_{name}"] = float(
                tally.capped_s[group] / tally.seconds / max(servers, 1)
            )
            for quantile in QUANTILES:
                found[f"latency_{quantile}_s_{name}"] = latencies_s[f"{quantile}_{name}"]
        return found

    def _group(self, row: int, priority: str) -> int:
        return row * len(self._mixes) + self._mixes.index(priority)

    def latencies(self, row: int) -> dict[str, float]:
        """Quantiles of whole requests' latency by priority in one row, s."""
        found: dict[str, float] = {}
        for name in self._mixes:
            values = self.run.book.request_quantiles_s(
                self._group(row, name), self._lengths[name], tuple(QUANTILES.values())
            )
            found |= {
                f"{quantile}_{name}": value
                for quantile, value in zip(QUANTILES, values, strict=True)
            }
        return found

    def figures(self, name: str, seed: int, headline: At) -> list[Figure]:
        """The worst day at the headline point, by minutes; and how far every row was up."""
        rows = [row for row, at in enumerate(self.at) if headline.items() <= at.items()]
        if not rows or not self.run.tally.minute_ratio:
            return []
        minutes = np.array(self.run.tally.minute_ratio)[:, rows[0]]
        day = int(DAY_S / 60.0)
        first = int(minutes.argmax()) // day * day
        worst = minutes[first : first + day]
        return [
            Series(
                title=f"The day of the highest power at {_said(self.at[rows[0]])}",
                x_label="hour of the day",
                y_label="highest power of a minute / capacity",
                limits={"capacity": 1.0},
                lines=(
                    Line(
                        label=f"{name} seed {seed}",
                        x=tuple((np.arange(len(worst)) / 60.0).tolist()),
                        y=tuple(worst.round(4).tolist()),
                    ),
                ),
            )
        ]


def _said(at: At) -> str:
    return f"+{at['added_ratio']:.0%} servers, power x {at['power_factor']:g}"


def server_of(scenario: FluidSweep) -> ServerModel:
    """The server that a document describes. Raises ValueError for unknown parts and figures."""
    row = scenario.row
    part = part_named(row.part)
    chassis = SERVERS[row.part]
    if row.fixed_power_w is not None:
        chassis = replace(chassis, fixed_power_w=row.fixed_power_w)
    if row.busy_power_w is not None:
        chassis = replace(chassis, busy_power_w=row.busy_power_w)
    unknown = set(scenario.uncertain) - set(ENGINE_FIGURES)
    if unknown:
        raise ValueError(
            f"uncertain: {', '.join(unknown)}: allowed are {', '.join(ENGINE_FIGURES)}"
        )
    engine = engine_with(engine_named(row.model, row.part, chassis.gpu_count), scenario.uncertain)
    return ServerModel(chassis, part, engine)


def workload_of(load: LoadSection) -> Workload:
    """The workload with the document's noise. Raises ValueError without priorities."""
    workload = workload_named(load.workload)
    noise = Noise(
        workload.noise.ratio if load.noise_ratio is None else load.noise_ratio,
        workload.noise.slow_s if load.noise_slow_s is None else load.noise_slow_s,
        workload.noise.week_ratio if load.week_noise_ratio is None else load.week_noise_ratio,
    )
    if set(workload.priorities) != set(PRIORITIES):
        raise ValueError(f"load.workload: {load.workload} says nothing about priorities high, low")
    return replace(workload, noise=noise)


def _requests(
    workload: Workload, priorities: Sequence[str], model: ServerModel
) -> tuple[dict[str, Lengths], tuple[Mix, ...], Work]:
    """What requests of each priority are to a server, and their work as a line over tokens."""
    engine = model.engine
    flop_per_s = model.chassis.gpu_count * model.part.peak_flop_per_s
    lengths, mixes, lines = {}, [], {}
    for name in dict.fromkeys(priorities):
        table = workload.lengths(name)
        prompt = table.prompt_tokens.astype(np.float64)
        generated = table.generated_tokens.astype(np.float64)
        work_s = engine.prefill_s(prompt, flop_per_s)
        slope, offset = np.polyfit(prompt, work_s, 1)
        lines[name] = (float(offset), float(slope))
        every = max(1, len(prompt) // LENGTHS)
        lengths[name] = Lengths(work_s[::every], generated[::every])
        # A long answer is held longer: contexts are weighted by it, and grow half of it on average.
        held = (prompt * generated).mean() / generated.mean()
        held += np.square(generated).mean() / generated.mean() / 2.0
        intensity = (work_s * engine.prefill_load(prompt)).sum() / work_s.sum()
        mixes.append(Mix(float(held), float(generated.mean()), float(intensity)))
    work = Work(*(np.array([lines[name][place] for name in priorities]) for place in (0, 1)))
    return lengths, tuple(mixes), work


def _control(scenario: FluidSweep, variant: FluidVariant) -> ControlConfig:
    values = {**scenario.control, **variant.control}
    values |= {"policy": variant.policy, "cycle_s": scenario.tick_s}
    try:
        return msgspec.convert(values, ControlConfig)
    except msgspec.ValidationError as error:
        raise ValueError(f"control: {error}") from error
