"""Runs the benchmarks: `python -m benchmarks [NAME]...`, all of them when none is named.

Each runs in a process of its own, so that none measures the memory that another left behind. It
times nothing itself and judges no figure; a benchmark that fails fails the run, after the others.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import benchmarks


def known() -> list[str]:
    """The modules of this folder that are benchmarks, by name."""
    names = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in names if not name.startswith("_"))


def run(name: str) -> bool:
    """Run one benchmark; its table goes to this process's own output. True if it succeeded."""
    print(f"\n== {name}", flush=True)
    program = f"from benchmarks.{name} import main; main()"
    return subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def main(names: list[str]) -> int:
    """Run the named benchmarks; the exit code is 0, 1 when one failed, 2 for an unknown name."""
    unknown = sorted(set(names) - set(known()))
    if unknown:
        print(f"benchmarks: no {', '.join(unknown)}; there are: {', '.join(known())}",
              file=sys.stderr)  # fmt: skip
        return 2
    failed = [name for name in names or known() if not run(name)]
    if failed:
        print(f"\nbenchmarks: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
