"""Signed messages: what was signed is believed as it is, and everything else is refused by name."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facility.signing import (
    TRUSTED_KEYS_MAX,
    Role,
    SignatureRefused,
    TrustedKey,
    TrustList,
    Verifier,
    decode_signing_key,
    decode_trust,
)
from facility.wire import MESSAGE_BYTES_MAX, encode
from tests.node_fakes import lease
from tests.signatures import CONTROLLER, OPERATOR, STRANGER, TRUSTED, signer, signing_key

AS_CONTROLLER: tuple[Role, ...] = ("controller",)
AS_OPERATOR: tuple[Role, ...] = ("operator",)
TOPIC = "ampacity/v1/lab/node/n1/lease"
BODY = encode(lease())
SEALED = CONTROLLER.seal(TOPIC, BODY)
VERIFIER = Verifier(TRUSTED)


def reason(payload: bytes, *, topic: str = TOPIC, verifier: Verifier = VERIFIER) -> str:
    """The word with which a message from a controller is refused."""
    with pytest.raises(SignatureRefused) as refused:
        verifier.open(topic, payload, AS_CONTROLLER)
    return refused.value.reason


def test_a_signed_message_is_opened_byte_for_byte_with_its_speaker() -> None:
    odd = b'{ "b" : 1.50,"a":"\\u00e9" }'  # not as we would write it: it must not be written anew
    opened = VERIFIER.open(TOPIC, CONTROLLER.seal(TOPIC, odd), AS_CONTROLLER)
    assert opened.body == odd
    assert opened.speaker == CONTROLLER.trusted


def test_the_envelope_is_three_keys_of_plain_json() -> None:
    envelope = json.loads(SEALED)
    assert list(envelope) == ["key", "signature", "body"]
    assert envelope["key"] == CONTROLLER.trusted.public[:16]
    assert envelope["body"] == json.loads(BODY)


@pytest.mark.parametrize("payload", [BODY, b"", b"null", b"[" * 100_000, b"\xff\xfe", b"{}"])
def test_what_carries_no_signature_is_unsigned(payload: bytes) -> None:
    assert reason(payload) == "unsigned"


def test_a_sound_signature_of_an_untrusted_key_is_refused() -> None:
    assert reason(STRANGER.seal(TOPIC, BODY)) == "unknown-key"


def test_a_stranger_who_claims_a_trusted_name_is_refused() -> None:
    forged = STRANGER.seal(TOPIC, BODY).replace(
        STRANGER.trusted.key.encode(), CONTROLLER.trusted.key.encode()
    )
    assert reason(forged) == "bad-signature"


@pytest.mark.parametrize(
    "topic",
    [
        "ampacity/v1/lab/node/n2/lease",
        "ampacity/v1/other/node/n1/lease",
        "ampacity/v1/lab/domain/row-1/emergency",
        TOPIC + "x",
        "",
    ],
)
def test_a_message_is_worth_nothing_under_another_topic(topic: str) -> None:
    assert reason(SEALED, topic=topic) == "bad-signature"


def test_topic_and_message_cannot_be_cut_at_another_place() -> None:
    signature = json.loads(CONTROLLER.seal("a/b", b"1"))["signature"]
    other = b'{"key":"%b","signature":"%b","body":1}' % (
        CONTROLLER.trusted.key.encode(),
        signature.encode(),
    )
    assert VERIFIER.open("a/b", other, AS_CONTROLLER).body == b"1"
    assert reason(other, topic="a/b\0") == "bad-signature"


def test_an_operators_key_may_not_speak_as_a_controller() -> None:
    assert reason(OPERATOR.seal(TOPIC, BODY)) == "wrong-role"
    assert VERIFIER.open(TOPIC, OPERATOR.seal(TOPIC, BODY), AS_OPERATOR).speaker is not None


def test_a_message_above_the_size_limit_is_refused_before_any_work() -> None:
    def of(size: int) -> bytes:
        return CONTROLLER.seal(
            TOPIC, b'"%b"' % (b"x" * (size - len(CONTROLLER.seal(TOPIC, b'""'))))
        )

    assert VERIFIER.open(TOPIC, of(MESSAGE_BYTES_MAX), AS_CONTROLLER)
    assert reason(of(MESSAGE_BYTES_MAX + 1)) == "oversized"


@given(place=st.integers(0, len(SEALED) - 1), change=st.integers(1, 255))
def test_no_byte_may_be_another(place: int, change: int) -> None:
    mutated = bytearray(SEALED)
    mutated[place] ^= change
    assert reason(bytes(mutated)) in ("unsigned", "unknown-key", "bad-signature")


def test_every_single_byte_counts() -> None:
    for place in range(len(SEALED)):
        mutated = bytearray(SEALED)
        mutated[place] ^= 1
        assert reason(bytes(mutated)) in ("unsigned", "unknown-key", "bad-signature")


@given(st.integers(0, len(SEALED) - 1))
def test_a_message_that_was_cut_short_is_refused(length: int) -> None:
    assert reason(SEALED[:length]) == "unsigned"


@given(st.binary(max_size=600))
def test_nothing_that_is_received_raises_anything_else(payload: bytes) -> None:
    assert reason(payload) == "unsigned"


@pytest.mark.parametrize("signature", ["A" * 88, "A" * 86 + "==", "é" * 88, "A" * 87, "=" * 88, ""])
def test_a_signature_that_is_none_is_refused(signature: str) -> None:
    envelope = json.loads(SEALED) | {"signature": signature}
    assert reason(json.dumps(envelope).encode()) in ("unsigned", "bad-signature")


def test_a_signature_has_one_spelling() -> None:
    """The last digit before the padding has four bits that base64 ignores."""
    signature = json.loads(SEALED)["signature"]
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = signature[:-3] + digits[digits.index(signature[-3]) ^ 1] + "=="
    assert reason(SEALED.replace(signature.encode(), other.encode())) == "bad-signature"


def test_two_keys_may_be_trusted_at_once_and_either_is_believed() -> None:
    old, new = CONTROLLER, signer("controller", 2)
    both = Verifier((old.trusted, new.trusted))
    for one in (old, new):
        assert both.open(TOPIC, one.seal(TOPIC, BODY), AS_CONTROLLER).speaker == one.trusted
    after = Verifier((new.trusted,))
    assert reason(SEALED, verifier=after) == "unknown-key"


def test_an_empty_list_believes_nobody() -> None:
    assert Verifier(()).asks
    assert reason(SEALED, verifier=Verifier(())) == "unknown-key"
    assert reason(BODY, verifier=Verifier(())) == "unsigned"


@pytest.mark.parametrize("payload", [BODY, SEALED, STRANGER.seal(TOPIC, BODY)])
def test_without_a_list_everybody_is_believed_signed_or_not(payload: bytes) -> None:
    """Signatures can so be introduced without a gap: the controller first, the agents after."""
    opened = Verifier(None).open(TOPIC, payload, AS_CONTROLLER)
    assert opened.body == BODY
    assert opened.speaker is None


# --- keys as documents ---------------------------------------------------------------------------


def test_a_trust_list_comes_back_as_it_was_written() -> None:
    assert decode_trust(msgspec.json.encode(TrustList(keys=TRUSTED))).keys == TRUSTED


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"public": "0" * 63}, "public"),
        ({"public": "G" * 64}, "public"),
        ({"role": "king"}, "role"),
        ({"private": "x"}, "private"),
    ],
)
def test_a_wrong_trust_list_says_where(change: dict[str, str], expected: str) -> None:
    key = {"public": "0" * 64, "role": "controller"} | change
    with pytest.raises(ValueError, match=expected):
        decode_trust(json.dumps({"version": 1, "keys": [key]}).encode())


def test_a_key_listed_twice_is_refused_whatever_its_role() -> None:
    twice = (CONTROLLER.trusted, msgspec.structs.replace(CONTROLLER.trusted, role="operator"))
    with pytest.raises(ValueError, match="listed twice"):
        decode_trust(msgspec.json.encode(TrustList(keys=twice)))


def test_a_trust_list_has_a_largest_size() -> None:
    keys = tuple(
        TrustedKey(public=f"{number:064x}"[::-1], role="operator")
        for number in range(TRUSTED_KEYS_MAX + 1)
    )
    assert len(decode_trust(msgspec.json.encode(TrustList(keys=keys[:-1]))).keys)
    with pytest.raises(ValueError, match="length"):
        decode_trust(msgspec.json.encode(TrustList(keys=keys)))


def test_a_private_key_shows_itself_to_nobody() -> None:
    key = signing_key("controller")
    document = msgspec.json.encode(key)
    secret = json.loads(document)["seed"]
    assert decode_signing_key(document) == key
    for shown in (repr(key), str(key), f"{key}", repr(CONTROLLER), repr([key])):
        assert secret not in shown
        assert "\\x" not in shown
    with pytest.raises(ValueError) as wrong:
        decode_signing_key(document.replace(b'"seed":"', b'"seed":"AAAA'))
    assert secret not in str(wrong.value)
