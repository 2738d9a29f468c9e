"""A process that hands over: to whom, and the address at which it then reaches that one."""

import socket
import tempfile
import threading
from pathlib import Path
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource

from cortexd.access.verdicts import Verdicts, verdict_on
from cortexd.config.listening import Files, Listening, listening
from cortexd.control.contract import Refused
from cortexd.downstream.http_server import GatewaySite
from cortexd.errors import OperationRefused
from cortexd.link.contract import PROTOCOL
from cortexd.service.daemon import Daemon, daemon
from cortexd.service.relistening import Listener
from cortexd.service.succession import Accession, Retirement, own_address
from tests.access.making import given
from tests.doubles.certificates import write_certificate
from tests.service.test_daemon import settings_of


class OwnAddressTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        path = Path(temporary.name, "gateway.pem")
        write_certificate(path)
        self.files = Files(str(path), str(path))

    def endpoint(self, listen: str, files: Files | None = None) -> Any:
        """Return where a process of this machine reaches a listener that listens."""
        where = listening(listen, files)
        return own_address(self.listener(where), self.reactor)

    def listener(self, where: Listening | None) -> Listener:
        """Return a listener that has started."""
        site = GatewaySite(Resource(), self.reactor, 1000)
        made = Listener("gateway.listen", where, site, self.reactor, lambda port: lambda: None)
        made.service.startService()
        return made

    def test_plain(self) -> None:
        """Requests are passed on over TCP."""
        assert isinstance(self.endpoint("0.0.0.0:8000"), TCP4ClientEndpoint)

    def test_tls(self) -> None:
        """The address is the same: PassingOn speaks TLS there."""
        own = f"ssl:8443:privateKey={self.files.key}"
        for endpoint in (self.endpoint("0.0.0.0:8000", self.files), self.endpoint(own)):
            assert isinstance(endpoint, TCP4ClientEndpoint)

    def test_more_than_tls(self) -> None:
        """A listener that expects more than we say keeps its connections."""
        assert self.endpoint("haproxy:tcp:8000") is None

    def test_a_listener_that_does_not_listen(self) -> None:
        """It has no address."""
        assert own_address(self.listener(None), self.reactor) is None


class HandOverTests(SynchronousTestCase):
    def test_a_successor_that_has_gone(self) -> None:
        """The old process keeps its work for the next one, and does not give it up for nobody."""
        reactor: Any = MemoryReactorClock()
        made = daemon(settings_of(), reactor, {}, reactor.seconds)
        (retirement,) = (each for each in made.service if isinstance(each, Retirement))
        Service.startService(retirement)
        retirement.begin()
        parts = made.parts
        parts.dispatcher.adopt("a", "m", None, "r")
        begin = parts.control_factory.on_hand_over
        assert begin is not None
        lost: Any = parts.control_factory.buildProtocol(UNIXAddress(None))
        self.failureResultOf(begin(lost, True), Refused)

        assert not retirement.is_over
        assert begin == parts.control_factory.on_hand_over
        lease = parts.dispatcher.adopt("a", "m", None, "r")
        assert lease in parts.fleet.leases

    def hand_over(self, old: Daemon) -> bytes:
        """Let a process hand over, and return what its successor gets."""
        (retirement,) = (each for each in old.service if isinstance(each, Retirement))
        Service.startService(retirement)
        retirement.begin()
        begin = old.parts.control_factory.on_hand_over
        assert begin is not None
        connection: Any = old.parts.control_factory.buildProtocol(UNIXAddress(None))
        connection.transport = transport = StringTransport()
        begun: Any = begin(connection, True)
        begun.addErrback(lambda failure: failure.raiseException())
        told = self.successResultOf(begun)
        answer = amp.AmpBox({amp.ANSWER: b"1", b"tokens": told["tokens"].encode()})
        found: bytes = transport.value() + answer.serialize()
        return found

    def test_the_enrolments_of_agents(self) -> None:
        """From then on the new process alone changes their files."""
        reactor = cast("Any", MemoryReactorClock())
        old = daemon(settings_of(), reactor, {}, reactor.seconds)
        old.parts.enroller.startService()
        self.hand_over(old)

        revoking = Deferred.fromCoroutine(old.parts.enroller.revoke("a"))
        assert "try again" in str(self.failureResultOf(revoking, OperationRefused).value)

    def test_right_keys_go_along(self) -> None:
        """The next process admits a key that came before without comparing it once more."""
        alice, reactor = given("alice"), cast("Any", MemoryReactorClock())
        old, new = (daemon(settings_of(), reactor, {}, reactor.seconds) for _ in range(2))
        for each in (old, new):
            each.parts.ring.take([alice.key])
        headers = Headers({name: [value] for name, value in alice.bearer.items()})
        before = Verdicts()
        right = verdict_on(alice.key.id, alice.key.hash, old.parts.ring)
        before.learn(before.digest(alice.text.encode()), right)
        old.parts.gate.adopt(before.proven())

        path = answering(self, self.hand_over(old))
        accession = Accession(path, new.parts, reactor)
        accession.privilegedStartService()
        self.patch(reactor, "adoptStreamConnection", lambda *_: None)
        accession.startService()
        assert new.parts.gate.look(headers) is new.parts.ring.caller("alice")

    def test_agents_dial_the_next_process(self) -> None:
        """The old one ends their links once it has handed over, and the fleet hears nothing."""
        reactor: Any = MemoryReactorClock()
        made = daemon(settings_of(), reactor, {}, reactor.seconds)
        parts = made.parts
        parts.agent_site.is_plain_allowed = True
        wire = Wire(peerAddress=IPv4Address("TCP", "127.0.0.1", 4000))
        door = parts.agent_site.buildProtocol(None)
        door.makeConnection(wire)
        door.dataReceived(hello("a"))
        reactor.advance(0)
        assert 1 == len(parts.agents)

        (retirement,) = (each for each in made.service if isinstance(each, Retirement))
        Service.startService(retirement)
        retirement.begin()
        begin = parts.control_factory.on_hand_over
        assert begin is not None
        connection: Any = parts.control_factory.buildProtocol(UNIXAddress(None))
        connection.transport = StringTransport()
        self.successResultOf(begin(connection, True))

        assert wire.disconnecting
        assert 0 == len(parts.agents)
        assert parts.fleet.nodes["a"].agent is not None  # this process decides nothing any more


class Wire(StringTransport):
    """A TCP connection in memory."""

    protocol: Any = None

    def setTcpNoDelay(self, _: bool) -> None:
        """Nothing waits here anyway."""


def hello(node: str) -> bytes:
    """Return the greeting of a node's agent."""
    values = {
        amp.COMMAND: b"Hello",
        amp.ASK: b"1",
        b"protocol": str(PROTOCOL).encode(),
        b"version": b"1",
        b"node": node.encode(),
        b"abilities": b'{"version": "1"}',
    }
    return bytes(amp.AmpBox(values).serialize())


def answering(case: SynchronousTestCase, data: bytes) -> str:
    """Return the path of a socket that answers one connection with some bytes."""
    folder = tempfile.TemporaryDirectory()
    case.addCleanup(folder.cleanup)
    path = str(Path(folder.name, "control.sock"))
    listening = socket.socket(socket.AF_UNIX)
    case.addCleanup(listening.close)
    listening.bind(path)
    listening.listen()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    case.addCleanup(thread.join)
    return path
