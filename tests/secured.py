"""A real Mosquitto as `ampacity keys` and the shipped file make it: TLS, certificates, access list.

The folder of keys is made by the command's own code; every client gets what its host would get.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from daemon.keys import authority
from daemon.keys.authority import Identity
from daemon.keys.folder import KeysFolder, Staff
from facility.config import BrokerConfig
from facility.topology import Site
from tests.servers import HOST, Mosquitto, find_program

SHIPPED: Final = Path(__file__).parents[1] / "deploy" / "mosquitto" / "ampacity.conf"
LISTENER: Final = re.compile(r"^listener \d+", re.MULTILINE)
OPEN: Final = re.compile(r"^(?:listener|allow_anonymous) .*\n", re.MULTILINE)
"""The lines of the shipped file that let everybody in."""
STAFF: Final = Staff(
    controllers=("controller",), operators=("operator",), hosts=("localhost", HOST)
)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class SecuredMosquitto(Mosquitto):
    """The shipped file with the generated TLS lines in place of its open listener."""

    def __init__(self, directory: Path, site: Site) -> None:
        super().__init__(directory)
        self.site = site
        self._kept_count = 0
        self.keys = directory / "keys"
        self.folder = KeysFolder(self.keys)
        self.folder.make(site, STAFF, now=now())

    def command(self) -> Sequence[str]:
        """Put the files where the generated lines expect them, moved into the test's directory."""
        place = self.directory / "mosquitto"
        shutil.copytree(self.keys / "mosquitto", place, dirs_exist_ok=True)
        for name in ("ca.pem", "broker.pem", "broker.key"):
            shutil.copy(self.keys / name, place)
        text = re.sub(
            r"^(listener|allow_anonymous) .*\n", "", SHIPPED.read_text(), flags=re.MULTILINE
        )
        text += (place / "ampacity-tls.conf").read_text()
        text = LISTENER.sub(f"listener {self.port} {HOST}", text)
        text = text.replace("/etc/mosquitto/ampacity", str(place))
        text += f"\npersistence_location {self.directory}/\nlog_dest stderr\nlog_type all\n"
        if os.geteuid() == 0:
            text += "user root\n"
        config = self.directory / "secured.conf"
        config.write_text(text)
        return [find_program("mosquitto", "mosquitto"), "-c", str(config)]

    def broker(self, stem: str) -> BrokerConfig:
        """How the holder of `nodes/n01` or `operators/operator` gets in."""
        return self.with_files(self.keys / f"{stem}.pem", self.keys / f"{stem}.key")

    def with_files(self, certificate: Path | None, key: Path | None) -> BrokerConfig:
        """How somebody with other files tries to."""
        return BrokerConfig(
            host=HOST,
            port=self.port,
            ca_file=str(self.keys / "ca.pem"),
            certificate_file=None if certificate is None else str(certificate),
            key_file=None if key is None else str(key),
        )

    def ending(self, name: str, *, days: float) -> BrokerConfig:
        """A client whose certificate lasts so long; negative, and it is over."""
        ca = Identity((self.keys / "ca.key").read_bytes(), (self.keys / "ca.pem").read_bytes())
        then = now() - datetime.timedelta(days=30)
        return self.keep(name, authority.make_client(ca, name, now=then, days=30 + days))

    def keep(self, name: str, identity: Identity) -> BrokerConfig:
        """Put an identity on disk; returns how to get in with it."""
        self._kept_count += 1
        stem = self.directory / f"{name}-{self._kept_count}"
        key, certificate = stem.with_suffix(".key"), stem.with_suffix(".pem")
        key.write_bytes(identity.key)
        key.chmod(0o600)
        certificate.write_bytes(identity.certificate)
        return self.with_files(certificate, key)

    @property
    def signing_key(self) -> dict[str, str]:
        """The path of the private signing key of each role."""
        found = {}
        for path, key in self.folder.signing_keys():
            found[str(key.role)] = path
        return found
