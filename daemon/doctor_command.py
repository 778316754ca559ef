"""`ampacity doctor`: looks at a host for a few seconds and says what is wrong and what to do.

It changes nothing: no file is written, no clock is locked, nothing is published.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Final

import msgspec

from daemon.exit_codes import EX_FAILED
from daemon.operator.checkup import Check, Grade, fail, ok, warn, within
from daemon.operator.host_checks import (
    controller_checks,
    directory_checks,
    gpu_checks,
    package_checks,
    permission_checks,
    python_checks,
)
from daemon.operator.link_checks import link_checks
from daemon.operator.place import (
    DEFAULT_FILES,
    Place,
    PlaceUnknown,
    add_place_arguments,
    find_place,
    named_file,
)
from daemon.operator.words import Level, Line, write
from facility.loader import ConfigError

BROKER_TIMEOUT_S: Final = 3.0
GPU_TIMEOUT_S: Final = 10.0
"""A driver without persistence takes seconds to wake its GPUs."""

_LEVELS: Final[dict[Grade, Level]] = {"ok": "good", "warn": "notice", "fail": "bad"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ampacity doctor`."""
    parser.description = (
        "Looks at this host: Python and packages, the GPU driver, permission to lock clocks, the"
        " configuration, the state directory, the broker, the clock. Each line is ok, warn or fail"
        " with what to do. Run it as the service runs (sudo) to see what the service sees."
    )
    parser.epilog = "Exits with 1 when anything fails, else 0."
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    add_place_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Look, and say what was found."""
    checks = [*python_checks(), *package_checks()]
    place, found = _configuration(args)
    checks += found
    is_agent = place is not None and place.agent is not None
    is_controller = place is not None and place.controller is not None
    checks += within(lambda: gpu_checks(needed=is_agent), name="gpus", timeout_s=GPU_TIMEOUT_S)
    if not is_controller:
        checks += permission_checks()
    if is_controller:
        checks += controller_checks()
    if place is not None:
        checks += _state_checks(place)
        checks += asyncio.run(link_checks(place, timeout_s=BROKER_TIMEOUT_S))
    well = all(check.grade != "fail" for check in checks)
    if args.json:
        document = {"host": socket.gethostname(), "ok": well, "checks": checks}
        print(msgspec.json.encode(document).decode())
    else:
        write([_line(check) for check in checks], sys.stdout)
    return 0 if well else EX_FAILED


def _configuration(args: argparse.Namespace) -> tuple[Place | None, list[Check]]:
    """The file that would be used, and whether it is well. A site file must load whole here."""
    path = args.config or named_file(os.environ)
    try:
        place = find_place(args, os.environ)
    except ConfigError as error:
        return None, [fail("config", str(problem)) for problem in error.problems]
    except PlaceUnknown as error:
        if path is not None:
            return None, [fail("config", str(error))]
        text = f"no configuration here ({' or '.join(DEFAULT_FILES)}): the broker is not checked"
        return None, [warn("config", text)]
    if place.path is None:
        return place, [ok("config", f"site {place.site!r} by the command line")]
    if place.controller is not None and place.tree is None:
        text = f"the site file of {place.path} has problems: `ampacity check` names them"
        return place, [fail("config", text)]
    kind = "a controller's" if place.controller is not None else "an agent's"
    if place.operator is not None:
        kind = "an operator's"
    return place, [ok("config", f"{place.path} is {kind} file of site {place.site!r}")]


def _state_checks(place: Place) -> list[Check]:
    if place.agent is not None:
        return directory_checks(Path(place.agent.state_dir), name="state")
    if place.controller is not None:
        return directory_checks(Path(place.controller.store.directory), name="state")
    return []


def _line(check: Check) -> Line:
    return Line(f"{check.grade:<4}  {check.name:<10}  {check.sentence}", _LEVELS[check.grade])
