"""The address at which a retired process reaches the one that has taken over."""

from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase

from cortexd.service.stages import ListeningService
from cortexd.service.succession import own_address


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
