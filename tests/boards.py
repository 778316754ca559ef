"""A board filled as a controller fills it: the example row, minute by minute, through a UPS loss.

The tests of the page, the API and the metrics share it. To look at the page by eye:
`python -m tests.boards --at 79 --port 8080`, and `--play` lets time go on.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import time
from collections.abc import Callable
from typing import Final

from daemon.web.api import make_app
from daemon.web.board import Board, PriorityTraffic, RunView, TrafficView
from daemon.web.server import WebServer
from facility.compiler import compile_site
from facility.decisions import Decision, NodeDecision
from facility.example import row_site
from facility.topology import Node, Site
from facility.wire import (
    Applied,
    DomainState,
    Emergency,
    Event,
    GpuApplied,
    GpuReading,
    Lease,
    Mode,
    NodeTelemetry,
    Quality,
)

WALL_S: Final = 1_795_353_000.0
FAILURE_S: Final = 72.0
DURATION_S: Final = 120.0
CONTINGENCY: Final = "ups-a-lost"
MISSING: Final = "n27"
EXPIRED: Final = "n14"
CLAMPED: Final = "n34"
READ_ONLY: Final = "n09"
HOT: Final = "n31"


class Clock:
    """Time that goes on when the test says so."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def example() -> Site:
    """The row of the demo: 2 feeds, 10 racks of 4 nodes of 8 GPUs, 2 aisles."""
    return compile_site(row_site())


class Story:
    """Tells a board, cycle by cycle, how a row lives through a UPS loss."""

    def __init__(self, real_clock: Callable[[], float] | None = None) -> None:
        self.site = example()
        self.clock = Clock()
        self.board = Board(self.site, clock=self.clock, real_clock=real_clock or self.clock)
        self._random = random.Random(7)
        self._wobble = {name: self._random.uniform(-0.4, 0.4) for name in self.site.nodes}
        self._served = {"high": 0, "low": 0}

    def until(self, end_s: float) -> Story:
        """Live through every cycle up to `end_s`."""
        while self.clock.now_s < end_s:
            self.cycle()
        return self

    def cycle(self, *, verdict: str | None = None, tripped: bool | None = None) -> None:
        """One second: frames in, a decision out, and what the nodes make of it."""
        self.clock.now_s += 1.0
        at_s = self.clock.now_s
        for place, node in enumerate(self.site.nodes.values()):
            self._wobble[node.name] = 0.9 * self._wobble[node.name] + self._random.gauss(0, 0.05)
            if node.name != MISSING or at_s < 60.0:
                self.board.telemetry(self._frame(node, place, at_s))
        self.board.run(
            RunView(
                policy="ampacity",
                simulated_s=at_s,
                duration_s=DURATION_S,
                speed=1.0,
                failure=CONTINGENCY,
                failure_at_s=FAILURE_S,
                verdict=verdict,
                tripped=tripped,
            )
        )
        self.board.update(self._decision(at_s), duration_s=0.012)
        for node in self.site.nodes.values():
            self.board.applied(self._applied(node, at_s))
        self.board.traffic(self._traffic(at_s))
        self.board.counters({"messages_refused": 3.0, "messages_dropped": 0.0})

    def failed(self, at_s: float) -> bool:
        return at_s >= FAILURE_S

    def _node_power_w(self, node: Node, at_s: float) -> float:
        crowded = HOT in self.site.domains[node.parents[0]].nodes
        level_w = (
            (7_300.0 if crowded else 5_800.0)
            + 450.0 * math.sin(at_s / 17.0)
            + 300.0 * self._wobble[node.name]
        )
        settled = 1.0 - math.exp(-(at_s - FAILURE_S) / 0.4) if self.failed(at_s) else 0.0
        low = node.priority == "low"
        return level_w * (1.0 - settled * (0.27 if low else 0.13)) + (0 if low else 250.0)

    def _ceiling_mhz(self, node: Node, at_s: float) -> int:
        if node.name == EXPIRED and at_s >= 75.0:
            return node.model.gpu.safe_ceiling_mhz
        if self.failed(at_s):
            return 1410 if node.priority == "high" else 1155
        shaved = 1980 - 15 * int(14 + 12 * math.sin(at_s / 17.0))
        return 1980 if node.priority == "high" else shaved

    def _frame(self, node: Node, place: int, at_s: float) -> NodeTelemetry:
        gpu_w = (self._node_power_w(node, at_s) - 2_240.0) / 8.8
        gpus = []
        for gpu in range(8):
            base_c = 40.0 + 0.055 * gpu_w + 2.2 * math.sin(place * 1.7 + gpu * 0.9)
            temperature_c = base_c + (16.0 if node.name == HOT and gpu == 5 else 0.0)
            gpus.append(
                GpuReading(
                    uuid=f"GPU-{place:02d}-{gpu}",
                    quality=Quality.MISSING if (node.name, gpu) == ("n20", 3) else Quality.GOOD,
                    power_w=gpu_w + 6.0 * gpu,
                    power_w_max=gpu_w + 40.0,
                    energy_j=gpu_w * at_s,
                    sm_clock_mhz=self._ceiling_mhz(node, at_s) - 15,
                    ceiling_mhz=self._ceiling_mhz(node, at_s),
                    temperature_c=temperature_c,
                    margin_c=87.0 - temperature_c,
                )
            )
        return NodeTelemetry(
            node=node.name,
            session=f"s-{node.name}",
            seq=int(at_s),
            sampled_at_s=WALL_S + at_s - 0.05,
            gpus=tuple(gpus),
            inlet_temperature_c=25.0 + place % 4,
        )

    def _decision(self, at_s: float) -> Decision:
        active = frozenset({CONTINGENCY} if self.failed(at_s) else ())
        shares = self.site.shares(active)
        power_w = {node.name: self._node_power_w(node, at_s) for node in self.site.nodes.values()}
        if at_s >= 63.0:
            power_w[MISSING] = self.site.nodes[MISSING].model.power_w_max
        decision_id = f"c-{int(at_s)}"
        domains = []
        for domain in self.site.domains.values():
            load_w = sum(share * power_w[node] for node, share in shares[domain.name].items())
            capacity_w = self.site.capacity_w(domain.name, active)
            domains.append(self._state(domain.name, decision_id, at_s, load_w, capacity_w))
        emergency = Emergency(
            domain="row-1",
            active=(CONTINGENCY,),
            epoch=3,
            sequence=int(at_s),
            issued_at_s=WALL_S + at_s,
        )
        return Decision(
            decision_id=decision_id,
            at_s=at_s,
            wall_s=WALL_S + at_s,
            sentence=self._sentence(at_s),
            domains=tuple(domains),
            nodes=tuple(self._node(node, power_w[node.name], at_s) for node in self._nodes()),
            leases=tuple(self._lease(node, decision_id, at_s) for node in self._leased(at_s)),
            routing=(),
            emergencies=(emergency,) if at_s == FAILURE_S else (),
            events=self._events(at_s),
        )

    def _nodes(self) -> tuple[Node, ...]:
        return tuple(self.site.nodes.values())

    def _leased(self, at_s: float) -> list[Node]:
        gone = {MISSING: 61.0, EXPIRED: 71.0, READ_ONLY: 0.0}
        return [node for node in self._nodes() if at_s < gone.get(node.name, math.inf)]

    def _sentence(self, at_s: float) -> str:
        if self.failed(at_s):
            return (
                f"{CONTINGENCY}: all 40 nodes went to their pre-armed ceilings; ups-b carries the"
                " row alone, chat keeps 1410 MHz, batch 1155 MHz"
            )
        if self._shaving(at_s):
            return "shaving row-1: batch lowered so that the forecast stays under 97 % of capacity"
        return "all domains under their targets; nothing to do"

    def _shaving(self, at_s: float) -> bool:
        return math.sin(at_s / 17.0) > 0.3 or self.failed(at_s)

    def _state(
        self, name: str, decision_id: str, at_s: float, load_w: float, capacity_w: float
    ) -> DomainState:
        domain = self.site.domains[name]
        forecast_w = load_w * 1.025 + (900.0 if self._shaving(at_s) else 0.0) * (load_w > 0)
        ratio = forecast_w / capacity_w if capacity_w else 0.0
        mode = Mode.SHAVING if ratio > 0.97 else Mode.NORMAL
        if self.failed(at_s) and (domain.kind in {"feed", "row"}):
            mode = Mode.EMERGENCY
        words = {
            Mode.NORMAL: f"forecast at {100 * ratio:.0f} % of capacity; nothing to do",
            Mode.SHAVING: f"forecast {forecast_w / 1e3:.1f} kW over the target of"
            f" {0.97 * capacity_w / 1e3:.1f} kW in 3 s: 16 low-priority nodes lowered",
            Mode.EMERGENCY: "the feed is lost: it carries nothing; ups-b carries the row alone"
            if not capacity_w
            else f"{CONTINGENCY}: 39 nodes at their pre-armed ceilings 40 ms after the message;"
            f" load is {100 * load_w / capacity_w:.0f} % of capacity",
            Mode.BRAKE: "",
        }
        return DomainState(
            domain=name,
            kind=domain.kind,
            decision_id=decision_id,
            at_s=WALL_S + at_s,
            power_w=load_w,
            forecast_w=forecast_w,
            exposure_w=load_w * 1.14,
            capacity_w=capacity_w,
            mode=mode,
            sentence=words[mode],
            nodes_count=len(domain.nodes),
            nodes_missing_count=int(MISSING in domain.nodes and at_s >= 63.0),
            temperature_c=27.4 + 0.02 * at_s if domain.is_zone else None,
        )

    def _node(self, node: Node, power_w: float, at_s: float) -> NodeDecision:
        ceiling_mhz = self._ceiling_mhz(node, at_s)
        return NodeDecision(
            node=node.name,
            ceiling_mhz=ceiling_mhz,
            contingency_ceilings_mhz={CONTINGENCY: 1410 if node.priority == "high" else 1155},
            power_w=power_w,
            exposure_w=node.model.worst_case_w(ceiling_mhz),
            missing=node.name == MISSING and at_s >= 63.0,
            controllable=node.name != READ_ONLY,
            sentence=f"{node.name} may run at {ceiling_mhz} MHz",
        )

    def _lease(self, node: Node, decision_id: str, at_s: float) -> Lease:
        ceiling_mhz = self._ceiling_mhz(node, at_s)
        place = list(self.site.nodes).index(node.name)
        return Lease(
            node=node.name,
            session=f"s-{node.name}",
            basis_seq=int(at_s),
            epoch=3,
            sequence=int(at_s),
            decision_id=decision_id,
            lease_s=self.site.control.lease_s,
            ceilings_mhz={f"GPU-{place:02d}-{gpu}": ceiling_mhz for gpu in range(8)},
            contingency_ceilings_mhz={CONTINGENCY: 1155},
        )

    def _applied(self, node: Node, at_s: float) -> Applied:
        reason = "lease"
        if self.failed(at_s) and node.priority == "low":
            reason = f"contingency:{CONTINGENCY}"
        if node.name == EXPIRED and at_s >= 75.0:
            reason = "lease-expired"
        ceiling_mhz = self._ceiling_mhz(node, at_s)
        clamped = node.name == CLAMPED
        place = list(self.site.nodes).index(node.name)
        return Applied(
            node=node.name,
            session=f"s-{node.name}",
            decision_id=f"c-{int(at_s)}",
            epoch=3,
            sequence=int(at_s),
            reason=reason,
            applied_at_s=WALL_S + at_s,
            gpus={
                f"GPU-{place:02d}-{gpu}": GpuApplied(
                    requested_mhz=ceiling_mhz,
                    accepted_mhz=ceiling_mhz,
                    observed_mhz=ceiling_mhz - (210 if clamped and gpu == 2 else 0),
                    cause="silent-clamp" if clamped and gpu == 2 else "",
                )
                for gpu in range(8)
            },
        )

    def _traffic(self, at_s: float) -> TrafficView:
        self._served["high"] += 38
        self._served["low"] += 17 if not self.failed(at_s) else 11
        worse = 1.0 if not self.failed(at_s) else 1.6
        return TrafficView(
            priorities=(
                PriorityTraffic(
                    priority="high",
                    rate_per_s=38.2,
                    served_count=self._served["high"],
                    queued_count=4,
                    lost_count=0,
                    ttft_p50_s=0.182,
                    ttft_p99_s=0.61 * worse,
                    tpot_p50_s=0.031,
                    tpot_p99_s=0.048,
                ),
                PriorityTraffic(
                    priority="low",
                    rate_per_s=11.4,
                    served_count=self._served["low"],
                    queued_count=31,
                    lost_count=2 if self.failed(at_s) else 0,
                    ttft_p50_s=0.41 * worse,
                    ttft_p99_s=3.92 * worse,
                    tpot_p50_s=0.044,
                    tpot_p99_s=0.092,
                ),
            )
        )

    def _events(self, at_s: float) -> tuple[Event, ...]:
        told = {
            1.0: ("started", "info", "controller", "the first cycle covers all 40 nodes"),
            6.0: ("mode", "warning", "row-1", "row-1 is shaving: the forecast passed 97 %"),
            48.0: ("mode", "info", "row-1", "row-1 is back to normal"),
            63.0: ("node-missing", "warning", MISSING, f"{MISSING} is silent for 3 s: it counts at"
                   " its worst case, 8.4 kW"),
            FAILURE_S: ("contingency", "critical", "row-1", f"{CONTINGENCY} has begun: ups-b"
                        " carries the row alone, 206.8 kW at most"),
            73.0: ("locked", "info", "row-1", "39 of 40 nodes report their contingency ceiling"),
            75.0: ("lease-expired", "warning", EXPIRED, f"the lease of {EXPIRED} has ended: it went"
                   " to its safe ceiling by itself"),
            77.0: ("deviation", "warning", CLAMPED, f"{CLAMPED} GPU 2 runs 210 MHz below its"
                   " ceiling: silent-clamp"),
        }  # fmt: skip
        if at_s not in told:
            return ()
        event, severity, subject, sentence = told[at_s]
        assert severity in ("info", "warning", "critical")
        return (
            Event(
                event=event,
                severity=severity,  # type: ignore[arg-type]
                at_s=WALL_S + at_s,
                source="controller",
                subject=subject,
                sentence=sentence,
            ),
        )


async def show(at_s: float, port: int, *, play: bool, verdict: str | None) -> None:
    """Serve the page of a story until interrupted."""
    story = Story(time.monotonic).until(at_s)
    server = WebServer(make_app(story.board, readiness=dict, version="0"), "127.0.0.1", port)
    await server.start()
    try:
        while True:
            await asyncio.sleep(1.0)
            if play:
                story.cycle(verdict=verdict, tripped=None if verdict is None else False)
    finally:
        await server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--at", type=float, default=79.0)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--play", action="store_true")
    parser.add_argument("--verdict")
    given = parser.parse_args()
    asyncio.run(show(given.at, given.port, play=given.play, verdict=given.verdict))
