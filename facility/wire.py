"""The messages on the wire, their bounds, and the one place that turns bytes into them.

A message that does not decode here never reaches a controller or an agent. Units are in the keys,
numbers are finite and bounded, unknown keys are ignored so that either side may be newer.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

MESSAGE_BYTES_MAX: Final = 262_144
"""Largest message accepted from anybody. A frame of 16 GPUs with samples is about 8 kB."""

GPUS_PER_NODE_MAX: Final = 64
SAMPLES_PER_FRAME_MAX: Final = 1_024
CONTINGENCIES_MAX: Final = 256
QUALITY_LEVELS_MAX: Final = 16

Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)")]
"""One topic level: lower case letters, digits and inner dashes, at most 63 characters."""

Uuid = Annotated[str, Meta(min_length=1, max_length=96)]
Text = Annotated[str, Meta(max_length=1_024)]
PowerW = Annotated[float, Meta(ge=0.0, le=20_000.0)]
NodePowerW = Annotated[float, Meta(ge=0.0, le=500_000.0)]
TemperatureC = Annotated[float, Meta(ge=-60.0, le=200.0)]
ClockMhz = Annotated[int, Meta(ge=0, le=10_000)]
Count = Annotated[int, Meta(ge=0, le=2**62)]
WallS = Annotated[float, Meta(ge=0.0, le=1e11)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e12)]


class WireError(ValueError):
    """A message that does not validate; the text says which key and why."""


class Quality(enum.Enum):
    """How far a reading may be believed."""

    GOOD = "good"
    STALE = "stale"  # older than three sampling periods
    SUSPECT = "suspect"  # readable but contradicted by another source
    MISSING = "missing"  # no reading: worst case, never zero


class Mode(enum.Enum):
    """What the controller is doing to a domain."""

    NORMAL = "normal"
    SHAVING = "shaving"
    EMERGENCY = "emergency"
    BRAKE = "brake"


Severity = Literal["info", "warning", "critical"]
"""How loud an event is: a fact, something degraded but handled, something a person must see."""


class GpuIdentity(Struct, frozen=True, kw_only=True):
    """What a GPU is and may be asked to do; read at start and after every driver reload.

    `clocks_mhz` lists the supported SM clocks, ascending, empty when the driver does not tell.
    `refusals` maps a call to the reason why this GPU does not support it.
    """

    uuid: Uuid
    index: Annotated[int, Meta(ge=0, lt=GPUS_PER_NODE_MAX)]
    model: Text
    pci_bus_id: Text = ""
    clocks_mhz: Annotated[tuple[ClockMhz, ...], Meta(max_length=1_024)] = ()
    power_limit_w_min: PowerW | None = None
    power_limit_w_max: PowerW | None = None
    power_limit_w_default: PowerW | None = None
    mig: bool = False
    refusals: dict[str, str] = {}


class GpuReading(Struct, frozen=True, kw_only=True):
    """One GPU over one telemetry period.

    `power_w` is the mean and `power_w_max` the largest of the instantaneous samples (NVML field
    186) since the last frame; `power_samples_w` are the samples. `margin_c` is the distance to the
    nearest slowdown threshold, whatever scale the driver speaks (physics A.2). `*_throttle_s` are
    cumulative since driver load. `ceiling_mhz` is the last ceiling the agent asked for, 0 for none.
    `quality` MISSING means that the driver gave nothing: `power_w` then carries the worst case.
    """

    uuid: Uuid
    quality: Quality = Quality.GOOD
    power_w: PowerW
    power_w_max: PowerW
    power_samples_w: Annotated[tuple[PowerW, ...], Meta(max_length=SAMPLES_PER_FRAME_MAX)] = ()
    power_limit_w: PowerW | None = None
    power_limit_requested_w: PowerW | None = None
    energy_j: Seconds | None = None
    sm_clock_mhz: ClockMhz = 0
    ceiling_mhz: ClockMhz = 0
    temperature_c: TemperatureC | None = None
    margin_c: TemperatureC | None = None
    memory_temperature_c: TemperatureC | None = None
    memory_margin_c: TemperatureC | None = None
    power_throttle_s: Seconds | None = None
    thermal_throttle_s: Seconds | None = None
    brake_s: Seconds | None = None
    event_reasons: Count = 0


class NodeTelemetry(Struct, frozen=True, kw_only=True, tag_field="type", tag="telemetry"):
    """One frame of one node: all of its GPUs, once per telemetry period.

    `seq` counts frames of this `session` from 1 in the actuator process: a lease names the frame
    that it answers, so that the node's own monotonic clock bounds the lease (see `Lease`).
    `node_power_w` is a meter's reading of the whole node, absent where there is no meter.
    `late_s` is how late the node's own timer was at worst since the last frame.
    """

    node: Name
    session: Name
    seq: Count
    sampled_at_s: WallS
    gpus: Annotated[tuple[GpuReading, ...], Meta(max_length=GPUS_PER_NODE_MAX)]
    node_power_w: NodePowerW | None = None
    inlet_temperature_c: TemperatureC | None = None
    late_s: Seconds = 0.0


class NodeInfo(Struct, frozen=True, kw_only=True, tag_field="type", tag="info"):
    """An agent's birth certificate: what the node has, and what may be done to it.

    A node with `can_actuate` false is uncontrollable: it counts at its worst case without a lock,
    for the reason that `cannot_actuate_because` gives.
    """

    node: Name
    session: Name
    agent_version: Text
    started_at_s: WallS
    gpus: Annotated[tuple[GpuIdentity, ...], Meta(max_length=GPUS_PER_NODE_MAX)]
    safe_ceiling_mhz: ClockMhz
    brake_ceiling_mhz: ClockMhz
    telemetry_s: Annotated[float, Meta(gt=0.0, le=60.0)]
    can_actuate: bool
    cannot_actuate_because: Text = ""


class NodeStatus(Struct, frozen=True, kw_only=True, tag_field="type", tag="status"):
    """Whether an agent is there. `lost` is the broker's will; a will of an old session is stale."""

    node: Name
    session: Name
    state: Literal["init", "ready", "disconnected", "lost"]


class Lease(Struct, frozen=True, kw_only=True, tag_field="type", tag="lease"):
    """A granted ceiling, valid for `lease_s` from when the node took the frame it answers.

    The node started counting when it sampled frame `basis_seq` of `session`, on its own monotonic
    clock. Broker delay, replay of a retained lease and clock skew can therefore only shorten a
    lease, never lengthen it; and the controller, which received that frame later than it was
    sampled, may bound the expiry by its own monotonic clock. `ceilings_mhz` and
    `contingency_ceilings_mhz` map GPU UUID, and contingency name, to MHz. `active` are the
    contingencies that were on when it was decided: while it is in force its own ceilings hold under
    those, and once it has ended those of the table, under which the worst case fits what is left.
    """

    node: Name
    session: Name
    basis_seq: Count
    epoch: Count
    sequence: Count
    decision_id: Text
    lease_s: Annotated[float, Meta(gt=0.0, le=3_600.0)]
    ceilings_mhz: Annotated[dict[Uuid, ClockMhz], Meta(max_length=GPUS_PER_NODE_MAX)]
    contingency_ceilings_mhz: Annotated[
        dict[Name, ClockMhz], Meta(max_length=CONTINGENCIES_MAX)
    ] = {}
    active: Annotated[tuple[Name, ...], Meta(max_length=CONTINGENCIES_MAX)] = ()


class GpuApplied(Struct, frozen=True, kw_only=True):
    """What became of one ceiling: asked for, accepted by the driver, seen on the hardware.

    `cause` names the deviation, empty when there is none: `no-permission`, `gpu-lost`,
    `silent-clamp`, `foreign-limit`, `thermal`, `power-brake`, `hung`, `unsupported`, `driver`.
    """

    requested_mhz: ClockMhz
    accepted_mhz: ClockMhz | None = None
    observed_mhz: ClockMhz | None = None
    cause: Text = ""


class Applied(Struct, frozen=True, kw_only=True, tag_field="type", tag="applied"):
    """What the hardware of a node reports after a write, with the decision that asked for it.

    `reason` is what holds now: `lease`, `ramp` (on the way up to the lease after something held the
    node down), `contingency:<name>`, `lease-expired`, `no-lease`, `thermal`, `brake`.
    """

    node: Name
    session: Name
    decision_id: Text
    epoch: Count
    sequence: Count
    reason: Text
    applied_at_s: WallS
    gpus: Annotated[dict[Uuid, GpuApplied], Meta(max_length=GPUS_PER_NODE_MAX)]


class Emergency(Struct, frozen=True, kw_only=True, tag_field="type", tag="emergency"):
    """Every contingency that is on in a domain; agents act from the ceilings in their lease.

    One retained message per domain says all of it, so that whoever missed some finds the whole
    truth in the last: an empty `active` ends everything. The contingency `brake` is always known
    and means the brake ceiling.
    """

    domain: Name
    active: Annotated[tuple[Name, ...], Meta(max_length=CONTINGENCIES_MAX)]
    epoch: Count
    sequence: Count
    issued_at_s: WallS
    by: Text = ""


class DomainState(Struct, frozen=True, kw_only=True, tag_field="type", tag="domain"):
    """One domain after one cycle, with the sentence that says what was decided and why.

    `power_w` counts missing nodes at their worst case; `exposure_w` is the worst case of every
    limit that may still be in force.
    """

    domain: Name
    kind: Name
    decision_id: Text
    at_s: WallS
    power_w: float
    forecast_w: float
    exposure_w: float
    capacity_w: float
    mode: Mode
    sentence: Text
    nodes_count: int
    nodes_missing_count: int
    temperature_c: float | None = None


class EndpointRoute(Struct, frozen=True, kw_only=True):
    """Where a router may send requests: `weight_ratio` 0 to 1 of its normal share, or drained.

    `batch_ratio` is the share of its normal batch, requests at once, that the endpoint may be
    given. `quality_level` is how many rungs below full quality it should serve, 0 for none.
    """

    endpoint: Name
    weight_ratio: Annotated[float, Meta(ge=0.0, le=1.0)]
    drain: bool = False
    batch_ratio: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    quality_level: Annotated[int, Meta(ge=0, le=QUALITY_LEVELS_MAX)] = 0


class Routing(Struct, frozen=True, kw_only=True, tag_field="type", tag="routing"):
    """Weights, drains and limits of one service.

    It decays to equal weights without limits `valid_s` after `at_s`.
    """

    service: Name
    decision_id: Text
    at_s: WallS
    valid_s: Annotated[float, Meta(gt=0.0, le=3_600.0)]
    endpoints: Annotated[tuple[EndpointRoute, ...], Meta(max_length=4_096)]


class ControllerStatus(Struct, frozen=True, kw_only=True, tag_field="type", tag="controller"):
    """Who leads. `lost` is the broker's will."""

    controller: Name
    state: Literal["ready", "disconnected", "lost"]
    leader: bool
    epoch: Count
    session: Name


class Request(Struct, frozen=True, kw_only=True, tag_field="type", tag="request"):
    """An operator's request; `transaction` comes back in the response.

    A signed one is carried out once: its transaction must be new and `issued_at_s` recent.
    """

    verb: Name
    transaction: Text = ""
    issued_at_s: WallS = 0.0
    by: Text = ""
    dry_run: bool = False
    args: dict[str, str | float | bool] = {}


class Response(Struct, frozen=True, kw_only=True, tag_field="type", tag="response"):
    """The answer to a request: what was done, or would be; `error` says what was wrong."""

    verb: Name
    transaction: Text = ""
    status: Literal["ok", "error"]
    error: Text = ""
    data: dict[str, str | int | float | bool] = {}


class Event(Struct, frozen=True, kw_only=True, tag_field="type", tag="event"):
    """An append-only fact for the audit: who or what, when, and one sentence."""

    event: Name
    severity: Severity
    at_s: WallS
    source: Text
    subject: Text = ""
    sentence: Text = ""
    decision_id: Text = ""


Message = (
    NodeTelemetry
    | NodeInfo
    | NodeStatus
    | Lease
    | Applied
    | Emergency
    | DomainState
    | Routing
    | ControllerStatus
    | Request
    | Response
    | Event
)

MessageT = TypeVar("MessageT", bound=Struct)

_ENCODER: Final = msgspec.json.Encoder()


def encode(message: Struct) -> bytes:
    """Turn a message into UTF-8 JSON."""
    return _ENCODER.encode(message)


class Codec:
    """Decodes bytes into one kind of message; decoders are built once and reused.

    The codec is an object, not module state, so that each process decides what it will read.
    """

    def __init__(self) -> None:
        """Start without decoders; they are made on first use."""
        self._decoders: dict[type[Struct], msgspec.json.Decoder[Struct]] = {}

    def decode(self, data: bytes, kind: type[MessageT]) -> MessageT:
        """Return the message in `data`.

        Raises:
            WireError: too large, not UTF-8 JSON, a key missing, of the wrong type or out of bounds.
        """
        if len(data) > MESSAGE_BYTES_MAX:
            raise WireError(f"{len(data)} bytes, at most {MESSAGE_BYTES_MAX} are accepted")
        decoder = self._decoders.get(kind)
        if decoder is None:
            decoder = self._decoders[kind] = msgspec.json.Decoder(kind)
        try:
            message = decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WireError(str(error)) from error
        assert isinstance(message, kind)
        return message
