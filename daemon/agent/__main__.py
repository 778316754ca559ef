"""The actuator process, as `run_agent` becomes it: a path, a checked configuration, a version.

Not for people: they type `ampacity agent --config PATH`.
"""

from __future__ import annotations

import logging
import os
import sys
import types
from pathlib import Path

import msgspec

# The official NVML binding imports ctypes.util, of which it needs nothing on Linux, and which
# drags in archivers and temporary files: 1 MB in a process that may have 20.
_unused = types.ModuleType("ctypes.util")
_unused.find_library = lambda _name: None  # type: ignore[attr-defined]
sys.modules.setdefault("ctypes.util", _unused)

from daemon.agent.supervisor import guard  # noqa: E402 - after the line above
from facility.config import AgentConfig  # noqa: E402


def main(path: str, descriptor: str, version: str) -> int:
    """Run with the configuration that waits, as JSON, in file `descriptor`."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    with os.fdopen(int(descriptor), "rb") as file:
        config = msgspec.json.decode(file.read(), type=AgentConfig)
    return guard(Path(path), config, version=version)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
