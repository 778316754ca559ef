"""The broker configuration that we ship: a real Mosquitto starts with it, as is and secured."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from facility.topics import STATE, Topics
from tests.buses import account, at, listening, make_certificate, speaking
from tests.servers import Mosquitto, find_program, until

SHIPPED = Path(__file__).parents[1] / "deploy" / "mosquitto" / "ampacity.conf"
COMMENTED_LINE = re.compile(r"^# ((?:listener|cafile|certfile|keyfile|tls_version|allow_anonymous"
                            r"|password_file|acl_file) .*)$", re.MULTILINE)  # fmt: skip
"""What an operator uncomments for steps 1 to 3, but for client certificates."""
LISTED_LINE = re.compile(r"^#   ((?:pattern|user|topic) .*)$", re.MULTILINE)


class Shipped(Mosquitto):
    """Mosquitto with the shipped file, its port and paths moved into the test's directory."""

    secured = False

    def command(self) -> Sequence[str]:
        """Write the file as an operator would have edited it."""
        text = SHIPPED.read_text()
        if self.secured:
            self._write_secrets(text)
            text = re.sub(r"^(listener|allow_anonymous) .*\n", "", text, flags=re.MULTILINE)
            text = COMMENTED_LINE.sub(r"\1", text)
        text = re.sub(r"^listener \d+", f"listener {self.port}", text, flags=re.MULTILINE)
        text = re.sub(r"/etc/mosquitto/(certs/)?", f"{self.directory}/", text)
        text += f"\npersistence_location {self.directory}/\nlog_dest stderr\n"
        if os.geteuid() == 0:
            text += "user root\n"
        config = self.directory / "shipped.conf"
        config.write_text(text)
        return [find_program("mosquitto", "mosquitto"), "-c", str(config)]

    def _write_secrets(self, text: str) -> None:
        make_certificate(self.directory)
        for name, wanted in (("ca.pem", "broker.pem"), ("key.pem", "broker.key")):
            (self.directory / wanted).write_bytes((self.directory / name).read_bytes())
        passwords = self.directory / "ampacity.passwords"
        passwords.touch()
        for user in ("n1", "controller"):
            subprocess.run(
                [find_program("mosquitto_passwd", "mosquitto"), "-b", passwords, user, "right"],
                check=True,
            )
        rules = "\n".join(LISTED_LINE.findall(text)).replace("SITE", "lab")
        (self.directory / "ampacity.acl").write_text(rules + "\n")


async def test_a_broker_starts_with_the_shipped_file(tmp_path: Path) -> None:
    with Shipped(tmp_path) as server:
        async with speaking(at(server)) as bus, listening(at(server), "s/+") as heard:
            bus.publish("s/1", b"x", STATE)
            await until(lambda: heard.payloads == [b"x"], "the message")
        assert "Unknown" not in server.log


async def test_the_commented_lines_give_tls_accounts_and_an_access_list(tmp_path: Path) -> None:
    server = Shipped(tmp_path)
    server.secured = True
    topics = Topics("lab")
    with server:
        ca_file = f"{tmp_path}/ca.pem"
        boss = account(server, tmp_path, "right", username="controller", ca_file=ca_file)
        node = account(server, tmp_path, "right", username="n1", ca_file=ca_file)
        async with (
            listening(boss, "ampacity/v1/lab/#") as controller,
            listening(node, topics.node("+", "lease"), topics.domain("row-1", "emergency"),
                      identifier="n1") as agent,
        ):  # fmt: skip
            agent.bus.publish(topics.node("n2", "status"), b"forged", STATE)
            agent.bus.publish(topics.domain("row-1", "emergency"), b"forged", STATE)
            agent.bus.publish(topics.node("n1", "status"), b"ready", STATE)
            await until(lambda: controller.messages, "the node's own status")
            assert controller.payloads == [b"ready"]
            controller.bus.publish(topics.node("n2", "lease"), b"not for n1", STATE)
            controller.bus.publish(topics.node("n1", "lease"), b"granted", STATE)
            controller.bus.publish(topics.domain("row-1", "emergency"), b"on", STATE)
            await until(lambda: len(agent.messages) == 2, "a lease and an emergency")
            assert agent.payloads == [b"granted", b"on"]
