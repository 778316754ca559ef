"""Runs a command against a fake driver: `python -m tests.libnvml DIRECTORY COMMAND...`.

The library and its page stay in DIRECTORY. With no command it prints the variables to set.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.libnvml.handle import FakeNvml, build


def main() -> int:
    """Build, load the GPUs as asked, run the command to its end and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.libnvml", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--gpus", type=int, default=8, help="how many, at most 16")
    parser.add_argument("--intensity", type=float, default=0.5, help="of the SMs, 0 to 1")
    parser.add_argument("--bandwidth", type=float, default=0.4, help="of memory, 0 to 1")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    path, library = options.directory / "state", build(options.directory)
    fake = FakeNvml.create(path, library, gpu_count=options.gpus)
    fake.load(None, a=options.intensity, m=options.bandwidth, c=1.0)
    if not options.command:
        sys.stdout.writelines(
            f"export {key}={value}\n" for key, value in fake.environment().items()
        )
        return 0
    return subprocess.run(
        options.command, env=os.environ | fake.environment(), check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
