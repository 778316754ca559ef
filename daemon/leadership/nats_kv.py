"""The leader's record in a NATS JetStream key-value bucket.

It owns one connection to one server of the cluster at a time and goes on to the next when one does
not answer. The bucket has no time to live: when a leader is over is decided by `Candidate`, and a
record that vanished by itself would take the epoch along.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import KeyValueConfig
from nats.js.errors import (
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
)
from nats.js.kv import KeyValue

from facility.config import LeadershipConfig
from facility.ports import Kept, LockRefused, LockStoreLost

SECOND_TRY_S: Final = 0.01
CLOSE_S: Final = 0.5


class NatsStore:
    """One key of one bucket; makes the bucket if there is none."""

    def __init__(
        self,
        config: LeadershipConfig,
        key: str,
        *,
        password: str | None,
        tls: ssl.SSLContext | None,
        timeout_s: float,
    ) -> None:
        self._config = config
        self._key = key
        self._password = password
        self._tls = tls
        self._timeout_s = timeout_s
        self._place = 0
        self._client: Client | None = None
        self._bucket: KeyValue | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def read(self) -> Kept:
        """What is there. Raises LockStoreLost."""
        try:
            async with asyncio.timeout(self._timeout_s):
                bucket = await self._open()
                entry = await bucket.get(self._key)
        except KeyNotFoundError as error:
            # A key that somebody has deleted has left a marker, whose revision counts.
            left = error.entry.revision if error.entry is not None else 0
            return Kept(b"", left or 0)
        except (NatsError, OSError, TimeoutError) as error:
            raise self._lost(error) from error
        return Kept(entry.value or b"", entry.revision or 0)

    async def write(self, value: bytes, *, revision: int) -> int:
        """Replace what has `revision`. Raises LockRefused, LockStoreLost."""
        try:
            async with asyncio.timeout(self._timeout_s):
                bucket = await self._open()
                return await bucket.update(self._key, value, last=revision)
        except KeyWrongLastSequenceError as error:
            raise LockRefused from error
        except (NatsError, OSError, TimeoutError) as error:
            raise self._lost(error) from error

    async def close(self) -> None:
        """Let go of the connection; never raises."""
        self._drop()
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_S)

    async def _open(self) -> KeyValue:
        if self._bucket is not None and self._client is not None and self._client.is_connected:
            return self._bucket
        self._drop()
        server = self._config.servers[self._place % len(self._config.servers)]
        client = self._client = Client()
        await client.connect(
            servers=[server],
            allow_reconnect=False,
            connect_timeout=self._timeout_s,  # type: ignore[arg-type]
            user=self._config.username,
            password=self._password,
            tls=self._tls,
            error_cb=_silent,
            name="ampacity-leadership",
        )
        stream = client.jetstream(timeout=self._timeout_s)
        try:
            self._bucket = await stream.key_value(self._config.bucket)
        except BucketNotFoundError:
            self._bucket = await stream.create_key_value(
                KeyValueConfig(
                    bucket=self._config.bucket,
                    description="which Ampacity controller leads",
                    history=1,
                    replicas=self._config.replicas,
                )
            )
        return self._bucket

    def _lost(self, error: BaseException) -> LockStoreLost:
        """Leave this server, and say why."""
        server = self._config.servers[self._place % len(self._config.servers)]
        self._place += 1
        self._drop()
        why = str(error) or f"no answer within {self._timeout_s:g} s"
        return LockStoreLost(f"{server}: {why}")

    def _drop(self) -> None:
        """Close the connection in the background: a server that hangs would hold us up."""
        client, self._client, self._bucket = self._client, None, None
        if client is None:
            return
        task = asyncio.create_task(_close(client))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _close(client: Client) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_S):
            await client.close()


async def _silent(_error: Exception) -> None:
    """The library would log what `LockStoreLost` says better."""
