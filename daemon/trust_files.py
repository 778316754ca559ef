"""Keys on disk: whom to believe, and the one private key of whoever speaks.

A private key that others may read is refused, and so is a list of trusted keys that others may
write. Nothing here puts a secret into a message, a log or an error.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from facility.signing import (
    TRUST_BYTES_MAX,
    Role,
    Signer,
    Verifier,
    decode_signing_key,
    decode_trust,
)
from facility.wire import Event

KEY_BYTES_MAX: Final = 4_096
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"


class TrustError(Exception):
    """A file with keys cannot be used; the text names it. Commands exit with `exit_code`."""

    exit_code: Final = 78


def read_verifier(path: str | None) -> Verifier:
    """Who is believed according to the trust file; everybody when there is none.

    Raises:
        TrustError: the file cannot be read, can be written by others, or is no trust list.
    """
    if path is None:
        return Verifier(None)
    data = _read(
        path, forbidden=stat.S_IWGRP | stat.S_IWOTH, may="write", bytes_max=TRUST_BYTES_MAX
    )
    try:
        return Verifier(decode_trust(data).keys)
    except ValueError as error:
        raise TrustError(f"trust file {path}: {error}") from error


def read_signer(path: str, role: Role, *, environ: Mapping[str, str] = os.environ) -> Signer:
    """The private key at `path`, which must be one for `role`.

    Raises:
        TrustError: the file cannot be read, can be read by others, or is no such key.
    """
    data = _read(path, forbidden=private_bits(path, environ), may="read", bytes_max=KEY_BYTES_MAX)
    try:
        key = decode_signing_key(data)
    except ValueError as error:
        raise TrustError(f"signing key {path}: {error}") from error
    if key.role != role:
        raise TrustError(f"signing key {path} is one for the role {key.role!r}, not {role!r}")
    return Signer(key)


def trust_events(verifier: Verifier, signer: Signer | None, *, at_s: float) -> tuple[Event, ...]:
    """What a controller must say at its start about the signatures that there are, or are not."""
    told = []
    if not verifier.asks:
        told.append("there is no trust_file: requests and emergencies of anybody are believed")
    elif signer is not None and signer.trusted.public not in {key.public for key in verifier.keys}:
        told.append(f"our own key {signer.trusted.key} is not in the trust file")
    if signer is None:
        told.append("there is no signing_key_file: leases and emergencies are not signed")
    return tuple(
        Event(event="trust", severity="warning", at_s=at_s, source="controller", sentence=text)
        for text in told
    )


def private_bits(path: str, environ: Mapping[str, str] = os.environ) -> int:
    """The permissions that a private file must not give.

    systemd grants a service its credentials by an access list, which shows as a group's right to
    read; the directory is the service's own.
    """
    directory = environ.get(CREDENTIALS)
    own = directory is not None and Path(path).is_relative_to(directory)
    return stat.S_IRWXO if own else stat.S_IRWXG | stat.S_IRWXO


def _read(path: str, *, forbidden: int, may: str, bytes_max: int) -> bytes:
    try:
        # Not to wait for ever, should somebody have put a pipe there.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise TrustError(f"{path} is no regular file")
            if found.st_mode & forbidden:
                mode = stat.S_IMODE(found.st_mode)
                raise TrustError(
                    f"{path} has the mode {mode:04o}: others may {may} it, so it is not used;"
                    f" chmod {mode & ~forbidden:o} {path}"
                )
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror or error}") from error
    if len(data) > bytes_max:
        raise TrustError(f"{path} is larger than {bytes_max} bytes")
    return data
