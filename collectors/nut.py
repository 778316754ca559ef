"""A client of Network UPS Tools: asks `upsd` how a UPS or a PDU is, and never commands it.

One connection per device, kept open; a question is one line and its answer another. A look always
gives a reading, which says how far to believe it. What a reading means is not decided here.
"""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Final

from facility.nut import NutAddress, NutReading

LINE_BYTES_MAX: Final = 1_024
"""upsd's own longest line is half of that; more is not NUT."""
SECRET_BYTES_MAX: Final = 1_024
TIMEOUT_S: Final = 2.0
"""Longest wait for a connection or an answer; upsd answers from memory, within a millisecond."""
RETRY_S_MAX: Final = 5.0
POWER_W_MAX: Final = 1e9
_STALE: Final = frozenset({"DATA-STALE", "DRIVER-NOT-CONNECTED"})
_NOT_TOLD: Final = frozenset({"VAR-NOT-SUPPORTED"})
_NO_DATA_YET: Final = frozenset({"WAIT"})
"""What upsd answers for a status between its start and the driver's first words."""


class NutError(Exception):
    """upsd cannot be reached, or what answers does not speak its protocol."""


class NutRefused(NutError):
    """upsd has answered with an error; `code` is its word."""

    def __init__(self, code: str) -> None:
        """Keep the word."""
        super().__init__(f"upsd answers {code}")
        self.code = code


def unquoted(answer: str, device: str, variable: str) -> str:
    r"""The value of `VAR device variable "value"`, in which `\` hides a quote or itself.

    Raises:
        NutError: this is no such answer.
        NutRefused: it is an error.
    """
    if answer.startswith("ERR "):
        raise NutRefused(answer[4:].split(" ", 1)[0][:64])
    head = f'VAR {device} {variable} "'
    if not answer.startswith(head) or not answer.endswith('"') or len(answer) <= len(head):
        raise NutError(f"no answer to GET VAR {device} {variable}: {answer[:80]!r}")
    value, hidden = [], False
    for letter in answer[len(head) : -1]:
        if letter == '"' and not hidden:
            raise NutError(f"a quote inside the value of {variable}: {answer[:80]!r}")
        hidden = letter == "\\" and not hidden
        if not hidden:
            value.append(letter)
    return "".join(value)


class NutClient:
    """One connection to upsd. Not for several tasks at once."""

    def __init__(
        self,
        address: NutAddress,
        *,
        username: str | None = None,
        password_file: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Remember where and as whom; the password is read when it is needed and not kept."""
        self._address = address
        self._username = username
        self._password_file = password_file
        self._timeout_s = timeout_s
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, variable: str) -> str:
        """The value of a variable; connects first where there is no connection.

        Raises:
            NutRefused: upsd does not give it.
            NutError: anything else; the connection is closed then.
        """
        device = self._address.device
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._streams is None:
                    await self._connect()
                answer = await self._ask(f"GET VAR {device} {variable}")
            return unquoted(answer, device, variable)
        except NutRefused:
            raise
        except TimeoutError as error:
            self.close()
            raise NutError(f"no answer within {self._timeout_s:g} s") from error
        except (NutError, OSError, ValueError) as error:
            # An answer that is out of step would be taken for that of the next question.
            self.close()
            raise NutError(str(error) or type(error).__name__) from error
        except asyncio.CancelledError:
            self.close()
            raise

    async def _connect(self) -> None:
        self._streams = await asyncio.open_connection(
            self._address.host, self._address.port, limit=LINE_BYTES_MAX
        )
        if self._username is None:
            return
        for word, secret in (("USERNAME", self._username), ("PASSWORD", self._password())):
            answer = await self._ask(f"{word} {_quoted(secret)}")
            if not answer.startswith("OK"):
                raise NutError(f"upsd refuses {word}: {answer[:80]!r}")

    def _password(self) -> str:
        if self._password_file is None:
            return ""
        path = Path(self._password_file)
        with path.open("rb") as file:
            data = file.read(SECRET_BYTES_MAX + 1)
        if len(data) > SECRET_BYTES_MAX:
            raise NutError(f"{path} is longer than {SECRET_BYTES_MAX} bytes: no password")
        return data.decode("utf-8").strip()

    async def _ask(self, line: str) -> str:
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(f"{line}\n".encode())
        await writer.drain()
        # readline raises ValueError for a line beyond the limit of the stream
        answer = await reader.readline()
        if not answer.endswith(b"\n"):
            raise NutError("upsd has closed the connection")
        return answer.decode("utf-8", errors="replace").rstrip("\r\n")

    def close(self) -> None:
        """Let go of the connection; the next question makes another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class NutDevice:
    """One UPS or PDU, looked at now and then."""

    def __init__(
        self, client: NutClient, *, power: str | None = "ups.realpower", has_status: bool = True
    ) -> None:
        """Look through `client`; `power` names the variable with its watts, None asks for none.

        `has_status` is false for a meter: a PDU need not have an `ups.status`.
        """
        self._client = client
        self._power = power
        self._has_status = has_status
        self._failures_count = 0

    async def look(self) -> NutReading:
        """How it is now; never raises."""
        try:
            flags = frozenset[str]()
            if self._has_status:
                flags = frozenset((await self._client.get("ups.status")).split())
                if flags & _NO_DATA_YET or not flags:
                    return NutReading("stale", detail="the driver has told nothing yet")
            power_w = await self._number(self._power) if self._power else None
            load = await self._number("ups.load") if self._power and self._has_status else None
        except NutRefused as error:
            # An unknown device is a mistake in a file: it is no more there than a dead upsd.
            stale = error.code in _STALE
            return NutReading("stale" if stale else "unreachable", detail=str(error))
        except NutError as error:
            return NutReading("unreachable", detail=str(error)[:200])
        return NutReading("fresh", flags, power_w, None if load is None else load / 100.0)

    async def _number(self, variable: str) -> float | None:
        """A reading that can be true, or None: many devices answer -1 for what they cannot read."""
        try:
            value = float(await self._client.get(variable))
        except NutRefused as error:
            if error.code in _NOT_TOLD:
                return None
            raise
        except ValueError:
            return None
        return value if math.isfinite(value) and 0.0 <= value <= POWER_W_MAX else None

    def wait_s(self, reading: NutReading, period_s: float) -> float:
        """How long to wait after `reading`: the period, and longer while nobody answers."""
        if reading.state != "unreachable":
            self._failures_count = 0
            return period_s
        self._failures_count = min(self._failures_count + 1, 16)
        return max(period_s, min(period_s * 2.0 ** (self._failures_count - 1), RETRY_S_MAX))

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


def _quoted(text: str) -> str:
    """A word of the protocol. A line break would smuggle in a second command."""
    if "\n" in text or "\r" in text:
        raise NutError("a name or password with a line break cannot be sent")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
