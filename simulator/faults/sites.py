"""The site that a seed draws: a small power tree that passes the lease proof, and its true physics.

Capacities are drawn around what the safe ceilings need, so that most of what leases may add up to
lies above them. Protections are as configured or better, never worse: that is an assumption.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from random import Random
from typing import Final

from controllers.proof import prove
from facility.compiler import compile_site
from facility.config import (
    ContingencyConfig,
    ControlConfig,
    DomainConfig,
    GpuModelConfig,
    NodeConfig,
    NodeModelConfig,
    ReactionConfig,
    ServiceConfig,
    SiteConfig,
)
from facility.example import H100_WORST_CASE_POWER_W
from facility.topology import Domain, Site
from facility.trip import TripCurve
from simulator.faults.plant import SLOWDOWN_C, ThermalDraw

CLOCK_MHZ: Final = (345, 1980, 15)
DRAWS_MAX: Final = 200
FEED_CURVES: Final = ("ups-strict", "ups-strict", "ups-tolerant", "ups-aged-battery", "ups-staco")
BRANCH_CURVES: Final = (
    "breaker-low-band", "breaker-low-band", "breaker-iec60898", "switchboard-main", "ups-strict",
)  # fmt: skip
ROW: Final = "row-1"
RAISE_RATIO_PER_S: Final = 0.08
"""Four times the default: clocks are high again when the next fault comes, and service is full
again within the time that a seed has."""


@dataclass(frozen=True, slots=True)
class DrawnSite:
    """One site as configured, the same with its true protections, and its heat."""

    config: SiteConfig
    site: Site
    judged: Site
    thermal: ThermalDraw


def draw_site(rng: Random, *, nodes_max: int) -> DrawnSite:
    """Draw until a site passes the proof."""
    for _ in range(DRAWS_MAX):
        config = _Draft(rng, nodes_max).config()
        site = compile_site(config)
        if prove(site).passed:
            return DrawnSite(config, site, _judged(rng, site), _thermal(rng, site))
    raise AssertionError(f"none of {DRAWS_MAX} sites passes the proof")


def _judged(rng: Random, site: Site) -> Site:
    """The site with protections that tolerate every load at least as long as their curves say."""

    def better(domain: Domain) -> Domain:
        stretch = rng.choice((1.0, 1.0, 1.0 + rng.random()))
        curve = domain.trip_curve
        points = tuple((ratio, seconds * stretch) for ratio, seconds in curve.points)
        return dataclasses.replace(domain, trip_curve=TripCurve(curve.name, points, curve.source))

    domains = {name: better(domain) for name, domain in site.domains.items()}
    return Site(site.name, site.control, domains, site.nodes, site.contingencies, site.services)


def _thermal(rng: Random, site: Site) -> ThermalDraw:
    """Air that warms no faster than the zone's curve says, from supply to slowdown."""
    supply_c, rise_c = rng.uniform(20.0, 24.0), rng.uniform(38.0, 50.0)
    room_c = SLOWDOWN_C - supply_c - rise_c
    warming = {}
    for name, domain in site.domains.items():
        if domain.is_zone:
            patience_s = max(seconds for _, seconds in domain.trip_curve.points)
            warming[name] = rng.uniform(0.3, 0.9) * room_c / patience_s
    return ThermalDraw(supply_c, rise_c, rng.uniform(15.0, 30.0), warming)


class _Draft:
    """One draw of a site."""

    def __init__(self, rng: Random, nodes_max: int) -> None:
        self.rng = rng
        self.count = rng.randint(2, nodes_max)
        self.gpus = rng.choice((1, 1, 2, 2, 3))
        self.ignored = 0 if self.count < 3 else rng.choice((0, 0, 1, 1))
        self.shape = rng.choice(("row", "row", "two-feeds", "one-feed", "one-feed"))
        self.racks = rng.randint(1, min(3, self.count))
        self.zones = rng.choice((0, 1, 1, 2)) if self.count > 1 else 0
        self.liquid = rng.random() < 0.3
        low, high, step = CLOCK_MHZ
        self.safe_mhz = low + step * rng.randint(int(0.1 * (high - low) / step), 55)
        self.overhead_w = rng.uniform(80.0, 300.0) * self.gpus
        self.factor = rng.uniform(1.0, 1.12)
        self.survives = rng.random() < 0.35
        self.local = rng.random() < 0.2

    def node_w(self, ceiling_mhz: int) -> float:
        points = H100_WORST_CASE_POWER_W
        gpu_w = points[-1][1]
        for (low, low_w), (high, high_w) in itertools.pairwise(points):
            if ceiling_mhz <= high:
                gpu_w = low_w + (high_w - low_w) * max(ceiling_mhz - low, 0) / (high - low)
                break
        return self.overhead_w + self.factor * self.gpus * gpu_w

    def floor_w(self, nodes: float) -> float:
        """What so many nodes draw at worst when everything has gone wrong that may."""
        extra_w = self.node_w(9_999) - self.node_w(self.safe_mhz)
        return nodes * self.node_w(self.safe_mhz) + min(self.ignored, nodes) * extra_w

    def rating_w(self, nodes: float, *, room_max: float = 1.08) -> float:
        return math.ceil(self.floor_w(nodes) * self.rng.uniform(1.01, room_max))

    def config(self) -> SiteConfig:
        low, high, step = CLOCK_MHZ
        model = GpuModelConfig(
            clock_mhz_min=low,
            clock_mhz_max=high,
            clock_mhz_step=step,
            safe_ceiling_mhz=self.safe_mhz,
            brake_ceiling_mhz=low,
            idle_power_w=72.0,
            worst_case_power_w=H100_WORST_CASE_POWER_W,
        )
        server = NodeModelConfig(
            gpu_model="h100",
            gpu_count=self.gpus,
            overhead_w=self.overhead_w,
            gpu_power_factor=self.factor,
        )
        domains, parents = self._tree()
        return SiteConfig(
            version=1,
            site="storm",
            gpu_models={"h100": model},
            node_models={"server": server},
            domains=(*domains, *self._zone_configs()),
            nodes=tuple(self._node(place, parents[place]) for place in range(self.count)),
            services=(
                ServiceConfig(name="chat", priority="high"),
                ServiceConfig(name="batch", priority="low"),
            ),
            contingencies=self._contingencies(),
            control=self._control(),
        )

    def _node(self, place: int, parents: tuple[str, ...]) -> NodeConfig:
        return NodeConfig(
            name=f"n{place + 1}",
            model="server",
            parents=parents,
            zone=self._zone_of(place),
            service="chat" if place % 2 == 0 else "batch",
        )

    def _rack_of(self, place: int) -> int:
        return place * self.racks // self.count

    def _zone_of(self, place: int) -> str | None:
        return f"zone-{place * self.zones // self.count + 1}" if self.zones else None

    def _tree(self) -> tuple[list[DomainConfig], list[tuple[str, ...]]]:
        if self.shape == "two-feeds":
            return self._two_feeds()
        feeds = ("ups-a", "ups-b") if self.shape == "row" else ("ups-a",)
        curve = self.rng.choice(FEED_CURVES)
        domains = [
            DomainConfig(
                name=name, kind="feed", rating_w=self.rating_w(self.count), trip_curve=curve
            )
            for name in feeds
        ]
        domains.append(self._branch(ROW, "row", self.count, feeds))
        racks = [self._rack_of(place) for place in range(self.count)]
        domains += [
            self._branch(f"rack-{rack + 1}", "rack", racks.count(rack), (ROW,))
            for rack in dict.fromkeys(racks)
        ]
        return domains, [(f"rack-{rack + 1}",) for rack in racks]

    def _two_feeds(self) -> tuple[list[DomainConfig], list[tuple[str, ...]]]:
        """Every node hangs on a PDU of each feed: the survivor carries all of it."""
        domains: list[DomainConfig] = []
        for side in ("a", "b"):
            feed = f"ups-{side}"
            curve = self.rng.choice(FEED_CURVES)
            domains.append(
                DomainConfig(
                    name=feed, kind="feed", rating_w=self.rating_w(self.count), trip_curve=curve
                )
            )
            domains.append(self._branch(f"pdu-{side}", "pdu", self.count, (feed,)))
        return domains, [("pdu-a", "pdu-b")] * self.count

    def _branch(self, name: str, kind: str, nodes: int, parents: tuple[str, ...]) -> DomainConfig:
        derating = self.rng.choice((1.0, 0.8))
        return DomainConfig(
            name=name,
            kind="row" if kind == "row" else "pdu" if kind == "pdu" else "rack",
            rating_w=math.ceil(self.rating_w(nodes, room_max=1.15) / derating),
            derating_ratio=derating,
            parents=parents,
            trip_curve=self.rng.choice(BRANCH_CURVES),
        )

    def _zone_configs(self) -> list[DomainConfig]:
        names = [self._zone_of(place) for place in range(self.count)]
        return [
            DomainConfig(
                name=name,
                kind="zone",
                rating_w=self.rating_w(names.count(name), room_max=1.1) / 0.8,
                trip_curve="liquid-loop" if self.liquid else "air-aisle",
            )
            for name in dict.fromkeys(names)
            if name is not None
        ]

    def _contingencies(self) -> tuple[ContingencyConfig, ...]:
        found = []
        top = ROW
        for side in ("a", "b") if self.shape != "one-feed" else ():
            # Who hangs on both feeds hears of either at the survivor and at the lost one alike.
            domain = top if self.shape == "row" else f"ups-{side}"
            found.append(self._contingency(f"ups-{side}-lost", domain, lost=(f"ups-{side}",)))
        what = "flow-lost" if self.liquid else "air-handler-lost"
        for zone in dict.fromkeys(map(self._zone_of, range(self.count))):
            if zone is not None:
                ratio = {zone: self.rng.uniform(0.8, 0.9)}
                found.append(self._contingency(f"{zone}-{what}", zone, ratio=ratio))
        return tuple(found)

    def _contingency(
        self,
        name: str,
        domain: str,
        *,
        lost: tuple[str, ...] = (),
        ratio: dict[str, float] | None = None,
    ) -> ContingencyConfig:
        return ContingencyConfig(
            name=name,
            domain=domain,
            lost=lost,
            capacity_ratio=ratio or {},
            detect_s=self.rng.choice((0.5, 1.0, 2.0, 5.0)),
            broker_survives=self.survives and bool(lost),
            local_trigger=self.local and bool(lost),
        )

    def _control(self) -> ControlConfig:
        return ControlConfig(
            lease_s=self.rng.choice((3.0, 4.0, 4.0, 5.0)),
            stale_s=self.rng.choice((2.0, 3.0)),
            ignored_locks_max=self.ignored,
            raise_ratio_per_s=RAISE_RATIO_PER_S,
            reaction=ReactionConfig(
                sample_s=1.2,  # agents sample once or twice a second here, ten times live
                transport_s=0.2,
                settle_s=0.3,
            ),
        )
