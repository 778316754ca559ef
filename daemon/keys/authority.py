"""The site's own certificate authority: who is who on the broker's TLS connections.

Makes X.509 keys and certificates in memory and says when one ends; it touches no file. A client's
certificate is good for a client only, so no node can pose as the broker.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS: Final = 3_650
SKEW: Final = datetime.timedelta(hours=1)
"""Certificates begin this much earlier, for hosts whose clocks are behind."""
COMMON_NAME_LENGTH_MAX: Final = 64
"""RFC 5280, upper bound of a common name."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key and its certificate, both as PEM."""

    key: bytes
    certificate: bytes

    def __repr__(self) -> str:
        """Never the key."""
        return f"Identity({common_name(self.certificate)!r})"


def make_authority(site: str, *, now: datetime.datetime) -> Identity:
    """A new authority for a site, for `AUTHORITY_DAYS`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"ampacity {site}"[:COMMON_NAME_LENGTH_MAX])
    usage = _usage(sign_certificates=True)
    builder = (
        _builder(name, name, key.public_key(), now=now, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Identity(_pem(key), _certificate(builder, key))


def make_client(
    authority: Identity, name: str, *, now: datetime.datetime, days: float, key: bytes | None = None
) -> Identity:
    """A certificate with which a client is `name` at the broker; with its old key if given."""
    return _issue(authority, name, (), now=now, days=days, key=key)


def make_server(
    authority: Identity,
    hosts: Sequence[str],
    *,
    now: datetime.datetime,
    days: float,
    key: bytes | None = None,
) -> Identity:
    """The broker's certificate, for names or addresses that clients connect to."""
    assert hosts, "a server has a name"
    return _issue(authority, hosts[0][:COMMON_NAME_LENGTH_MAX], hosts, now=now, days=days, key=key)


def ends(certificate: bytes) -> datetime.datetime:
    """When a certificate ends."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def common_name(certificate: bytes) -> str:
    """Who a certificate names."""
    subject = x509.load_pem_x509_certificate(certificate).subject
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def hosts_of(certificate: bytes) -> tuple[str, ...]:
    """The names and addresses that a server's certificate is for."""
    found = x509.load_pem_x509_certificate(certificate).extensions
    names = found.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def _issue(
    authority: Identity,
    name: str,
    hosts: Sequence[str],
    *,
    now: datetime.datetime,
    days: float,
    key: bytes | None,
) -> Identity:
    signer = _private(authority.key)
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    own = ec.generate_private_key(ec.SECP256R1()) if key is None else _private(key)
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_name(name), issuer.subject, own.public_key(), now=now, days=days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if hosts:
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return Identity(_pem(own), _certificate(builder, signer))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    *,
    now: datetime.datetime,
    days: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("is no elliptic curve key")
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _certificate(builder: x509.CertificateBuilder, signer: ec.EllipticCurvePrivateKey) -> bytes:
    certificate = builder.sign(signer, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)
