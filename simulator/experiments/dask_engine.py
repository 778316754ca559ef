"""Runs units on a Dask cluster: one that is there, or a local one made for the sweep.

Workers need this package, and the trace, if any, at the same path; one with other code refuses.
Results come back to the one process that has the folder, which alone writes it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
from collections.abc import Iterator, Sequence
from typing import Any, Final

import distributed

from simulator.experiments.pool import EngineError, Outcomes, Told, worker_birth
from simulator.experiments.units import Unit, UnitError, run_unit

TOPIC: Final = "ampacity-sweep"
CONNECT_S: Final = 15.0
LOOK_S: Final = 0.25


class DaskEngine:
    """The Dask cluster whose scheduler is at `address`, or a local one with `jobs` processes."""

    def __init__(self, address: str | None, jobs: int, *, connect_s: float = CONNECT_S) -> None:
        self._address = address
        self._connect_s = connect_s
        self._jobs = jobs

    def run(self, units: Sequence[Unit], told: Told) -> Outcomes:
        """Run the units; as each ends, give it back.

        Raises:
            EngineError: no scheduler answers there.
        """
        news: queue.SimpleQueue[tuple[str, float | None]] = queue.SimpleQueue()
        with self._client() as client:
            client.subscribe_topic(TOPIC, lambda event: news.put((event[1][0], event[1][1])))
            waiting: dict[str, tuple[Unit, Any]] = {}
            for unit in units:
                future = client.submit(_run, unit, pure=False)
                waiting[unit.id] = (unit, future)
                future.add_done_callback(lambda _, name=unit.id: news.put((name, None)))
            while waiting:
                with contextlib.suppress(queue.Empty):
                    name, fraction = news.get(timeout=LOOK_S)
                    if fraction is not None:
                        told(name, fraction)
                    elif name in waiting:
                        unit, future = waiting.pop(name)
                        yield unit, _outcome(future)

    @contextlib.contextmanager
    def _client(self) -> Iterator[distributed.Client]:
        with contextlib.ExitStack() as stack:
            target: Any = self._address
            if target is None:
                with worker_birth():
                    local = _local(self._jobs)
                target = stack.enter_context(local)
            try:
                client = distributed.Client(target, timeout=self._connect_s, set_as_default=False)
            except (OSError, ValueError) as error:
                raise EngineError(f"--engine dask={self._address}: {error}") from error
            yield stack.enter_context(client)


def _local(jobs: int) -> distributed.LocalCluster:
    """Processes on this machine that nobody else can reach; what fails is told as results."""
    return distributed.LocalCluster(
        n_workers=jobs, threads_per_worker=1, processes=True, host="127.0.0.1",
        dashboard_address=None, silence_logs=logging.CRITICAL,
    )  # fmt: skip


def _outcome(future: distributed.Future) -> bytes | UnitError:
    if future.cancelled():
        return UnitError("the cluster gave it up")
    error = future.exception()
    if isinstance(error, UnitError):
        return error
    if error is not None:  # the cluster's own, such as a worker that died again and again
        return UnitError(f"{type(error).__name__}: {error}")
    encoded: bytes = future.result()
    return encoded


def _run(unit: Unit) -> bytes:
    worker = distributed.get_worker()
    return run_unit(unit, lambda fraction: worker.log_event(TOPIC, [unit.id, fraction]))
