"""The TLS files of the nodes: the authorities that we trust, and the certificate that we show.

Here they become bytes that can be compared; ``cortexd.upstream.tls`` gives them to OpenSSL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:  # The agent beside an engine has TLS files, and no memory for the engines.
    from cortexd.config.settings import NodeSettings

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


def tls_of(node: NodeSettings) -> NodeTLS:
    """Return the content of a node's TLS files.

    Raises ConfigError if a file cannot be read or used, or if certificate and key do not fit. The
    message never contains a key.
    """
    return files_of(
        node.ca_file,
        node.client_certificate,
        node.client_key,
        lambda key, path: f"nodes ({node.name}).{key}: {one_line(path)}",
    )


def files_of(
    ca_file: str | None,
    client_certificate: str | None,
    client_key: str | None,
    where: Callable[[str, str], str],
) -> NodeTLS:
    """Return the content of files by their paths; ``None`` for a file that is not there.

    ``where`` begins the message about a file, of the name of its argument here and its path. Raises
    ConfigError as ``tls_of`` does.
    """
    authorities: tuple[bytes, ...] = ()
    if ca_file is not None:
        words = where("ca_file", ca_file)
        authorities = _certificates(words, ca_file)
        _try(words, NodeTLS(authorities))
    if client_certificate is None or client_key is None:
        return NodeTLS(authorities)
    words = where("client_certificate", client_certificate)
    chain = _certificates(words, client_certificate)
    key = _key(where("client_key", client_key), client_key, chain[0])
    _try(words, NodeTLS((), chain, key))
    return NodeTLS(authorities, chain, key)


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


def _key(where: str, path: str, certificate: bytes) -> bytes:
    """Return the key of a certificate in PKCS #8."""
    content = _content(where, path)
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
        words = "expected the private key of the first certificate in the other file"
        raise ConfigError(f"{where}: found another key, {words}")
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
