"""TLS to nodes: whom we trust, what we show, and how a handshake ends."""

from __future__ import annotations

from typing import Any, Final

from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from cortexd.config.node_tls import NodeTLS, give
from cortexd.upstream.handshakes import UNREADABLE, Handshake, words_for

CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:HIGH:!aNULL:!eNULL:!MD5:!DSS:!PSK:!SRP"
"""What we offer in TLS 1.2, the best first; TLS 1.3 has ciphers of its own."""


class TLSFailed(ConnectError):
    """Raised when TLS with a node fails; ``message`` says why, in our words.

    Before the end of the handshake the node has got nothing of a request.
    """

    def __init__(self, message: str) -> None:
        super().__init__(string=message)
        self.message = message


class HandshakeCancelled(CancelledError):
    """Raised when a connection is cancelled while its handshake goes on."""


class BrokenTLS(Exception):
    """Raised when TLS with a node fails after the handshake; ``message`` says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@implementer(IOpenSSLClientConnectionCreator)
class Creator:
    """Makes the client's side of TLS with ``host``, with the ``files`` of the node.

    Each has a context of its own, so that no session of one trust serves another. The host's name
    or address must be among those of the certificate.
    """

    def __init__(self, host: str, files: NodeTLS) -> None:
        self._host = host.removesuffix(".")
        self._is_address = isIPAddress(host) or isIPv6Address(host)
        self._files = files
        self._context = self._made()

    def _made(self) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        give(context, self._files)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verify)
        context.set_info_callback(_note)
        context.set_cipher_list(CIPHERS)  # last: it makes a connection, after which all is fixed
        return context

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N802, N803 - so Twisted calls it
        """Return the TLS of one connection; ``tlsProtocol`` gets what is seen of its handshake."""
        seen = Handshake(self._host, bool(self._files.authorities), bool(self._files.chain))
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(tlsProtocol)  # as Twisted does later
        if not self._is_address:
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        tlsProtocol.seen = seen
        return connection

    def _verify(
        self, connection: SSL.Connection, found: crypto.X509, fault: int, depth: int, holds: int
    ) -> bool:
        """Return whether a certificate of the node's chain holds; note which one does not."""
        seen: Handshake = connection.get_app_data().seen
        if holds and depth > 0:
            return True
        seen.depth = depth
        try:
            seen.certificate = found.to_cryptography()
        except ValueError:
            seen.fault = fault or UNREADABLE
            return False
        if not holds:
            seen.fault = fault
            return False
        try:
            if self._is_address:
                verify_certificate_ip_address(seen.certificate, self._host)
            else:
                verify_certificate_hostname(seen.certificate, self._host)
        except (VerificationError, CertificateError, ValueError):
            seen.is_misnamed = True
            return False
        seen.is_named = True
        return True


def _note(connection: SSL.Connection, where: int, value: int) -> None:
    """Note what happens in a handshake: OpenSSL calls this at each step, and for each alert."""
    if where == SSL.SSL_CB_READ_ALERT:
        connection.get_app_data().seen.alert = value & 0xFF
    elif where & SSL.SSL_CB_LOOP and b"certificate request" in connection.get_state_string():
        connection.get_app_data().seen.asks_for_certificate = True


class _NodeTLS(BufferingTLSTransport):
    """TLS to a node that closes without waiting for the node.

    Twisted's transport waits for the node's close_notify. A node that does not read never sends it
    and continues an answer that has no reader; TLS does not require the wait (RFC 8446 6.1).

    ``seen`` is what was seen of the handshake, which may take ``factory.limit`` seconds.
    """

    seen: Handshake
    factory: _TLSFactory
    transport: Any
    _limit: IDelayedCall | None = None
    _ready: Deferred[IProtocol] | None = None
    _failed: TLSFailed | None = None

    def makeConnection(self, transport: Any) -> None:  # noqa: N802 - Twisted calls it by this name
        """Begin the handshake."""
        alsoProvides(self.wrappedProtocol, IHandshakeListener)
        # Only the first read passes through here, so that no chunk of an answer does.
        self.__dict__["dataReceived"] = self._receive_first
        limit = self.factory.limit
        self._limit = self.factory.clock.callLater(limit, self._give_up, limit)
        super().makeConnection(transport)

    def _receive_first(self, data: bytes) -> None:
        self.__dict__.pop("dataReceived", None)
        self.seen.first = data[:8]
        self.dataReceived(data)

    def handshaken(self) -> Deferred[IProtocol]:
        """Return a Deferred that fires with the protocol inside TLS after the handshake.

        It fails with TLSFailed. Cancelling aborts the connection.
        """
        if self._failed is not None:
            return fail(self._failed)
        if self.seen.is_done:
            return succeed(self.wrappedProtocol)
        self._ready = Deferred(self._cancel)
        return self._ready

    def be_ready(self) -> None:
        """Take the end of the handshake."""
        if not self.seen.is_named:  # OpenSSL has not asked us, which must not happen
            self._fail("its certificate was not compared with the host of the endpoint")
            self.abortConnection()
            return
        self.seen.is_done = True
        self._stop_limit()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.callback(self.wrappedProtocol)

    def _give_up(self, limit: float) -> None:
        self._limit = None
        self._fail(f"the TLS handshake did not end within {limit:g} s")
        self.abortConnection()

    def _cancel(self, ready: Deferred[IProtocol]) -> None:
        self._ready = None
        self._stop_limit()
        ready.errback(HandshakeCancelled())
        self.abortConnection()

    def _fail(self, words: str) -> None:
        self._stop_limit()
        if self._failed is None:
            self._failed = TLSFailed(words)
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.errback(self._failed)

    def _stop_limit(self) -> None:
        limit, self._limit = self._limit, None
        if limit is not None:
            limit.cancel()

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:  # noqa: N802 - Twisted calls it by this name
        """Take the end of TLS, for which Twisted gives OpenSSL's error, and say it in our words."""
        super()._tlsShutdownFinished(reason)
        errors = _words_of(self._reason)
        if errors:
            words = words_for(self.seen, errors)
            self._reason = Failure(BrokenTLS(words) if self.seen.is_done else TLSFailed(words))
            if not self.seen.is_done:
                self._fail(words)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override] # Twisted passes it always
        """Take the end of the connection."""
        self.__dict__.pop("dataReceived", None)
        if not self.seen.is_done:
            self._fail(words_for(self.seen))
        super().connectionLost(reason)

    def loseConnection(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Send close_notify, and close the connection."""
        super().loseConnection()
        self.transport.loseConnection()


def _words_of(reason: Failure | None) -> list[str]:
    """Return OpenSSL's words for the end of TLS, none if it is only the end of the connection."""
    if reason is None or not isinstance(reason.value, SSL.Error):
        return []
    # OpenSSL reports each error as a tuple of library, function and reason.
    queue = reason.value.args[0] if reason.value.args else []
    words = [str(each[-1]) for each in queue] if isinstance(queue, list) else []
    return [] if words and words[-1].casefold().startswith("unexpected eof") else words


class _TLSFactory(TLSMemoryBIOFactory):
    protocol = _NodeTLS

    def __init__(self, creator: Creator, wrapped: IProtocolFactory, clock: Any, limit: float):
        super().__init__(creator, True, wrapped, clock)
        self.clock = clock
        self.limit = limit


@implementer(IStreamClientEndpoint)
class TLSEndpoint:
    """Adds TLS to the connections of another endpoint; a handshake may take ``limit`` seconds."""

    def __init__(
        self, endpoint: IStreamClientEndpoint, creator: Creator, reactor: Any, limit: float
    ) -> None:
        self._endpoint = endpoint
        self._creator = creator
        self._reactor = reactor
        self._limit = limit

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803 - so IStreamClientEndpoint calls it
    ) -> Deferred[IProtocol]:
        """Connect; the Deferred fires with the protocol inside TLS, after the handshake.

        A request that is sent then was not sent before the node has shown who it is.
        """
        factory = _TLSFactory(self._creator, protocolFactory, self._reactor, self._limit)
        connecting: Deferred[Any] = self._endpoint.connect(factory)
        return connecting.addCallback(lambda wrapping: wrapping.handshaken())
