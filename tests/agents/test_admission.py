"""Who is admitted as an agent: every way in, over TLS and within one machine."""

from __future__ import annotations

from typing import Any

from twisted.protocols import amp

from cortexd.agents.site import LATELY_SECONDS
from cortexd.link.contract import PROTOCOL
from cortexd.link.dialling import Dialler
from cortexd.link.identities import Identity
from cortexd.link.limits import GREETING_SECONDS
from cortexd.link.proofs import new_token
from cortexd.scheduling.repairs.events import AgentJoined, AgentLeft
from tests.agents.links import NODES, YEAR, Doing, LinkTestCase, Own, files_of
from tests.doubles.authorities import CLIENT, SERVER
from tests.doubles.authorities import Authority as OtherAuthority
from tests.support.fleets import RawClient


class CertificateTests(LinkTestCase):
    def test_a_certificate_of_ours(self) -> None:
        """It admits the agent of its node, and the fleet hears of it."""
        own = self.be_secure()
        doing = Doing()
        dialler = self.dial(self.enrolled(own), doing)

        assert (True, "") == (dialler.is_connected, dialler.reason)
        assert [AgentJoined("a", doing.abilities)] == self.events
        agent = self.agents.on("a")
        assert agent is not None
        assert ("a", "127.0.0.1:40001", 0.0) == (agent.node, agent.peer, agent.since)

    def refused(self, identity: Identity, words: str, reason: str) -> None:
        """Check that an agent is refused, for a reason that it hears and that is counted."""
        dialler = self.dial(identity)

        assert not dialler.is_connected
        assert words in dialler.reason, dialler.reason
        assert {reason: 1} == self.refusals()
        assert ([], 0) == (self.events, len(self.agents))

    def test_no_certificate(self) -> None:
        """Where no node has a token, the handshake fails without a certificate."""
        own = self.be_secure()
        self.enrolled(own)
        bare = Identity("a", tls=files_of(None, own.authority.certificate))

        self.refused(bare, "certificate required", "tls")

    def test_no_certificate_beside_tokens(self) -> None:
        """Where another node has a token, an agent with nothing is asked for a proof."""
        own = self.be_secure()
        self.with_token(own, "b")
        bare = Identity("a", tls=files_of(None, own.authority.certificate))
        dialler = self.dial(bare)

        assert "this agent has none" in dialler.reason
        assert [] == self.events

    def test_another_authority(self) -> None:
        """A certificate of another authority ends the handshake, though all names are right."""
        own = self.be_secure()
        self.enrolled(own)
        pair, _ = Own(self.now).agent("a")
        stranger = Identity("a", tls=files_of(pair, own.authority.certificate))

        self.refused(stranger, "unknown ca", "tls")

    def test_what_was_refused_lately(self) -> None:
        """A reason is told for an hour after its last refusal; the counts stay."""
        self.be_secure()
        self.dial(Identity("a"))
        assert {"garbage": 1} == self.site.lately_refused()
        self.diallers[0].stopService()
        self.network.advance(LATELY_SECONDS + 1)

        assert {} == self.site.lately_refused()
        assert {"garbage": 1} == self.refusals()

    def test_the_name_of_another_node(self) -> None:
        """A certificate speaks for its own node alone."""
        own = self.be_secure()
        pair, serial = own.agent("b")
        self.enrol("b", serial)
        liar = Identity("a", tls=files_of(pair, own.authority.certificate))

        self.refused(liar, "not for node a", "certificate")

    def test_expired(self) -> None:
        """An expired certificate ends the handshake, and so does one that is not valid yet."""
        own = self.be_secure()
        for since, until, words in (
            (-3600.0, -60.0, "certificate expired"),
            (3600.0, YEAR, "certificate"),
        ):
            pair, serial = own.agent("a", since, until)
            self.enrol("a", serial)
            identity = Identity("a", tls=files_of(pair, own.authority.certificate))
            dialler = self.dial(identity)

            assert words in dialler.reason, dialler.reason
        assert {"tls": 2} == self.refusals()
        assert [] == self.events

    def test_expires_while_connected(self) -> None:
        """The link of a certificate that has expired ends at the next review."""
        own = self.be_secure()
        pair, serial = own.agent("a", until=600.0)
        self.enrol("a", serial)
        self.dial(Identity("a", tls=files_of(pair, own.authority.certificate)))
        self.now += 601
        self.site.review()

        assert isinstance(self.events[-1], AgentLeft)
        assert "expired" in self.events[-1].reason

    def test_the_gateways_own_certificate(self) -> None:
        """The certificate of a server is not one of a client, with the right authority too."""
        own = self.be_secure()
        self.enrolled(own)
        server = Identity("a", tls=own.gateway)

        self.refused(server, "certificate", "tls")

    def test_not_enrolled(self) -> None:
        """A certificate of ours holds only while its node is enrolled with it."""
        own = self.be_secure()
        before = self.enrolled(own)
        self.enrolled(own)

        self.refused(before, "newer enrolment", "certificate")

    def test_of_an_authority_that_is_brought(self) -> None:
        """There, the node's name as the name of a host admits its agent, and no other name does."""
        brought = OtherAuthority("corp")
        self.show(
            files_of(brought.issue("gateway.corp", purpose=SERVER), brought.certificate),
            is_ours=False,
        )
        certified = brought.issue("a", "x.corp", purpose=CLIENT)
        files = files_of(certified, brought.certificate)
        names = [self.dial(Identity(node, "gateway.corp", files)).is_connected for node in NODES]

        assert [True, False] == names
        assert {"certificate": 1} == self.refusals()

    def test_an_intermediate_authority(self) -> None:
        """An authority that is no root, in either file, is trusted for itself."""
        between = OtherAuthority("between", under=OtherAuthority("root"))
        gateway = between.issue("gateway.corp", purpose=SERVER)
        self.show(files_of(gateway, between.certificate), is_ours=False)
        certified = between.issue("a", purpose=CLIENT)
        dialler = self.dial(Identity("a", "gateway.corp", files_of(certified, between.certificate)))

        assert (True, "") == (dialler.is_connected, dialler.reason)

    def test_the_wrong_gateway(self) -> None:
        """An agent says nothing to a gateway of another name or another authority."""
        own = self.be_secure()
        mine = self.enrolled(own)
        other = Identity("a", "elsewhere.corp", mine.tls)
        pair, _ = own.agent("a")
        foreign = Identity("a", tls=files_of(pair, Own(self.now).authority.certificate))

        assert "for another name" in self.dial(other).reason
        assert "is from another authority than this agent expects" in self.dial(foreign).reason
        assert [] == self.events

    def test_a_gateway_whose_certificate_has_expired(self) -> None:
        """The agent says that this may be so, and that a clock may be wrong."""
        past = Own(self.now - 40 * YEAR)
        self.show(past.gateway, is_ours=True)
        dialler = self.dial(Identity("a", tls=files_of(None, past.authority.certificate)))

        assert "is not valid now, or a clock is wrong" in dialler.reason

    def test_a_node_that_is_not_configured(self) -> None:
        """A certificate for a node that the configuration lacks admits nobody."""
        own = self.be_secure()
        self.nodes.remove("a")

        self.refused(self.enrolled(own), "no node 'a'", "certificate")


class TokenTests(LinkTestCase):
    def test_a_token(self) -> None:
        """Its proof admits the agent."""
        own = self.be_secure()
        dialler = self.dial(self.with_token(own))

        assert (True, "") == (dialler.is_connected, dialler.reason)
        assert 1 == len(self.events)

    def test_a_wrong_token(self) -> None:
        """A wrong one does not, nor does any for a node that has none; both sound the same."""
        own = self.be_secure()
        right = self.with_token(own)
        reasons = set()
        for node in NODES:
            dialler = self.dial(Identity(node, tls=right.tls, token=new_token()))
            reasons.add(dialler.reason.replace(f"enroll {node}", "enroll N"))

        assert 1 == len(reasons)
        assert "does not hold" in reasons.pop()
        assert {"token": 2} == self.refusals()
        assert [] == self.events

    def test_a_recorded_proof(self) -> None:
        """A proof that was heard on one link does not hold on another one."""
        own = self.be_secure()
        identity = self.with_token(own)
        heard: list[bytes] = []
        prove = self.site.proved_key

        def listen(node: str, nonce: bytes, proof: bytes, exporter: bytes) -> bytes | None:
            heard.append(proof)
            return prove(node, nonce, heard[0], exporter)

        self.site.proved_key = listen  # type: ignore[method-assign] # a thief on the wire
        first, second = self.dial(identity), self.dial(identity)

        assert (True, False) == (first.is_connected, second.is_connected)
        assert heard[0] != heard[1]
        assert {"token": 1} == self.refusals()
        assert 1 == len(self.events)

    def test_a_new_token(self) -> None:
        """A new enrolment replaces the old one at once, also for a link that is open."""
        own = self.be_secure()
        self.dial(self.with_token(own))
        self.with_token(own)
        self.site.review()

        assert isinstance(self.events[-1], AgentLeft)

    def test_a_token_without_tls(self) -> None:
        """No proof is made outside TLS."""
        self.be_plain()
        dialler = self.dial(Identity("a", token=new_token()))

        assert dialler.is_connected  # within one machine nothing is to be proved


class PlainTests(LinkTestCase):
    def test_within_one_machine(self) -> None:
        """At a listener on loopback, an agent of this machine is believed."""
        self.be_plain()

        assert self.dial(Identity("a")).is_connected

    def test_beyond_it(self) -> None:
        """At any other listener, only TLS is answered."""
        self.be_secure()
        dialler = self.dial(Identity("a"))

        assert not dialler.is_connected
        assert {"garbage": 1} == self.refusals()

    def test_an_unknown_node(self) -> None:
        """Which nodes there are is up to the configuration."""
        self.be_plain()
        dialler = self.dial(Identity("c\n"))

        assert "no node 'c" in dialler.reason
        assert {"certificate": 1} == self.refusals()

    def test_a_gateway_that_speaks_tls(self) -> None:
        """An agent without an enrolment says what it lacks."""
        self.be_secure()
        dialler = self.dial(Identity("a"))

        assert "enrol this agent" in dialler.reason

    def test_tls_at_the_same_listener(self) -> None:
        """There, an agent may show a certificate as well."""
        self.be_plain()
        own = self.be_secure()

        assert self.dial(self.enrolled(own)).is_connected
        assert self.dial(Identity("b")).is_connected

    def test_to_another_machine(self) -> None:
        """An agent without TLS does not even try to reach another machine."""
        with self.assertRaises(ValueError):
            Dialler(self.network, ("10.0.0.1", 9443), Identity("a"), Doing())


class GreetingTests(LinkTestCase):
    def hello(self, **changed: Any) -> bytes:
        """Return the bytes of a greeting."""
        values = {
            b"_command": b"Hello",
            b"_ask": b"1",
            b"protocol": str(PROTOCOL).encode(),
            b"version": b"0.0.1",
            b"node": b"a",
            b"abilities": b'{"version": "0.0.1", "of_tomorrow": [1]}',
        }
        values |= {key.encode(): value for key, value in changed.items()}
        return bytes(amp.AmpBox(values).serialize())

    def test_fields_of_tomorrow(self) -> None:
        """What a newer agent says beside is ignored."""
        self.be_plain()
        client = self.raw(self.hello(mood=b"good"))

        assert b"nonce" in client.received
        assert 1 == len(self.agents)

    def test_another_version(self) -> None:
        """An older or a newer agent hears both versions, and the link ends."""
        self.be_plain()
        for other in (PROTOCOL - 1, PROTOCOL + 1):
            client = self.raw(self.hello(protocol=str(other).encode()))

            assert b"INCOMPATIBLE" in client.received
            assert f"version {other}".encode() in client.received
            assert "done" == client.closed
        assert {"version": 2} == self.refusals()
        assert [] == self.events

    def test_no_greeting(self) -> None:
        """Any other command before the greeting ends the link, and does nothing."""
        self.be_plain()
        report = amp.AmpBox(_command=b"Report", _ask=b"1", report=b'{"life": "answers"}')
        client = self.raw(bytes(report.serialize()))

        assert "lost" == client.closed
        assert {"garbage": 1} == self.refusals()
        assert [] == self.events

    def test_a_second_greeting(self) -> None:
        """An agent cannot change its node after its greeting."""
        self.be_plain()
        client = self.raw(self.hello())
        self.send(client, self.hello(node=b"b"))

        assert "done" == client.closed
        assert ["a", "a"] == [event.node for event in self.events]  # type: ignore[union-attr] # joined, left

    def test_silence(self) -> None:
        """Whoever does not greet in time is cut off, wherever in the greeting."""
        self.be_plain()
        self.be_secure()
        clients = [self.raw(sent) for sent in (b"", b"\x16\x03\x01", b"\0", self.hello()[:20])]
        self.network.advance(GREETING_SECONDS - 1)
        assert {""} == {client.closed for client in clients}
        self.network.advance(1)

        assert {"lost"} == {client.closed for client in clients}
        assert {"slow": 4} == self.refusals()

    def test_garbage(self) -> None:
        """Plain HTTP and other bytes end the connection, with one line for each peer a minute."""
        self.be_plain()
        self.be_secure()
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x16garbage" * 9, b"\0\0" * 9, b"\xff" * 99):
            client = self.raw(sent)

            assert client.closed, sent
        assert {"garbage": 3, "tls": 1} == self.refusals()

    def test_the_agent_gives_up_on_a_silent_gateway(self) -> None:
        """A gateway that does not answer in time counts as no gateway, and is tried again."""
        self.network.ports.clear()
        silent = _Silent()
        self.network.listenTCP(9443, silent)
        dialler = self.dial(Identity("a"))
        self.network.advance(GREETING_SECONDS)
        assert "silent" in dialler.reason
        self.network.advance(1)

        assert 2 == silent.connections


class _Silent:
    def __init__(self) -> None:
        self.connections = 0

    def buildProtocol(self, _: object) -> Any:
        """Return a protocol that does nothing."""
        self.connections += 1
        return RawClient()
