"""The standard example: one row of H100 servers that is sold 30 % beyond its capacity.

Owns the demo row and the agent's and the controller's configuration made from a site. The demo,
the tests and `ampacity config example` all use these, so an example that does not load or is not
safe fails a test. Measure your own hardware before you trust a number here.
"""

from __future__ import annotations

import math
from typing import Final

from facility.config import (
    AgentConfig,
    BrokerConfig,
    ContingencyConfig,
    ControlConfig,
    ControllerConfig,
    DomainConfig,
    GpuModelConfig,
    HaproxyConfig,
    HttpConfig,
    LeadershipConfig,
    NodeConfig,
    NodeModelConfig,
    OperatorConfig,
    ServiceConfig,
    SiteConfig,
    StoreConfig,
)
from facility.topology import GpuModel, NodeModel, Site
from facility.yaml_text import to_yaml

NODES_PER_RACK: Final = 4
ROW_DERATING_RATIO: Final = 0.8
FEED_CURVE: Final = "ups-liebert-610"
"""150 % for half a minute, as good UPSs do. A stricter one leaves less to lease: `ups-strict`."""
SURVIVOR_RATIO: Final = 0.8
"""What one feed carries of the row's capacity: losing the other one is then a real emergency."""
RACK_RATIO: Final = 0.98
ZONE_RATIO: Final = 0.85
"""An aisle removes less heat than all of its servers make at their worst."""
ZONE_LOST_RATIO: Final = 0.9
IGNORED_LOCK_NODES_MIN: Final = 40
"""In a shorter row one node at full clocks needs more than the room that is left."""
SAFE_ROOM_RATIO: Final = 0.98
"""At the safe ceiling the row's worst case fills this share of the surviving feed."""

H100_WORST_CASE_POWER_W: Final = (
    (345, 266.0),
    (1005, 321.0),
    (1155, 353.0),
    (1305, 420.0),
    (1455, 500.0),
    (1605, 593.0),
    (1755, 700.0),
    (1980, 700.0),
)
"""Most that one H100 SXM draws under a ceiling, in W, by ceiling in MHz.

The larger of two loads under the power law of an H100 (static 67 W and 15 W of leakage, context
55 W, cores 684 W, memory 150 + 170 W): dense prefill (all cores, a fifth of the memory bandwidth)
above 1005 MHz, heavy decode (0.4 of the cores, 0.65 of the bandwidth) below, because memory power
does not fall with the core clock. The law is convex, so straight lines between its points lie
above it. From 1755 MHz, where the law passes 698 W, the 700 W limit of the board holds: that point
must not stand further right, or the line to it would cut through the law.
"""
_H100: Final = {"clock_mhz_min": 345, "clock_mhz_max": 1980, "clock_mhz_step": 15}
_OVERHEAD_W: Final = 2_240.0
"""With 8 x 700 W x 1.10 this makes 8.4 kW, the most measured on a DGX H100 (arXiv 2506.14551)."""
_GPU_POWER_FACTOR: Final = 1.10
"""Losses of supplies (6 %) and regulators (3 %) that grow with the GPUs' power."""


def row_site(
    *,
    site: str = "demo",
    nodes: int = 40,
    oversubscription_ratio: float = 1.3,
    feed_curve: str = FEED_CURVE,
    control: ControlConfig | None = None,
) -> SiteConfig:
    """One row of 8-GPU H100 servers on two feeds, four to a rack, in two aisles.

    The worst case of all nodes is `oversubscription_ratio` times the row's capacity. The safe
    ceiling is the highest clock at which the row fits what one feed alone may carry.

    Raises:
        ValueError: `nodes` is not 1 to 4096, or the ratio is not 0.1 to 10.
    """
    if not 1 <= nodes <= 4096:
        raise ValueError(f"nodes is {nodes}; expected 1 to 4096")
    if not 0.1 <= oversubscription_ratio <= 10.0:
        raise ValueError(f"oversubscription_ratio is {oversubscription_ratio}; expected 0.1 to 10")
    worst_w = nodes * _node_model(345).power_w_max
    row_w = worst_w / oversubscription_ratio
    feed_w = _round_w(row_w * SURVIVOR_RATIO)
    racks = math.ceil(nodes / NODES_PER_RACK)
    return SiteConfig(
        version=1,
        site=site,
        gpu_models={"h100-sxm": _gpu_config(_safe_ceiling_mhz(nodes, feed_w))},
        node_models={
            "dgx-h100": NodeModelConfig(
                gpu_model="h100-sxm",
                gpu_count=8,
                overhead_w=_OVERHEAD_W,
                gpu_power_factor=_GPU_POWER_FACTOR,
            )
        },
        domains=_domains(nodes, racks, row_w=row_w, feed_w=feed_w, feed_curve=feed_curve),
        nodes=_nodes(nodes, racks),
        services=(
            ServiceConfig(name="chat", priority="high"),
            ServiceConfig(name="batch", priority="low"),
        ),
        contingencies=(
            *(
                ContingencyConfig(
                    name=f"{feed}-lost", domain="row-1", lost=(feed,), broker_survives=True
                )
                for feed in ("ups-a", "ups-b")
            ),
            ContingencyConfig(
                name="air-handler-1-lost",
                domain="aisle-1",
                capacity_ratio={"aisle-1": ZONE_LOST_RATIO},
            ),
        ),
        control=control or row_control(nodes),
    )


def row_control(nodes: int) -> ControlConfig:
    """How a row is controlled: a long one has room for a node that ignores its lock unnoticed."""
    return ControlConfig(ignored_locks_max=1 if nodes >= IGNORED_LOCK_NODES_MIN else 0)


def agent_config(site: Site, node: str, *, broker: BrokerConfig | None = None) -> AgentConfig:
    """The agent's configuration of one node: its ancestors, its ceilings, what concerns it.

    Raises:
        KeyError: the site has no such node.
    """
    found = site.nodes[node]
    gpu = found.model.gpu
    return AgentConfig(
        version=1,
        site=site.name,
        node=node,
        domains=found.ancestors,
        contingencies=tuple(name for name in site.contingencies if site.touches(name, node)),
        safe_ceiling_mhz=gpu.safe_ceiling_mhz,
        brake_ceiling_mhz=gpu.brake_ceiling_mhz,
        telemetry_s=site.control.telemetry_s,
        ramp_ratio_per_s=site.control.raise_ratio_per_s,
        broker=broker or BrokerConfig(),
    )


def controller_config(
    *,
    controller: str = "controller",
    site_file: str = "/etc/ampacity/site.yaml",
    broker: BrokerConfig | None = None,
    store: StoreConfig | None = None,
    http: HttpConfig | None = None,
    haproxy: HaproxyConfig | None = None,
    leadership: LeadershipConfig | None = None,
) -> ControllerConfig:
    """A controller's configuration around a site file."""
    return ControllerConfig(
        version=1,
        controller=controller,
        site_file=site_file,
        broker=broker or BrokerConfig(),
        store=store or StoreConfig(),
        http=http or HttpConfig(),
        haproxy=haproxy,
        leadership=leadership,
    )


def operator_config(
    *,
    site: str = "demo",
    operator: str = "operator",
    signing_key_file: str | None = None,
    broker: BrokerConfig | None = None,
) -> OperatorConfig:
    """An operator's file for one site."""
    return OperatorConfig(
        version=1,
        site=site,
        operator=operator,
        signing_key_file=signing_key_file,
        broker=broker or BrokerConfig(),
    )


def site_yaml(config: SiteConfig) -> str:
    """A site as YAML, each section explained."""
    return to_yaml(config, SITE_COMMENTS)


def agent_yaml(config: AgentConfig) -> str:
    """An agent's configuration as YAML, explained."""
    return to_yaml(config, AGENT_COMMENTS)


def controller_yaml(config: ControllerConfig) -> str:
    """A controller's configuration as YAML, explained."""
    return to_yaml(config, CONTROLLER_COMMENTS)


def operator_yaml(config: OperatorConfig) -> str:
    """An operator's file as YAML, explained."""
    return to_yaml(config, OPERATOR_COMMENTS)


def _gpu_config(safe_ceiling_mhz: int) -> GpuModelConfig:
    return GpuModelConfig(
        **_H100,
        safe_ceiling_mhz=safe_ceiling_mhz,
        brake_ceiling_mhz=_H100["clock_mhz_min"],
        idle_power_w=72.0,
        worst_case_power_w=H100_WORST_CASE_POWER_W,
    )


def _node_model(safe_ceiling_mhz: int) -> NodeModel:
    config = _gpu_config(safe_ceiling_mhz)
    gpu = GpuModel(
        "h100-sxm",
        config.clock_mhz_min,
        config.clock_mhz_max,
        config.clock_mhz_step,
        config.safe_ceiling_mhz,
        config.brake_ceiling_mhz,
        config.idle_power_w,
        config.worst_case_power_w,
    )
    return NodeModel("dgx-h100", gpu, 8, _OVERHEAD_W, _GPU_POWER_FACTOR)


def _safe_ceiling_mhz(nodes: int, feed_w: float) -> int:
    """The highest ceiling that fits the tightest state with room; the lowest when none does.

    The tightest state is one feed alone, or, in a row that is hardly oversold, an aisle without
    its air handler.
    """
    model = _node_model(345)
    node_w = SAFE_ROOM_RATIO * min(feed_w / nodes, ZONE_RATIO * ZONE_LOST_RATIO * model.power_w_max)
    gpus_w = (node_w - model.overhead_w) / model.gpu_power_factor
    return model.gpu.ceiling_mhz_for(gpus_w / model.gpu_count)


def _round_w(power_w: float) -> float:
    """To 100 W, as people write ratings."""
    return round(power_w, -2)


def _domains(
    nodes: int, racks: int, *, row_w: float, feed_w: float, feed_curve: str
) -> tuple[DomainConfig, ...]:
    node_w = _node_model(345).power_w_max
    aisles = [_aisle(place, racks) for place in _racks_of(nodes)]
    rack = RACK_RATIO * min(nodes, NODES_PER_RACK) * node_w / ROW_DERATING_RATIO
    return (
        DomainConfig(name="ups-a", kind="feed", rating_w=feed_w, trip_curve=feed_curve),
        DomainConfig(name="ups-b", kind="feed", rating_w=feed_w, trip_curve=feed_curve),
        DomainConfig(
            name="row-1",
            kind="row",
            rating_w=_round_w(row_w / ROW_DERATING_RATIO),
            derating_ratio=ROW_DERATING_RATIO,
            parents=("ups-a", "ups-b"),
        ),
        *(
            DomainConfig(
                name=_rack_name(place, racks),
                kind="rack",
                rating_w=_round_w(rack),
                derating_ratio=ROW_DERATING_RATIO,
                parents=("row-1",),
            )
            for place in range(racks)
        ),
        *(
            DomainConfig(
                name=aisle,
                kind="zone",
                rating_w=_round_w(ZONE_RATIO * aisles.count(aisle) * node_w),
            )
            for aisle in dict.fromkeys(aisles)
        ),
    )


def _nodes(nodes: int, racks: int) -> tuple[NodeConfig, ...]:
    digits = max(2, len(str(nodes)))
    return tuple(
        NodeConfig(
            name=f"n{place + 1:0{digits}d}",
            model="dgx-h100",
            parents=(_rack_name(rack, racks),),
            zone=_aisle(rack, racks),
            # Three of five serve chat: both services are in every rack of four.
            service="chat" if place % 5 in (0, 2, 4) else "batch",
        )
        for place, rack in enumerate(_racks_of(nodes))
    )


def _racks_of(nodes: int) -> list[int]:
    return [place // NODES_PER_RACK for place in range(nodes)]


def _rack_name(place: int, racks: int) -> str:
    return f"rack-{place + 1:0{max(2, len(str(racks)))}d}"


def _aisle(rack: int, racks: int) -> str:
    return "aisle-1" if 2 * rack < racks else "aisle-2"


SITE_COMMENTS: Final = {
    "": "A site: the power tree, the zones, what protects them and how they are controlled. Every"
    " key is explained in docs/site-file.md. `ampacity check FILE` finds every mistake, and shows"
    " how the worst case of all nodes compares with every capacity.",
    "gpu_models": "Kinds of GPU. worst_case_power_w: [ceiling in MHz, the most that one GPU draws"
    " under it in W]. Between points a straight line counts, so slopes must not fall; only the end"
    " may be flat, where the board's own power limit holds. safe_ceiling_mhz is where a node goes"
    " by itself when its lease ends: with every node there, no capacity may be exceeded, whichever"
    " contingency has struck.",
    "node_models": "Kinds of server. Power in W is overhead_w + gpu_power_factor x the sum of the"
    " GPUs' power.",
    "domains": "Everything that has a capacity, which is rating_w x derating_ratio. A load flows to"
    " `parents`: of two each carries half, and the survivor all of it. A zone's capacity is the"
    " heat that it removes.",
    "nodes": "Servers, one per line: where each hangs, what air it breathes, what it serves.",
    "services": "What the nodes run. When power is short, low priority slows first.",
    "contingencies": "Declared failures. `lost`: gone altogether. `capacity_ratio`: falls to this"
    " share of itself. `domain` is where the alarm is published: every node that must act hangs"
    " below it. `broker_survives`: broker and controller have a supply of their own; if not, nodes"
    " slow down only as their leases end, and less can be leased.",
    "control": "How the site is controlled. Times in seconds, ratios of capacity.",
}
AGENT_COMMENTS: Final = {
    "": "The agent of one node, made from the site file: `ampacity config agent NODE --site FILE`.",
    "domains": "The node's ancestors: an emergency published for any of them is obeyed.",
    "contingencies": "The failures that concern this node: a lease carries a ceiling for each.",
    "safe_ceiling_mhz": "Where GPUs go by themselves: without a lease, and under a power brake.",
    "actuate": "With `actuate: false` the agent only watches, and the node counts at its worst"
    " case. What a clean stop leaves behind, `on_exit`, is hold, safe or restore.",
    "broker": "The MQTT broker. Secrets are files: password_file, key_file.",
    "ups": "UPSs that this node listens to by itself, through NUT: docs/emergencies.md.",
}
OPERATOR_COMMENTS: Final = {
    "": "One operator: which site, and whose word requests are.",
    "signing_key_file": "Signs every request; readable by its owner alone.",
    "broker": "The MQTT broker. Secrets are files: password_file, key_file.",
}
CONTROLLER_COMMENTS: Final = {
    "": "One controller: which site, which broker, where history and the page go.",
    "broker": "The MQTT broker. Secrets are files: password_file, key_file.",
    "store": "History. `kind` is sqlite, or influxdb with url and token_file. The audit log is"
    " always in `directory`.",
    "http": "The page, the API and the metrics.",
    "ups": "UPSs whose word begins a contingency, through NUT: docs/emergencies.md.",
    "meters": "Power meters that may brake a domain, through NUT.",
    "haproxy": "Steers an HAProxy through its runtime socket: the backend of each service. Its"
    " servers have the nodes' names and `weight 100`. To cut batches it must know each service's"
    " requests_per_server_max.",
    "leadership": "Other controllers of this site: who leads is agreed upon in NATS or etcd. Every"
    " controller has the same section.",
}
"""What is written above each key of the top level; the empty key is the top of the file."""
