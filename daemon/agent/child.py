"""The actuator's I/O child: started, watched, and started again when it ends, hangs or lies.

It owns the process and the actuator's end of the pipe. The child is never waited for: if it does
not read, telemetry is dropped; if it gives no heartbeat, it is killed.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Final

from daemon.agent.configure import PYTHON
from daemon.agent.pipe import PipeClosed, PipeEnd, PipeError

log = logging.getLogger(__name__)

SILENT_S: Final = 10.0
"""A child without a heartbeat for so long is killed; ten of its beats, far beyond a lease."""
RESTART_S_MIN: Final = 0.5
RESTART_S_MAX: Final = 30.0
HEALTHY_S: Final = 60.0
"""After running for so long its next end counts as the first."""

STATE_KINDS: Final = ("status", "info", "applied")
"""What a new child, and one that was full, must be told again: the last of each."""

Launch = Callable[[int], subprocess.Popen[bytes]]
"""Starts a child that inherits the file descriptor given."""


def io_command(config_path: str, fd: int) -> list[str]:
    """The command line of the I/O process."""
    return [*PYTHON, "-m", "daemon.agent.io", "--config", config_path, "--fd", str(fd)]


def launcher(config_path: str, user: str | None) -> Launch:
    """Start the I/O process as `user` when this process is root, else as whoever runs this.

    It gets a session of its own, so that a Ctrl-C at a terminal ends the actuator first.
    """
    lowered = user if user is not None and os.geteuid() == 0 else None

    def launch(fd: int) -> subprocess.Popen[bytes]:
        command = io_command(config_path, fd)
        if lowered is None:
            return subprocess.Popen(  # noqa: S603 - our own module
                command, pass_fds=(fd,), stdin=subprocess.DEVNULL, start_new_session=True
            )
        return subprocess.Popen(  # noqa: S603 - our own module
            command,
            pass_fds=(fd,),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            user=lowered,
            group=_group_of(lowered),
            extra_groups=(),
        )

    return launch


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


class IoChild:
    """The child and its pipe; `None` in place of either while there is none."""

    def __init__(self, launch: Launch) -> None:
        """Remember how to start it; `tend` starts it."""
        self._launch = launch
        self._process: subprocess.Popen[bytes] | None = None
        self.pipe: PipeEnd | None = None
        self.starts_count = 0
        self.dropped_count = 0
        """Frames that children did not take."""
        self._state: dict[str, bytes] = {}
        self._owed: set[str] = set()
        self._started_s = self._heard_s = 0.0
        self._start_s = 0.0
        self._backoff_s = RESTART_S_MIN

    @property
    def process_id(self) -> int | None:
        """Of the running child."""
        return self._process.pid if self._process is not None else None

    @property
    def is_heard(self) -> bool:
        """Whether the running child has given a heartbeat: from then on no event is lost in it."""
        return self._process is not None and self._heard_s > self._started_s

    def tend(self, now_s: float) -> None:
        """Start it when it is due and kill it when it is silent; never waits."""
        if self._process is None:
            if now_s >= self._start_s:
                self._start(now_s)
            return
        if self._process.poll() is not None:
            self._end(now_s, f"exit code {self._process.returncode}")
        elif now_s - self._heard_s > SILENT_S:
            self._process.kill()
            self._end(now_s, f"no heartbeat for {SILENT_S:g} s, killed")

    def _start(self, now_s: float) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._process = self._launch(theirs.fileno())
        except (OSError, KeyError, subprocess.SubprocessError) as error:
            ours.close()
            self._later(now_s)
            log.error("event=io-start-failed error=%r retry_s=%.1f", str(error), self._backoff_s)
            return
        finally:
            theirs.close()
        self.pipe = PipeEnd(ours)
        self.starts_count += 1
        self._started_s = self._heard_s = now_s
        log.info("event=io-started pid=%d", self._process.pid)
        self._owed = set(self._state)
        self._pay(now_s)

    def _later(self, now_s: float) -> None:
        self._start_s = now_s + self._backoff_s
        self._backoff_s = min(2.0 * self._backoff_s, RESTART_S_MAX)

    def _end(self, now_s: float, why: str) -> None:
        """Give up this child; the next one comes after the backoff."""
        if now_s - self._started_s > HEALTHY_S:
            self._backoff_s = RESTART_S_MIN
        log.warning("event=io-ended reason=%r retry_s=%.1f", why, self._backoff_s)
        self._later(now_s)
        if self.pipe is not None:
            self.dropped_count += sum(self.pipe.dropped.values())
            self.pipe.close()
        process, self._process, self.pipe = self._process, None, None
        if process is not None and process.poll() is None:
            process.kill()
            # SIGKILL cannot be ignored; a child in an uninterruptible call is reaped by a later
            # wait of the interpreter, not by ours.
            process.poll()

    def receive(self, now_s: float) -> list[tuple[str, bytes]]:
        """Leases and emergencies that have come in; heartbeats are taken out here."""
        if self.pipe is None:
            return []
        try:
            frames = self.pipe.receive()
        except (PipeClosed, PipeError) as error:
            self._end(now_s, f"{type(error).__name__}: {error}")
            return []
        if any(kind == "heartbeat" for kind, _ in frames):
            self._heard_s = now_s
        return [frame for frame in frames if frame[0] != "heartbeat"]

    def send(self, messages: Sequence[tuple[str, bytes]], now_s: float) -> None:
        """Pass messages on. What must not be lost is told again once the child takes it."""
        for kind, payload in messages:
            if kind in STATE_KINDS:
                self._state[kind] = payload
                self._owed.add(kind)
            elif self.pipe is not None:
                # A new child hears the status first, because its last will carries the session.
                self._pay(now_s)
                self._offer(kind, payload, now_s)
        self._pay(now_s)

    def _pay(self, now_s: float) -> None:
        for kind in STATE_KINDS:
            if kind in self._owed and self._offer(kind, self._state[kind], now_s):
                self._owed.discard(kind)

    def _offer(self, kind: str, payload: bytes, now_s: float) -> bool:
        if self.pipe is None:
            return False
        try:
            return self.pipe.send(kind, payload)
        except (PipeClosed, PipeError) as error:
            self._end(now_s, f"{type(error).__name__}: {error}")
            return False

    def flush(self, now_s: float) -> None:
        """Send what waits, as far as the child takes it."""
        if self.pipe is None:
            return
        try:
            self.pipe.flush()
        except PipeClosed as error:
            self._end(now_s, f"PipeClosed: {error}")

    def close(self, wait_s: float) -> None:
        """Say goodbye by ending the pipe, wait for the child to end, else kill it."""
        pipe, self.pipe = self.pipe, None
        process, self._process = self._process, None
        if pipe is not None:
            pipe.finish()
        try:
            if process is not None:
                _wait_or_kill(process, wait_s)
        finally:
            if pipe is not None:
                pipe.close()


def _wait_or_kill(process: subprocess.Popen[bytes], wait_s: float) -> None:
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(wait_s)
