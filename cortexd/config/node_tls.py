"""The TLS files of the nodes: the authorities that we trust, and the certificate that we show.

Here they become bytes that can be compared; ``cortexd.upstream.tls`` gives them to OpenSSL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)
from OpenSSL import SSL, crypto

from cortexd.config.files import open_regular
from cortexd.config.tables import ConfigError
from cortexd.text import one_line

if TYPE_CHECKING:  # an agent reads files here too, and has no such settings
    from cortexd.config.settings import AgentsSettings, NodeSettings

LONGEST_FILE: Final = 4 * 1024 * 1024
"""The most bytes that we read of a file: the authorities of a whole system take a tenth of it."""


@dataclass(frozen=True, slots=True)
class NodeTLS:
    """The content of a node's files, each certificate in DER.

    Without ``authorities`` those of the system are trusted. ``chain`` begins with our own
    certificate, and ``key`` is its key (PKCS #8 in DER); both are empty if the node gets none.
    """

    authorities: tuple[bytes, ...] = ()
    chain: tuple[bytes, ...] = ()
    key: bytes = field(default=b"", repr=False)


NO_FILES: Final = NodeTLS()


class Key(NamedTuple):
    """A key of a configuration that names a file: its path there, and that of the file, if any."""

    key: str
    path: str | None

    def where(self) -> str:
        """Return both for a message."""
        return f"{self.key}: {one_line(self.path or '')}"


def tls_of(node: NodeSettings) -> NodeTLS:
    """Return the content of a node's TLS files. Raises ConfigError as ``tls_files`` does."""
    table = f"nodes ({node.name})"
    return tls_files(
        Key(f"{table}.ca_file", node.ca_file),
        Key(f"{table}.client_certificate", node.client_certificate),
        Key(f"{table}.client_key", node.client_key),
    )


def agents_tls(agents: AgentsSettings) -> NodeTLS | None:
    """Return the content of the files for agents, ``None`` without any. Raises ConfigError."""
    if agents.certificate is None:
        return None
    return tls_files(
        Key("agents.ca", agents.ca),
        Key("agents.certificate", agents.certificate),
        Key("agents.key", agents.key),
    )


def tls_files(ca: Key, certificate: Key, key: Key) -> NodeTLS:
    """Return the content of the files that three keys name, each of which may name none.

    Raises ConfigError if a file cannot be read or used, or if certificate and key do not fit. The
    message never contains a key.
    """
    authorities: tuple[bytes, ...] = ()
    if ca.path is not None:
        authorities = _certificates(ca.where(), ca.path)
        _try(ca.where(), NodeTLS(authorities))
    if certificate.path is None or key.path is None:
        return NodeTLS(authorities)
    chain = _certificates(certificate.where(), certificate.path)
    own = _key(key, certificate, chain[0])
    _try(certificate.where(), NodeTLS((), chain, own))
    return NodeTLS(authorities, chain, own)


def give(context: SSL.Context, files: NodeTLS) -> None:
    """Give a context the authorities to trust and the certificate to show. Raises OpenSSL's Error.

    Without authorities it trusts those of the system.
    """
    if files.authorities:
        store = context.get_cert_store()
        if store is not None:  # OpenSSL makes it with the context
            for each in files.authorities:
                certificate = x509.load_der_x509_certificate(each)
                store.add_cert(crypto.X509.from_cryptography(certificate))
            # An authority counts also where the one above it is not in the file.
            store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    else:
        context.set_default_verify_paths()
    if files.chain:
        key: Any = load_der_private_key(files.key, None)
        context.use_certificate(x509.load_der_x509_certificate(files.chain[0]))
        context.use_privatekey(key)
        for each in files.chain[1:]:
            context.add_extra_chain_cert(x509.load_der_x509_certificate(each))


def _try(where: str, files: NodeTLS) -> None:
    """Raise ConfigError for files that OpenSSL does not take, such as those of a weak key."""
    try:
        give(SSL.Context(SSL.TLS_METHOD), files)
    except (SSL.Error, crypto.Error) as error:
        words = ", ".join(str(each[-1]) for each in error.args[0])
        raise ConfigError(f"{where}: OpenSSL refuses the certificate ({words})") from None


def _content(where: str, path: str) -> bytes:
    try:
        with open_regular(path) as file:
            content = file.read(LONGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{where} cannot be read ({error.strerror})") from None
    if len(content) > LONGEST_FILE:
        raise ConfigError(f"{where}: found more than {LONGEST_FILE // 2**20} MiB")
    return content


def _certificates(where: str, path: str) -> tuple[bytes, ...]:
    content = _content(where, path)
    try:
        found = x509.load_pem_x509_certificates(content)
    except ValueError:
        raise ConfigError(f"{where}: expected certificates in PEM") from None
    return tuple(each.public_bytes(Encoding.DER) for each in found)


def _key(file: Key, of: Key, certificate: bytes) -> bytes:
    """Return the key of a certificate, which is in the file that ``of`` names, in PKCS #8."""
    where = file.where()
    content = _content(where, file.path or "")
    try:
        key = load_pem_private_key(content, None)
        own = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        public = x509.load_der_x509_certificate(certificate).public_key()
        certified = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except TypeError:  # so cryptography says that a passphrase is missing
        raise ConfigError(f"{where}: expected a private key without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{where}: expected a private key in PEM") from None
    if own != certified:
        named = of.key.rpartition(".")[2]
        words = f"expected the private key of the first certificate in {named}"
        raise ConfigError(f"{where}: found another key, {words}")
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
