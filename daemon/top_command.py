"""`ampacity top`: the state of the site on the whole terminal, refreshed every second.

Shows what `ampacity status` says, and says so when the broker goes away. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from typing import Final

from daemon.exit_codes import EX_UNAVAILABLE, EX_USAGE
from daemon.operator.overview import overview
from daemon.operator.picture import Picture
from daemon.operator.place import Place, add_place_arguments, find_place
from daemon.operator.session import Session
from daemon.operator.words import STYLES, Line, overview_lines, printable
from daemon.status_command import add_timeout

REFRESH_S: Final = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ampacity top`."""
    parser.description = (
        "The state of the site, live: what needs somebody stands first. Ctrl-C ends it, with exit"
        " code 0. Needs a terminal; scripts use `ampacity status`."
    )
    add_timeout(parser)
    add_place_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Show the site until Ctrl-C."""
    if not sys.stdout.isatty():
        print("ampacity top: stdout is no terminal; use `ampacity status`", file=sys.stderr)
        return EX_USAGE
    place = find_place(args, os.environ)
    try:
        asyncio.run(_show(place, timeout_s=args.timeout_s))
    except KeyboardInterrupt:
        return 0
    except ImportError as error:
        print(
            f"ampacity top: {error.name} is not installed on this host: install"
            " ampacity[controller], or use `watch --color ampacity status`",
            file=sys.stderr,
        )
        return EX_UNAVAILABLE
    return 0


async def _show(place: Place, *, timeout_s: float) -> None:
    """Draw once a second. Raises BusUnavailable when the broker is not there at the start."""
    from rich.live import Live
    from rich.text import Text

    def page(lines: list[Line]) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis")
        for line in lines:
            text.append(printable(line.text) + "\n", style=STYLES[line.level][1])
        return text

    picture = Picture(place.site)
    session = Session(place, timeout_s=timeout_s)

    def now() -> Text:
        away = "" if session.bus.connected else session.bus.detail
        view = overview(picture, broker=place.where, wall_s=time.time(), away=away)
        return page(overview_lines(view))

    async with session:
        await picture.fill(session)
        with Live(now(), screen=True, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(REFRESH_S)
                live.update(now(), refresh=True)
