"""The part of leadership that talks: asks the store what `Candidate` wants to know, in time.

It owns the task that renews, looks and takes, the store's client, and what is logged about them.
Who may speak is decided in `controllers.leadership`; a store that fails or hangs only means that
the lock is not renewed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from controllers.leadership import Candidate, Claim, LeaderRecord
from controllers.operator import OrdersState
from daemon.bus.client import Secrets
from daemon.clock import Clock
from daemon.controller.epoch import EpochError
from daemon.leadership.etcd import EtcdStore
from daemon.leadership.nats_kv import NatsStore
from facility.config import LeadershipConfig
from facility.ports import Kept, LockRefused, LockStore, LockStoreLost

LOG = logging.getLogger(__name__)

PAUSE_S_MIN: Final = 0.02
"""Between two questions to a store that refuses or fails at once."""
TIMEOUT_RATIO: Final = 0.2
"""Of `ttl_s`: how long one server may take. A second and a third are asked before `ttl_s` is over,
and still renew in time."""
RECORD_BYTES_MAX: Final = 512 * 1024


def open_store(config: LeadershipConfig, site: str) -> LockStore:
    """The store that the configuration names, not connected yet.

    Raises:
        SecretsError: a password or a certificate cannot be read.
    """
    secrets = Secrets.read(config, "leadership")
    timeout_s = TIMEOUT_RATIO * config.ttl_s
    if config.kind == "nats":
        return NatsStore(
            config, f"{site}.leader",
            password=secrets.password, tls=secrets.tls, timeout_s=timeout_s,
        )  # fmt: skip
    return EtcdStore(
        config, f"{config.bucket}/{site}/leader",
        password=secrets.password, tls=secrets.tls, timeout_s=timeout_s,
    )  # fmt: skip


def _always() -> bool:
    return True


class Campaign:
    """One controller's candidacy, kept up while it runs: a `Leadership`.

    `fresh_epoch` records and returns an epoch above the one given and every earlier one of this
    controller. `able` says whether anybody could hear this controller; one that nobody could hear
    for `ttl_s` leaves its place. `changed` is called when `may_speak` or `epoch` has changed.
    """

    def __init__(
        self,
        store: LockStore,
        candidate: Candidate,
        *,
        clock: Clock,
        fresh_epoch: Callable[[int], int],
        able: Callable[[], bool] = _always,
    ) -> None:
        self.changed: Callable[[], None] = _nobody
        self.trouble = ""
        """Why the store cannot be used, empty when it can."""
        self._store = store
        self._candidate = candidate
        self._clock = clock
        self._fresh_epoch = fresh_epoch
        self._able = able
        self._able_at_s = clock.now_s()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def epoch(self) -> int:
        """Of this controller's leadership; 0 when it has none."""
        return self._candidate.epoch

    @property
    def record(self) -> LeaderRecord | None:
        """The leader's record, ours or another's."""
        return self._candidate.record

    def may_speak(self) -> bool:
        """Whether this controller's lock is surely valid now."""
        return self._candidate.may_speak(self._clock.now_s())

    def keep_orders(self, orders: OrdersState) -> None:
        """Put the leader's standing orders into the record, at once."""
        self._candidate.orders = orders
        self._hurry.set()

    def raise_above(self, epoch: int) -> None:
        """Lead above an epoch that somebody obeys."""
        self._candidate.raise_above(epoch)
        self._hurry.set()

    def start(self) -> None:
        """Begin to stand by."""
        assert self._task is None, "already started"
        self._task = asyncio.create_task(self._run(), name="leadership")

    async def stop(self) -> None:
        """Say nothing any more and free the place, so that a standby need not wait."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
        with contextlib.suppress(LockRefused, LockStoreLost):
            await self._resign()
        await self._store.close()

    async def _resign(self) -> None:
        claim = self._candidate.resignation()
        if claim is None:
            return
        self.changed()
        await self._store.write(msgspec.json.encode(claim.record), revision=claim.revision)
        LOG.info("event=leadership-resigned epoch=%d", claim.record.epoch)

    def _is_heard(self) -> bool:
        """Whether this controller could be heard within the last `ttl_s`."""
        now_s = self._clock.now_s()
        if self._able():
            self._able_at_s = now_s
        return now_s - self._able_at_s < self._candidate.ttl_s

    async def _run(self) -> None:
        while True:
            self._hurry.clear()
            begun_s = self._clock.now_s()
            spoke = self.may_speak()
            wait = await self._turn()
            if self.may_speak() != spoke:
                self.changed()
            next_s = self._candidate.next_s(self._clock.now_s()) if wait else begun_s
            next_s = max(next_s, begun_s + PAUSE_S_MIN)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(next_s - self._clock.now_s(), 0.0)):
                    await self._hurry.wait()

    async def _turn(self) -> bool:
        """Ask one thing; returns whether to wait for the time of the next."""
        candidate = self._candidate
        try:
            heard = self._is_heard()
            if not heard:
                await self._resign()
            if not heard or candidate.action(self._clock.now_s()) == "read":
                kept = await self._store.read()
                candidate.saw(_record(kept), kept.revision, self._clock.now_s())
            else:
                claim = candidate.claim(self._clock.now_s(), self._fresh_epoch)
                await self._write(claim)
        except LockRefused:
            candidate.refused()
            return False
        except (LockStoreLost, EpochError) as error:
            self._failed(str(error))
            return False
        except Exception as error:
            # A client library's bug must not end the candidacy for ever: silence is safe.
            LOG.exception("event=leadership-failed")
            self._failed(repr(error))
            return False
        if self.trouble:
            LOG.info("event=leadership-store-answers")
            self.trouble = ""
        return True

    async def _write(self, claim: Claim) -> None:
        before = self._candidate.epoch
        payload = msgspec.json.encode(claim.record)
        self._candidate.written(claim, await self._store.write(payload, revision=claim.revision))
        if self._candidate.epoch != before:
            LOG.info("event=leadership-taken epoch=%d was=%d", self._candidate.epoch, before)
            self.changed()

    def _failed(self, trouble: str) -> None:
        """Note that the store gave no answer; say so once, until it has."""
        self._candidate.unanswered()
        if not self.trouble:
            LOG.warning("event=leadership-store-fails %s", trouble)
        self.trouble = trouble


def _record(kept: Kept) -> LeaderRecord | None:
    """What is kept, as a record. Whatever else is there counts as nobody, and is replaced."""
    if not kept.value or len(kept.value) > RECORD_BYTES_MAX:
        return None
    try:
        return msgspec.json.decode(kept.value, type=LeaderRecord)
    except (msgspec.DecodeError, UnicodeDecodeError):
        LOG.warning("event=leadership-record-unreadable revision=%d", kept.revision)
        return None


def _nobody() -> None:
    """Nobody listens yet."""
