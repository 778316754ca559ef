"""`ampacity demo`: arguments in, progress on stderr, the verdict on stdout.

With `--json` stdout carries one JSON document and nothing else. Ctrl-C ends the run clean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Final

from daemon.demo.run import Stage
from daemon.demo.settings import DURATION_S_MAX, DURATION_S_MIN, SPEED_MAX, DemoSettings
from daemon.embedded_broker import BrokerStartError
from daemon.exit_codes import EX_UNAVAILABLE
from daemon.web.board import EVENTS_MAX
from daemon.web.server import WebError
from facility.config import POLICIES
from facility.wire import Event, Mode
from simulator.loads.formats import load_file
from simulator.loads.rows import TraceError
from simulator.loads.trace import Trace
from simulator.loads.workload import Workload

SAY_EVERY_RATIO: Final = 0.05
LINGER_S: Final = 2.0

HELP: Final = "the whole system on a simulated row: a real trace, a UPS failure, a verdict"

DESCRIPTION: Final = """\
Starts an embedded broker, 40 agents, the controller, its web page and a digital twin of a row of
40 servers with 8 GPUs each behind two UPS feeds, oversubscribed by 30 %. The row replays a real
request trace; at 60 % of the run one UPS fails. Ends with a verdict.

  ampacity demo                          watch it on the page that it names
  ampacity demo --policy none            the same without control: a breaker trips
  ampacity demo --duration-s 120 --json  one JSON document on stdout

Exits with 0 when the run has ended, whatever the verdict; 130 after Ctrl-C; 69 when the port is
taken or the broker cannot start or dies; 1 when the trace cannot be read. `--port N` chooses
another port for the page, 0 a free one.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ampacity demo`."""
    defaults = DemoSettings()
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--duration-s",
        type=float,
        default=defaults.duration_s,
        metavar="N",
        help=f"simulated seconds (default {defaults.duration_s:g})",
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=defaults.speed,
        metavar="X",
        help=f"simulated over real seconds, at most (default {defaults.speed:g})",
    )
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        default=defaults.policy,
        help=f"who decides (default {defaults.policy})",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=defaults.port,
        metavar="P",
        help=f"of the page on 127.0.0.1; 0 takes a free one (default {defaults.port})",
    )
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, metavar="N", help="of the twin (default 1)"
    )
    parser.add_argument(
        "--trace", metavar="FILE", help="recorded load, CSV or JSON lines (docs/loads.md)"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")


def _usage_problem(args: argparse.Namespace) -> str:
    """What is wrong with the numbers, empty for nothing."""
    if not DURATION_S_MIN <= args.duration_s <= DURATION_S_MAX:
        return f"--duration-s must be {DURATION_S_MIN:g} to {DURATION_S_MAX:g}"
    if not 0.1 <= args.speed <= SPEED_MAX:
        return f"--speed must be 0.1 to {SPEED_MAX:g}"
    if not 0 <= args.port <= 65_535:
        return "--port must be 0 to 65535"
    if not 0 <= args.seed < 2**63:
        return "--seed must be 0 or more"
    return ""


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit code."""
    problem = _usage_problem(args)
    if problem:
        print(f"ampacity demo: {problem}", file=sys.stderr)
        return 2
    trace: Trace | Workload | None = None
    if args.trace is not None:
        try:
            trace = load_file(Path(args.trace))
        except TraceError as error:
            print(f"ampacity demo: {error}", file=sys.stderr)
            return 1
    settings = DemoSettings(
        duration_s=args.duration_s,
        speed=args.speed,
        policy=args.policy,
        port=args.port,
        seed=args.seed,
        trace=trace,
        linger_s=0.0 if args.json else LINGER_S,
    )
    try:
        report, ended_by = asyncio.run(_run(settings))
    except (WebError, BrokerStartError) as error:
        print(f"ampacity demo: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    if args.json:
        print(json.dumps(report, allow_nan=False))
    else:
        print(_summary(report))
    return 128 + ended_by if ended_by else 0


async def _run(settings: DemoSettings) -> tuple[dict[str, object], int]:
    """Run on a loop whose Ctrl-C only asks for the end."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    stage = Stage(settings)
    ended_by: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        ended_by.append(number)
        stopping.set()
        stage.leave()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    teller = _Teller(settings)
    report = await stage.run(teller.tell, stopping)
    return report, ended_by[0] if stage.interrupted and ended_by else 0


class _Teller:
    """Says on stderr how the run goes: at regular shares of it, and when something changes."""

    def __init__(self, settings: DemoSettings) -> None:
        self._every_s = max(SAY_EVERY_RATIO * settings.duration_s, 1.0)
        self._next_s = 0.0
        self._mode: Mode | None = None
        self._started = False
        self._failed = False
        self._tripped: set[str] = set()
        self._told: deque[Event] = deque(maxlen=EVENTS_MAX)

    def tell(self, stage: Stage) -> None:
        """Called once per simulated second."""
        settings = stage.settings
        if not self._started:
            self._started = True
            nodes = len(stage.site.nodes)
            print(
                f"{nodes} agents, policy {settings.policy}, seed {settings.seed},"
                f" {settings.duration_s:g} s at up to {settings.speed:g}x:"
                f" watch {stage.url}",
                file=sys.stderr,
            )
        snapshot = stage.board.snapshot()
        row = next((s for s in snapshot.domains.values() if s.kind == "row"), None)
        if row is None:
            return
        if stage.watch.failed_at_s is not None and not self._failed:
            self._failed = True
            print(f"{'':>9}--- {settings.contingency}: a UPS has failed ---", file=sys.stderr)
            self._next_s = stage.plant.now_s
        self._tell_events(snapshot.events)
        for name in sorted(stage.plant.tree.tripped.keys() - self._tripped):
            self._tripped.add(name)
            print(f"{'':>9}*** {name} TRIPPED ***", file=sys.stderr)
        if row.mode is not self._mode or stage.plant.now_s >= self._next_s:
            self._mode = row.mode
            self._next_s = stage.plant.now_s + self._every_s
            held = sum(item.expires_s > snapshot.now_s for item in snapshot.leases.values())
            print(self._line(stage, held), file=sys.stderr)

    def _tell_events(self, events: tuple[Event, ...]) -> None:
        """Repeat what a person must see, oldest first; the page has the rest."""
        for event in reversed(events):
            loud = event.severity == "critical" and event.source == "controller"
            if loud and event not in self._told:
                self._told.append(event)
                print(f"{'':>9}! {event.sentence}", file=sys.stderr)

    def _line(self, stage: Stage, holders: int) -> str:
        truth = stage.plant.truth()
        load = max(
            (item for item in truth.domains.values() if item.kind in ("row", "feed")),
            key=lambda item: item.load_ratio,
        )
        mode = self._mode.value if self._mode else ""
        bar = _bar(load.load_ratio)
        return (
            f"{truth.now_s:6.0f} s  {load.name:<6} {bar} {100 * load.load_ratio:5.1f} %"
            f"  {mode:<9}  {holders} leases  {truth.requests_served} served"
            f"  {truth.requests_lost} lost"
        )


def _bar(ratio: float, *, width: int = 24) -> str:
    """Load as a bar; `|` marks capacity."""
    filled = min(int(ratio * width), width + 6)
    cells = "#" * filled + "." * (width + 6 - filled)
    return cells[:width] + "|" + cells[width:]


def _summary(report: dict[str, object]) -> str:
    """The verdict and the figures behind it."""
    lines = [str(report["verdict"])]
    for key, label in (
        ("row_power_ratio_max", "peak over capacity, row and feeds"),
        ("seconds_over_capacity", "seconds over capacity"),
        ("emergency_reaction_s", "UPS failure to within capacity, s"),
        ("leases_granted", "leases granted"),
        ("leases_expired", "leases expired"),
        ("requests_served", "requests served"),
        ("requests_lost", "requests lost"),
        ("ttft_p99_s_high", "time to first token p99, high, s"),
        ("ttft_p99_s_low", "time to first token p99, low, s"),
        ("throttle_events", "times a GPU throttled itself"),
    ):
        value = report.get(key)
        shown = f"{value:.3f}" if isinstance(value, float) else "-" if value is None else value
        lines.append(f"  {label:<36} {shown}")
    return "\n".join(lines)
