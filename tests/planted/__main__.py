"""The whole suite: every bug until it is found, as a table.

python -m tests.planted [NAME-PART]
"""

from __future__ import annotations

import concurrent.futures
import os
import sys

from tests.planted.bugs import BUGS
from tests.planted.hunt import hunt


def main() -> int:
    """Print one line per bug; returns 1 when one was not found."""
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    places = [place for place, bug in enumerate(BUGS) if part in bug.name]
    missed = 0
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        for place, seed, problem in pool.map(hunt, places):
            bug = BUGS[place]
            missed += seed is None
            found = f"seed {seed}: {problem}" if seed else f"NOT FOUND in {bug.within} seeds"
            print(f"{bug.name:<52} {bug.place:<26} {found}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
