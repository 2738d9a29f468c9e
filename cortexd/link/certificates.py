"""What the certificate of an agent says, and the certificates of our own authority: pure.

The authority is the gateway's own: its key is in the state directory, and it signs nothing but the
gateway's certificate for the link and those of agents. Neither serves for the other's purpose: the
extended key usage is "server" or "client" alone. Times are in unix seconds.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cortexd.link.admission import PeerCertificate, names_in, urn

DAY: Final = 86_400.0
HOUR: Final = 3_600.0

GATEWAY_NAME: Final = "gateway.cortexd"
"""The name in the gateway's certificate that agents look for, wherever the gateway listens."""

AUTHORITY_DAYS: Final = 30 * 365
GATEWAY_DAYS: Final = 365
AGENT_DAYS: Final = 730
LONGEST_DAYS: Final = 3_650
"""How long a certificate of an agent may be valid at most."""

RENEW_SECONDS: Final = 120 * DAY
"""How long before its end the gateway's certificate is replaced."""

EARLIER_SECONDS: Final = DAY
"""How long before now the certificates that agents check begin, as their clocks may be behind."""


class AuthorityError(Exception):
    """Raised for an authority, or a certificate, whose text cannot be used; the message says why.

    It never quotes a key.
    """


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, each in PEM."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority that can sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> str:
        """Its certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM).decode()


def peer_certificate(certificate: x509.Certificate, *, is_ours: bool) -> PeerCertificate:
    """Return what decides about an agent's certificate, whose signature has been checked.

    ``is_ours``: our own authority has signed it. One for other purposes, or whose names cannot be
    read, speaks for no node.
    """
    try:
        names = _names(certificate, is_ours)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        names = frozenset()
    return PeerCertificate(
        names,
        certificate.serial_number,
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
        is_ours,
    )


def _names(certificate: x509.Certificate, is_ours: bool) -> frozenset[str]:
    extensions = certificate.extensions
    usage = _found(extensions, x509.ExtendedKeyUsage)
    allowed = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if is_ours if usage is None else not allowed.intersection(usage):
        return frozenset()
    others = _found(extensions, x509.SubjectAlternativeName)
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return names_in(
        () if others is None else others.get_values_for_type(x509.UniformResourceIdentifier),
        () if others is None else others.get_values_for_type(x509.DNSName),
        [each.value for each in common if isinstance(each.value, str)],
        is_ours=is_ours,
    )


def _found(extensions: x509.Extensions, kind: Any) -> Any:
    """Return the value of an extension, ``None`` if there is none."""
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


# ---------------------------------------------------------------------- making them


def new_authority(now: float) -> Pair:
    """Return a new authority, with a name of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"cortexd agents {secrets.token_hex(4)}")
    builder = _builder(name, name, key, now - EARLIER_SECONDS, now + AUTHORITY_DAYS * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(is_authority=True), critical=True)
    return _pair(builder, key, key)


def authority_of(pair: Pair) -> Authority:
    """Return an authority by its texts. Raises AuthorityError."""
    certificate, key = loaded(pair)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AuthorityError("the key is of another kind than the authority's own")
    return Authority(certificate, key)


def gateway_pair(authority: Authority, names: Sequence[str], now: float) -> Pair:
    """Return a certificate of the gateway, for GATEWAY_NAME and further names or addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    until = now + GATEWAY_DAYS * DAY
    builder = _signed(authority, GATEWAY_NAME, key, now - EARLIER_SECONDS, until)
    builder = builder.add_extension(
        x509.SubjectAlternativeName(_server_names(names)), critical=False
    )
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
    )
    return _pair(builder, key, authority.key)


def agent_pair(authority: Authority, node: str, since: float, until: float) -> Pair:
    """Return a certificate of a node's agent."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.UniformResourceIdentifier(urn(node))]
    builder = _signed(authority, node, key, since, until)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
    )
    return _pair(builder, key, authority.key)


def must_renew(
    certificate: x509.Certificate, authority: Authority, names: Sequence[str], now: float
) -> bool:
    """Whether the gateway needs another certificate: it ends, or has another authority or names."""
    if not certificate.not_valid_before_utc.timestamp() <= now:
        return True
    if now >= certificate.not_valid_after_utc.timestamp() - RENEW_SECONDS:
        return True
    found = _found(certificate.extensions, x509.SubjectAlternativeName)
    if found is None or set(found) != set(_server_names(names)):
        return True
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except Exception:  # InvalidSignature and others, which all say the same
        return True
    return False


def loaded(pair: Pair) -> tuple[x509.Certificate, Any]:
    """Return the certificate and the key of their texts. Raises AuthorityError."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate.encode())
    except ValueError:
        raise AuthorityError("the certificate is damaged, expected one in PEM") from None
    try:
        key = load_pem_private_key(pair.key.encode(), password=None)
    except Exception:  # UnsupportedAlgorithm and others, which quote bytes of the key
        raise AuthorityError("the private key is damaged, expected one in PEM") from None
    if certificate.public_key() != key.public_key():
        raise AuthorityError("the private key is that of another certificate")
    return certificate, key


def _server_names(names: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys([GATEWAY_NAME, *names]):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _signed(
    authority: Authority, name: str, key: ec.EllipticCurvePrivateKey, since: float, until: float
) -> x509.CertificateBuilder:
    """Return the beginning of a certificate that the authority signs, which is no authority."""
    issuer = authority.certificate
    end = min(until, issuer.not_valid_after_utc.timestamp())
    builder = _builder(_name(name), issuer.subject, key, since, end)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    return builder.add_extension(_usage(is_authority=False), critical=True)


def _builder(
    name: x509.Name, issuer: x509.Name, key: Any, since: float, until: float
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(since))
        .not_valid_after(_moment(until))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _pair(builder: x509.CertificateBuilder, key: Any, signing: Any) -> Pair:
    certificate = builder.sign(signing, hashes.SHA256())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(certificate.public_bytes(Encoding.PEM).decode(), text.decode())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _moment(at: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(at))


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
