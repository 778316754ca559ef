"""Keys for tests: made from a number, so that a run repeats itself."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from facility.signing import Role, Signer, SigningKey, TrustedKey, TrustList


def signing_key(role: Role, number: int = 1) -> SigningKey:
    """The private key number `number` of a role."""
    seed = bytes([{"controller": 1, "operator": 2}[role]]) + number.to_bytes(31, "big")
    return SigningKey(role=role, name=f"{role}-{number}", seed=seed)


def signer(role: Role, number: int = 1) -> Signer:
    """Somebody who speaks with that key."""
    return Signer(signing_key(role, number))


CONTROLLER: Final = signer("controller")
OPERATOR: Final = signer("operator")
STRANGER: Final = signer("controller", 666)
"""Has a sound key that nobody trusts."""
TRUSTED: Final = (CONTROLLER.trusted, OPERATOR.trusted)


def write_key(path: Path, key: SigningKey) -> str:
    """A private key's file, which only its owner may read; returns its path."""
    path.write_bytes(msgspec.json.encode(key))
    path.chmod(0o600)
    return str(path)


def write_trust(path: Path, *keys: TrustedKey) -> str:
    """A trust file; returns its path."""
    path.write_bytes(msgspec.json.encode(TrustList(keys=keys)))
    path.chmod(0o644)
    return str(path)
