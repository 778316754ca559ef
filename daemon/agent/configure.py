"""Reads the agent's file in a process of its own, so that the actuator never holds the parser.

`python -m daemon.agent.configure PATH` checks the file and prints it, complete with defaults, as
JSON; problems go to stderr with exit code 78. The actuator starts that to reload, and goes on
working meanwhile. The parser would cost it 2 MB for ever, and a strange file any amount of time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from facility.config import AgentConfig

EXIT_CONFIG: Final = 78
READ_S: Final = 10.0
"""Longest time that reading a file may take."""
PROBLEMS_BYTES_MAX: Final = 65_536

PYTHON: Final = (sys.executable, "-P", "-X", "no_debug_ranges")
"""How our processes are started: nothing is imported from the folder that they are started in."""


class ConfigRefused(ValueError):
    """A file that did not load; the text has one problem on each line."""


def read_config(path: Path) -> AgentConfig:
    """The agent's file, checked. Raises ConfigRefused with every problem in it."""
    # Not at the top: whoever imports this module for its reader must not pay for the parser.
    from facility.loader import ConfigError, load_agent

    try:
        return load_agent(path.read_text(encoding="utf-8"), str(path))
    except ConfigError as error:
        raise ConfigRefused(str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigRefused(f"{path}: not UTF-8: {error}") from error
    except OSError as error:
        raise ConfigRefused(f"{path}: {error.strerror}") from error


class ConfigReader:
    """One reading of the file, under way. It is asked now and then and never waited for."""

    def __init__(self, path: Path, now_s: float) -> None:
        """Start to read `path`. Raises OSError when no process can be started."""
        self._until_s = now_s + READ_S
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [*PYTHON, "-m", "daemon.agent.configure", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def result(self, now_s: float) -> AgentConfig | None:
        """The configuration, or None while it is being read. Raises ConfigRefused."""
        code = self._process.poll()
        if code is None:
            if now_s < self._until_s:
                return None
            self._process.kill()
            raise ConfigRefused(f"reading took longer than {READ_S:g} s")
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with self._process.stdout, self._process.stderr:
            if code != 0:
                problems = self._process.stderr.read(PROBLEMS_BYTES_MAX)
                raise ConfigRefused(problems.decode(errors="replace").strip())
            return msgspec.json.decode(self._process.stdout.read(), type=AgentConfig)


def main(path: str) -> int:
    """Print the file as JSON, or its problems; returns the exit code."""
    try:
        config = read_config(Path(path))
    except ConfigRefused as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    sys.stdout.buffer.write(msgspec.json.encode(config))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
