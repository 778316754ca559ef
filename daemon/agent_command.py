"""`ampacity agent`: the service on a GPU host."""

from __future__ import annotations

import argparse
from pathlib import Path

from daemon.version import VERSION


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ampacity agent`."""
    parser.description = (
        "Reads the GPUs of this host, reports them over MQTT and locks their clocks as leases"
        " allow; without a lease at the safe ceiling. SIGHUP reads the file again."
        " `ampacity config agent NODE --site FILE` writes the file."
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="this node's agent file")


def run(args: argparse.Namespace) -> int:
    """Run the agent until it is told to stop."""
    from daemon.agent.supervisor import run_agent

    return run_agent(Path(args.config), version=VERSION)
