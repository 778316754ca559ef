"""What is read from disk: configuration files, scenarios, and the state of agent and controller.

A file that is refused must say why with a line that is in the file, and leave whatever runs as it
was; a file that is accepted must give something that works.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from collectors.hwmon import HwmonSensors
from controllers.cycle import ControlCycle
from controllers.node_lease import EmergencyRecord, NodeMemory
from controllers.operator import OrdersState
from daemon.agent.actuator import Actuator
from daemon.agent.state import (
    CORRUPT_FILE,
    STATE_FILE,
    DiskKeeper,
    MemoryKeeper,
    NodeState,
    read_state,
)
from daemon.controller.epoch import EPOCH_MAX, EpochError, next_epoch
from daemon.controller.orders_file import OrdersFileError, read_orders, write_orders
from daemon.controller.process import ControllerProcess, load_files
from facility.config import AgentConfig
from facility.example import agent_yaml, controller_config, controller_yaml
from facility.loader import (
    ConfigError,
    load_agent,
    load_any,
    load_controller,
    load_document,
    load_site,
)
from facility.topology import Site, SiteError
from facility.wire import encode
from simulator.hands import InlineHands
from simulator.scenario import Scenario, scenario_site
from tests.fuzz.messages import WALL_S, _writer, check_decision
from tests.fuzz.target import ACCEPTED, Plain, through
from tests.node_fakes import SAFE_MHZ, FakeHost, FakeSensors, agent_config
from tests.row import Row, site_of

SITE_NODES_MAX: Final = 200


def short(text: str) -> str:
    """The document without its comments and blank lines: what is mutated should count."""
    lines = [
        line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")
    ]
    return "\n".join(lines) + "\n"


def tiny_site() -> str:
    """A site of one node on one feed, with everything that a site file can have."""
    return """version: 1
site: lab
gpu_models:
  h: {clock_mhz_min: 345, clock_mhz_max: 1980, clock_mhz_step: 15, safe_ceiling_mhz: 1005,
    brake_ceiling_mhz: 345, idle_power_w: 72, worst_case_power_w: [[345, 266], [1980, 700]]}
node_models:
  d: {gpu_model: h, gpu_count: 2, overhead_w: 500}
domains:
  - {name: a, kind: feed, rating_w: 4000, trip_curve: slow}
  - {name: b, kind: feed, rating_w: 4000}
  - {name: r, kind: rack, rating_w: 4000, derating_ratio: 0.8, parents: [a, b]}
  - {name: z, kind: zone, rating_w: 4000}
nodes:
  - {name: n01, model: d, parents: [r], zone: z, service: chat}
  - {name: n02, model: d, parents: [r], zone: z, priority: low}
services:
  - {name: chat, priority: high}
trip_curves:
  - {name: slow, points: [[1.1, 60], [1.5, 10]], source: a test}
contingencies:
  - {name: a-lost, domain: r, lost: [a]}
  - {name: hot, domain: z, capacity_ratio: {z: 0.9}}
control: {policy: ampacity, lease_s: 4}
"""


TINY_CONTROLLER: Final = "version: 1\nsite_file: site.yaml\nstore: {directory: s}\n"
TINY_AGENT: Final = """version: 1
site: lab
node: n1
domains: [ups-a, r1]
contingencies: [ups-a-lost]
safe_ceiling_mhz: 1200
brake_ceiling_mhz: 405
"""
SCENARIO: Final = """version: 1
scenario: ups-loss
duration_s: 300
row: {nodes: 2, oversubscription_ratio: 1.3}
load: {requests_per_node_s: 6.5}
control: {lease_s: 4, policy: ampacity}
failure: {contingency: ups-a-lost, at_s: 180}
policies: [none, ampacity]
checks:
  - {name: nothing trips, policy: ampacity, metric: tripped, max: 0}
"""


def check_refusal(error: ConfigError, text: str) -> str:
    """Every problem has a line of the file and says something, and there is at least one."""
    lines = max(text.count("\n") + (not text.endswith("\n")), 1)
    assert error.problems
    for problem in error.problems:
        assert 1 <= problem.line <= lines, (problem, lines)
        assert problem.text, problem
        assert len(str(problem)) < 20_000, str(problem)[:200]
    return f"refused-{min(len(error.problems), 3)}"


class ConfigTarget(Plain):
    """Site, agent, controller and scenario files through their loaders; a door for each."""

    def __init__(self) -> None:
        self._count = 0

    def feed(self, data: bytes) -> str:
        try:
            text = data[1:].decode("utf-8")
        except UnicodeDecodeError:
            return "not-utf-8"
        try:
            match data[0] % 5:
                case 0:
                    self._try(load_site(text, "f"))
                case 1:
                    config = load_agent(text, "f")
                    assert msgspec.json.decode(encode(config), type=AgentConfig) == config
                case 2:
                    load_controller(text, "f")
                case 3:
                    scenario = load_document(text, "f", Scenario, {})
                    self._scenario(scenario)
                case _:
                    load_any(text, "f")
        except ConfigError as error:
            return check_refusal(error, text)
        return ACCEPTED

    def _try(self, site: Site) -> None:
        """An accepted site can be decided about; one in a few, because that takes longer."""
        self._count += 1
        if len(site.nodes) > SITE_NODES_MAX or self._count % 8:
            return
        row = Row(site)
        check_decision(row.step())

    def _scenario(self, scenario: Scenario) -> None:
        if scenario.row.nodes > SITE_NODES_MAX:
            return
        with contextlib.suppress(SiteError, ValueError):
            scenario_site(scenario, scenario.policies[0])


def config_seeds() -> list[bytes]:
    """Small files of every kind; the door of a file that any loader may take is the last."""
    site = tiny_site()
    whole = short(agent_yaml(agent_config())).encode()
    controller = short(controller_yaml(controller_config(site_file="site.yaml"))).encode()
    return [
        through(0, site.encode()),
        through(1, TINY_AGENT.encode()),
        through(1, whole),
        through(2, TINY_CONTROLLER.encode()),
        through(2, controller),
        through(3, SCENARIO.encode()),
        through(4, TINY_AGENT.encode()),
        through(4, TINY_CONTROLLER.encode()),
    ]


class ReloadTarget:
    """A running controller and a running agent are told to read their files again."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ampacity-fuzz-")
        self._directory = Path(self._folder.name)
        self._good = {"site.yaml": tiny_site(), "controller.yaml": TINY_CONTROLLER}
        self._restore()
        path = str(self._directory / "controller.yaml")
        config, site = load_files(path)
        self._controller = ControllerProcess(path, config, site)
        self._held = (config, site)
        hands = InlineHands(FakeHost(), sample_hz=10.0, make_writer=_writer, sensors=FakeSensors())
        self._actuator = Actuator(agent_config(), hands, MemoryKeeper(), session="s1")
        self._actuator.start()
        self._now_s = 0.0
        self._actuator.cycle(0.0, WALL_S, [])

    def fresh(self, seed: bytes, number: int) -> bytes:
        del number
        return seed

    def close(self) -> None:
        self._actuator.close()
        self._folder.cleanup()

    def _restore(self) -> None:
        for name, text in self._good.items():
            (self._directory / name).write_text(text)

    def feed(self, data: bytes) -> str:
        door = data[0] % 3
        if door == 2:
            return self._reload_agent(data[1:])
        name = ("site.yaml", "controller.yaml")[door]
        (self._directory / name).write_bytes(data[1:])
        outcome = self._reload_controller()
        (self._directory / name).write_text(self._good[name])
        return outcome

    def _reload_controller(self) -> str:
        controller = self._controller
        controller._restart = False
        controller._stopping.clear()
        controller._reload()
        assert (controller._config, controller._site) == self._held
        assert controller._restart == controller._stopping.is_set()
        return ACCEPTED if controller._restart else "refused"

    def _reload_agent(self, data: bytes) -> str:
        actuator, before = self._actuator, self._actuator.config
        try:
            config = load_agent(data.decode("utf-8", "replace"), "f")
            actuator.reconfigure(config)
        except ValueError:
            assert actuator.config is actuator.brain.config is actuator.brain.view.config is before
            return "refused"
        self._now_s += 0.1
        actuator.cycle(self._now_s, WALL_S, [])
        highest_mhz = max(actuator.brain.ceilings_mhz.values())
        assert 0 < highest_mhz <= max(config.safe_ceiling_mhz, 1)
        return ACCEPTED


def reload_seeds() -> list[bytes]:
    """The two files of the controller and that of the agent."""
    return [
        through(0, tiny_site().encode()),
        through(1, TINY_CONTROLLER.encode()),
        through(2, TINY_AGENT.encode()),
    ]


class StateTarget:
    """What processes left on disk: agent state, standing orders, epoch, and hwmon's files."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ampacity-fuzz-")
        self._directory = Path(self._folder.name)
        self._site = site_of(nodes=1)

    def fresh(self, seed: bytes, number: int) -> bytes:
        del number
        return seed

    def close(self) -> None:
        self._folder.cleanup()

    def feed(self, data: bytes) -> str:
        doors = (self._agent, self._orders, self._epoch, self._hwmon)
        return doors[data[0] % len(doors)](data[1:])

    def _agent(self, data: bytes) -> str:
        (self._directory / STATE_FILE).write_bytes(data)
        keeper = DiskKeeper(self._directory)
        state = keeper.load()
        hands = InlineHands(FakeHost(), sample_hz=10.0, make_writer=_writer, sensors=FakeSensors())
        memory = MemoryKeeper()
        memory.state = state
        actuator = Actuator(agent_config(), hands, memory, session="s1")
        actuator.start()
        actuator.cycle(0.0, WALL_S, [])
        assert max(actuator.brain.ceilings_mhz.values()) <= SAFE_MHZ
        again = msgspec.json.decode(msgspec.json.encode(memory.state), type=NodeState)
        assert again == memory.state
        if keeper.problem:
            assert state == NodeState()
            assert (self._directory / CORRUPT_FILE).read_bytes() == data
        else:
            assert read_state(self._directory) == (state, "")
        return "refused" if keeper.problem else ACCEPTED

    def _orders(self, data: bytes) -> str:
        path = self._directory / "orders.json"
        path.write_bytes(data)
        try:
            orders = read_orders(self._directory)
        except OrdersFileError:
            assert path.read_bytes() == data
            return "refused"
        cycle = ControlCycle(self._site, epoch=7, started_at_s=100.0)
        cycle.orders.restore(orders)
        row = Row(self._site)
        row.cycle = cycle
        check_decision(row.step())
        assert write_orders(self._directory, cycle.orders.state()) == ""
        return ACCEPTED

    def _epoch(self, data: bytes) -> str:
        path = self._directory / "epoch"
        path.write_bytes(data)
        try:
            epoch = next_epoch(self._directory, wall_s=WALL_S)
        except EpochError:
            assert path.read_bytes() == data
            return "refused"
        assert WALL_S <= epoch <= EPOCH_MAX
        assert next_epoch(self._directory, wall_s=0.0) == epoch + 1
        return ACCEPTED

    def _hwmon(self, data: bytes) -> str:
        path = self._directory / "power"
        path.write_bytes(data)
        name = str(path)
        reading = HwmonSensors(node_power_file=name, inlet_temperature_file=name).read()
        power_w, inlet_c = reading.node_power_w, reading.inlet_temperature_c
        assert power_w is None or 1.0 <= power_w <= 500_000.0
        assert inlet_c is None or -40.0 <= inlet_c <= 100.0
        return "refused" if power_w is inlet_c is None else ACCEPTED


def state_seeds() -> list[bytes]:
    """A state of each kind, as its process writes it."""
    record = EmergencyRecord(domain="ups-a", active=("ups-a-lost",), epoch=3, sequence=4)
    state = NodeState(memory=NodeMemory(epoch=3, sequence=9, emergencies=(record,)))
    orders = OrdersState(
        contingencies=("ups-a-lost",), brakes=("row-1",), drained=("n01",), caps_w={"row-1": 900.0}
    )
    return [
        through(0, msgspec.json.encode(state)),
        through(1, msgspec.json.encode(orders)),
        through(1, msgspec.json.encode(orders)),
        through(2, b"1795353000\n"),
        through(3, b"4500000000\n"),
        through(3, b"24500\n"),
    ]


def check_size(text: str) -> str:
    """A refusal that a person can read, however much is wrong."""
    assert 0 < len(text) < 5_000
    return "refused"
