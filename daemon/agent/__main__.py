"""The actuator process, as `run_agent` becomes it: path, checked configuration, version, log level.

Not for people: they type `ampacity agent --config PATH`.
"""

from __future__ import annotations

import os
import sys
import types

import nacl

# Modules that others import without need, and that cost 2 MB of the 20 this process may have. The
# NVML binding uses ctypes.util on Windows only; it drags in archivers and temporary files. msgspec
# takes typing_extensions where it is installed, and typing does as well. pathlib wants urllib.parse
# for file:// addresses. PyNaCl's package of bindings loads all of them, and we use one.
_unused = types.ModuleType("ctypes.util")
_unused.find_library = lambda _name: None  # type: ignore[attr-defined]
sys.modules.setdefault("ctypes.util", _unused)
sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]
_addresses = types.ModuleType("urllib.parse")
_addresses.quote_from_bytes = None  # type: ignore[attr-defined]
sys.modules.setdefault("urllib.parse", _addresses)
_bindings = types.ModuleType("nacl.bindings")
_bindings.__path__ = [f"{place}/bindings" for place in nacl.__path__]
sys.modules.setdefault("nacl.bindings", _bindings)

from pathlib import Path  # noqa: E402 - after the lines above

import msgspec  # noqa: E402

from daemon.agent.supervisor import guard  # noqa: E402
from daemon.logs import set_up_logging  # noqa: E402
from facility.config import AgentConfig  # noqa: E402


def main(path: str, descriptor: str, version: str, level: str) -> int:
    """Run with the configuration that waits, as JSON, in file `descriptor`."""
    set_up_logging(level)
    with os.fdopen(int(descriptor), "rb") as file:
        config = msgspec.json.decode(file.read(), type=AgentConfig)
    return guard(Path(path), config, version=version)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
