"""How the connections of one listener come in: over TLS or plain, as a reload may change.

A connection that is open stays as it came. What goes wrong before TLS is agreed disturbs nothing
else: a client that never finishes counts as idle, and other bytes than TLS end the connection.
"""

from __future__ import annotations

import re
from typing import Any, Final

from OpenSSL.SSL import Connection, SysCallError
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLServerConnectionCreator,
    IReactorTime,
)
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from cortexd.admission.recent import Recent
from cortexd.downstream.introductions import Introductions, host_of
from cortexd.logs import get_logger
from cortexd.service.certificates import Certificate

PLAIN_WORDS: Final = b"This port speaks TLS: use https:// instead of http://.\n"
PLAIN_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(PLAIN_WORDS), PLAIN_WORDS)
)
PLAIN_HTTP: Final = re.compile(rb"[A-Z]{3,12} ")
"""The beginning of a request without TLS. A record of TLS begins with a byte below 32."""

END_OF_FILE: Final = "unexpected eof"
"""Words of OpenSSL for a client that leaves without a word."""

log = get_logger("cortexd.tls")


@implementer(IOpenSSLServerConnectionCreator)
class Entrance(ServerFactory):
    """Gives the connections of a listener to ``site``: over TLS if there is a ``certificate``.

    New connections get the certificate of the moment; a reload may set another one, or ``None``. A
    PROXY header comes before all TLS; ``are_by_proxies`` is that of Introductions.
    """

    noisy = False

    def __init__(
        self, site: Any, certificate: Certificate | None = None, *, are_by_proxies: bool = False
    ) -> None:
        self.site = site
        self.certificate = certificate
        self._tls = _TLSFactory(self, False, site, site.reactor)
        self._introductions = Introductions(site, are_by_proxies=are_by_proxies)
        self._failed = Recent()

    def serverConnectionForTLS(self, protocol: Any) -> Connection:  # noqa: N802 - Twisted's name
        """Return the TLS of a new connection."""
        certificate = self.certificate
        if certificate is None:  # it went in this turn
            raise RuntimeError("this listener has no certificate")
        return Connection(certificate.context, None)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol of a new connection."""
        inner: Any = self.site if self.certificate is None else self._tls
        return self._introductions.before(inner.buildProtocol(addr), addr)

    def doStart(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Start the site with its first port."""
        self._tls.doStart()

    def doStop(self) -> None:  # noqa: N802 - as doStart
        """Stop the site with its last port."""
        self._tls.doStop()

    def note_failed(self, peer: Any, reason: str) -> None:
        """Log that a client could not agree on TLS with us, once a minute for each client."""
        host = host_of(peer)
        if self._failed.note(host, self.site.reactor.seconds()):
            log.info("tls_failed", peer=host, reason=reason)


class _TLSConnection(BufferingTLSTransport):
    """A connection that tells its entrance why it has not agreed on TLS."""

    factory: _TLSFactory
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        """Take the first bytes; all others go to Twisted's method at once.

        OpenSSL names plain HTTP in some versions only, so we look for it.
        """
        self.dataReceived = super().dataReceived  # type: ignore[method-assign] # as above
        if not PLAIN_HTTP.match(data):
            self.dataReceived(data)
            return
        self.factory.entrance.note_failed(self.getPeer(), "plain HTTP on a port that speaks TLS")
        self.transport.write(PLAIN_ANSWER)
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget our own method, which refers to this connection."""
        self.__dict__.pop("dataReceived", None)
        super().connectionLost(reason)

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:  # noqa: N802 - Twisted's name
        # Twisted has no public way to hear of this before the connection closes.
        if reason is not None and not self._handshakeDone:
            words = _words_of(reason.value)
            if words and END_OF_FILE not in words:
                self.factory.entrance.note_failed(self.getPeer(), words)
        super()._tlsShutdownFinished(reason)


class _TLSFactory(TLSMemoryBIOFactory):
    """Makes the connections of an ``entrance`` that speak TLS."""

    protocol: Any = _TLSConnection

    def __init__(
        self, entrance: Entrance, is_client: bool, site: Any, reactor: IReactorTime
    ) -> None:
        super().__init__(entrance, is_client, site, reactor)
        self.entrance = entrance


def _words_of(error: BaseException | None) -> str:
    """Return the words of OpenSSL for an error."""
    arguments: tuple[Any, ...] = getattr(error, "args", ())
    if isinstance(error, SysCallError):
        return str(arguments[-1]).lower()
    queue = arguments[0] if arguments else ()
    return str(queue[-1][-1]).lower() if isinstance(queue, list) and queue else ""
