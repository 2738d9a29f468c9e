"""The HTTP server under the gateway: twisted.web with limits and without HTML.

This server departs from twisted.web (26.10) in these points:

- twisted.web writes a body of more than 100 kB to a file and takes any size; here the body stays
  in memory and has a limit;
- it lets the head of a request come as slowly as the client likes; here the head has the idle
  time;
- it lets a body come as slowly as it likes, too; here a body that drips is refused;
- it accepts any number of connections; here the longest idle one makes room for a new one once a
  limit is reached, and requests on connections beyond the limit are refused;
- it answers a bad request with a bare status line; here the answer is an error in the client's
  envelope, and the server goes on reading for a while, since closing on unread data would reset
  the connection and lose the answer;
- it cuts a slow reader of a large answer off once the connection is idle otherwise, but never
  after the last answer of a connection; here it does so once the client stops reading;
- over TLS it offers HTTP/2 where the package for it is installed; here it never does;
- over TLS it keeps a connection until the client closes it too; here it does not wait for that;
- it makes an HTML page of an exception; here the client gets an error in the envelope;
- it parses the bodies of forms and writes an access log; here it does neither, since the gateway
  writes its own line for each request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from cortexd.admission.clients import ROOMY, ClientLimits
from cortexd.admission.proxies import NO_PROXIES, Proxies
from cortexd.downstream.body_memory import BodyMemory
from cortexd.downstream.channel import LINGER_SECONDS, GatewayChannel
from cortexd.downstream.cross_origin import NO_ORIGINS, CrossOrigin
from cortexd.downstream.crowd import Crowd
from cortexd.downstream.gate import Gate
from cortexd.downstream.hosts import EVERY_HOST, Hosts
from cortexd.downstream.passing_on import PassingOn
from cortexd.downstream.request import GatewayRequest


class GatewaySite(Site):
    """Serves ``resource`` to clients whose bodies are at most ``max_body_bytes`` long.

    ``cross_origin`` knows which pages in browsers may send requests and read the answers, ``hosts``
    under which names clients may address the server. ``limits`` are those on its clients.
    ``body_memory`` is what the bodies of all may take together, and ``proxies`` are those that may
    state whose requests they pass on. A reload may replace all of these.
    ``gate`` finds out who sends a request; without it, that is anybody.
    ``tokens`` are those by which daemons that have handed over to this one pass connections on.
    """

    # The channel itself, without Twisted's negotiation of HTTP/2 in between.
    noisy = False
    protocol = GatewayChannel  # type: ignore[assignment] # as declared, it is a function

    def __init__(
        self,
        resource: IResource,
        reactor: IReactorTime,
        max_body_bytes: int,
        cross_origin: CrossOrigin = NO_ORIGINS,
        hosts: Hosts = EVERY_HOST,
        limits: ClientLimits = ROOMY,
        body_memory: BodyMemory | None = None,
        proxies: Proxies = NO_PROXIES,
        gate: Gate | None = None,
    ) -> None:
        super().__init__(
            resource,
            requestFactory=cast("Callable[..., Request]", GatewayRequest),
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.max_body_bytes = max_body_bytes
        self.body_memory = body_memory or BodyMemory(8 * max_body_bytes)
        self.gate = gate
        self.cross_origin = cross_origin
        self.hosts = hosts
        self.proxies = proxies
        self.tokens: Collection[bytes] = ()
        self.crowd: Crowd[GatewayChannel] = Crowd(limits)
        self.connections = self.crowd.connections
        self.passing_on: PassingOn | None = None
        self._emptied: Deferred[None] | None = None

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802 - Twisted calls it by this name
        """Return what clients may choose over TLS: our channel speaks no HTTP/2."""
        return [b"http/1.1"]

    def pass_on(self, passing_on: PassingOn) -> None:
        """From now on, pass the requests that begin on open connections on to our successor."""
        self.passing_on = passing_on
        for connection in list(self.connections):
            connection.pass_on(passing_on)

    async def close_connections(self) -> None:
        """Close every connection once its bytes have gone out, and wait for that.

        The process must not end before, because bytes that wait for a slow reader would be lost. A
        client that takes longer than LINGER_SECONDS is cut off.
        """
        if not self.connections:
            return
        self._emptied = Deferred()
        for connection in list(self.connections):
            connection.loseConnection()
        timer = self.reactor.callLater(LINGER_SECONDS, self._abort_connections)
        await self._emptied
        if timer.active():
            timer.cancel()

    def _abort_connections(self) -> None:
        for connection in list(self.connections):
            connection.transport.abortConnection()

    def forget(self, connection: GatewayChannel) -> None:
        """Remove a connection that is gone."""
        self.crowd.leave(connection)
        if self._emptied is not None and not self.connections:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def log(self, request: object) -> None:
        """Write no access log, since the gateway writes its own line for each request."""
