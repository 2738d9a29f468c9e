"""A process that hands over: to whom, and the address at which it then reaches that one."""

import tempfile
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.address import UNIXAddress
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from cortexd.config.listening import Files, Listening, listening
from cortexd.control.contract import Refused
from cortexd.downstream.http_server import GatewaySite
from cortexd.service.daemon import daemon
from cortexd.service.relistening import Listener
from cortexd.service.succession import Retirement, own_address
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
