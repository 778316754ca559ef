"""`ampacity events`: what has happened, from the controller's history, and what happens, live.

Reads the history file beside a running controller and listens to the bus; it changes neither.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import deque
from typing import Final

import msgspec

from daemon.operator.history_file import (
    SEVERITIES,
    HistoryUnreadable,
    at_least,
    recent_events,
)
from daemon.operator.place import Place, add_place_arguments, find_place
from daemon.operator.session import Session, Signal
from daemon.operator.words import event_line, write
from daemon.status_command import add_timeout
from facility.wire import Codec, Event, Severity, WireError

LIMIT: Final = 20
LIMIT_MAX: Final = 10_000
WAITING_MAX: Final = 10_000
"""Events kept for a reader that is slower than they come; the oldest go first."""
LOOK_S: Final = 1.0
"""How often the connection is looked at while nothing happens."""

DESCRIPTION: Final = """\
Recent events, oldest first, from the history file of the controller whose file --config names (or
the default file); with --follow also what happens from now on, until Ctrl-C (exit code 0).

With --json one document {"site", "events"}; with --follow one JSON object a line instead.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ampacity events`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--follow", action="store_true", help="go on with what happens now")
    parser.add_argument(
        "--limit", type=_limit, default=LIMIT, metavar="N", help=f"past events (default {LIMIT})"
    )
    parser.add_argument(
        "--severity", choices=SEVERITIES, default="info", help="this and above (default info)"
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    add_timeout(parser)
    add_place_arguments(parser)


def _limit(text: str) -> int:
    limit = int(text)
    if not 0 <= limit <= LIMIT_MAX:
        raise argparse.ArgumentTypeError(f"must be 0 to {LIMIT_MAX}")
    return limit


def run(args: argparse.Namespace) -> int:
    """Print past events, and go on with --follow until Ctrl-C."""
    place = find_place(args, os.environ)
    try:
        past = _past(place, args.limit, args.severity)
    except HistoryUnreadable as error:
        if not args.follow:
            raise
        print(f"ampacity events: {error}", file=sys.stderr)
        past = []
    if args.json and not args.follow:
        print(msgspec.json.encode({"site": place.site, "events": past}).decode())
        return 0
    for event in past:
        _print(event, as_json=args.json)
    if args.follow:
        try:
            asyncio.run(_follow(place, args))
        except KeyboardInterrupt:
            return 0
    return 0


def _past(place: Place, limit: int, severity: Severity) -> list[Event]:
    if place.controller is None:
        raise HistoryUnreadable(
            "past events are in the controller's history: name its file with --config on its host,"
            " or listen with --follow"
        )
    return list(recent_events(place.controller.store, limit=limit, severity=severity))


async def _follow(place: Place, args: argparse.Namespace) -> None:
    """Print events as they come. Raises BusUnavailable when the broker is not there at first."""
    wanted = at_least(args.severity)
    waiting: deque[Event] = deque(maxlen=WAITING_MAX)
    signal, codec = Signal(), Codec()

    def heard(_topic: str, payload: bytes, _retained: bool) -> None:
        try:
            event = codec.decode(payload, Event)
        except WireError:
            return
        if event.severity in wanted:
            waiting.append(event)
            signal.ring()

    session = Session(place, timeout_s=args.timeout_s)
    session.listen(session.topics.event, heard, qos=1)
    async with session:
        print(f"following {place.site} at {place.where}: Ctrl-C ends", file=sys.stderr, flush=True)
        connected = True
        while True:
            while waiting:
                _print(waiting.popleft(), as_json=args.json)
            if session.bus.connected != connected:
                connected = session.bus.connected
                missed = "; what happened in between is not repeated" if connected else ""
                print(f"{session.bus.detail}{missed}", file=sys.stderr, flush=True)
            await signal.until(lambda: bool(waiting), timeout_s=LOOK_S)


def _print(event: Event, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(event).decode())
    else:
        write([event_line(event)], sys.stdout)
    sys.stdout.flush()
