"""What an agent remembers on disk: the epoch, emergencies, what it found, and what it wrote.

One small file, replaced as a whole and never changed in place. Reading it never fails the agent and
writing it never delays one: both say what was wrong instead. What must be on disk at once (a new
epoch, an emergency) is written when it happens; renewals of a lease are not, because a lease names
the session that it answers and no session outlives its process (see `NodeMemory`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Annotated, Final, Protocol

import msgspec
from msgspec import Meta, Struct

from controllers.node_lease import NodeMemory
from facility.wire import GPUS_PER_NODE_MAX, ClockMhz, Uuid

STATE_FILE: Final = "agent.json"
CORRUPT_FILE: Final = "agent.json.corrupt"
STATE_BYTES_MAX: Final = 1_048_576
RETRY_S: Final = 5.0
"""Between two attempts to write when the disk refuses."""


class FoundClocks(Struct, frozen=True, kw_only=True):
    """What a GPU was like before the first write of any agent.

    A lock cannot be read back through NVML, so `lock_mhz` is None, not locked, unless an operator
    has recorded one here; `clock_mhz_max` is kept for people.
    """

    clock_mhz_max: ClockMhz
    lock_mhz: ClockMhz | None = None


class NodeState(Struct, frozen=True, kw_only=True):
    """Everything that is remembered. `ceilings_mhz` is as of the last save, for people."""

    version: Annotated[int, Meta(ge=1, le=1)] = 1
    memory: NodeMemory = NodeMemory()
    found: Annotated[dict[Uuid, FoundClocks], Meta(max_length=4 * GPUS_PER_NODE_MAX)] = {}
    ceilings_mhz: Annotated[dict[Uuid, ClockMhz], Meta(max_length=4 * GPUS_PER_NODE_MAX)] = {}


class Keeper(Protocol):
    """Where state goes. Keeping never waits; the last state offered is the one that counts."""

    def load(self) -> NodeState:
        """The state of the last process, or a blank one with `problem` saying why."""
        ...

    def keep(self, state: NodeState) -> None:
        """Write `state` soon."""
        ...

    @property
    def problem(self) -> str:
        """What is wrong with the state on disk now, empty when nothing is."""
        ...

    def close(self) -> None:
        """Finish writing, within a bounded time."""
        ...


class MemoryKeeper:
    """State that ends with the process: for simulated nodes."""

    def __init__(self) -> None:
        """Start blank."""
        self.state = NodeState()
        self.problem = ""

    def load(self) -> NodeState:
        """What was kept last."""
        return self.state

    def keep(self, state: NodeState) -> None:
        """Keep it in memory."""
        self.state = state

    def close(self) -> None:
        """Nothing to finish."""


def read_state(directory: Path) -> tuple[NodeState, str]:
    """The state in `directory`, and what was wrong with it; empty when nothing was.

    A file that cannot be read or makes no sense counts as unknown: the epoch floor is then 0, so
    that the first leader heard sets it, and no emergency is active until the broker repeats it. A
    recorded old lease still cannot be replayed, because it names another session; only a deposed
    leader that is alive could be obeyed. Refusing everybody instead would need a person at every
    node. The file is put aside, and the caller raises an alarm.
    """
    path = directory / STATE_FILE
    try:
        if path.stat().st_size > STATE_BYTES_MAX:
            raise msgspec.DecodeError(f"larger than {STATE_BYTES_MAX} bytes")
        return msgspec.json.decode(path.read_bytes(), type=NodeState), ""
    except FileNotFoundError:
        return NodeState(), ""
    except OSError as error:
        return NodeState(), f"cannot read {path}: {error.strerror}; epoch floor is 0"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        with contextlib.suppress(OSError):
            path.replace(directory / CORRUPT_FILE)
        return NodeState(), f"{path} makes no sense ({error}), kept as {CORRUPT_FILE};" + (
            " epoch floor is 0"
        )


def write_state(directory: Path, state: NodeState) -> None:
    """Replace the state in `directory`, on disk when this returns.

    Raises:
        OSError: it could not be written; the old state is still there.
    """
    part = directory / (STATE_FILE + ".part")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with part.open("wb") as file:
        file.write(msgspec.json.encode(state))
        file.flush()
        os.fsync(file.fileno())
    part.replace(directory / STATE_FILE)
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class DiskKeeper:
    """Keeps state in a directory, from a thread of its own: a sick disk must not hold up a lease.

    Only the newest state waits to be written. While the disk refuses, it is tried again every
    RETRY_S and `problem` says so.
    """

    def __init__(self, directory: Path) -> None:
        """Use `directory`, which is made when something is first written."""
        self._directory = directory
        self._waiting: NodeState | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._load_problem = ""
        self._write_problem = ""

    @property
    def problem(self) -> str:
        """What is wrong with the state on disk now, empty when nothing is."""
        return self._write_problem or self._load_problem

    def load(self) -> NodeState:
        """The state of the last process, or a blank one with `problem` saying why."""
        state, self._load_problem = read_state(self._directory)
        return state

    def keep(self, state: NodeState) -> None:
        """Write `state` soon, instead of any other that still waits."""
        with self._changed:
            self._waiting = state
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="state", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Write what waits, in at most RETRY_S."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(RETRY_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None and not self._closing:
                    self._changed.wait()
                state, self._waiting = self._waiting, None
            if state is None:
                return
            try:
                write_state(self._directory, state)
                self._write_problem = self._load_problem = ""
            except OSError as error:
                self._write_problem = f"cannot write {self._directory}: {error.strerror}"
                with self._changed:
                    self._waiting = self._waiting or state
                    if self._closing:
                        return
                    self._changed.wait(RETRY_S)
