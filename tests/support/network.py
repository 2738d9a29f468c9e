"""A network in memory: a reactor for clients and servers, with a Clock and without sockets.

Twisted's own doubles (iosim, StubTreq) neither hold bytes back from a paused reader nor distinguish
a reset from an orderly end, and a relay depends on both. Here both ends of a connection behave like
Twisted's TCP transports (26.10): 64 KiB of unread bytes pause a streaming producer, a paused reader
does not notice an orderly end, and it notices a reset at once.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import (
    CannotListenError,
    ConnectBindError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    UserError,
)
from twisted.internet.error import ConnectionRefusedError as RefusedError
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.interfaces import (
    IConnector,
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IHostnameResolver,
    IListeningPort,
    IPushProducer,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

UNREAD_BYTES = 64 * 1024
"""How many unread bytes pause the writer's producer, as in Twisted."""

FIRST_CLIENT_PORT = 40_000

MAX_TURNS = 100_000
"""More turns in one flush mean an endless exchange between two ends; every test needs fewer."""


@implementer(ITCPTransport, IConsumer, IPushProducer)
class End:
    """One end of a connection. ``reads`` is false while its protocol has paused it.

    ``socket`` says how many bytes the other end's protocol has received, as Linux would.
    """

    peer: End

    def __init__(self, host: IPv4Address, peer_address: IPv4Address) -> None:
        self.protocol: Any = None
        self.unread = bytearray()
        self.reads = True
        self.disconnecting = self.aborted = self.half_closed = self.closed = False
        self.has_read_end = False
        self.producer: Any = None
        self.producer_paused = False
        self.socket = Socket()
        self._host = host
        self._peer_address = peer_address

    # Called by protocols.

    @property
    def dataBuffer(self) -> bytes:
        """The bytes that wait to be sent, under the name in Twisted's transports."""
        return bytes(self.unread)

    def write(self, data: bytes) -> None:
        """Send bytes, in the network's next turn."""
        if self.closed or self.aborted or self.half_closed:
            return
        self.unread += data
        if self.producer is not None and len(self.unread) > UNREAD_BYTES:
            self.producer_paused = True
            self.producer.pauseProducing()

    def writeSequence(self, iovec: Any) -> None:
        """Send several pieces."""
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        """Close once the peer has read all written bytes."""
        self.disconnecting = True
        self.reads = False

    def loseWriteConnection(self) -> None:
        """Close the writing direction."""
        self.half_closed = True

    def abortConnection(self) -> None:
        """Reset the connection; the peer loses all unread bytes."""
        self.aborted = True
        self.reads = False

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause this producer while too many bytes are unread."""
        assert self.producer is None, "a producer is registered already"
        assert streaming, "only push producers are known here"
        if self.closed:
            producer.stopProducing()
        else:
            self.producer = producer

    def unregisterProducer(self) -> None:
        """Stop pausing the producer."""
        self.producer = None
        self.producer_paused = False

    def pauseProducing(self) -> None:
        """Stop reading."""
        self.reads = False

    def resumeProducing(self) -> None:
        """Read again."""
        self.reads = not (self.disconnecting or self.aborted or self.closed)

    def startWriting(self) -> None:
        """Look for a reset; here it is noticed at once anyway."""

    def stopProducing(self) -> None:
        """Close, as a producer."""
        self.loseConnection()

    def getHost(self) -> IPv4Address:
        """Give this end's address."""
        return self._host

    def getPeer(self) -> IPv4Address:
        """Give the other end's address."""
        return self._peer_address

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing waits here anyway."""

    def getTcpNoDelay(self) -> bool:
        """Nothing waits here."""
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Nothing is lost here anyway."""

    def getTcpKeepAlive(self) -> bool:
        """Nothing is lost here."""
        return False

    # Called by the network.

    def turn(self) -> bool:
        """Do one action that is due at this end; return whether one was due."""
        if self.closed:
            return False
        if self.unread and (self.peer.reads or self.peer.closed):
            data = bytes(self.unread)
            self.unread.clear()
            if self.peer.closed and self.has_read_end:  # the answer to these bytes is a reset
                self.lost(ConnectionLost())
            elif self.peer.closed:  # its last segment arrives, which does not acknowledge the bytes
                self._end()
            else:
                self.socket.acked += len(data)
                self.peer.protocol.dataReceived(data)
            return True
        if self.aborted:
            self.lost(ConnectionAborted())
            self.peer.lost(ConnectionLost())
            return True
        if not self.unread and self.producer is not None and self.producer_paused:
            self.producer_paused = False
            self.producer.resumeProducing()
            return True
        if self.disconnecting and not self.unread:  # a streaming producer does not hold it up
            self.lost(ConnectionDone())
            return True
        if self.reads and self._peer_has_ended():
            self._end()
            return True
        return False

    def _end(self) -> None:
        """Take the orderly end of what the peer sends."""
        self.has_read_end = True
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.reads = False  # Twisted reads on only when it is asked to
            self.protocol.readConnectionLost()
        else:
            self.lost(ConnectionDone())

    def connectionLost(self, reason: Failure) -> None:
        """End the connection, as protocols may demand that take a half of it as the whole."""
        self.lost(ConnectionDone() if reason.check(ConnectionDone) else ConnectionLost())

    def _peer_has_ended(self) -> bool:
        peer = self.peer
        return not peer.unread and (peer.closed or peer.half_closed)

    def lost(self, reason: Exception) -> None:
        """Report the end of the connection to the protocol, once."""
        if self.closed:
            return
        self.closed, self.reads = True, False
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        self.protocol.connectionLost(Failure(reason))


class Socket:
    """What protocols ask of the socket of an end: how much of what it sent was acknowledged."""

    state = 1

    def __init__(self) -> None:
        self.acked = 1

    def setsockopt(self, *_: Any) -> None:
        """Nothing is lost here anyway."""

    def getsockopt(self, *_: Any) -> bytes:
        """Give what Linux knows of a connection: it is established, and what was acknowledged."""
        return bytes([self.state, *[0] * 119]) + self.acked.to_bytes(8, sys.byteorder)


@implementer(IListeningPort)
class Port:
    """A listening port."""

    def __init__(self, network: Network, number: int, factory: Any) -> None:
        self.factory = factory
        self._network = network
        self._address = IPv4Address("TCP", "127.0.0.1", number)

    def getHost(self) -> IPv4Address:
        """Give this end's address."""
        return self._address

    def startListening(self) -> None:
        """Nothing: it has listened from the beginning."""

    def stopListening(self) -> None:
        """Refuse connections from now on."""
        self._network.ports.pop(self._address.port, None)


@implementer(IConnector)
class Connector:
    """One attempt to connect, in the network's next turn."""

    def __init__(self, network: Network, address: IPv4Address, factory: Any) -> None:
        self.pending = True
        self._network = network
        self._address = address
        self._factory = factory
        self._timer: IDelayedCall | None = None

    def getDestination(self) -> IPv4Address:
        """Give the address."""
        return self._address

    def wait(self, timeout: float) -> None:
        """Abandon the attempt after this many seconds."""
        self._timer = self._network.callLater(timeout, self._fail, ConnectTimeoutError())

    def stopConnecting(self) -> None:
        """Abandon the attempt."""
        self._fail(UserError())

    def disconnect(self) -> None:
        """Abandon the attempt; an established connection closes itself."""
        self.stopConnecting()

    def connect(self) -> None:
        """Do nothing: there is only one attempt."""

    def attempt(self) -> bool:
        """Connect to the listening port; an attempt at a black hole never ends."""
        if self.pending and self._network.has_no_files:
            self._fail(ConnectBindError(errno.EMFILE, "Too many open files"))
            return True
        if not self.pending or self._address.port in self._network.black_holes:
            return False
        port = self._network.ports.get(self._address.port)
        if port is None:
            self._fail(RefusedError())
        else:
            self._end()
            self._network.join(self._factory, port, self._address)
        return True

    def _fail(self, reason: Exception) -> None:
        if self.pending:
            self._end()
            self._factory.clientConnectionFailed(self, Failure(reason))

    def _end(self) -> None:
        self.pending = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


@implementer(IReactorTime, IReactorTCP, IReactorPluggableNameResolver)
class Network:
    """A reactor on ``clock``, whose connections all stay within this process.

    Bytes move only in ``flush``, ``advance`` and ``turn``. ``black_holes`` are port numbers that
    neither accept nor refuse a connection. While ``has_no_files`` is set, this process can make no
    connection. ``arrange`` sorts the actions that are due in one turn.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds = clock.seconds
        self.getDelayedCalls = clock.getDelayedCalls
        self.ports: dict[int, Port] = {}
        self.ends: list[End] = []
        self.black_holes: set[int] = set()
        self.has_no_files = False
        self.nameResolver = Names()
        self.arrange: Callable[[list[Callable[[], bool]]], None] = lambda due: None
        self._connectors: list[Connector] = []
        self._next_client_port = FIRST_CLIENT_PORT

    @property
    def connections_made(self) -> int:
        """How many connections there have been."""
        return self._next_client_port - FIRST_CLIENT_PORT

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kw: Any) -> Any:  # noqa: A002 - IReactorTime's name
        """Call at a later time of the clock."""
        return self.clock.callLater(delay, callable, *args, **kw)

    def installNameResolver(self, resolver: Any) -> Any:
        """Replace ``nameResolver``; give the one before."""
        previous, self.nameResolver = self.nameResolver, resolver
        return previous

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Port:
        """Listen at a port of 127.0.0.1."""
        if port in self.ports:
            raise CannotListenError(interface, port, OSError("in use"))
        self.ports[port] = Port(self, port, factory)
        return self.ports[port]

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: Any = None,  # noqa: N803 - IReactorTCP's name
    ) -> Connector:
        """Connect in the next turn, or fail."""
        connector = Connector(self, IPv4Address("TCP", host, port), factory)
        self._connectors.append(connector)
        connector.wait(timeout)
        factory.doStart()
        factory.startedConnecting(connector)
        return connector

    def join(self, factory: Any, port: Port, address: IPv4Address) -> None:
        """Make a connection between a client's factory and a listening port."""
        self._next_client_port += 1
        ours = IPv4Address("TCP", "127.0.0.1", self._next_client_port)
        client, server = End(ours, address), End(address, ours)
        client.peer, server.peer = server, client
        server.protocol = port.factory.buildProtocol(ours)
        client.protocol = factory.buildProtocol(address)
        self.ends += [client, server]
        server.protocol.makeConnection(server)
        client.protocol.makeConnection(client)

    def open_ends(self, port: int) -> list[End]:
        """Return the server's ends of the connections to a port, oldest first."""
        return [end for end in self.ends if end.getHost().port == port and not end.closed]

    def flush(self) -> None:
        """Move bytes, ends and new connections until nothing more is due at this moment."""
        for _ in range(MAX_TURNS):
            if not self.turn():
                self.ends = [end for end in self.ends if not end.closed]
                return
        raise AssertionError("the network does not come to rest")

    def turn(self) -> bool:
        """Do one due action at each end and attempt; return whether any was due."""
        connectors, self._connectors = self._connectors, []
        due = [connector.attempt for connector in connectors]
        due += [self._run_timers, *(end.turn for end in self.ends)]
        self.arrange(due)
        done = [each for each in due if each()]
        return bool(done or self._connectors)

    def _run_timers(self) -> bool:
        calls = self.getDelayedCalls()
        were_due = bool(calls) and calls[0].getTime() <= self.seconds()
        self.clock.advance(0)
        return were_due

    def advance(self, seconds: float) -> None:
        """Move the clock, and stop at each due call, so that each runs at its own time."""
        self.flush()
        until = self.clock.seconds() + seconds
        while True:
            due = min((call.getTime() for call in self.getDelayedCalls()), default=until)
            if due > until:
                break
            self.clock.rightNow = max(due, self.clock.rightNow)
            self.flush()
            if not self.getDelayedCalls():
                break
        self.clock.rightNow = until


@implementer(IHostnameResolver)
class Names:
    """Resolves addresses to themselves and names to nothing."""

    def resolveHostName(
        self,
        receiver: Any,
        name: str,
        portNumber: int = 0,  # noqa: N803 - IHostnameResolver's name
        *_: Any,
    ) -> Any:
        """Report all addresses to the receiver at once."""
        receiver.resolutionBegan(None)
        if name.replace(".", "").isdigit():
            receiver.addressResolved(IPv4Address("TCP", name, portNumber))
        receiver.resolutionComplete()
