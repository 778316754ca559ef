"""Turns a validated site file into a site, or into the list of everything wrong with it.

What one key cannot say about another is checked here and nowhere else: references, loops, clock
grids, and timings whose relation would be unsafe.
"""

from __future__ import annotations

import difflib
import graphlib
import itertools
from collections.abc import Iterable, Mapping
from typing import Final

from facility.config import (
    ContingencyConfig,
    DomainConfig,
    GpuModelConfig,
    NodeConfig,
    SiteConfig,
)
from facility.topology import (
    Contingency,
    Domain,
    GpuModel,
    Key,
    Node,
    NodeModel,
    Problem,
    Site,
    SiteError,
)
from facility.trip import BUILT_IN, TripCurve

DEFAULT_CURVES: Final = {"feed": "ups-strict", "zone": "air-aisle"}


def compile_site(config: SiteConfig) -> Site:
    """Check what the keys of a site file say about each other, and build the site.

    Raises:
        SiteError: with every problem, each with the key where it is.
    """
    compiler = _Compiler(config)
    site = compiler.build()
    if compiler.problems or site is None:
        raise SiteError(tuple(compiler.problems))
    return site


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A closing half-sentence with the nearest known words, empty when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


class _Compiler:
    """One pass over a site file; collects problems instead of stopping at the first."""

    def __init__(self, config: SiteConfig) -> None:
        self.config = config
        self.problems: list[Problem] = []
        self.domains = {domain.name: domain for domain in config.domains}

    def problem(self, key: Key, text: str) -> None:
        self.problems.append(Problem(key, text))

    def build(self) -> Site | None:
        """The site, or None when problems were found."""
        gpus = self._gpu_models()
        models = self._node_models(gpus)
        self._unique("domains", [domain.name for domain in self.config.domains])
        self._unique("nodes", [node.name for node in self.config.nodes])
        self._unique("services", [service.name for service in self.config.services])
        self._unique("contingencies", [item.name for item in self.config.contingencies])
        self._unique("trip_curves", [curve.name for curve in self.config.trip_curves])
        curves = self._curves()
        self._tree()
        self._nodes_refer()
        self._contingencies_refer()
        self._control()
        if self.problems:
            return None
        site = self._site(models, curves)
        self._alarms_are_heard(site)
        return site

    def _unique(self, section: str, names: list[str]) -> None:
        seen: set[str] = set()
        for place, name in enumerate(names):
            if name in seen:
                self.problem((section, place, "name"), f"{name!r} is there twice")
            seen.add(name)

    def _known(self, key: Key, word: str, known: Iterable[str], what: str) -> bool:
        words = list(known)
        if word in words:
            return True
        self.problem(key, f"no {what} is named {word!r}{did_you_mean(word, words)}")
        return False

    def _gpu_models(self) -> dict[str, GpuModel]:
        models = {}
        for name, model in self.config.gpu_models.items():
            before = len(self.problems)
            self._gpu_model(("gpu_models", name), model)
            if len(self.problems) == before:
                models[name] = GpuModel(
                    name,
                    model.clock_mhz_min,
                    model.clock_mhz_max,
                    model.clock_mhz_step,
                    model.safe_ceiling_mhz,
                    model.brake_ceiling_mhz,
                    model.idle_power_w,
                    model.worst_case_power_w,
                )
        return models

    def _gpu_model(self, key: Key, model: GpuModelConfig) -> None:
        low, high = model.clock_mhz_min, model.clock_mhz_max
        if low >= high:
            self.problem((*key, "clock_mhz_max"), f"must be above clock_mhz_min, {low}")
        for name in ("safe_ceiling_mhz", "brake_ceiling_mhz"):
            self._clock((*key, name), getattr(model, name), model)
        if model.brake_ceiling_mhz > model.safe_ceiling_mhz:
            self.problem((*key, "brake_ceiling_mhz"), "must not be above safe_ceiling_mhz")
        points = model.worst_case_power_w
        if model.idle_power_w > points[0][1]:
            self.problem(
                (*key, "idle_power_w"),
                f"must not be above the worst case at {points[0][0]} MHz, {points[0][1]:g} W",
            )
        steps = list(enumerate(itertools.pairwise(points), start=1))
        falls = [place for place, (one, two) in steps if two[0] <= one[0] or two[1] < one[1]]
        for place in falls:
            self.problem(
                (*key, "worst_case_power_w", place),
                "points must ascend: more MHz, and not less power",
            )
        if points[-1][0] != high:
            self.problem(
                (*key, "worst_case_power_w", len(points) - 1),
                f"the last point must be at clock_mhz_max, {high} MHz, not {points[-1][0]}",
            )
        if not falls:
            self._convex((*key, "worst_case_power_w"), points)

    def _clock(self, key: Key, clock_mhz: int, model: GpuModelConfig) -> None:
        """A driver rounds a clock off its grid, perhaps upwards: such a ceiling proves nothing."""
        low, high, step = model.clock_mhz_min, model.clock_mhz_max, model.clock_mhz_step
        if not low <= clock_mhz <= high:
            self.problem(key, f"{clock_mhz} is outside the clocks, {low} to {high}")
        elif clock_mhz != high and (over := (clock_mhz - low) % step):
            below = clock_mhz - over
            near = f"{below} or {min(below + step, high)}"
            self.problem(key, f"{clock_mhz} is between two steps of {step} MHz; use {near}")

    def _convex(self, key: Key, points: tuple[tuple[int, float], ...]) -> None:
        """Between points a straight line counts, which is safe only while slopes do not fall."""
        slopes = [
            (high[1] - low[1]) / (high[0] - low[0]) for low, high in itertools.pairwise(points)
        ]
        for place in range(1, len(slopes)):
            flat_to_the_end = not any(slopes[place:])  # a board's power limit, exact as it stands
            if slopes[place] < slopes[place - 1] - 1e-9 and not flat_to_the_end:
                self.problem(
                    (*key, place),
                    f"the slope falls from {slopes[place - 1]:.3g} to {slopes[place]:.3g} W/MHz:"
                    " worst-case power must be convex up to a flat end, so raise this point's"
                    " neighbours",
                )

    def _node_models(self, gpus: Mapping[str, GpuModel]) -> dict[str, NodeModel]:
        models = {}
        for name, model in self.config.node_models.items():
            key: Key = ("node_models", name, "gpu_model")
            if self._known(key, model.gpu_model, self.config.gpu_models, "GPU model"):
                gpu = gpus.get(model.gpu_model)
                if gpu is not None:
                    models[name] = NodeModel(
                        name, gpu, model.gpu_count, model.overhead_w, model.gpu_power_factor
                    )
        return models

    def _curves(self) -> dict[str, TripCurve]:
        curves = dict(BUILT_IN)
        for place, curve in enumerate(self.config.trip_curves):
            if curve.name in BUILT_IN:
                self.problem(
                    ("trip_curves", place, "name"), f"{curve.name!r} is built in, take another name"
                )
            try:
                curves[curve.name] = TripCurve(curve.name, curve.points, curve.source)
            except ValueError as error:
                self.problem(("trip_curves", place, "points"), str(error))
        names = [*curves, *(curve.name for curve in self.config.trip_curves)]
        for place, domain in enumerate(self.config.domains):
            if domain.trip_curve is not None:
                self._known(
                    ("domains", place, "trip_curve"), domain.trip_curve, names, "trip curve"
                )
        return curves

    def _tree(self) -> None:
        for place, domain in enumerate(self.config.domains):
            if domain.kind == "zone" and domain.parents:
                self.problem(
                    ("domains", place, "parents"),
                    "a zone has no parents: it cools, it does not feed",
                )
            self._parents(("domains", place), domain.parents)
        self._no_loops()

    def _parents(self, at: Key, parents: tuple[str, ...]) -> None:
        for rank, parent in enumerate(parents):
            key: Key = (*at, "parents", rank)
            if parent in parents[:rank]:
                self.problem(key, f"{parent!r} is there twice")
            elif not self._known(key, parent, self.domains, "domain"):
                continue
            elif self.domains[parent].kind == "zone":
                self.problem(key, f"{parent!r} is a zone: it cools, it does not feed")

    def _no_loops(self) -> None:
        """Report every loop once, at its first domain in the file."""
        parents = {name: domain.parents for name, domain in self.domains.items()}
        places = {domain.name: place for place, domain in enumerate(self.config.domains)}
        while True:
            try:
                graphlib.TopologicalSorter(parents).prepare()
            except graphlib.CycleError as error:
                loop = error.args[1]
                first = min(loop, key=places.__getitem__)
                text = f"a loop, each feeds the next: {' -> '.join(loop)}"
                self.problem(("domains", places[first], "parents"), text)
                for name in loop:
                    parents.pop(name, None)
            else:
                return

    def _nodes_refer(self) -> None:
        services = [service.name for service in self.config.services]
        zones = [name for name, domain in self.domains.items() if domain.kind == "zone"]
        for place, node in enumerate(self.config.nodes):
            at: Key = ("nodes", place)
            self._known((*at, "model"), node.model, self.config.node_models, "node model")
            self._parents(at, node.parents)
            if node.name in self.domains:
                self.problem((*at, "name"), f"{node.name!r} is a domain already")
            if node.zone is not None:
                self._known((*at, "zone"), node.zone, zones, "zone")
            if node.service is not None:
                self._known((*at, "service"), node.service, services, "service")

    def _contingencies_refer(self) -> None:
        for place, item in enumerate(self.config.contingencies):
            at: Key = ("contingencies", place)
            if item.name == "brake":
                self.problem((*at, "name"), "'brake' is reserved for the power brake")
            self._known((*at, "domain"), item.domain, self.domains, "domain")
            for rank, name in enumerate(item.lost):
                self._known((*at, "lost", rank), name, self.domains, "domain")
            for name in item.capacity_ratio:
                self._known((*at, "capacity_ratio", name), name, self.domains, "domain")
            if not item.lost and not item.capacity_ratio:
                self.problem(at, "neither lost nor capacity_ratio: it changes nothing")

    def _control(self) -> None:
        control = self.config.control
        if control.lease_s < 3 * control.cycle_s:
            self.problem(
                ("control", "lease_s"),
                f"{control.lease_s:g} s must be at least three cycles, {3 * control.cycle_s:g} s,"
                " or one lost message ends every lease",
            )
        if control.lease_s < control.cycle_s + 2 * control.telemetry_s:
            self.problem(
                ("control", "lease_s"),
                f"{control.lease_s:g} s must be at least cycle_s + 2 x telemetry_s,"
                f" {control.cycle_s + 2 * control.telemetry_s:g} s: a lease counts from a frame",
            )
        if control.stale_s < 2 * control.telemetry_s:
            self.problem(
                ("control", "stale_s"),
                f"{control.stale_s:g} s must be at least two telemetry periods,"
                f" {2 * control.telemetry_s:g} s",
            )
        if control.release_ratio >= control.target_ratio:
            self.problem(
                ("control", "release_ratio"),
                f"must be below target_ratio, {control.target_ratio:g}, or modes flap",
            )
        if control.history_target_ratio <= control.target_ratio - control.release_ratio:
            self.problem(
                ("control", "history_target_ratio"),
                "must be above the distance from release_ratio to target_ratio,"
                f" {control.target_ratio - control.release_ratio:g}, or clocks never rise again",
            )
        if control.policy in ("uniform", "ampacity") and control.horizon_s < control.actuation_s:
            self.problem(
                ("control", "horizon_s"),
                f"{control.horizon_s:g} s must be at least actuation_s, {control.actuation_s:g} s:"
                " power must not pass its limit before a command has arrived",
            )

    def _site(self, models: Mapping[str, NodeModel], curves: Mapping[str, TripCurve]) -> Site:
        ancestors = {node.name: self._ancestors(node) for node in self.config.nodes}
        below: dict[str, list[str]] = {name: [] for name in self.domains}
        for node in self.config.nodes:
            for name in ancestors[node.name]:
                below[name].append(node.name)
        services = {service.name: service for service in self.config.services}

        def priority(node: NodeConfig) -> str:
            return node.priority or (services[node.service].priority if node.service else "high")

        return Site(
            name=self.config.site,
            control=self.config.control,
            domains={
                domain.name: _domain(domain, curves, tuple(below[domain.name]))
                for domain in self.config.domains
            },
            nodes={
                node.name: Node(
                    node.name,
                    models[node.model],
                    node.parents,
                    node.zone,
                    node.service,
                    priority(node),
                    node.service is not None and services[node.service].routable,
                    ancestors[node.name],
                    services[node.service].quality_levels if node.service is not None else 0,
                )
                for node in self.config.nodes
            },
            contingencies={item.name: _contingency(item) for item in self.config.contingencies},
            services=tuple(services),
        )

    def _ancestors(self, node: NodeConfig) -> tuple[str, ...]:
        found: set[str] = set()
        todo = list(node.parents)
        while todo:
            if (name := todo.pop()) not in found:
                found.add(name)
                todo.extend(self.domains[name].parents)
        ordered = [name for name in self.domains if name in found]
        return tuple(ordered + ([node.zone] if node.zone else []))

    def _alarms_are_heard(self, site: Site) -> None:
        """A node obeys an emergency only if it is published for one of its ancestors."""
        for place, item in enumerate(self.config.contingencies):
            deaf = [
                node.name
                for node in site.nodes.values()
                if item.domain not in node.ancestors and site.touches(item.name, node.name)
            ]
            if deaf:
                more = f" and {len(deaf) - 1} more" if len(deaf) > 1 else ""
                self.problem(
                    ("contingencies", place, "domain"),
                    f"node {deaf[0]!r}{more} must act but hangs below no {item.domain!r};"
                    " name a domain above every node that the contingency concerns",
                )


def _domain(
    config: DomainConfig, curves: Mapping[str, TripCurve], nodes: tuple[str, ...]
) -> Domain:
    curve = config.trip_curve or DEFAULT_CURVES.get(config.kind, "breaker-low-band")
    return Domain(
        config.name,
        config.kind,
        config.rating_w * config.derating_ratio,
        config.parents,
        curves[curve],
        config.inlet_temperature_c_max,
        config.margin_c_min,
        nodes,
    )


def _contingency(config: ContingencyConfig) -> Contingency:
    return Contingency(
        config.name,
        config.domain,
        frozenset(config.lost),
        dict(config.capacity_ratio),
        config.detect_s,
        config.broker_survives,
        config.local_trigger,
    )
