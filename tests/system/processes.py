"""Commands of ours as child processes: started, killed, stopped and read, and always ended.

A `Process` dies with the test run whatever becomes of it, keeps everything that the command wrote,
and waits for conditions with a deadline. It knows nothing of brokers, agents or controllers.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from daemon.embedded_broker import dies_with_parent

POLL_S: Final = 0.02
WAIT_S: Final = 15.0
END_S: Final = 10.0


def monotonic_ns() -> int:
    """The clock of the fake library's stamps."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def wait_until(
    condition: Callable[[], object],
    what: str,
    *,
    timeout_s: float = WAIT_S,
    but: Callable[[], str] = str,
) -> None:
    """Wait until `condition` holds; fails after `timeout_s` with `what`, and what `but` says."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}\n{but()}"
        time.sleep(POLL_S)


def ampacity(*arguments: object) -> list[str]:
    """The command line of our command, as installed beside this interpreter."""
    return [str(Path(sys.executable).with_name("ampacity")), *map(str, arguments)]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command that has ended said."""

    code: int
    out: str
    err: str
    took_s: float


def answer(
    *arguments: object, timeout_s: float = 30.0, env: Mapping[str, str] | None = None
) -> Answer:
    """Run our command to its end."""
    begun_s = time.monotonic()
    done = subprocess.run(
        ampacity(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | dict(env or {}),
    )
    return Answer(done.returncode, done.stdout, done.stderr, time.monotonic() - begun_s)


class Process:
    """One command of ours, which may be started again after its end."""

    def __init__(
        self, name: str, command: Sequence[str], directory: Path, env: Mapping[str, str] | None
    ) -> None:
        """Remember what to run; its stderr goes to `<name>.log`, its stdout to `<name>.out`."""
        self.name = name
        self.log_path = directory / f"{name}.log"
        self.out_path = directory / f"{name}.out"
        self.started_s = -math.inf
        """When it was started last, on the monotonic clock."""
        self._command = list(command)
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.poll()

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def tail(self) -> str:
        """The end of the log, for failures."""
        return f"--- {self.name} ---\n{self.log[-2_000:]}"

    def start(self) -> Self:
        assert not self.runs, f"{self.name} runs already"
        self.started_s = time.monotonic()
        with self.log_path.open("ab") as log, self.out_path.open("ab") as out:
            self._process = subprocess.Popen(
                dies_with_parent(self._command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=os.environ | self._env,
                # a signal to it must not reach the test run
                start_new_session=True,
            )
        return self

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> int:
        """Kill it, as a crash would; returns when that was, in ns."""
        at_ns = monotonic_ns()
        assert self._process is not None, f"{self.name} was not started"
        self._process.kill()
        self._process.wait(END_S)
        return at_ns

    def terminate(self) -> int:
        """End it by SIGTERM; returns its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self, timeout_s: float = END_S) -> int:
        """Wait for its end; returns its exit code."""
        assert self._process is not None, f"{self.name} was not started"
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} goes on after {timeout_s:g} s") from None

    def end(self) -> None:
        """End it somehow; does nothing when it does not run."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(END_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()


def children_of(pid: int) -> list[int]:
    """The processes that `pid` has started and that are still there."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(word) for word in words]
    return []


def descendants_of(pid: int) -> Iterator[int]:
    """All processes below `pid`."""
    for child in children_of(pid):
        yield child
        yield from descendants_of(child)


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no corpse."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")
