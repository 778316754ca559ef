"""The broker configuration that we ship: a real Mosquitto starts with it, as is and secured."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from facility.topics import STATE
from tests.buses import at, listening, speaking
from tests.row import site_of
from tests.secured import SHIPPED, SecuredMosquitto
from tests.servers import HOST, Mosquitto, find_program, until

INCLUDED = re.compile(r"^# (include_dir .*)$", re.MULTILINE)


class Shipped(Mosquitto):
    """Mosquitto with the shipped file, its port and paths moved into the test's directory."""

    def command(self) -> Sequence[str]:
        """Write the file as an operator would have edited it."""
        text = re.sub(
            r"^listener \d+", f"listener {self.port}", SHIPPED.read_text(), flags=re.MULTILINE
        )
        text += f"\npersistence_location {self.directory}/\nlog_dest stderr\n"
        if os.geteuid() == 0:
            text += "user root\n"
        config = self.directory / "shipped.conf"
        config.write_text(text)
        return [find_program("mosquitto", "mosquitto"), "-c", str(config)]


class Included(SecuredMosquitto):
    """The same file with its listener replaced by the line that it shows in a comment."""

    def command(self) -> Sequence[str]:
        """Copy the files that the comment names to where it says."""
        place = self.directory / "included"
        place.mkdir(exist_ok=True)
        for file in (*self.keys.glob("mosquitto/*"), self.keys / "ca.pem",
                     self.keys / "broker.pem", self.keys / "broker.key"):  # fmt: skip
            shutil.copy(file, place)
        tls = place / "ampacity-tls.conf"
        moved = tls.read_text().replace("/etc/mosquitto/ampacity", str(place))
        tls.write_text(
            re.sub(r"^listener \d+", f"listener {self.port} {HOST}", moved, flags=re.MULTILINE)
        )
        text = re.sub(
            r"^(listener|allow_anonymous) .*\n", "", SHIPPED.read_text(), flags=re.MULTILINE
        )
        text = INCLUDED.sub(r"\1", text).replace("/etc/mosquitto/ampacity", str(place))
        text += f"\npersistence_location {self.directory}/\nlog_dest stderr\n"
        text += "user root\n" if os.geteuid() == 0 else ""
        config = self.directory / "shipped.conf"
        config.write_text(text)
        return [find_program("mosquitto", "mosquitto"), "-c", str(config)]


async def test_a_broker_starts_with_the_shipped_file(tmp_path: Path) -> None:
    with Shipped(tmp_path) as server:
        async with speaking(at(server)) as bus, listening(at(server), "s/+") as heard:
            bus.publish("s/1", b"x", STATE)
            await until(lambda: heard.payloads == [b"x"], "the message")
        assert "Unknown" not in server.log


async def test_the_commented_line_includes_what_the_keys_command_writes(tmp_path: Path) -> None:
    server = Included(tmp_path, site_of())
    topic = f"ampacity/v1/{server.site.name}/node/n01/lease"
    with server:
        async with (
            listening(server.broker("nodes/n01"), topic, identifier="n01") as node,
            listening(server.broker("controllers/controller"), identifier="c") as controller,
        ):
            controller.bus.publish(topic, b"granted", STATE)
            await until(lambda: node.payloads == [b"granted"], "the lease")
        assert "Unknown" not in server.log
