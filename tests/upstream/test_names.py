"""The names of nodes: looked up beside each other, once at a time, and remembered."""

import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver, IResolutionReceiver
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from cortexd.engines.mistralrs import MistralRs
from cortexd.upstream.client import NodeClient
from cortexd.upstream.connections import make_http_client
from cortexd.upstream.names import FRESH_SECONDS, Names, threaded_resolver


@implementer(IHostnameResolver)
class Resolver:
    """A resolver that answers when the test says so, and never by itself."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._receivers: dict[str, Any] = {}

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,  # noqa: N803 - so IHostnameResolver calls it
        hostName: str,  # noqa: N803 - so IHostnameResolver calls it
        portNumber: int = 0,  # noqa: N803 - so IHostnameResolver calls it
        addressTypes: Sequence[Any] | None = None,  # noqa: N803 - so IHostnameResolver calls it
        transportSemantics: str = "TCP",  # noqa: N803 - so IHostnameResolver calls it
    ) -> Any:
        """Note the lookup."""
        self.asked.append(hostName)
        self._receivers[hostName] = resolutionReceiver

    def answer(self, name: str, *addresses: IPv4Address | IPv6Address) -> None:
        """Answer the latest lookup of a name; without addresses, the name is unknown."""
        receiver = self._receivers.pop(name)
        receiver.resolutionBegan(None)
        for address in addresses:
            receiver.addressResolved(address)
        receiver.resolutionComplete()


@implementer(IResolutionReceiver)
class Receiver:
    """What a connection attempt gets: ``found`` is None until its addresses are complete."""

    def __init__(self) -> None:
        self.found: list[Any] | None = None
        self._addresses: list[Any] = []

    def resolutionBegan(self, resolution: Any) -> None:
        """Keep the handle."""
        self.resolution = resolution

    def addressResolved(self, address: Any) -> None:
        """Keep an address."""
        self._addresses.append(address)

    def resolutionComplete(self) -> None:
        """Take the addresses."""
        self.found = self._addresses


def ipv4(host: str, port: int = 0) -> IPv4Address:
    return IPv4Address("TCP", host, port)


class NamesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.resolver = Resolver()
        self.names = Names(self.clock, self.resolver)

    def resolve(self, name: str, port: int = 1234) -> Receiver:
        receiver = Receiver()
        self.names.resolveHostName(receiver, name, port)
        return receiver

    def test_a_dead_name_keeps_no_other_from_its_addresses(self) -> None:
        """However many names are looked up without an answer, the next one is looked up too."""
        dead = [self.resolve(f"dead-{number}") for number in range(100)]
        well = self.resolve("well")
        self.resolver.answer("well", ipv4("10.0.0.1"))

        assert [ipv4("10.0.0.1", 1234)] == well.found
        assert all(each.found is None for each in dead)

    def test_a_name_has_one_lookup_at_a_time(self) -> None:
        """All connections that wait for it get its addresses, each with its own port."""
        first, second = self.resolve("gpu", 1), self.resolve("gpu", 2)
        assert ["gpu"] == self.resolver.asked
        self.resolver.answer("gpu", ipv4("10.0.0.1"), IPv6Address("TCP", "::1", 0, 0, 3))

        assert [ipv4("10.0.0.1", 1), IPv6Address("TCP", "::1", 1, 0, 3)] == first.found
        assert [ipv4("10.0.0.1", 2), IPv6Address("TCP", "::1", 2, 0, 3)] == second.found

    def test_known_addresses_serve_while_a_lookup_hangs(self) -> None:
        """They are fresh for a while; then each connection still gets them, during one lookup."""
        self.resolve("gpu")
        self.resolver.answer("gpu", ipv4("10.0.0.1"))
        self.clock.advance(FRESH_SECONDS - 1)
        assert [ipv4("10.0.0.1", 1234)] == self.resolve("gpu").found
        assert 1 == len(self.resolver.asked)
        self.clock.advance(1)
        for _ in range(3):
            assert [ipv4("10.0.0.1", 1234)] == self.resolve("gpu").found
        assert 2 == len(self.resolver.asked)
        self.resolver.answer("gpu", ipv4("10.0.0.2"))

        assert [ipv4("10.0.0.2", 1234)] == self.resolve("gpu").found

    def test_a_failed_lookup_changes_no_known_address(self) -> None:
        """The next connection begins another lookup."""
        self.resolve("gpu")
        self.resolver.answer("gpu", ipv4("10.0.0.1"))
        self.clock.advance(FRESH_SECONDS)
        self.resolve("gpu")
        self.resolver.answer("gpu")

        assert [ipv4("10.0.0.1", 1234)] == self.resolve("gpu").found
        assert 3 == len(self.resolver.asked)

    def test_an_unknown_name_has_no_address(self) -> None:
        """All that wait for it learn so, and the next one asks again."""
        first, second = self.resolve("gpu"), self.resolve("gpu")
        self.resolver.answer("gpu")
        third = self.resolve("gpu")

        assert ([], [], None) == (first.found, second.found, third.found)
        assert 2 == len(self.resolver.asked)

    def test_a_cancelled_wait_gets_nothing(self) -> None:
        """The lookup goes on for the others."""
        left, stayed = self.resolve("gpu"), self.resolve("gpu")
        left.resolution.cancel()
        self.resolver.answer("gpu", ipv4("10.0.0.1"))

        assert (None, [ipv4("10.0.0.1", 1234)]) == (left.found, stayed.found)

    def test_an_address_is_not_looked_up(self) -> None:
        """A node that is configured by its address needs no resolver at all."""
        reactor = MemoryReactorClock()
        reactor.nameResolver = self.resolver
        for host in ("127.0.0.1", "[::1]"):
            http, _ = make_http_client(reactor, connect_timeout=7)
            NodeClient("a", f"http://{host}:1234", http, reactor, MistralRs()).open("/", b"", {})

        assert 2 == len(reactor.tcpClients)
        assert [] == self.resolver.asked


class Pool:
    """Threads that do their work at once, or cannot be started."""

    def __init__(self, *, can_start: bool = True) -> None:
        self.can_start = can_start

    def callInThreadWithCallback(self, on_result: Any, work: Any, *args: Any) -> None:
        """Work, or raise as ``threading.Thread.start`` does."""
        if not self.can_start:
            raise RuntimeError("can't start new thread")
        try:
            result = work(*args)
        except BaseException:
            on_result(False, Failure())
        else:
            on_result(True, result)


class FailingLookupTests(SynchronousTestCase):
    """Lookups that fail by anything but an unknown name."""

    def setUp(self) -> None:
        self.pool = Pool()
        self.lookup: Callable[..., list[Any]] = lambda *_: [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 0))
        ]
        reactor: Any = MemoryReactorClock()
        reactor.callFromThread = lambda call, *args: call(*args)
        resolver = threaded_resolver(reactor, self.pool, lambda *args: self.lookup(*args))
        self.names = Names(reactor, resolver)

    def resolve(self) -> Receiver:
        receiver = Receiver()
        self.names.resolveHostName(receiver, "gpu", 1234)
        return receiver

    def test_a_lookup_that_fails_in_any_way_is_over(self) -> None:
        """Without a free descriptor getaddrinfo raises OSError; the next connection looks again."""
        works = self.lookup
        for error in (OSError(24, "Too many open files"), UnicodeError("label too long")):

            def fail(*_: Any, error: Exception = error) -> list[Any]:
                raise error

            self.lookup = fail
            assert [] == self.resolve().found
        self.lookup = works

        assert [ipv4("10.0.0.1", 1234)] == self.resolve().found

    def test_a_lookup_without_a_thread_is_over(self) -> None:
        """A process that may start no thread now may start one later."""
        self.pool.can_start = False
        assert [] == self.resolve().found
        self.pool.can_start = True

        assert [ipv4("10.0.0.1", 1234)] == self.resolve().found
