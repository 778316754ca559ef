"""`ampacity status`: how the site is, from what the broker keeps, on one page or as JSON.

Works without the controller's HTTP. Reads once and ends; decides nothing and sends no order.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from typing import Final

import msgspec

from daemon.exit_codes import EX_FAILED
from daemon.operator.overview import Overview, overview
from daemon.operator.picture import Picture
from daemon.operator.place import Place, add_place_arguments, find_place
from daemon.operator.session import Session
from daemon.operator.words import overview_lines, write

TIMEOUT_S: Final = 5.0
TIMEOUT_S_MAX: Final = 600.0

DESCRIPTION: Final = """\
How the site is: controllers, domains, nodes, from the messages that the broker keeps. A domain
whose state is older than 10 s is marked stale and its figures are not shown.

Exits with 0 when something is live and no domain is in emergency or brake; 1 otherwise, so that a
script can ask; 69 when the broker is not there.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ampacity status`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    add_timeout(parser)
    add_place_arguments(parser)


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """`--timeout-s`, for commands that wait for the broker."""
    parser.add_argument(
        "--timeout-s",
        type=_timeout,
        default=TIMEOUT_S,
        metavar="S",
        help=f"longest wait for the broker, and for what it keeps (default {TIMEOUT_S:g})",
    )


def _timeout(text: str) -> float:
    timeout_s = float(text)
    if not 0.0 < timeout_s <= TIMEOUT_S_MAX:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {TIMEOUT_S_MAX:g}")
    return timeout_s


def run(args: argparse.Namespace) -> int:
    """Print the state of the site; 1 when somebody should look at it."""
    view = asyncio.run(read_overview(find_place(args, os.environ), timeout_s=args.timeout_s))
    if args.json:
        print(msgspec.json.encode(view).decode())
    else:
        write(overview_lines(view), sys.stdout)
    return 0 if view.ok else EX_FAILED


async def read_overview(place: Place, *, timeout_s: float) -> Overview:
    """What the broker keeps of the site, judged. Raises BusUnavailable, SecretsError."""
    picture = Picture(place.site)
    session = Session(place, timeout_s=timeout_s)
    async with session:
        await picture.fill(session)
    return overview(picture, broker=place.where, wall_s=time.time())
