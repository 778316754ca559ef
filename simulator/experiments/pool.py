"""Runs units on the cores of this machine, each in a fresh process, and never leaves one behind.

Processes are spawned, so nothing of the parent leaks into a result; linear algebra runs on one
thread, so its sums have one order. A worker ends itself when its parent is gone, however it went.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.queues import SimpleQueue
from typing import Final, Protocol

from simulator.experiments.units import Unit, UnitError, run_unit

Told = Callable[[str, float], None]
"""Told which fraction of the unit of that id is done."""

LOOK_S: Final = 0.25
ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Outcomes = Generator[tuple[Unit, bytes | UnitError], None, None]


class EngineError(RuntimeError):
    """An engine is not there; the text says which and why."""


class Engine(Protocol):
    """What runs units: the cores of this machine, or somebody's cluster."""

    def run(self, units: Sequence[Unit], told: Told) -> Outcomes:
        """Run the units in any order; each with its result, or with why it failed.

        `told` is called between results, in this thread. Closing the generator ends all work.
        """


class ProcessEngine:
    """So many processes on this machine."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs

    def run(self, units: Sequence[Unit], told: Told) -> Outcomes:
        """Run the units; as each ends, give it back."""
        context = multiprocessing.get_context("spawn")
        queue: SimpleQueue[tuple[str, float]] = context.SimpleQueue()
        before = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
        others = multiprocessing.active_children()
        pool = concurrent.futures.ProcessPoolExecutor(
            min(self._jobs, len(units)), context, initializer=_begin, initargs=(queue,)
        )
        waiting: dict[concurrent.futures.Future[bytes], Unit] = {}
        try:
            with worker_birth():
                waiting = {pool.submit(_run, unit): unit for unit in units}
            while waiting:
                done, _ = concurrent.futures.wait(
                    waiting, LOOK_S, return_when=concurrent.futures.FIRST_COMPLETED
                )
                while not queue.empty():
                    told(*queue.get())
                for future in done:
                    yield waiting.pop(future), _outcome(future)
        finally:
            for process in multiprocessing.active_children() if waiting else ():
                if process not in others:
                    process.terminate()
            pool.shutdown(cancel_futures=True)
            _restore(before)


@contextlib.contextmanager
def worker_birth() -> Iterator[None]:
    """Processes started meanwhile hear no Ctrl-C and do not run the parent's script again.

    The parent alone answers Ctrl-C, and ends them. A spawned process would import the parent's
    main module under another name; what a worker needs it imports by itself.
    """
    resource_tracker.ensure_running()  # starting it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outcome(future: concurrent.futures.Future[bytes]) -> bytes | UnitError:
    try:
        return future.result()
    except UnitError as error:
        return error
    except BrokenProcessPool:
        return UnitError("a worker process died; the machine may have run out of memory")


def _restore(environment: dict[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


_progress: list[SimpleQueue[tuple[str, float]]] = []
"""In a worker: the queue back. An initializer has no other place to leave it."""


def _begin(queue: SimpleQueue[tuple[str, float]]) -> None:
    """A worker starts; its parent's end is its own."""
    _progress[:] = [queue]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(unit: Unit) -> bytes:
    return run_unit(unit, lambda fraction: _progress[0].put((unit.id, fraction)))
