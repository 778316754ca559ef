"""Signed envelopes and the files of keys: nothing is believed but what was signed, as it was."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from facility.signing import (
    Role,
    SignatureRefused,
    Signer,
    TrustList,
    Verifier,
    decode_signing_key,
    decode_trust,
)
from facility.wire import encode
from tests.fuzz.target import ACCEPTED, Plain, through
from tests.node_fakes import emergency, lease
from tests.signatures import CONTROLLER, OPERATOR, STRANGER, signing_key

TOPICS: Final = ("ampacity/v1/lab/node/n1/lease", "ampacity/v1/lab/domain/ups-a/emergency")
MAY_SPEAK: Final[tuple[Role, ...]] = ("controller",)
ELSEWHERE: Final = "ampacity/v1/lab/node/n2/lease"
SAID: Final = {
    TOPICS[0]: {encode(lease()), encode(replace(lease(), epoch=2))},
    TOPICS[1]: {encode(emergency()), encode(emergency(False))},
}


class SigningTarget(Plain):
    """Envelopes for two topics, and the two kinds of key files; a door for each."""

    def __init__(self) -> None:
        self._asking = Verifier([CONTROLLER.trusted, OPERATOR.trusted])
        self._believing = Verifier(None)

    def feed(self, data: bytes) -> str:
        door = data[0] % 4
        if door >= 2:
            return self._files(door, data[1:])
        self._believing.open(TOPICS[door], data[1:], MAY_SPEAK)
        try:
            opened = self._asking.open(TOPICS[door], data[1:], MAY_SPEAK)
        except SignatureRefused as error:
            return error.reason
        assert opened.body in SAID[TOPICS[door]], opened.body
        assert opened.speaker == CONTROLLER.trusted
        return ACCEPTED

    def _files(self, door: int, data: bytes) -> str:
        try:
            if door == 2:
                trust = decode_trust(data)
                assert Verifier(trust.keys).asks
            else:
                key = decode_signing_key(data)
                assert Signer(key).trusted.role == key.role
        except ValueError:
            return "no-keys"
        return ACCEPTED


def signing_seeds() -> list[bytes]:
    """Envelopes of those who may speak and of those who may not, and files of keys."""
    seeds = []
    for door, topic in enumerate(TOPICS):
        for body in sorted(SAID[topic]):
            seeds += [through(door, CONTROLLER.seal(topic, body))] * 2
            seeds.append(through(door, OPERATOR.seal(topic, body)))
            seeds.append(through(door, STRANGER.seal(topic, body)))
            seeds.append(through(door, CONTROLLER.seal(ELSEWHERE, body)))
            seeds.append(through(door, body))
    trust = TrustList(keys=(CONTROLLER.trusted, OPERATOR.trusted))
    return [
        *seeds,
        through(2, msgspec.json.encode(trust)),
        through(3, msgspec.json.encode(signing_key("operator"))),
    ]
