"""Who an agent is, what it shows the gateway, and whom it takes for the gateway."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    TLSVersion,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from zope.interface import implementer

from cortexd.config.node_tls import NodeTLS
from cortexd.link.certificates import GATEWAY_NAME
from cortexd.link.proofs import EXPORTER_BYTES, EXPORTER_LABEL


@dataclass(frozen=True, slots=True)
class Identity:
    """Who an agent is: the agent of ``node``.

    ``tls`` has the authorities that may sign the gateway's certificate, those of the system if it
    has none, and the certificate that the agent shows, if it has one; ``None`` for a link without
    TLS, which only the gateway's own machine may have. The gateway's certificate must be for
    ``server_name``. ``token`` is the node's token, if the agent proves itself with one.
    """

    node: str
    server_name: str = GATEWAY_NAME
    tls: NodeTLS | None = None
    token: str = field(default="", repr=False)


@implementer(IOpenSSLClientConnectionCreator)
class Creator:
    """Makes the agent's side of TLS, which checks the gateway's name by service-identity.

    Raises ValueError for an identity without TLS, and OpenSSL's Error for files that it refuses.
    """

    def __init__(self, identity: Identity) -> None:
        files = identity.tls
        if files is None:
            raise ValueError("this identity has no TLS")
        options: dict[str, Any] = {"raiseMinimumTo": TLSVersion.TLSv1_2}
        if files.chain:
            own, *others = (x509.load_der_x509_certificate(each) for each in files.chain)
            options["certificate"] = own
            options["privateKey"] = load_der_private_key(files.key, None)
            options["extraCertChain"] = others
        trusted = [Certificate.load(each, crypto.FILETYPE_ASN1) for each in files.authorities]
        trust = trustRootFromCertificates(trusted) if trusted else platformTrust()
        self._creator: IOpenSSLClientConnectionCreator = optionsForClientTLS(
            identity.server_name, trust, extraCertificateOptions=options
        )

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N802, N803 - so Twisted calls it
        """Return the TLS of one connection."""
        connection: SSL.Connection = self._creator.clientConnectionForTLS(tlsProtocol)
        store = connection.get_context().get_cert_store()
        if store is not None:
            # An authority counts also where the one above it is not in the file.
            store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        return connection


def exported(transport: Any) -> bytes:
    """Return the bytes that both ends of a TLS connection know, and nobody else (RFC 5705)."""
    connection: SSL.Connection = transport.getHandle()
    return connection.export_keying_material(EXPORTER_LABEL, EXPORTER_BYTES)
