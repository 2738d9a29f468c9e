"""Both ends of links in memory: a gateway's site of agents, and agents that dial it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agents.site import AgentSite
from cortexd.config.node_tls import NodeTLS
from cortexd.fleet.agents import AgentAbilities, AgentReport, EngineLife
from cortexd.link.admission import Enrolment, Enrolments, Kind
from cortexd.link.certificates import (
    Authority,
    Pair,
    agent_pair,
    authority_of,
    gateway_pair,
    new_authority,
)
from cortexd.link.connected import Agents
from cortexd.link.contract import Failed
from cortexd.link.dialling import Dialler, Take
from cortexd.link.identities import Identity
from cortexd.link.proofs import key_of, new_token
from cortexd.scheduling.events import Event
from tests.doubles.authorities import Certified
from tests.support.fleets import RawClient
from tests.support.network import Network

PORT = 9443
NODES = ("a", "b")
YEAR = 365 * 86_400.0
REPORT = AgentReport(life=EngineLife.ANSWERS, memory_total_mb=1000, memory_free_mb=400)


def files_of(pair: Pair | Certified | None, *authorities: x509.Certificate) -> NodeTLS:
    """Return the files of a certificate with its key, and of authorities."""
    trusted = tuple(each.public_bytes(Encoding.DER) for each in authorities)
    if pair is None:
        return NodeTLS(trusted)
    if isinstance(pair, Certified):
        chain, key = pair.chain, pair.key
    else:
        chain = (x509.load_pem_x509_certificate(pair.certificate.encode()),)
        key = load_pem_private_key(pair.key.encode(), None)  # type: ignore[assignment] # of any kind
    der = tuple(each.public_bytes(Encoding.DER) for each in chain)
    return NodeTLS(
        trusted, der, key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    )


class Doing:
    """What an agent does, as a test wants it; ``asked`` has all that the gateway asked for."""

    def __init__(self) -> None:
        self.abilities = AgentAbilities(
            version="1.2", can_restart=True, can_suspend=True, has_log=True
        )
        self.asked: list[Any] = []
        self.memory: Any = REPORT
        self.seconds: Any = 4.5
        self.lines: Sequence[str] = ("one", "two")
        self.takes: dict[int, Take | None] = {}
        self.ended_streams: list[int | None] = []
        self.cancelled = 0

    def _result(self, found: Any) -> Deferred[Any]:
        if found is None:  # never
            return Deferred(self._note_cancelled)
        if isinstance(found, str):
            failing: Deferred[Any] = Deferred()
            failing.errback(Failure(Failed(found)))
            return failing
        return succeed(found)

    def _note_cancelled(self, _: object) -> None:
        self.cancelled += 1

    def read_memory(self) -> Deferred[AgentReport]:
        """Look."""
        self.asked.append("memory")
        return self._result(self.memory)

    def restart(self, order: str, reason: str, limit: float) -> Deferred[float]:
        """Restart."""
        self.asked.append((order, reason, limit))
        return self._result(self.seconds)

    def suspend(self, order: str) -> Deferred[None]:
        """Suspend."""
        self.asked.append(order)
        return succeed(None)

    def tail(self, stream: int, lines: int, take: Take | None) -> Deferred[Sequence[str]]:
        """Show the log."""
        self.asked.append((stream, lines))
        self.takes[stream] = take
        return self._result(self.lines)

    def end_log(self, stream: int) -> None:
        """End one."""
        self.ended_streams.append(stream)

    def end_logs(self) -> None:
        """End all."""
        self.ended_streams.append(None)


class Own:
    """A gateway's own authority, at ``now``."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.authority: Authority = authority_of(new_authority(now))
        self.gateway = files_of(
            gateway_pair(self.authority, ["localhost"], now), self.authority.certificate
        )

    def agent(self, node: str, since: float = -100.0, until: float = YEAR) -> tuple[Pair, int]:
        """Return a certificate for the agent of a node, and its serial number."""
        pair = agent_pair(self.authority, node, self.now + since, self.now + until)
        return pair, x509.load_pem_x509_certificate(pair.certificate.encode()).serial_number


class LinkTestCase(SynchronousTestCase):
    """A test with a gateway's ``site`` in memory, and its own authority.

    The clock of TLS is the machine's, as OpenSSL has no other. ``events`` has what the site has
    dispatched.
    """

    def setUp(self) -> None:
        """Listen."""
        self.clock = Clock()
        self.network = Network(self.clock)
        self.now = time.time()
        self.events: list[Event] = []
        self.agents = Agents()
        self.enrolments = Enrolments()
        self.nodes = set(NODES)
        self.diallers: list[Dialler] = []
        self.site = AgentSite(
            self.agents,
            self.enrolments,
            self.nodes.__contains__,
            self.events.append,
            self.network,
            lambda: self.now + self.clock.seconds(),
        )
        self.network.listenTCP(PORT, self.site)
        self.addCleanup(self.finish)

    def finish(self) -> None:
        """End everything, and check that nothing is left."""
        for dialler in self.diallers:
            if dialler.running:
                dialler.stopService()
        self.site.stop("the test ends")
        self.network.advance(3)
        for end in self.network.ends:
            end.abortConnection()
        self.network.flush()
        assert [] == self.clock.getDelayedCalls()
        assert 0 == len(self.site.newcomers)
        assert 0 == len(self.agents)

    # The gateway.

    def be_plain(self) -> None:
        """Listen on loopback, without TLS."""
        self.site.is_plain_allowed = True

    def be_secure(self) -> Own:
        """Listen with TLS, by an authority of our own."""
        own = Own(self.now)
        self.show(own.gateway, is_ours=True)
        return own

    def show(self, files: NodeTLS, *, is_ours: bool) -> None:
        """Listen with TLS, by some files."""
        self.site.take_files(files, is_ours=is_ours)

    def enrol(self, node: str, serial: int = 0, key: bytes = b"") -> None:
        """Enrol an agent by its certificate or by the key of its token."""
        enrolment = Enrolment(
            node=node,
            kind=Kind.TOKEN if key else Kind.CERTIFICATE,
            created=self.now,
            expires=self.now + YEAR,
            serial=serial,
            key=key,
        )
        others = {**self.enrolments.by_node, node: enrolment}
        self.enrolments.take(others.values(), self.enrolments.revoked)

    def enrolled(self, own: Own, node: str = "a") -> Identity:
        """Return the identity of an agent that has a certificate of ours."""
        pair, serial = own.agent(node)
        self.enrol(node, serial)
        return Identity(node, tls=files_of(pair, own.authority.certificate))

    def with_token(self, own: Own, node: str = "a") -> Identity:
        """Return the identity of an agent that has a token."""
        token = new_token()
        self.enrol(node, key=key_of(token, node))
        return Identity(node, tls=files_of(None, own.authority.certificate), token=token)

    # Agents.

    def dial(self, identity: Identity, doing: Doing | None = None) -> Dialler:
        """Return the link of an agent, which dials at once."""
        dialler = Dialler(
            self.network, ("127.0.0.1", PORT), identity, doing or Doing(), lambda: 1.0
        )
        self.diallers.append(dialler)
        dialler.startService()
        self.network.flush()
        return dialler

    def raw(self, sent: bytes = b"") -> RawClient:
        """Return a client that has sent some bytes."""
        client = RawClient()
        self.connect(client)
        if sent:
            self.send(client, sent)
        return client

    def connect(self, protocol: Any) -> None:
        """Connect a protocol to the site."""
        self.network.connectTCP("127.0.0.1", PORT, _Once(protocol))
        self.network.flush()

    def send(self, client: RawClient, data: bytes) -> None:
        """Send bytes."""
        assert client.transport is not None
        client.transport.write(data)
        self.network.flush()

    def refusals(self) -> dict[str, int]:
        """Return how many connections were refused, by reason, where any were."""
        return {reason: count for reason, count in self.site.refused.items() if count}

    def result(self, deferred: Deferred[Any]) -> Any:
        """Return the result of a Deferred, or its error."""
        found: list[Any] = []
        deferred.addBoth(found.append)
        self.network.flush()
        assert found, "no result yet"
        return found[0].value if isinstance(found[0], Failure) else found[0]


class _Once:
    """Makes one connection."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def buildProtocol(self, _: object) -> Any:
        """Return the protocol."""
        return self._protocol

    def doStart(self) -> None:
        """Nothing."""

    def startedConnecting(self, _: object) -> None:
        """Nothing."""
