"""A process that hands over: to whom, and the address at which it then reaches that one."""

from typing import Any

from twisted.application.service import Service
from twisted.internet.address import UNIXAddress
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase

from cortexd.control.contract import Refused
from cortexd.service.daemon import daemon
from cortexd.service.stages import ListeningService
from cortexd.service.succession import Retirement, own_address
from tests.service.test_daemon import settings_of


class OwnAddressTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        endpoint: Any = None
        self.listener = ListeningService(endpoint, Factory(), "gateway.listen")

    def test_plain(self) -> None:
        """Requests can be passed on over TCP."""
        self.listener.port = self.reactor.listenTCP(8000, Factory())

        assert isinstance(own_address(self.listener, self.reactor), TCP4ClientEndpoint)

    def test_tls(self) -> None:
        """Requests that came over TLS cannot: the successor would take plain bytes for TLS."""
        factory = TLSMemoryBIOFactory(CertificateOptions(), False, Factory())
        self.listener.port = Port(0, factory)

        assert None is own_address(self.listener, self.reactor)


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
