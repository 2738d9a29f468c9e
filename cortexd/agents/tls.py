"""The gateway's side of TLS with agents: its certificate, and what theirs say."""

from __future__ import annotations

from typing import Any, Final, Protocol

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from cortexd.config.expiry import Validity
from cortexd.config.node_tls import NodeTLS, give
from cortexd.link.admission import PeerCertificate
from cortexd.link.certificates import peer_certificate
from cortexd.upstream.handshakes import EXPIRED, NOT_YET_VALID, OTHER_PURPOSE, TOO_WEAK

CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!DSS"
"""The ciphers of TLS 1.2: with forward secrecy, and authenticated. TLS 1.3 has no others."""

MISSING: Final = "peer did not return a certificate"

# OpenSSL's results of a verification (x509_vfy.h), in words.
FAULTS: Final = {
    EXPIRED: "its certificate has expired",
    NOT_YET_VALID: "its certificate is not valid yet: check the clocks of both machines",
    OTHER_PURPOSE: "its certificate is not for clients (extended key usage)",
    **dict.fromkeys(TOO_WEAK, "its certificate is too weak"),
}
UNTRUSTED: Final = "its certificate is from another authority"


class Demands(Protocol):
    """What an agent must show."""

    @property
    def needs_certificate(self) -> bool:
        """Whether no agent is admitted without a certificate."""


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """Makes the gateway's side of TLS, with the ``files`` of its certificate and authority.

    ``is_ours`` says that the authority is the gateway's own. While the ``demands`` need a
    certificate, an agent without one gets no further; otherwise it may have a token. Raises
    OpenSSL's Error for files that it refuses.
    """

    def __init__(self, files: NodeTLS, demands: Demands, *, is_ours: bool) -> None:
        self.files = files
        self.is_ours = is_ours
        self._demands = demands
        self._context = self._made()

    @property
    def validity(self) -> Validity:
        """Until when the gateway's certificate is valid."""
        own = x509.load_der_x509_certificate(self.files.chain[0])
        return Validity(own.not_valid_before_utc.timestamp(), own.not_valid_after_utc.timestamp())

    def _made(self) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        # A resumed session would bring back a certificate that holds no longer. An agent that
        # negotiates anew makes us work, and TLS 1.3 has no renegotiation at all.
        context.set_options(
            SSL.OP_NO_COMPRESSION
            | SSL.OP_NO_RENEGOTIATION
            | SSL.OP_NO_TICKET
            | SSL.OP_CIPHER_SERVER_PREFERENCE
        )
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_session_id(b"cortexd agents")
        give(context, self.files)
        context.set_cipher_list(CIPHERS)  # last: it makes a connection, after which all is fixed
        return context

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:  # noqa: N802 - Twisted's name
        """Return the TLS of one connection; ``protocol.wrappedProtocol`` gets its ``tls_fault``."""
        connection = SSL.Connection(self._context, None)
        session = protocol.wrappedProtocol

        def verify(
            _: SSL.Connection, found: crypto.X509, fault: int, depth: int, holds: int
        ) -> bool:
            if not holds:
                session.tls_fault = FAULTS.get(fault, UNTRUSTED)
            return bool(holds)

        mode = SSL.VERIFY_PEER
        if self._demands.needs_certificate:
            mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        connection.set_verify(mode, verify)
        return connection

    def certificate_of(self, transport: Any) -> PeerCertificate | None:
        """Return what the agent's certificate says, which has been verified; ``None`` without."""
        connection: SSL.Connection = transport.getHandle()
        found = connection.get_peer_certificate()
        if found is None:
            return None
        return peer_certificate(found.to_cryptography(), is_ours=self.is_ours)
