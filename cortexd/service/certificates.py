"""Certificates of listeners, read from PEM files and checked together with their keys."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from OpenSSL import SSL
from twisted.internet.ssl import (
    AcceptableCiphers,
    CertificateOptions,
    DiffieHellmanParameters,
    TLSVersion,
)
from twisted.python.filepath import FilePath

from cortexd.config.expiry import Validity
from cortexd.config.files import open_regular
from cortexd.config.listening import Files
from cortexd.text import one_line

CERTIFICATES: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)
KEY: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
CIPHERS: Final = AcceptableCiphers.fromOpenSSLCipherString(
    "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL:!DSS"
)
"""The ciphers of TLS 1.2: with forward secrecy, and authenticated. TLS 1.3 has no others."""


class CertificateError(Exception):
    """Raised for files that make no certificate; the message is what is wrong with ``path``.

    ``is_key`` says that this is the file of the key.
    """

    def __init__(self, path: str, words: str, *, is_key: bool = False) -> None:
        super().__init__(f"{one_line(path)}: {words}")
        self.is_key = is_key


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its chain and its key: the context of new connections.

    ``digests`` are those of the certificates, the listener's own first.
    """

    digests: tuple[bytes, ...]
    validity: Validity
    context: SSL.Context = field(repr=False, compare=False)


def read_certificate(files: Files) -> Certificate:
    """Return the certificate in ``files``. Raises CertificateError."""
    chain = _certificates(files.certificate)
    if files.chain is not None:
        chain += _certificates(files.chain)
    own, *others = chain
    key = _key(files.key)
    _check_fit(files, own, others, key)
    try:
        options = CertificateOptions(
            privateKey=key,
            certificate=_of_pyopenssl(own),
            extraCertChain=_of_pyopenssl(others),
            dhParameters=_dh_parameters(files.dh_parameters),
            raiseMinimumTo=TLSVersion.TLSv1_2,
            acceptableCiphers=CIPHERS,
        )
        # A client that negotiates anew makes us work, and TLS 1.3 has no renegotiation at all.
        options._options |= SSL.OP_NO_RENEGOTIATION  # noqa: SLF001 - there is no public way
        context = options.getContext()
    except (SSL.Error, ValueError) as error:
        raise CertificateError(files.certificate, f"cannot be used ({_reason(error)})") from None
    digests = tuple(each.fingerprint(hashes.SHA256()) for each in chain)
    since, until = own.not_valid_before_utc, own.not_valid_after_utc
    return Certificate(digests, Validity(since.timestamp(), until.timestamp()), context)


def _content(path: str, *, is_key: bool = False) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise CertificateError(path, f"cannot be read ({reason})", is_key=is_key) from None


def _certificates(path: str) -> list[x509.Certificate]:
    blocks = CERTIFICATES.findall(_content(path))
    if not blocks:
        raise CertificateError(path, "found no certificate, expected one or more in PEM")
    try:
        return [x509.load_pem_x509_certificate(block) for block in blocks]
    except ValueError:
        words = "found a certificate that is damaged, expected one or more in PEM"
        raise CertificateError(path, words) from None


def _key(path: str) -> Any:
    content = _content(path, is_key=True)
    found = KEY.search(content)
    if found is None:
        raise CertificateError(path, "found no private key, expected one in PEM", is_key=True)
    try:
        return serialization.load_pem_private_key(content[found.start() :], password=None)
    except TypeError:
        words = "found a key with a passphrase, expected one without"
    except Exception:  # UnsupportedAlgorithm and others, which quote bytes of the key
        words = "found a private key that is damaged or of an unknown kind, expected one in PEM"
    raise CertificateError(path, words, is_key=True)


def _check_fit(
    files: Files, own: x509.Certificate, others: list[x509.Certificate], key: Any
) -> None:
    """Raise CertificateError for a key of another certificate."""
    public = key.public_key()
    if own.public_key() == public:
        return
    if any(each.public_key() == public for each in others):
        words = "its key fits a later certificate; expected the server's own first, then its chain"
        raise CertificateError(files.certificate, words)
    words = f"does not fit the certificate in {one_line(files.certificate)}"
    raise CertificateError(files.key, words, is_key=True)


def _dh_parameters(path: str | None) -> Any:
    if path is None:
        return None
    _content(path)
    return DiffieHellmanParameters.fromFile(FilePath(path))


def _of_pyopenssl(certificates: Any) -> Any:
    """Return certificates as they are: pyOpenSSL takes them, and its types at Twisted do not."""
    return certificates


def _reason(error: Exception) -> str:
    """Return the words of OpenSSL for an error, without its codes."""
    queue = error.args[0] if error.args else ""
    if isinstance(queue, list):
        return next((entry[-1] for entry in reversed(queue) if entry[-1]), "wrong format")
    return one_line(str(error)) or "wrong format"
