"""A toy sweep as a process of its own, to be killed: `sweep_child DOCUMENT [OPTION]...`.

The same entry as the command's, with the toy model known to it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from daemon.simulate_command import add_arguments, parse_seeds, sweep_order
from daemon.sweep_command import run_sweep
from tests.toy_sweep import TOY


def main(arguments: list[str]) -> int:
    """Run the sweep; returns the exit code."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(arguments)
    text = Path(args.scenario).read_text()
    return run_sweep(sweep_order(args, text, parse_seeds(args.seed)), TOY)


# Without the usual guard, as some start scripts are: a worker must not run this again.
if __name__ in ("__main__", "__mp_main__"):
    sys.exit(main(sys.argv[1:]))
