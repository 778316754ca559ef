"""The shape of the three configuration files: site, agent and controller.

These types are the schema: the loader validates against them, the JSON Schema is exported from
them, and defaults live here and nowhere else. What one key cannot say about another is checked
where the file is compiled (`facility.compiler`).
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from facility.wire import QUALITY_LEVELS_MAX, Name

PolicyName = Literal[
    "none", "brake-only", "uniform", "one-threshold-low", "one-threshold-all", "polca", "ampacity"
]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)

PositiveW = Annotated[float, Meta(gt=0.0, le=1e9)]
NonNegativeW = Annotated[float, Meta(ge=0.0, le=1e9)]
Mhz = Annotated[int, Meta(ge=1, le=10_000)]
Ratio = Annotated[float, Meta(ge=0.0, le=1.0)]
PeriodS = Annotated[float, Meta(gt=0.0, le=3_600.0)]
Port = Annotated[int, Meta(ge=1, le=65_535)]
PathText = Annotated[str, Meta(min_length=1, max_length=4_096)]


class _Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping in a file: unknown keys are errors, never silently dropped."""


class GpuModelConfig(_Section, frozen=True, kw_only=True):
    """A kind of GPU: its clocks, and the most that it can draw at each ceiling.

    `worst_case_power_w` is a list of [ceiling in MHz, power in W], ascending in both, whose last
    ceiling is the highest clock. Worst-case power is convex in the clock (dynamic power is
    frequency times voltage squared), so a straight line between two points lies above it.
    """

    clock_mhz_min: Mhz
    clock_mhz_max: Mhz
    clock_mhz_step: Mhz = 15
    safe_ceiling_mhz: Mhz
    brake_ceiling_mhz: Mhz
    idle_power_w: NonNegativeW
    worst_case_power_w: Annotated[
        tuple[tuple[Mhz, PositiveW], ...], Meta(min_length=2, max_length=64)
    ]


class NodeModelConfig(_Section, frozen=True, kw_only=True):
    """A kind of server. Its power is overhead plus factor times the sum of its GPUs' power.

    `overhead_w` is the part that GPUs do not explain, at its worst: fans, processors, memory,
    network. `gpu_power_factor` covers fans and conversion losses that grow with GPU power.
    """

    gpu_model: Name
    gpu_count: Annotated[int, Meta(ge=1, le=64)]
    overhead_w: NonNegativeW
    gpu_power_factor: Annotated[float, Meta(ge=1.0, le=2.0)] = 1.0


class DomainConfig(_Section, frozen=True, kw_only=True):
    """Anything that has a capacity: feed, row, rack, PDU or cooling zone.

    Capacity is `rating_w` times `derating_ratio` (0.8 for a breaker under continuous load, NEC
    210.20). A domain with several parents loads them equally, and the survivors when one is lost.
    For a zone the rating is the heat it can remove, and `inlet_temperature_c_max` and
    `margin_c_min` are limits of their own. `trip_curve` names a built-in curve or one of the site.
    """

    name: Name
    kind: Literal["feed", "row", "pdu", "rack", "zone"]
    rating_w: PositiveW
    derating_ratio: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    parents: Annotated[tuple[Name, ...], Meta(max_length=8)] = ()
    trip_curve: Name | None = None
    inlet_temperature_c_max: Annotated[float, Meta(ge=5.0, le=60.0)] = 32.0
    margin_c_min: Annotated[float, Meta(ge=0.0, le=50.0)] = 5.0


class TripCurveConfig(_Section, frozen=True, kw_only=True):
    """A trip curve of this site: [load ratio, seconds tolerated] and where it comes from."""

    name: Name
    points: Annotated[tuple[tuple[float, float], ...], Meta(min_length=1, max_length=64)]
    source: Annotated[str, Meta(min_length=1)]


class ServiceConfig(_Section, frozen=True, kw_only=True):
    """A served model: its priority, and whether the router may shift its load between nodes.

    `quality_levels` is how many rungs below full quality its engines or routers know.
    """

    name: Name
    priority: Literal["high", "low"]
    routable: bool = True
    quality_levels: Annotated[int, Meta(ge=0, le=QUALITY_LEVELS_MAX)] = 0


class NodeConfig(_Section, frozen=True, kw_only=True):
    """A server: what it is, where it hangs in the power tree and in the air, what it runs."""

    name: Name
    model: Name
    parents: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=4)]
    zone: Name | None = None
    service: Name | None = None
    priority: Literal["high", "low"] | None = None


class ContingencyConfig(_Section, frozen=True, kw_only=True):
    """A declared failure: feeds that are gone, and capacities that fall to a share of themselves.

    `domain` is where its emergency message is published: an ancestor of every node that must act.

    How fast nodes act on it is part of the lease proof. `detect_s` is from the failure until
    whoever watches for it knows. By default the failure may take the broker or the controller
    along, and nodes slow down only as their leases end. With `broker_survives` the broker and the
    controller are fed by something else; with `local_trigger` every node that it concerns has a
    trigger of its own (a local UPS client, the chassis' brake pin).
    """

    name: Name
    domain: Name
    lost: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    capacity_ratio: dict[Name, Ratio] = {}
    detect_s: Annotated[float, Meta(ge=0.0, le=600.0)] = 1.0
    broker_survives: bool = False
    local_trigger: bool = False


class ReactionConfig(_Section, frozen=True, kw_only=True):
    """Upper bounds on each step from an event to less power, s; the lease proof adds them up.

    `sample_s` is an agent's own time on top of its telemetry period, `transport_s` one message
    through the broker, `decide_s` the computing on top of waiting for the cycle, `apply_s` from an
    agent's deadline to the driver's answer, `settle_s` until the clock has followed (physics A.4:
    60 ms). The controller measures what it can; what is slower than its bound counts as measured,
    and alarms. A protection must tolerate a load `margin_ratio` times as long as it could last.
    """

    sample_s: PeriodS = 0.2
    transport_s: PeriodS = 0.2
    decide_s: PeriodS = 0.3
    apply_s: PeriodS = 0.1
    settle_s: PeriodS = 0.1
    margin_ratio: Annotated[float, Meta(ge=1.0, le=100.0)] = 1.5


class ControlConfig(_Section, frozen=True, kw_only=True):
    """How the site is controlled. The lease proof depends on these, so they belong to the site.

    The forecast is kept under `target_ratio` of capacity, or under `history_target_ratio` where it
    rests on a domain's own history; clocks rise again as far below as `release_ratio` is below
    `target_ratio`, and by at most `raise_ratio_per_s` of the clock range each second.
    A clock follows a decision after `actuation_s`, part of the reaction `horizon_s`. The forecast
    covers `forecast_quantile` of futures; `spike_ratio` is the fastest rise (POLCA: 9 % in 2 s).
    Low priority gives first, to its safe ceiling; before that low and high give what costs little,
    down to `easy_ratios` of their highest clocks. What clocks cannot solve is taken from requests,
    in steps (`controllers.escalation`), each undone after `escalation_calm_s` with room.

    `ledger` holds every lease against the trip curves; off is for comparing policies in the twin.
    Safe ceilings and leases leave room for `ignored_locks_max` nodes that run unlocked unnoticed.
    """

    policy: PolicyName = "ampacity"
    shadow: bool = False
    cycle_s: PeriodS = 1.0
    telemetry_s: PeriodS = 1.0
    lease_s: PeriodS = 4.0
    stale_s: PeriodS = 3.0
    clock_skew_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 2.0
    horizon_s: PeriodS = 3.0
    actuation_s: PeriodS = 0.4
    target_ratio: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.97
    history_target_ratio: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.98
    release_ratio: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.92
    raise_ratio_per_s: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.02
    easy_ratios: tuple[Ratio, Ratio] = (1.0, 1.0)
    forecast_quantile: Annotated[float, Meta(gt=0.5, lt=1.0)] = 0.99
    spike_ratio: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.09
    missing_ratio_max: Ratio = 0.2
    automatic_steps_per_minute_max: Annotated[int, Meta(ge=0, le=10_000)] = 10
    escalation_settle_s: PeriodS = 10.0
    escalation_calm_s: PeriodS = 60.0
    escalation_batch_ratio: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.5
    ledger: bool = True
    ignored_locks_max: Annotated[int, Meta(ge=0, le=4_096)] = 0
    reaction: ReactionConfig = ReactionConfig()


class SiteConfig(_Section, frozen=True, kw_only=True):
    """One site: the power tree, the zones, what protects them and how they are controlled."""

    version: Literal[1]
    site: Name
    gpu_models: Annotated[dict[Name, GpuModelConfig], Meta(min_length=1)]
    node_models: Annotated[dict[Name, NodeModelConfig], Meta(min_length=1)]
    domains: Annotated[tuple[DomainConfig, ...], Meta(min_length=1)]
    nodes: Annotated[tuple[NodeConfig, ...], Meta(min_length=1)]
    services: tuple[ServiceConfig, ...] = ()
    trip_curves: tuple[TripCurveConfig, ...] = ()
    contingencies: tuple[ContingencyConfig, ...] = ()
    control: ControlConfig = ControlConfig()


class BrokerConfig(_Section, frozen=True, kw_only=True):
    """Where the MQTT broker is. Secrets come from files, never from this file itself."""

    host: Annotated[str, Meta(min_length=1, max_length=253)] = "127.0.0.1"
    port: Port = 1883
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    keepalive_s: Annotated[int, Meta(ge=1, le=600)] = 5
    username: str | None = None
    password_file: PathText | None = None
    ca_file: PathText | None = None
    certificate_file: PathText | None = None
    key_file: PathText | None = None


class SensorsConfig(_Section, frozen=True, kw_only=True):
    """Chassis sensors as Linux hwmon files: the node's meter in uW, the inlet in millidegrees."""

    node_power_file: PathText | None = None
    inlet_temperature_file: PathText | None = None


class UpsConfig(_Section, frozen=True, kw_only=True):
    """A UPS that an `upsd` speaks for, and the contingency that its word begins.

    Any word of `triggers` in `ups.status` begins it at once; `quiet_s` of nothing but OL ends it.
    Unknown for `missing_s` is an alarm; with `missing_is: emergency` it begins the contingency.
    """

    name: Name
    source: Annotated[str, Meta(min_length=3, max_length=330)]
    contingency: Name
    triggers: Annotated[
        tuple[Literal["OB", "LB", "OVER", "FSD"], ...], Meta(min_length=1, max_length=4)
    ] = ("OB", "LB", "OVER", "FSD")
    poll_s: Annotated[float, Meta(ge=0.02, le=60.0)] = 0.5
    quiet_s: PeriodS = 10.0
    missing_s: PeriodS = 5.0
    missing_is: Literal["alarm", "emergency"] = "alarm"
    username: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    password_file: PathText | None = None


class AgentConfig(_Section, frozen=True, kw_only=True):
    """One node's agent. `ampacity config agent NODE` writes it from the site file.

    `domains` are the node's ancestors: the agent obeys emergencies published for any of them.
    `trust_file` lists the keys whose leases and emergencies are believed; without it all are.
    `on_exit` is what a clean stop leaves behind: `hold` the ceilings as they are, go to the `safe`
    ceiling, or `restore` what was there before (unlocked, unless a lock was recorded). After a
    contingency or a brake the node's ceilings rise by at most `ramp_ratio_per_s` of the highest
    clock each second, whatever its lease allows.
    """

    version: Literal[1]
    site: Name
    node: Name
    domains: tuple[Name, ...]
    contingencies: tuple[Name, ...] = ()
    safe_ceiling_mhz: Mhz
    brake_ceiling_mhz: Mhz
    actuate: bool = True
    on_exit: Literal["hold", "safe", "restore"] = "safe"
    state_dir: PathText = "/var/lib/ampacity"
    sample_hz: Annotated[float, Meta(gt=0.0, le=10.0)] = 10.0
    telemetry_s: PeriodS = 1.0
    margin_c_min: Annotated[float, Meta(ge=0.0, le=50.0)] = 3.0
    ramp_ratio_per_s: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.02
    call_timeout_s: Annotated[float, Meta(gt=0.0, le=60.0)] = 2.0
    user: str | None = None
    metrics_port: Port | None = None
    trust_file: PathText | None = None
    broker: BrokerConfig = BrokerConfig()
    sensors: SensorsConfig = SensorsConfig()
    ups: Annotated[tuple[UpsConfig, ...], Meta(max_length=16)] = ()


class OperatorConfig(_Section, frozen=True, kw_only=True):
    """One operator's file: who it is, which site and broker, and the key that signs requests."""

    version: Literal[1]
    site: Name
    operator: Name
    signing_key_file: PathText | None = None
    broker: BrokerConfig = BrokerConfig()


class StoreConfig(_Section, frozen=True, kw_only=True):
    """Where history goes. The audit log is always SQLite, in `directory`, and never deleted.

    Raw samples and 1 s roll-ups are kept for `fine_retention_days` at most.
    """

    kind: Literal["sqlite", "influxdb"] = "sqlite"
    directory: PathText = "/var/lib/ampacity-controller"
    retention_days: Annotated[float, Meta(gt=0.0, le=3_650.0)] = 30.0
    fine_retention_days: Annotated[float, Meta(gt=0.0, le=3_650.0)] = 7.0
    url: str | None = None
    org: str = "ampacity"
    bucket: str = "ampacity"
    token_file: PathText | None = None
    buffer_lines_max: Annotated[int, Meta(ge=100, le=10_000_000)] = 100_000


class HttpConfig(_Section, frozen=True, kw_only=True):
    """Where the page, the API and the metrics listen."""

    host: str = "127.0.0.1"
    port: Port = 8080


class HaproxyConfig(_Section, frozen=True, kw_only=True):
    """An HAProxy to steer: its runtime socket, and the backend that serves each service.

    A server in the backend has the node's name. `requests_per_server_max` is, for each service
    whose batch may be limited, how many requests one of its servers takes at once otherwise.
    """

    socket: PathText
    backends: dict[Name, str]
    requests_per_server_max: dict[Name, Annotated[int, Meta(ge=1, le=1_000_000)]] = {}


ServerUrl = Annotated[str, Meta(min_length=1, max_length=255)]


class LeadershipConfig(_Section, frozen=True, kw_only=True):
    """Two or more controllers of one site: who leads is agreed upon in a store that exists already.

    A leader is silent after `ttl_s` without the store; a standby takes over after about 1.25 of it.
    `servers` are URLs: nats://host:4222 or tls://host:4222, http://host:2379 or https://host:2379.
    `bucket` is the NATS bucket, or the first part of the etcd key; `replicas` is for NATS alone.
    """

    kind: Literal["nats", "etcd"]
    servers: Annotated[tuple[ServerUrl, ...], Meta(min_length=1, max_length=9)]
    ttl_s: Annotated[float, Meta(ge=0.4, le=60.0)] = 1.0
    bucket: Name = "ampacity"
    replicas: Annotated[int, Meta(ge=1, le=5)] = 3
    username: str | None = None
    password_file: PathText | None = None
    ca_file: PathText | None = None
    certificate_file: PathText | None = None
    key_file: PathText | None = None


class MeterConfig(_Section, frozen=True, kw_only=True):
    """A power meter that an `upsd` speaks for, a PDU's or a UPS's, and the domain that it measures.

    `readings_count` readings in a row above the domain's capacity, or one above `over_ratio` times
    it, brake the domain; `quiet_s` below `release_ratio` of it, or an operator, release it. For
    `settle_s` after a capacity has fallen the one before counts. Nodes that report more or less
    than the meter by `differ_ratio` are a warning.
    """

    name: Name
    source: Annotated[str, Meta(min_length=3, max_length=330)]
    variable: Annotated[str, Meta(min_length=3, max_length=64)] = "ups.realpower"
    domain: Name
    poll_s: Annotated[float, Meta(ge=0.02, le=60.0)] = 2.0
    readings_count: Annotated[int, Meta(ge=1, le=20)] = 2
    over_ratio: Annotated[float, Meta(ge=1.0, le=3.0)] = 1.1
    release_ratio: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.92
    quiet_s: PeriodS = 30.0
    settle_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 4.0
    missing_s: PeriodS = 10.0
    differ_ratio: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.1
    username: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    password_file: PathText | None = None


class ControllerConfig(_Section, frozen=True, kw_only=True):
    """One controller process: which site, which broker, where history and the page go.

    `signing_key_file` signs leases and emergencies; `trust_file` lists the operators' keys whose
    requests are believed, and the controllers'. Without a trust file every request is.
    """

    version: Literal[1]
    controller: Name = "controller"
    site_file: PathText
    signing_key_file: PathText | None = None
    trust_file: PathText | None = None
    broker: BrokerConfig = BrokerConfig()
    store: StoreConfig = StoreConfig()
    http: HttpConfig = HttpConfig()
    haproxy: HaproxyConfig | None = None
    ups: Annotated[tuple[UpsConfig, ...], Meta(max_length=64)] = ()
    leadership: LeadershipConfig | None = None
    meters: Annotated[tuple[MeterConfig, ...], Meta(max_length=64)] = ()
