"""A small GPU host for tests of the node: it enforces limits and remembers what it was told."""

from __future__ import annotations

from collections.abc import Sequence

from actuators.clocks import ClockActuator
from controllers.node import NodeBrain, NodeOutputs
from controllers.node_hands import CeilingWrite, HandsReport, NodeInputs
from controllers.node_lease import NodeMemory
from controllers.node_local import LocalTrigger
from facility.config import AgentConfig
from facility.ports import (
    DriverLost,
    FastReading,
    GpuError,
    GpuInvalid,
    GpuPort,
    MediumReading,
    NodeSensors,
    SlowReading,
)
from facility.wire import (
    Applied,
    Emergency,
    Event,
    GpuIdentity,
    Lease,
    NodeInfo,
    NodeTelemetry,
)
from simulator.hands import InlineHands

CLOCKS_MHZ = tuple(range(345, 1981, 15))
SAFE_MHZ = 1200
BRAKE_MHZ = 405


def agent_config(**changes: object) -> AgentConfig:
    """An agent below feed ups-a and rack r1."""
    settings: dict[str, object] = {
        "version": 1,
        "site": "lab",
        "node": "n1",
        "domains": ("ups-a", "r1"),
        "contingencies": ("ups-a-lost",),
        "safe_ceiling_mhz": SAFE_MHZ,
        "brake_ceiling_mhz": BRAKE_MHZ,
        "sample_hz": 10.0,
    }
    return AgentConfig(**{**settings, **changes})  # type: ignore[arg-type]


class FakeGpu:
    """One GPU that runs at its ceiling, and draws power in proportion to its clock."""

    def __init__(self, index: int) -> None:
        self.uuid = f"GPU-{index}"
        self.index = index
        self.locks_mhz: list[int] = []
        """Every ceiling that was accepted, 0 for a reset."""
        self.ceiling_mhz: int | None = None
        self.demand_mhz = 1980
        self.obeys = True
        self.margin_c: float | None = 40.0
        self.event_reasons = 0
        self.brake_s = 0.0
        self.thermal_throttle_s = 0.0
        self.read_error: GpuError | None = None
        self.write_error: GpuError | None = None
        self.power_w: float | None = None

    @property
    def clock_mhz(self) -> int:
        return min(self.demand_mhz, (self.ceiling_mhz if self.obeys else None) or 1980)

    def identity(self) -> GpuIdentity:
        return GpuIdentity(
            uuid=self.uuid,
            index=self.index,
            model="Fake H100",
            clocks_mhz=CLOCKS_MHZ,
            power_limit_w_max=700.0,
        )

    def read_fast(self) -> FastReading:
        if self.read_error is not None:
            raise self.read_error
        power_w = self.power_w if self.power_w is not None else 700.0 * self.clock_mhz / 1980
        return FastReading(power_w, self.clock_mhz, 700.0, self.brake_s, 0.0)

    def read_medium(self) -> MediumReading:
        return MediumReading(
            50.0,
            self.margin_c,
            55.0,
            None if self.margin_c is None else 40.0,
            1.0,
            self.thermal_throttle_s,
            self.event_reasons,
        )

    def read_slow(self) -> SlowReading:
        return SlowReading(700.0, 0)

    def lock_clocks(self, *, clock_mhz_min: int, ceiling_mhz: int) -> None:
        if self.write_error is not None:
            raise self.write_error
        if clock_mhz_min > ceiling_mhz or ceiling_mhz not in CLOCKS_MHZ:
            raise GpuInvalid(f"{clock_mhz_min}-{ceiling_mhz} MHz is off the grid")
        self.ceiling_mhz = ceiling_mhz
        self.locks_mhz.append(ceiling_mhz)

    def reset_clocks(self) -> None:
        if self.write_error is not None:
            raise self.write_error
        self.ceiling_mhz = None
        self.locks_mhz.append(0)


class FakeHost:
    """A driver with some GPUs; it can go away and come back with every lock cleared."""

    def __init__(self, count: int = 2) -> None:
        self.gpus = [FakeGpu(index) for index in range(count)]
        self.open_error: GpuError | None = None
        self.opens_count = 0

    def open(self) -> Sequence[GpuPort]:
        if self.open_error is not None:
            raise self.open_error
        self.opens_count += 1
        return self.gpus

    def close(self) -> None:
        """Nothing is held."""

    def go_away(self, error: DriverLost | None = None) -> None:
        """Unload the driver: locks are gone, every call fails until it is back."""
        self.open_error = error or DriverLost("driver unloaded")
        for gpu in self.gpus:
            gpu.ceiling_mhz = None
            gpu.read_error = gpu.write_error = self.open_error

    def come_back(self) -> None:
        """Load it again."""
        self.open_error = None
        for gpu in self.gpus:
            gpu.read_error = gpu.write_error = None


class FakeSensors:
    """A chassis with a meter and a thermometer."""

    def read(self) -> NodeSensors:
        return NodeSensors(node_power_w=6_500.0, inlet_temperature_c=24.0)


def lease(
    ceiling_mhz: int = 1800,
    *,
    basis_seq: int = 1,
    sequence: int = 1,
    epoch: int = 1,
    session: str = "s1",
    node: str = "n1",
    lease_s: float = 4.0,
    gpus: Sequence[str] = ("GPU-0", "GPU-1"),
    contingency_ceilings_mhz: dict[str, int] | None = None,
) -> Lease:
    """A lease of the two GPUs of n1."""
    return Lease(
        node=node,
        session=session,
        basis_seq=basis_seq,
        epoch=epoch,
        sequence=sequence,
        decision_id=f"d{sequence}",
        lease_s=lease_s,
        ceilings_mhz=dict.fromkeys(gpus, ceiling_mhz),
        contingency_ceilings_mhz=(
            {"ups-a-lost": 900} if contingency_ceilings_mhz is None else contingency_ceilings_mhz
        ),
    )


def emergency(
    active: bool = True,
    *,
    contingency: str = "ups-a-lost",
    also: tuple[str, ...] = (),
    domain: str = "ups-a",
    epoch: int = 1,
    sequence: int = 1,
) -> Emergency:
    """A message for the nodes below ups-a."""
    return Emergency(
        domain=domain,
        active=(contingency, *also) if active else also,
        epoch=epoch,
        sequence=sequence,
        issued_at_s=0.0,
        by="tests",
    )


class Bench:
    """A brain with inline hands over a fake host, stepped by the test's own clock."""

    def __init__(
        self,
        *,
        count: int = 2,
        memory: NodeMemory | None = None,
        config: AgentConfig | None = None,
        session: str = "s1",
    ) -> None:
        self.config = config or agent_config()
        self.host = FakeHost(count)
        self.hands = InlineHands(
            self.host,
            sample_hz=self.config.sample_hz,
            make_writer=ClockActuator,
            sensors=FakeSensors(),
        )
        self.brain = NodeBrain(self.config, session=session, memory=memory or NodeMemory())
        self.frames: list[NodeTelemetry] = []
        self.infos: list[NodeInfo] = []
        self.applied: list[Applied] = []
        self.events: list[Event] = []
        self.memories: list[NodeMemory] = []
        self.requests: list[tuple[float, CeilingWrite]] = []
        """Every ceiling that the brain asked for, and when."""

    def step(
        self,
        now_s: float,
        *,
        leases: Sequence[Lease] = (),
        emergencies: Sequence[Emergency] = (),
        local: Sequence[LocalTrigger] = (),
    ) -> NodeOutputs:
        """One step; results of its writes are told in the same step, as the actuator does."""
        report = self.hands.poll(now_s)
        inputs = NodeInputs(report, leases, emergencies, local=local)
        first = outputs = self.brain.step(now_s, now_s, inputs)
        self._keep(outputs, now_s)
        while outputs.writes:
            results = self.hands.write(outputs.writes)
            known = HandsReport(
                report.generation,
                report.identities,
                report.host_fault,
                (),
                report.blind,
                results,
                report.sensors,
            )
            outputs = self.brain.step(now_s, now_s, NodeInputs(known))
            self._keep(outputs, now_s)
        return first

    def _keep(self, outputs: NodeOutputs, now_s: float) -> None:
        self.requests += [(now_s, write) for write in outputs.writes]
        self.frames += [outputs.telemetry] if outputs.telemetry else []
        self.infos += [outputs.info] if outputs.info else []
        self.applied += [outputs.applied] if outputs.applied else []
        self.memories += [outputs.memory] if outputs.memory else []
        self.events += outputs.events

    def run(self, start_s: float, end_s: float, period_s: float = 0.1) -> None:
        """Step from `start_s` to `end_s`, both included."""
        for count in range(round((end_s - start_s) / period_s) + 1):
            self.step(round(start_s + count * period_s, 6))

    def ceilings(self) -> list[int]:
        """What the hardware holds now, 0 for no lock."""
        return [gpu.ceiling_mhz or 0 for gpu in self.host.gpus]

    def names(self) -> list[str]:
        """The events told so far."""
        return [event.event for event in self.events]


def started(**changes: object) -> Bench:
    """A node that has taken its first frame at 0 s and is at the safe ceiling."""
    bench = Bench(config=agent_config(**changes))
    bench.step(0.0)
    return bench


def leased(ceiling_mhz: int = 1800, **changes: object) -> Bench:
    """A node that runs at a lease of 4 s from frame 1, taken at 0 s."""
    bench = started(**changes)
    bench.step(1.0, leases=[lease(ceiling_mhz, basis_seq=1)])
    return bench
