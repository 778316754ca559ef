"""Who said a message: Ed25519 signatures around messages, and the keys that are believed.

A signed message travels in an envelope whose body is the message exactly as it was encoded, so that
what is verified is what was received. The signature also covers the topic: a message that was
signed for one node, verb or site is worth nothing under another. Files and clocks are others'
business, and so is replay: whoever takes a message compares its epoch, sequence or time.
"""

from __future__ import annotations

import binascii
from collections.abc import Collection, Iterable
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from nacl.bindings.crypto_sign import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.bindings.sodium_core import sodium_init
from nacl.exceptions import BadSignatureError

from facility.wire import MESSAGE_BYTES_MAX, Text

CONTEXT: Final = b"ampacity/v1 signed message\0"
"""Stands before everything that is signed, so that no signature made for another use fits."""

SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
KEY_ID_LENGTH: Final = 16
TRUSTED_KEYS_MAX: Final = 256
TRUST_BYTES_MAX: Final = 262_144

Role = Literal["controller", "operator"]
"""As whom a key may speak: a controller grants leases, an operator asks, and may brake."""

KeyId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$(?!\n)")]
PublicKey = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
"""A public key as 64 hexadecimal digits; the first 16 are its name on the wire."""

DocumentT = TypeVar("DocumentT", bound=Struct)

Reason = Literal["unsigned", "unknown-key", "bad-signature", "wrong-role", "oversized"]


class SignatureRefused(ValueError):
    """A message that is not believed; `reason` says in one word why."""

    def __init__(self, reason: Reason, text: str) -> None:
        """Keep the word for counters and the text for people; it repeats nothing secret."""
        super().__init__(text)
        self.reason: Reason = reason


class SigningKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A private key as a document. The one secret in it is `seed`, 32 bytes in base64."""

    version: Literal[1] = 1
    role: Role
    name: Text = ""
    seed: Annotated[bytes, Meta(min_length=SEED_BYTES, max_length=SEED_BYTES)]

    def __repr__(self) -> str:
        """Never the secret: this may end in a log."""
        return f"SigningKey(role={self.role!r}, name={self.name!r})"

    __str__ = __repr__


class TrustedKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A public key, and as whom it is believed."""

    public: PublicKey
    role: Role
    name: Text = ""

    @property
    def key(self) -> str:
        """The key's name on the wire."""
        return self.public[:KEY_ID_LENGTH]

    @property
    def who(self) -> str:
        """Who it is, for people."""
        return f"{self.role} {self.name or self.key}"


class TrustList(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everybody who is believed; several keys of one role may be, while keys are changed."""

    version: Literal[1] = 1
    keys: Annotated[tuple[TrustedKey, ...], Meta(max_length=TRUSTED_KEYS_MAX)]


class Envelope(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signed message: who says it, the signature in base64, and the message as it was encoded."""

    key: KeyId
    signature: Annotated[str, Meta(min_length=88, max_length=88)]
    body: msgspec.Raw


class Opened(Struct, frozen=True):
    """A message that is believed, still encoded; `speaker` is None where nobody is asked."""

    body: bytes
    speaker: TrustedKey | None


def signed_bytes(topic: str, body: bytes) -> bytes:
    """What a signature covers: its purpose, the whole topic, the message.

    A topic has no NUL, so no other pair of topic and message gives the same bytes.
    """
    return b"%b%b\0%b" % (CONTEXT, topic.encode(), body)


class Signer:
    """Speaks with one private key. It shows the public half only."""

    __slots__ = ("_secret", "trusted")

    def __init__(self, key: SigningKey) -> None:
        """Derive the key pair; needs nothing else."""
        sodium_init()
        public, self._secret = crypto_sign_seed_keypair(key.seed)
        self.trusted = TrustedKey(public=public.hex(), role=key.role, name=key.name)
        """What others must trust to believe this one."""

    def seal(self, topic: str, body: bytes) -> bytes:
        """Return `body`, an encoded message, in an envelope for `topic`."""
        covered = signed_bytes(topic, body)
        signature = crypto_sign(covered, self._secret)[:SIGNATURE_BYTES]
        envelope = Envelope(
            key=self.trusted.key,
            signature=binascii.b2a_base64(signature, newline=False).decode(),
            body=msgspec.Raw(body),
        )
        return msgspec.json.encode(envelope)


class Verifier:
    """Opens messages and says who spoke. Without keys at all nobody is believed."""

    __slots__ = ("_decoder", "_keys")

    def __init__(self, keys: Iterable[TrustedKey] | None) -> None:
        """Believe `keys`; None believes everybody, signed or not, as a site without keys must."""
        sodium_init()
        self._keys = None if keys is None else {key.key: key for key in keys}
        self._decoder = msgspec.json.Decoder(Envelope)

    @property
    def asks(self) -> bool:
        """Whether anybody is asked for a signature."""
        return self._keys is not None

    @property
    def keys(self) -> tuple[TrustedKey, ...]:
        """Who is believed."""
        return tuple((self._keys or {}).values())

    def open(self, topic: str, payload: bytes, roles: Collection[Role]) -> Opened:
        """Return the message in `payload` if a key with one of `roles` signed it for `topic`.

        Raises:
            SignatureRefused: with the reason in one word.
        """
        if len(payload) > MESSAGE_BYTES_MAX:
            raise SignatureRefused(
                "oversized", f"{len(payload)} bytes, at most {MESSAGE_BYTES_MAX} are accepted"
            )
        try:
            envelope = self._decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if self._keys is None:
                return Opened(payload, None)
            raise SignatureRefused("unsigned", "the message carries no signature") from error
        if self._keys is None:
            return Opened(bytes(envelope.body), None)
        return self._verified(topic, envelope, roles)

    def unwrap(self, payload: bytes) -> bytes:
        """What an envelope holds, or `payload` itself: unverified, to see what it is about."""
        try:
            return bytes(self._decoder.decode(payload).body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return payload

    def _verified(self, topic: str, envelope: Envelope, roles: Collection[Role]) -> Opened:
        assert self._keys is not None
        key = self._keys.get(envelope.key)
        if key is None:
            raise SignatureRefused("unknown-key", f"nobody here trusts the key {envelope.key}")
        body = bytes(envelope.body)
        signature = _decoded(envelope.signature)
        try:
            if signature is None:
                raise BadSignatureError
            crypto_sign_open(signature + signed_bytes(topic, body), bytes.fromhex(key.public))
        except BadSignatureError:
            raise SignatureRefused(
                "bad-signature",
                f"the signature of {key.who} does not fit this message under this topic",
            ) from None
        if key.role not in roles:
            raise SignatureRefused("wrong-role", f"{key.who} may not say this")
        return Opened(body, key)


def _decoded(signature: str) -> bytes | None:
    """The signature's bytes; None when it is not written the one way that there is."""
    try:
        data = binascii.a2b_base64(signature, strict_mode=True)
    except (binascii.Error, ValueError):
        return None
    again = binascii.b2a_base64(data, newline=False).decode()
    return data if len(data) == SIGNATURE_BYTES and again == signature else None


def decode_trust(data: bytes) -> TrustList:
    """Read a trust list. Raises ValueError that says what is wrong, and where."""
    if len(data) > TRUST_BYTES_MAX:
        raise ValueError(f"{len(data)} bytes, at most {TRUST_BYTES_MAX} are accepted")
    found = _document(data, TrustList, "trust list")
    names = [key.key for key in found.keys]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"key {twice[0]} is listed twice")
    return found


def decode_signing_key(data: bytes) -> SigningKey:
    """Read a private key. Raises ValueError whose text repeats nothing of the file."""
    return _document(data, SigningKey, "signing key")


def _document(data: bytes, kind: type[DocumentT], what: str) -> DocumentT:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"is no {what}: {error}") from error
