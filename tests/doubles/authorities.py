"""Authorities, the certificates that they sign, and servers that show them, for tests.

Each certificate is as strict clients want it: with its purpose, its names and its keys'
identifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from tests.doubles.certificates import HOST

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
OLD = 1
"""For ``Served.highest``: nothing above TLS 1.1."""


@dataclass(frozen=True)
class Certified:
    """A key, and a certificate with the chain that goes with it; all in PEM."""

    key: Key
    chain: tuple[x509.Certificate, ...]

    @property
    def key_pem(self) -> bytes:
        """The key."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def chain_pem(self) -> bytes:
        """The certificate, and what stands between it and its root."""
        return b"".join(each.public_bytes(Encoding.PEM) for each in self.chain)

    def write(self, folder: Path, name: str) -> tuple[str, str]:
        """Write the files of certificate and key, and return their paths."""
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.chain_pem)
        key.write_bytes(self.key_pem)
        return str(certificate), str(key)


class Authority:
    """An authority named ``name``, a root or one ``under`` another; ``days`` are its validity."""

    def __init__(
        self, name: str, under: Authority | None = None, days: tuple[int, int] = (-30, 30)
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._under = under
        signer = under or self
        self.certificate = _signed(
            self._name, signer, self.key, days, [(x509.BasicConstraints(True, None), True)]
        )

    @cached_property
    def pem(self) -> bytes:
        """Its own certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def write(self, path: Path) -> str:
        """Write its certificate to a file, and return the path."""
        path.write_bytes(self.pem)
        return str(path)

    def issue(
        self,
        *names: str,
        days: tuple[int, int] = (-1, 1),
        purpose: x509.ObjectIdentifier = SERVER,
        key: Key | None = None,
    ) -> Certified:
        """Return a new certificate for these names and addresses; ``days`` are its validity."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(False, None), True),
            (x509.ExtendedKeyUsage([purpose]), False),
        ]
        if names:
            extensions.append((x509.SubjectAlternativeName(list(map(_general, names))), False))
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
        certificate = _signed(subject, self, key, days, extensions)
        above = () if self._under is None else (self.certificate,)
        return Certified(key, (certificate, *above))


def self_signed(*names: str) -> Certified:
    """Return a certificate that has signed itself, and is no authority."""
    alone = Authority("node")
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectAlternativeName(list(map(_general, names))), False)
    ]
    return Certified(alone.key, (_signed(alone._name, alone, alone.key, (-1, 1), extensions),))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _signed(
    subject: x509.Name,
    signer: Authority,
    key: Key,
    days: tuple[int, int],
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    today = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer._name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today + timedelta(days=days[0]))
        .not_valid_after(today + timedelta(days=days[1]))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), False
        )
    )
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, is_critical)
    return builder.sign(signer.key, hashes.SHA256())


@implementer(IOpenSSLServerConnectionCreator)
class Served:
    """A server's side of TLS that shows a certificate.

    ``highest`` is the highest version of TLS that it speaks (OLD or a constant of pyOpenSSL), and
    ``clients`` is the authority of the clients' certificates, without which it takes no client.
    ``names`` are the names under which clients asked for it, ``shown`` the certificates that they
    showed. ``adjust`` changes the context before its first use.
    """

    def __init__(
        self,
        certified: Certified,
        *,
        highest: int | None = None,
        clients: Authority | None = None,
        adjust: Callable[[SSL.Context], object] | None = None,
    ) -> None:
        self.names: list[bytes | None] = []
        self.shown: list[int] = []
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate(certified.chain[0])
        context.use_privatekey(certified.key)
        for each in certified.chain[1:]:
            context.add_extra_chain_cert(each)
        if clients is not None:
            store: Any = context.get_cert_store()
            store.add_cert(crypto.X509.from_cryptography(clients.certificate))
            context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verify)
        context.set_tlsext_servername_callback(self._take_name)
        context.set_session_id(b"test")
        if highest == OLD:
            context.set_min_proto_version(SSL.TLS1_VERSION)
            context.set_max_proto_version(SSL.TLS1_1_VERSION)
        elif highest is not None:
            context.set_max_proto_version(highest)
        if adjust is not None:
            adjust(context)
        context.set_cipher_list(b"ALL:@SECLEVEL=0" if highest == OLD else b"HIGH")
        self._context = context

    def _take_name(self, connection: SSL.Connection) -> None:
        self.names.append(connection.get_servername())

    def _verify(
        self, _connection: SSL.Connection, found: crypto.X509, _fault: int, depth: int, holds: int
    ) -> bool:
        if depth == 0:
            self.shown.append(found.get_serial_number())
        return bool(holds)

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Return the TLS of one connection."""
        return SSL.Connection(self._context, None)


__all__ = ["CLIENT", "HOST", "OLD", "SERVER", "Authority", "Certified", "Served", "self_signed"]
