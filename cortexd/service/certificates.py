"""Certificates of listeners that can be renewed while the listener listens."""

from __future__ import annotations

import re
from typing import Any, Final

from OpenSSL.SSL import Context
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.ssl import CertificateOptions
from zope.interface import implementer

FILES: Final = ("privateKey=", "certKey=", "extraCertChain=", "dhParameters=", "sslmethod=")
"""The parts of an endpoint's description that make its context and not its address."""


@implementer(IOpenSSLContextFactory)
class Renewable:
    """The TLS context of a listener: new connections get ``current``, others keep their own."""

    def __init__(self, current: CertificateOptions) -> None:
        self.current = current

    def getContext(self) -> Context:  # noqa: N802 - Twisted calls it by this name
        """Return the context of a new connection."""
        return self.current.getContext()


def renewable(endpoint: Any) -> Renewable | None:
    """Make the certificate of a server endpoint renewable, if it has one.

    Raises OpenSSL's Error if certificate and private key do not fit together.
    """
    # Twisted has no public way to the context of an endpoint that a description made.
    while (wrapped := getattr(endpoint, "_wrappedEndpoint", None)) is not None:
        endpoint = wrapped
    options = getattr(endpoint, "_sslContextFactory", None)
    if options is None:
        return None
    options.getContext()
    made = Renewable(options)
    endpoint._sslContextFactory = made  # noqa: SLF001 - as above
    return made


def same_certificate(one: CertificateOptions, other: CertificateOptions) -> bool:
    """Return whether two contexts show the same certificates."""
    return _digests(one) == _digests(other)


def _digests(options: Any) -> list[bytes]:
    chain = [options.certificate, *(options.extraCertChain or ())]
    return [certificate.digest("sha256") for certificate in chain]


def address_of(description: str) -> str:
    """Return a description without the files of its certificate: what is left is its address."""
    parts = re.split(r"(?<!\\):", description)
    return ":".join(part for part in parts if not part.startswith(FILES))
