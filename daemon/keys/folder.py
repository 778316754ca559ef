"""A folder with everything secret of a site, and what is made from it: written whole or not at all.

Private keys are born readable by their owner alone and are never overwritten unless that is asked
for. Who needs which file is `docs/security.md`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from daemon.exit_codes import EX_CONFIG, EX_FAILED
from daemon.keys import authority
from daemon.keys.access import (
    access_list,
    broker_lines,
    controller_account,
    operator_account,
)
from daemon.keys.authority import Identity
from facility.signing import (
    SEED_BYTES,
    Role,
    Signer,
    SigningKey,
    TrustedKey,
    TrustList,
    decode_signing_key,
    decode_trust,
)
from facility.topology import Site

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644
HOSTS: Final = ("localhost", "127.0.0.1")
"""Where the broker is unless somebody says where."""
CERTIFICATE_DAYS: Final = 397.0
"""Little more than a year; `keys renew` makes new ones for the same keys."""
STAFF_NAME_LENGTH_MAX: Final = 53
"""What a common name leaves beside `controller.`"""


class KeysError(Exception):
    """Something about the keys cannot be done; the text says what to do instead."""

    exit_code: int = EX_FAILED


class FolderError(KeysError):
    """A file of the folder is not what it should be."""

    exit_code = EX_CONFIG


@dataclass(frozen=True, slots=True)
class Staff:
    """Who there is beside nodes, and where the broker is."""

    controllers: Sequence[str]
    operators: Sequence[str]
    hosts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody with a certificate: whose files begin with `stem`, under which account."""

    stem: str
    account: str


class KeysFolder:
    """One site's folder."""

    def __init__(self, directory: Path) -> None:
        """Name the folder; nothing is read or written."""
        self.directory = directory
        self.written: list[str] = []
        """Files written since, relative to the folder."""

    # --- reading --------------------------------------------------------------------------------

    def trusted(self) -> tuple[TrustedKey, ...]:
        """Who is trusted now, nobody when there is no list. Raises FolderError."""
        path = self.directory / "trust.json"
        if not path.exists():
            return ()
        try:
            return decode_trust(path.read_bytes()).keys
        except ValueError as error:
            raise FolderError(f"{path}: {error}") from error

    def signing_keys(self) -> Iterator[tuple[str, TrustedKey]]:
        """The files of private signing keys, and their public halves. Raises FolderError."""
        for path in sorted((self.directory / "signing").glob("*.key")):
            try:
                yield str(path), Signer(decode_signing_key(path.read_bytes())).trusted
            except ValueError as error:
                raise FolderError(f"{path}: {error}") from error

    def certificates(self) -> Iterator[tuple[str, bytes]]:
        """Every certificate: its path in the folder, and its PEM."""
        for path in sorted(self.directory.rglob("*.pem")):
            yield str(path.relative_to(self.directory)), path.read_bytes()

    def holders_in(self, folder: str) -> list[str]:
        """Whose certificates are in `nodes`, `controllers` or `operators`."""
        return sorted(path.stem for path in (self.directory / folder).glob("*.key"))

    # --- writing --------------------------------------------------------------------------------

    def make(
        self,
        site: Site,
        staff: Staff,
        *,
        now: datetime.datetime,
        days: float = CERTIFICATE_DAYS,
        force: bool = False,
    ) -> None:
        """Make what is missing, and write the access list anew; with `force` every key is new.

        Raises:
            KeysError: nothing was written, and why.
            OSError: a file cannot be written.
        """
        for name in (*staff.controllers, *staff.operators):
            if len(name) > STAFF_NAME_LENGTH_MAX:
                raise KeysError(f"{name!r} is longer than {STAFF_NAME_LENGTH_MAX} characters")
        self.trusted()  # before anything is written
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if force or not self._has("ca"):
            self._keep("ca", authority.make_authority(site.name, now=now))
            force = True  # certificates of another authority are of no use
        ca = self._identity("ca")
        if force or not self._has("broker"):
            hosts = staff.hosts or HOSTS
            self._keep("broker", authority.make_server(ca, hosts, now=now, days=days))
        for holder in holders(site, staff):
            if force or not self._has(holder.stem):
                client = authority.make_client(ca, holder.account, now=now, days=days)
                self._keep(holder.stem, client)
        self._sign_for(staff, force=force)
        self.write_broker_files(site, staff)

    def renew(self, site: Site, staff: Staff, *, now: datetime.datetime, days: float) -> None:
        """New certificates for the broker and every client there is, for the keys they have.

        Raises:
            KeysError: there is no authority.
        """
        ca = self._identity("ca")
        for stem in ("broker", *(holder.stem for holder in holders(site, staff))):
            if not self._has(stem):
                continue
            old = self._identity(stem)
            if stem == "broker":
                hosts = staff.hosts or authority.hosts_of(old.certificate)
                fresh = authority.make_server(ca, hosts, now=now, days=days, key=old.key)
            else:
                name = authority.common_name(old.certificate)
                fresh = authority.make_client(ca, name, now=now, days=days, key=old.key)
            self._write(f"{stem}.pem", fresh.certificate, PUBLIC)

    def write_broker_files(self, site: Site, staff: Staff) -> None:
        """The access list and the TLS lines for Mosquitto."""
        rules = access_list(site, controllers=staff.controllers, operators=staff.operators)
        self._write("mosquitto/ampacity.acl", rules.encode(), PUBLIC)
        self._write("mosquitto/ampacity-tls.conf", broker_lines("/etc/mosquitto/ampacity").encode(),
                    PUBLIC)  # fmt: skip

    def add_signing_key(self, role: Role, name: str) -> str:
        """A new signing key, trusted beside those that are; returns its path."""
        key = SigningKey(role=role, name=name, seed=secrets.token_bytes(SEED_BYTES))
        trusted = Signer(key).trusted
        path = f"signing/{role}-{name}-{trusted.key[:8]}.key"
        self._write(path, msgspec.json.format(msgspec.json.encode(key), indent=1) + b"\n", PRIVATE)
        self.trust((*self.trusted(), trusted))
        return str(self.directory / path)

    def trust(self, keys: Sequence[TrustedKey]) -> None:
        """Write the list of those who are trusted."""
        document = msgspec.json.encode(TrustList(keys=tuple(keys)))
        self._write("trust.json", msgspec.json.format(document, indent=1) + b"\n", PUBLIC)

    def retire(self, prefix: str) -> TrustedKey:
        """Trust a key no more, named by its first digits.

        Raises:
            KeysError: no key or several begin so, or nobody else could speak in its role.
        """
        keys = self.trusted()
        found = [key for key in keys if prefix and key.public.startswith(prefix)]
        if len(found) != 1:
            known = ", ".join(f"{key.key} ({key.who})" for key in keys) or "nobody"
            raise KeysError(f"{len(found)} keys begin with {prefix!r}; trusted are {known}")
        left = [key for key in keys if key != found[0]]
        if not any(key.role == found[0].role for key in left):
            raise KeysError(
                f"{found[0].key} is the last key of a {found[0].role}: without it nobody could"
                " speak as one; `keys rotate` makes the next one first"
            )
        self.trust(left)
        return found[0]

    def _sign_for(self, staff: Staff, *, force: bool) -> None:
        """A signing key for the controllers together, and one for each operator."""
        if force:
            self.trust(())
        have = {(key.role, key.name) for key in self.trusted()}
        wanted: list[tuple[Role, str]] = [("controller", "site")]
        wanted += [("operator", name) for name in staff.operators]
        for role, name in wanted:
            if (role, name) not in have:
                self.add_signing_key(role, name)

    def _has(self, stem: str) -> bool:
        return (self.directory / f"{stem}.key").exists()

    def _identity(self, stem: str) -> Identity:
        try:
            return Identity(
                (self.directory / f"{stem}.key").read_bytes(),
                (self.directory / f"{stem}.pem").read_bytes(),
            )
        except FileNotFoundError as error:
            raise KeysError(f"{error.filename} is not there: `ampacity keys init` first") from error

    def _keep(self, stem: str, identity: Identity) -> None:
        """The key last: whoever has a key has a certificate, whenever this is cut short."""
        self._write(f"{stem}.pem", identity.certificate, PUBLIC)
        self._write(f"{stem}.key", identity.key, PRIVATE)

    def _write(self, name: str, data: bytes, mode: int) -> None:
        """Replace a file as a whole; a crash leaves the old one or the new one."""
        path = self.directory / name
        path.parent.mkdir(exist_ok=True, mode=0o700)
        part = path.with_name(f".{path.name}.part")
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)  # whatever the umask takes away from what is public
            file.write(data)
            file.flush()
            os.fsync(handle)
        part.replace(path)
        self.written.append(name)


def holders(site: Site, staff: Staff) -> list[Holder]:
    """Everybody who has a client's certificate."""
    nodes = [Holder(f"nodes/{name}", name) for name in site.nodes]
    controllers = [Holder(f"controllers/{n}", controller_account(n)) for n in staff.controllers]
    operators = [Holder(f"operators/{name}", operator_account(name)) for name in staff.operators]
    return nodes + controllers + operators
