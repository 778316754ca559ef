"""The NUT client: its protocol against scripted answers, and against a real upsd."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from collectors.nut import (
    LINE_BYTES_MAX,
    RETRY_S_MAX,
    NutClient,
    NutDevice,
    NutError,
    NutRefused,
    unquoted,
)
from facility.nut import NutAddress, NutReading, is_nut_variable, nut_address
from tests.servers import HOST, take_free_port
from tests.upsd_server import PASSWORD, USER, Upsd

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def speaker(answer: Answer) -> AsyncIterator[NutAddress]:
    """A server that speaks as `answer` does."""
    server = await asyncio.start_server(answer, HOST, 0)
    try:
        yield NutAddress("ups-a", HOST, server.sockets[0].getsockname()[1])
    finally:
        server.close()


def scripted(*answers: bytes) -> Answer:
    """Answers each line with the next of `answers`; then says no more."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for one in answers:
            if not await reader.readline():
                break
            writer.write(one)
        await reader.read()
        writer.close()

    return speak


async def look(answer: Answer, *, timeout_s: float = 0.3) -> NutReading:
    async with speaker(answer) as address:
        device = NutDevice(NutClient(address, timeout_s=timeout_s))
        reading = await device.look()
        device.close()
        return reading


STATUS = b'VAR ups-a ups.status "OL CHRG"\n'
POWER = b'VAR ups-a ups.realpower "12345.6"\n'
LOAD = b'VAR ups-a ups.load "40"\n'

# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "device", "host", "port"),
    [
        ("ups-a@nut.example", "ups-a", "nut.example", 3493),
        ("A_1.x@10.0.0.5:23493", "A_1.x", "10.0.0.5", 23493),
        ("u@[::1]:1", "u", "::1", 1),
    ],
)
def test_an_address_is_a_device_at_a_host(text: str, device: str, host: str, port: int) -> None:
    assert nut_address(text) == NutAddress(device, host, port)


@pytest.mark.parametrize(
    "text", ["", "ups", "@h", "ups@", "u@h:0", "u@h:65536", "u@h:x", "u u@h", 'u"@h', "u@h\n"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no NUT device; expected"):
        nut_address(text)


@pytest.mark.parametrize(
    ("text", "good"),
    [("ups.realpower", True), ("outlet.1.realpower", True), ("power", False), ("a.b\nSET", False)],
)
def test_variables_have_names_with_dots(text: str, good: bool) -> None:
    assert is_nut_variable(text) is good


# --- the protocol --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('VAR u v "OL"', "OL"),
        ('VAR u v ""', ""),
        (r'VAR u v "a \"b\" \\ c"', r'a "b" \ c'),
    ],
)
def test_a_value_is_between_quotes(answer: str, value: str) -> None:
    assert unquoted(answer, "u", "v") == value


@pytest.mark.parametrize(
    "answer",
    ["", "VAR", 'VAR u v "', "VAR u v OL", 'VAR u w "OL"', 'VAR x v "OL"', 'VAR u v "a" b"', "OK"],
)
def test_an_answer_to_something_else_is_no_answer(answer: str) -> None:
    with pytest.raises(NutError):
        unquoted(answer, "u", "v")


def test_an_error_is_told_by_its_word() -> None:
    with pytest.raises(NutRefused) as caught:
        unquoted("ERR DATA-STALE and more", "u", "v")
    assert caught.value.code == "DATA-STALE"


async def test_a_look_gives_flags_power_and_load() -> None:
    reading = await look(scripted(STATUS, POWER, LOAD))
    assert reading == NutReading("fresh", frozenset({"OL", "CHRG"}), 12345.6, 0.4)


async def test_an_answer_in_pieces_is_put_together() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (STATUS, POWER, LOAD):
            await reader.readline()
            for byte in answer:
                writer.write(bytes([byte]))
                await writer.drain()

    assert (await look(speak)).power_w == 12345.6


@pytest.mark.parametrize("value", [b"-1", b"nan", b"inf", b"many", b"1e12"])
async def test_a_figure_that_cannot_be_true_is_no_figure(value: bytes) -> None:
    power = b'VAR ups-a ups.realpower "' + value + b'"\n'
    reading = await look(scripted(STATUS, power, LOAD))
    assert (reading.state, reading.power_w) == ("fresh", None)


async def test_a_figure_that_is_not_told_is_no_figure() -> None:
    refused = b"ERR VAR-NOT-SUPPORTED\n"
    reading = await look(scripted(STATUS, refused, refused))
    assert (reading.state, reading.power_w, reading.load_ratio) == ("fresh", None, None)


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (b"ERR DATA-STALE\n", "stale"),
        (b"ERR DRIVER-NOT-CONNECTED\n", "stale"),
        (b'VAR ups-a ups.status "WAIT"\n', "stale"),
        (b'VAR ups-a ups.status ""\n', "stale"),
        (b"ERR UNKNOWN-UPS\n", "unreachable"),
        (b"ERR ACCESS-DENIED\n", "unreachable"),
        (b"HTTP/1.1 400 Bad Request\r\n", "unreachable"),
        (b"\xff\xfe\x00\n", "unreachable"),
        (b"x" * (LINE_BYTES_MAX + 1) + b"\n", "unreachable"),
        (b"VAR ups-a ups.sta", "unreachable"),  # and then silence
    ],
)
async def test_what_is_no_good_answer_says_nothing_of_the_ups(answer: bytes, state: str) -> None:
    reading = await look(scripted(answer))
    assert reading.state == state
    assert not reading.flags
    assert reading.detail


async def test_a_server_that_never_ends_its_line_costs_no_memory() -> None:
    sent = 0

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readline()
        try:
            while sent < 100_000_000:
                writer.write(b"y" * 65_536)
                sent += 65_536
                await writer.drain()
        except OSError:
            writer.close()

    reading = await look(speak, timeout_s=5.0)
    assert reading.state == "unreachable"
    assert sent < 100_000_000


async def test_nobody_there_is_unreachable() -> None:
    device = NutDevice(NutClient(NutAddress("ups-a", HOST, take_free_port())))
    assert (await device.look()).state == "unreachable"


async def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    connections = 0

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readline()
        if connections == 1:
            await asyncio.sleep(0.2)
        writer.write(STATUS)
        await reader.read()
        writer.close()

    async with speaker(speak) as address:
        client = NutClient(address, timeout_s=0.1)
        with pytest.raises(NutError, match="no answer within"):
            await client.get("ups.status")
        assert await client.get("ups.status") == "OL CHRG"
        client.close()
    assert connections == 2


def test_an_unreachable_server_is_asked_less_and_less_often_up_to_a_bound() -> None:
    device = NutDevice(NutClient(NutAddress("u", HOST)))
    gone, there = NutReading("unreachable"), NutReading("fresh")
    waits_s = [device.wait_s(gone, 0.5) for _ in range(40)]
    assert waits_s[:4] == [0.5, 1.0, 2.0, 4.0]
    assert max(waits_s) == RETRY_S_MAX
    assert device.wait_s(there, 0.5) == 0.5
    assert device.wait_s(gone, 0.5) == 0.5


def test_the_bound_does_not_shorten_a_longer_period() -> None:
    assert NutDevice(NutClient(NutAddress("u", HOST))).wait_s(NutReading("unreachable"), 30.0) == 30


# --- names and passwords -------------------------------------------------------------------------


async def test_a_password_comes_from_its_file_and_is_quoted(tmp_path: Path) -> None:
    heard: list[bytes] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (b"OK\n", b"OK\n", STATUS):
            heard.append(await reader.readline())
            writer.write(answer)

    secret = tmp_path / "secret"
    secret.write_text('a "b" \\c\n')
    async with speaker(speak) as address:
        client = NutClient(address, username="me", password_file=str(secret))
        assert await client.get("ups.status") == "OL CHRG"
        client.close()
    assert heard[:2] == [b'USERNAME "me"\n', b'PASSWORD "a \\"b\\" \\\\c"\n']


async def test_a_refused_password_is_named_and_never_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = tmp_path / "secret"
    secret.write_text("hush-hush")
    async with speaker(scripted(b"OK\n", b"ERR ACCESS-DENIED\n")) as address:
        device = NutDevice(NutClient(address, username="me", password_file=str(secret)))
        reading = await device.look()
        device.close()
    assert "refuses PASSWORD" in reading.detail
    assert "hush" not in reading.detail + caplog.text


@pytest.mark.parametrize("content", [b"two\nlines", b"x" * 2_000, b"\xff\xfe"])
async def test_a_file_that_holds_no_password_sends_none(tmp_path: Path, content: bytes) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(content)
    async with speaker(scripted(b"OK\n")) as address:
        device = NutDevice(NutClient(address, username="me", password_file=str(secret)))
        assert (await device.look()).state == "unreachable"
        device.close()


# --- a real upsd ---------------------------------------------------------------------------------


@pytest.mark.integration
async def test_a_real_upsd_tells_battery_power_and_its_own_troubles(tmp_path: Path) -> None:
    variables = {"ups.status": "OL", "ups.realpower": "12000", "device.type": "ups"}
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD)
    with Upsd(tmp_path / "nut", ups={"ups-a": variables}) as upsd:
        address = nut_address(upsd.source("ups-a"))
        client = NutClient(address, username=USER, password_file=str(secret), timeout_s=1.0)
        device = NutDevice(client)
        assert await device.look() == NutReading("fresh", frozenset({"OL"}), 12_000.0, None)
        assert await client.get("device.type") == "ups"
        upsd.say("ups-a", "ups.status", "OB DISCHRG LB")
        assert (await wait_for(device, "fresh", {"OB"})).flags == {"OB", "DISCHRG", "LB"}
        upsd.kill_driver("ups-a")
        await wait_for(device, "stale", set())
        upsd.start_driver("ups-a")
        await wait_for(device, "fresh", {"OB"})
        upsd.kill()
        await wait_for(device, "unreachable", set())
        upsd.start()
        await wait_for(device, "fresh", {"OB"})
        upsd.pause()
        await wait_for(device, "unreachable", set())
        upsd.resume()
        await wait_for(device, "fresh", {"OB"})
        assert (await NutDevice(NutClient(nut_address(upsd.source("no")))).look()).detail == (
            "upsd answers UNKNOWN-UPS"
        )
        device.close()


async def wait_for(device: NutDevice, state: str, flags: set[str]) -> NutReading:
    async with asyncio.timeout(15.0):
        while True:
            reading = await device.look()
            if reading.state == state and flags <= reading.flags:
                return reading
            await asyncio.sleep(0.05)
