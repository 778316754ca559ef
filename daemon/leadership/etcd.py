"""The leader's record in etcd, through the JSON gateway of its v3 API.

It owns one HTTP client and asks one server at a time; when that does not answer it goes on to the
next. No etcd lease is used: those last two seconds at least, which is too long for a lease of four,
and a key that vanishes with its lease would take the epoch along.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from typing import Annotated, TypeVar

import httpx
import msgspec
from msgspec import Meta, Struct, field

from facility.config import LeadershipConfig
from facility.ports import Kept, LockRefused, LockStoreLost

# It logs every request, four a second; what fails is said by `LockStoreLost`.
logging.getLogger("httpx").setLevel(logging.WARNING)

Number = Annotated[str, Meta(pattern=r"^[0-9]{1,19}$")]
"""The gateway writes 64-bit numbers as text."""

AnswerT = TypeVar("AnswerT")


class _Pair(Struct):
    value: str = ""
    mod_revision: Number = "0"


class _Header(Struct):
    revision: Number = "0"


class _Range(Struct):
    header: _Header
    kvs: list[_Pair] = field(default_factory=list)


class _Txn(Struct):
    header: _Header
    succeeded: bool = False


class _Token(Struct):
    token: str


class EtcdStore:
    """One key of an etcd cluster."""

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
        self._key = _text(key.encode())
        self._password = password
        self._tls = tls
        self._timeout_s = timeout_s
        self._place = 0
        self._token = ""
        self._client: httpx.AsyncClient | None = None

    async def read(self) -> Kept:
        """What is there, agreed upon by a majority. Raises LockStoreLost."""
        answer = await self._ask("kv/range", {"key": self._key}, _Range)
        if not answer.kvs:
            return Kept(b"", 0)
        try:
            value = base64.b64decode(answer.kvs[0].value, validate=True)
        except ValueError as error:
            raise self._lost(f"a value that is not base64: {error}") from error
        return Kept(value, int(answer.kvs[0].mod_revision))

    async def write(self, value: bytes, *, revision: int) -> int:
        """Replace what has `revision`. Raises LockRefused, LockStoreLost."""
        unchanged = {"key": self._key, "target": "MOD", "mod_revision": str(revision)}
        put = {"request_put": {"key": self._key, "value": _text(value)}}
        answer = await self._ask("kv/txn", {"compare": [unchanged], "success": [put]}, _Txn)
        if not answer.succeeded:
            raise LockRefused
        return int(answer.header.revision)

    async def close(self) -> None:
        """Let go of connections; never raises."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _ask(self, path: str, body: object, kind: type[AnswerT]) -> AnswerT:
        """One question to the present server. Raises LockStoreLost."""
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._config.username is not None and not self._token:
                    credentials = {"name": self._config.username, "password": self._password or ""}
                    self._token = (await self._post("auth/authenticate", credentials, _Token)).token
                return await self._post(path, body, kind)
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            why = str(error) or f"no answer within {self._timeout_s:g} s"
            raise self._lost(why) from error
        except msgspec.DecodeError as error:
            raise self._lost(f"an answer that makes no sense: {error}") from error

    async def _post(self, path: str, body: object, kind: type[AnswerT]) -> AnswerT:
        if self._client is None:
            self._client = httpx.AsyncClient(
                verify=self._tls if self._tls is not None else True,
                timeout=self._timeout_s,
                trust_env=False,
            )
        answer = await self._client.post(
            f"{self._server}/v3/{path}",
            content=msgspec.json.encode(body),
            headers={"Authorization": self._token} if self._token else {},
        )
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            self._token = ""  # they last five minutes: the next question asks for another
        if answer.status_code != httpx.codes.OK:
            raise self._lost(f"HTTP {answer.status_code}: {answer.text[:200]}")
        return msgspec.json.decode(answer.content, type=kind)

    @property
    def _server(self) -> str:
        return self._config.servers[self._place % len(self._config.servers)].rstrip("/")

    def _lost(self, why: str) -> LockStoreLost:
        """Leave this server, and say why."""
        lost = LockStoreLost(f"{self._server}: {why}")
        self._place += 1
        return lost


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
