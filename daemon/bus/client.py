"""How a configured broker becomes an aiomqtt client: secrets, TLS, protocol, socket, reasons.

It knows the traps of aiomqtt 2 and paho, so that the bus need not. It opens no connection itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import socket
import ssl
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import aiomqtt
from aiomqtt import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from facility.config import BrokerConfig, LeadershipConfig

# The client logs every lost connection as an error, which the bus says better and only once.
# Lower this logger's level to see the packets.
CLIENT_LOG = logging.getLogger("daemon.bus.client")
CLIENT_LOG.setLevel(logging.CRITICAL)

FILTERS_PER_SUBSCRIBE_MAX: Final = 64
SECRET_BYTES_MAX: Final = 65_536

_ALERT: Final = re.compile(r"\[SSL: [A-Z0-9]+_ALERT_([A-Z_]+)\]")
"""What the other side says of our certificate, or of our way to speak."""
_ERRNO: Final = re.compile(r"^\[Errno -?\d+\] ")


class SecretsError(Exception):
    """A file with a secret cannot be used; the text names it. Commands exit with `exit_code`."""

    exit_code: Final = 78


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the files named in the configuration hold."""

    password: str | None = None
    tls: ssl.SSLContext | None = None

    @classmethod
    def read(cls, config: BrokerConfig | LeadershipConfig, section: str = "broker") -> Secrets:
        """Read the password and the certificates that one section of a file names.

        Raises:
            SecretsError: a file is missing, unreadable or not what it should be.
        """
        return cls(password=_read_password(config, section), tls=_read_tls(config, section))


def _read_password(config: BrokerConfig | LeadershipConfig, section: str) -> str | None:
    if config.password_file is None:
        return None
    if config.username is None:
        raise SecretsError(f"{section}.password_file needs {section}.username")
    _check_private(config.password_file, f"{section}.password_file")
    try:
        with Path(config.password_file).open("rb") as file:
            return file.read(SECRET_BYTES_MAX).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SecretsError(f"{section}.password_file {config.password_file}: {error}") from error


def _check_private(path: str, key: str) -> None:
    """Refuse a secret that everybody on this machine may read; a group may, as for a service."""
    try:
        found = Path(path).stat().st_mode
    except OSError:
        return  # whoever reads it says so better
    mode = stat.S_IMODE(found)
    if stat.S_ISREG(found) and mode & stat.S_IRWXO:
        raise SecretsError(
            f"{key} {path} has the mode {mode:04o}: everybody may use it, so it is not used;"
            f" chmod {mode & ~stat.S_IRWXO:o} {path}"
        )


def _read_tls(config: BrokerConfig | LeadershipConfig, section: str) -> ssl.SSLContext | None:
    if config.ca_file is None:
        if config.certificate_file or config.key_file:
            raise SecretsError(
                f"{section}.certificate_file and {section}.key_file need {section}.ca_file"
            )
        return None
    if config.key_file is not None:
        _check_private(config.key_file, f"{section}.key_file")
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.certificate_file:
            context.load_cert_chain(config.certificate_file, config.key_file)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(filter(None, (config.ca_file, config.certificate_file, config.key_file)))
        raise SecretsError(f"{section} TLS files ({files}): {error}") from error
    return context


class _ClientLog(logging.Logger):
    """The client's log, which also hands on what ended a connection.

    With TLS 1.3 a broker looks at our certificate when we think that we are connected. What it then
    says of it ends the connection, and aiomqtt 2, which waits on for an answer, only logs it.
    """

    def __init__(self) -> None:
        super().__init__(CLIENT_LOG.name)
        self._loop = asyncio.get_running_loop()
        self.failing: asyncio.Future[str] = self._loop.create_future()

    def log(self, level: int, msg: object, *args: object, **_keys: object) -> None:
        """Take one line of the client's."""
        if level >= logging.ERROR and args and str(msg).startswith("failed to receive"):
            # Maybe in the thread that connects.
            self._loop.call_soon_threadsafe(self._note, str(args[-1]))
        if CLIENT_LOG.isEnabledFor(level):
            CLIENT_LOG.log(level, msg, *args)

    def _note(self, reason: str) -> None:
        if not self.failing.done():
            self.failing.set_result(reason)


class _Client(Client):
    """A client that does not wait for an answer of a broker which has closed the connection."""

    failing: asyncio.Future[str]

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ConnectionRefusedError: the broker ends it first, for what it says of our certificate.
            OSError, MqttError: anything else ends it.
        """
        entering = asyncio.ensure_future(super().__aenter__())
        try:
            await asyncio.wait((entering, self.failing), return_when=asyncio.FIRST_COMPLETED)
            if not entering.done():
                reason = self.failing.result()
                raise (ConnectionRefusedError if _ALERT.search(reason) else OSError)(reason)
            return entering.result()
        finally:
            entering.cancel()


def _handing_queue(
    take: Callable[[str, bytes, bool], None],
) -> type[asyncio.Queue[aiomqtt.Message]]:
    """Return a queue type that hands each message on instead of storing it.

    aiomqtt's own iterator costs a task per message, the larger half of what receiving costs, and
    puts an unbounded queue in front of us. The queue type is a parameter of its client.
    """

    class HandingQueue(asyncio.Queue[aiomqtt.Message]):
        def put_nowait(self, item: aiomqtt.Message) -> None:
            take(item.topic.value, item.payload, item.retain)

    return HandingQueue


def make_client(
    config: BrokerConfig,
    secrets: Secrets,
    *,
    identifier: str,
    will: tuple[str, bytes] | None,
    take: Callable[[str, bytes, bool], None],
    in_flight_max: int,
    timeout_s: float,
) -> Client:
    """Return a client that is not connected yet; one client serves one connection.

    It starts without a session: what is in flight when a connection ends is ours to repeat, not
    paho's, which would repeat what has long been replaced.
    """
    mqtt5 = config.protocol == "5"
    log = _ClientLog()
    client = _Client(
        config.host,
        config.port,
        username=config.username,
        password=secrets.password,
        identifier=identifier,
        queue_type=_handing_queue(take),
        protocol=aiomqtt.ProtocolVersion.V5 if mqtt5 else aiomqtt.ProtocolVersion.V311,
        will=aiomqtt.Will(will[0], will[1], qos=1, retain=True) if will is not None else None,
        clean_session=None if mqtt5 else True,
        timeout=timeout_s,
        keepalive=config.keepalive_s,
        max_inflight_messages=in_flight_max,
        tls_context=secrets.tls,
        socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
        logger=log,
    )
    client.failing = log.failing
    client.pending_calls_threshold = 2 * in_flight_max
    return client


async def subscribe(client: Client, config: BrokerConfig, qos: Mapping[str, int]) -> dict[str, str]:
    """Subscribe to filters, given with their QoS; return those refused, with the broker's reason.

    aiomqtt returns a refusal where one would expect an exception.
    """
    refused: dict[str, str] = {}
    filters = list(qos)
    for start in range(0, len(filters), FILTERS_PER_SUBSCRIBE_MAX):
        some = filters[start : start + FILTERS_PER_SUBSCRIBE_MAX]
        if config.protocol == "5":
            codes = await client.subscribe(
                [(name, SubscribeOptions(qos=qos[name])) for name in some]
            )
        else:
            codes = await client.subscribe([(name, qos[name]) for name in some])
        for name, code in zip(some, codes, strict=True):
            if isinstance(code, ReasonCode) and code.is_failure:
                refused[name] = str(code)
            elif isinstance(code, int) and code >= 0x80:
                refused[name] = f"code {code}"
    return refused


def publish_properties(config: BrokerConfig, expiry_s: float) -> Properties | None:
    """Return the MQTT 5 properties of a message that is void after `expiry_s`, if it has any."""
    if config.protocol != "5" or math.isinf(expiry_s):
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.MessageExpiryInterval = max(1, math.ceil(expiry_s))
    return properties


def failure_reason(error: BaseException) -> str:
    """Return the reason of a lost or refused connection in words, without error numbers."""
    code = getattr(error, "rc", None)
    if isinstance(code, ReasonCode):
        # What paho says of a socket that was closed on it.
        return "connection lost" if code.getName() == "Unspecified error" else str(code)
    cause = error.__cause__
    if isinstance(error, aiomqtt.MqttError) and cause is not None:
        return failure_reason(cause)
    alert = _ALERT.search(str(error))
    if alert is not None:
        return f"TLS alert: {alert[1].replace('_', ' ').lower()}"
    text = _ERRNO.sub("", str(error)) or type(error).__name__
    return text.removeprefix("[code:").partition("] ")[2] if text.startswith("[code:") else text
