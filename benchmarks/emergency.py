"""From an emergency message to the last of 64 nodes locked, over a real Mosquitto.

Three figures. *Direct*: the message is published, 64 agents act from the ceilings in their leases.
*Ordered*: an operator's request is published, the real controller answers with the message. *One
host*: one real agent of two processes over the C library, message to the last of its eight GPUs.

The 64 agents are the real actuators and links with a connection each, in two processes, one per
core; on a site each has its own machine. A write takes no time here: on hardware each takes 10-20
ms more, eight of them side by side. Stamps are taken in the write itself.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks._granter import Granter, Grants
from benchmarks._nodes import Nodes, Stamps
from benchmarks._table import Figure, at_most, machine, percentile, show
from benchmarks.agent import NODE, Bench
from facility.compiler import compile_site
from facility.config import BrokerConfig, ControlConfig, HttpConfig, SiteConfig, StoreConfig
from facility.example import (
    agent_config,
    controller_config,
    controller_yaml,
    row_site,
    site_yaml,
)
from facility.topology import Site
from facility.wire import Request, encode
from tests.servers import Mosquitto, take_free_port
from tests.system.processes import Process, ampacity, wait_until

NODES_COUNT: Final = 64
PROCESSES_COUNT: Final = 2
REPETITIONS: Final = 120
ORDERED_REPETITIONS: Final = 100
HOST_REPETITIONS: Final = 60
BUDGET_MS: Final = 50.0
LOOK_S: Final = 0.25
"""Nobody looks while the nodes work."""
RAISED_S_MAX: Final = 20.0
CONTINGENCY: Final = "ups-a-lost"
DOMAIN: Final = "row-1"
TOP_MHZ: Final = 1_980
LEASED_MHZ: Final = 1_500
BRAKE_MHZ: Final = 345
LADDER_MHZ: Final = {f"contingency-{n}": 1_500 - 105 * n for n in range(1, 7)}
ARMED_MHZ: Final = 1_005


def rows(what: str, took_ms: Sequence[float]) -> list[Figure]:
    """The percentiles of one path; the budget is for its 99th."""
    return [
        Figure(f"{what}: p50 of {len(took_ms)}", f"{percentile(took_ms, 0.5):.1f} ms"),
        at_most(f"{what}: p99", percentile(took_ms, 0.99), BUDGET_MS, "ms"),
        Figure(f"{what}: worst", f"{max(took_ms):.1f} ms"),
    ]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that goes wrong: says so and returns when, in ns; then all must be at a limit."""

    say: Callable[[], int]
    limit_mhz: int


def repeat(
    stamps: Stamps,
    steps: Sequence[Step],
    off: Callable[[], object],
    *,
    count: int,
    leased_mhz: int = LEASED_MHZ,
    rest_s: float = 0.05,
) -> list[float]:
    """How long the last lock took after each step, in ms, `count` times in all.

    One step after the other lowers every GPU further; then all is well again until every node is
    back at its lease, and for `rest_s` more.
    """
    took_ms: list[float] = []
    while len(took_ms) < count:
        wait_until(
            lambda: all(mhz == leased_mhz for mhz in stamps.ceilings_mhz),
            "all hold their leases",
            timeout_s=RAISED_S_MAX,
        )
        time.sleep(rest_s)
        for step in steps:
            # not in step with anybody's second
            time.sleep(0.05 + 0.037 * (len(took_ms) % 7))
            stamps.forget(step.limit_mhz)
            begun_ns = step.say()
            time.sleep(LOOK_S)
            silent = sum(at_ns == 0 for at_ns in stamps.first_ns)
            if silent:
                raise RuntimeError(f"{silent} GPUs were not locked {LOOK_S:g} s after the message")
            took_ms.append((max(stamps.first_ns) - begun_ns) / 1e6)
        off()
    return took_ms


def direct(site: Site, port: int) -> list[Figure]:
    """The emergency message itself."""
    granter = Granter(port, site.name, Grants(LEASED_MHZ, 4.0, LADDER_MHZ))
    names = tuple(LADDER_MHZ)
    steps = [
        Step(partial(granter.emergency, DOMAIN, *names[: place + 1]), LADDER_MHZ[name])
        for place, name in enumerate(names)
    ]
    configs = [agent_config(site, name, broker=BrokerConfig(port=port)) for name in site.nodes]
    with Nodes(configs, processes_count=PROCESSES_COUNT) as nodes:
        granter.start()
        try:
            took_ms = repeat(
                nodes.stamps, steps, lambda: granter.emergency(DOMAIN), count=REPETITIONS
            )
        finally:
            granter.stop()
    return rows(f"message to last of {NODES_COUNT} nodes", took_ms)


def ordered(config: SiteConfig, site: Site, port: int, directory: Path) -> list[Figure]:
    """An operator's request, through the real controller."""
    (directory / "site.yaml").write_text(site_yaml(config))
    path = directory / "controller.yaml"
    broker = BrokerConfig(port=port)
    text = controller_yaml(
        controller_config(
            site_file="site.yaml",
            broker=broker,
            store=StoreConfig(directory=str(directory / "store")),
            http=HttpConfig(port=take_free_port()),
        )
    )
    path.write_text(text)
    operator = Granter(port, site.name, Grants(TOP_MHZ, 4.0, on=False))
    configs = [agent_config(site, name, broker=broker) for name in site.nodes]
    command = ampacity("controller", "--config", path)

    def ask(verb: str, **args: str | float | bool) -> int:
        request = Request(verb=verb, by="bench", args=args)
        return operator.say(operator.topics.request(verb), encode(request))

    def lift() -> None:
        ask("release", domain=DOMAIN)
        ask("contingency", contingency=CONTINGENCY, on=False)

    steps = [
        Step(lambda: ask("contingency", contingency=CONTINGENCY, on=True), TOP_MHZ - 1),
        Step(lambda: ask("brake", domain=DOMAIN), BRAKE_MHZ),
    ]
    with (
        Nodes(configs, processes_count=PROCESSES_COUNT) as nodes,
        Process("controller", command, directory, None),
    ):
        operator.start()
        try:
            took_ms = repeat(
                nodes.stamps,
                steps,
                lift,
                count=ORDERED_REPETITIONS,
                leased_mhz=TOP_MHZ,
                # leases that were granted while it was on hold what was decided then
                rest_s=1.5 * site.control.cycle_s,
            )
        finally:
            operator.stop()
    return rows(f"request to last of {NODES_COUNT} nodes", took_ms)


def one_host(directory: Path, broker: Mosquitto) -> list[Figure]:
    """One real agent of two processes."""
    bench = Bench(directory, broker)
    granter = bench.granter(Grants(LEASED_MHZ, 4.0, {CONTINGENCY: ARMED_MHZ}))
    granter.start()
    took_ms = []
    try:
        with bench.agent() as agent:
            for number in range(HOST_REPETITIONS):
                wait_until(lambda: bench.all_at(LEASED_MHZ), "raised", but=agent.tail)
                time.sleep(0.05 + 0.037 * (number % 7))
                begun_ns = granter.emergency(DOMAIN, CONTINGENCY)
                time.sleep(LOOK_S)
                if not bench.all_at(ARMED_MHZ):
                    raise RuntimeError(f"not locked: {bench.fake.truths()}\n{agent.tail()}")
                last_ns = max(truth.last_write_ns for truth in bench.fake.truths())
                took_ms.append((last_ns - begun_ns) / 1e6)
                granter.emergency(DOMAIN)
    finally:
        granter.stop()
    return rows(f"message to last GPU of {NODE}, two processes", took_ms)


def main() -> None:
    """Print one line per figure with its budget."""
    print(machine())
    control = ControlConfig(raise_ratio_per_s=1.0)
    # Sold so far beyond its capacity only that full clocks are leased to everybody.
    config = row_site(site="bench", nodes=NODES_COUNT, oversubscription_ratio=1.15, control=control)
    site = compile_site(config)
    with tempfile.TemporaryDirectory() as name, Mosquitto(Path(name) / "broker") as broker:
        figures = direct(site, broker.port)
    with tempfile.TemporaryDirectory() as name, Mosquitto(Path(name) / "broker") as broker:
        figures += ordered(config, site, broker.port, Path(name))
    with tempfile.TemporaryDirectory() as name, Mosquitto(Path(name) / "broker") as broker:
        figures += one_host(Path(name), broker)
    show(figures)
