"""`ampacity controller`: the service that decides."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ampacity controller`."""
    parser.description = (
        "Keeps every feed, rack and cooling zone of a site inside its capacity. SIGHUP checks the"
        " files and starts anew with them; wrong files change nothing."
        " `ampacity config example controller` writes a file to begin with."
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the controller's file")


def run(args: argparse.Namespace) -> int:
    """Run the controller until it is told to stop."""
    from daemon.controller.process import run_controller

    return run_controller(args.config)
