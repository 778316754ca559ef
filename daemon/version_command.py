"""`ampacity version`: which Ampacity this is."""

from __future__ import annotations

import argparse
import json
import platform

from daemon.version import VERSION


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ampacity version`."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the version."""
    if args.json:
        print(json.dumps({"version": VERSION, "python": platform.python_version()}))
    else:
        print(VERSION)
    return 0
