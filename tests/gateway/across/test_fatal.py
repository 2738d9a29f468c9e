"""Requests that end engines: when they are refused, and to whom."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.gateway.fatal import (
    DEATHS,
    MAX_KNOWN,
    REFUSED_SECONDS,
    SUSPECTED_SECONDS,
    FatalRequests,
    Verdict,
    fingerprint,
)
from cortexd.testing import SimulatedNode
from tests.covers import covers
from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.relays import RelayTestCase, refusal_of
from tests.testing.client import CHAT

WORDS = "end the engine"
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["death", "seen", "lost", "answered", "poisoned"]),
        st.sampled_from(["f", "g"]),
        st.sampled_from(["a", "b"]),
        st.floats(0, 200),
    ),
    max_size=12,
)


class FatalRequestsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.requests = FatalRequests()

    def verdict(self, now: float, known_as: str = "f") -> Verdict:
        return self.requests.verdict([known_as], now)[0]

    def test_two_deaths_seen(self) -> None:
        """It is refused for as long as the last of them counts, and found to be fatal once."""
        assert self.requests.note_death("f", "m", "a", 0, is_seen=True) is None
        assert Verdict.ANSWER is self.verdict(1)
        found = self.requests.note_death("f", "m", "b", 10, is_seen=True)
        assert found is not None
        assert ("f", "m", ("a", "b")) == (found.fingerprint, found.model, found.nodes)
        assert (Verdict.REFUSE, REFUSED_SECONDS - 5) == self.requests.verdict(["e", "f"], 15)
        assert Verdict.ANSWER is self.verdict(15, "g")
        assert self.requests.note_death("f", "m", "c", 20, is_seen=True) is None
        assert Verdict.ANSWER is self.verdict(20 + REFUSED_SECONDS)
        assert 0 == len(self.requests)

    def test_deaths_suspected(self) -> None:
        """Until the nodes are found down or restarted its client waits; if none is, it goes on."""
        self.requests.note_death("f", "m", "a", 0)
        self.requests.note_death("f", "m", "b", 2)
        assert (Verdict.WAIT, SUSPECTED_SECONDS - 4) == self.requests.verdict(["f"], 4)
        assert [] == self.requests.note_node_lost("a", 5)
        (found,) = self.requests.note_node_lost("b", 6)
        assert ("a", "b") == found.nodes
        assert Verdict.REFUSE is self.verdict(7)
        self.requests.note_death("g", "m", "a", 100)  # the end of an answer, by an unload perhaps
        self.requests.note_death("g", "m", "b", 100)
        assert [] == self.requests.note_node_lost("a", 100.5 + SUSPECTED_SECONDS)
        assert Verdict.ANSWER is self.verdict(101 + SUSPECTED_SECONDS, "g")

    def test_processes_that_live(self) -> None:
        """A connection that ended is none of a process that answers later, other ends may be."""
        requests = FatalRequests(survives=lambda node, at: at < 5)
        for is_cut, verdict in ((True, Verdict.ANSWER), (False, Verdict.WAIT)):
            for node in "ab":
                requests.note_death("f", "m", node, 1, is_cut=is_cut)
            assert verdict is requests.verdict(["f"], 6)[0]
        requests.note_death("g", "m", "a", 6, is_cut=True)
        assert 1 == requests.deaths("g", 7)

    def test_innocents(self) -> None:
        """A request that died beside one is no longer known once it is answered."""
        self.requests.note_death("g", "m", "a", 0, is_seen=True)
        self.requests.note_answered("g")
        self.requests.note_death("g", "m", "b", 1, is_seen=True)
        assert Verdict.ANSWER is self.verdict(2, "g")

    def test_poisoned_nodes(self) -> None:
        """Only what began before a node first said that its engine is dead may be the cause."""
        for node, now in (("a", 10.0), ("b", 20.0)):
            self.requests.note_poisoned("f", "m", node, now - 1, now)
            for later in range(3):
                self.requests.note_poisoned("g", "m", node, now + later + 1, now + later + 2)
        assert Verdict.REFUSE is self.verdict(30)
        assert Verdict.ANSWER is self.verdict(30, "g")
        self.requests.note_node_lost("a", 40)  # its new process is not poisoned
        self.requests.note_poisoned("h", "m", "a", 50, 51)
        assert 1 == self.requests.deaths("h", 52)

    def test_bounds(self) -> None:
        """A thousand requests are known at most, and none for longer than its deaths count."""
        for number in range(2 * MAX_KNOWN):
            self.requests.note_death(str(number), "m", "a", number / 100, is_seen=True)
        assert MAX_KNOWN == len(self.requests)
        assert self.requests.knows_any(100)
        assert not self.requests.knows_any(100 + REFUSED_SECONDS)
        assert 0 == len(self.requests)

    @settings(max_examples=60)
    @given(EVENTS)
    def test_any_course(self, events: list[tuple[str, str, str, float]]) -> None:
        """Only a request with two deaths is refused or made to wait, and never for longer."""
        requests, now = FatalRequests(), 0.0
        for event, known_as, node, seconds in events:
            now += seconds
            match event:
                case "death" | "seen":
                    requests.note_death(known_as, "m", node, now, is_seen=event == "seen")
                case "lost":
                    requests.note_node_lost(node, now)
                case "answered":
                    requests.note_answered(known_as)
                case "poisoned":
                    requests.note_poisoned(known_as, "m", node, now - 1, now)
            deaths = {each: requests.deaths(each, now) for each in "fg"}
            for each in "fg":
                verdict, left = requests.verdict([each], now)
                assert (verdict is Verdict.ANSWER) == (deaths[each] < DEATHS)
                assert 0 <= left <= REFUSED_SECONDS + 0.001

    def test_fingerprints(self) -> None:
        """They tell models, routes and bodies apart, also long bodies by their ends and lengths."""
        long = b"x" * 3_000_000
        kinds = [
            ("m", "/a", b"{}"),
            ("n", "/a", b"{}"),
            ("m", "/b", b"{}"),
            ("m", "/a", b"{ }"),
            ("m", "/a", long),
            ("m", "/a", long + b"x"),
            ("m", "/a", long[:-1] + b"y"),
            ("m", "/a", b"y" + long[1:]),
        ]
        assert len(kinds) == len({fingerprint(*kind) for kind in kinds})
        assert fingerprint("m\ud800", "/a", long) == fingerprint("m\ud800", "/a", long)


class FatalRequestTests(RelayTestCase):
    def fleet_of(self, *names: str, down_seconds: float = 1.0) -> tuple[InMemoryFleet, Any]:
        nodes: list[SimulatedNode] = [self.node(name) for name in names]
        for node in nodes:
            node.faults.fatal_words = WORDS.encode()
            node.faults.fatal_down_seconds = down_seconds
        return self.fleet(*nodes), nodes

    def deliveries(self, nodes: list[SimulatedNode]) -> int:
        """Return how many requests with the words reached a node."""
        requests = [each for node in nodes for each in node.journal.requests(CHAT)]
        return sum(WORDS in str(each.detail["body"]) for each in requests)

    def kill(self, fleet: InMemoryFleet) -> Client:
        client = fleet.chat(WORDS)
        fleet.flush()
        return client

    @covers("5 fatal request")
    def test_two_deliveries(self) -> None:
        """Of five nodes two die; the client's retries reach no other, and are told why."""
        fleet, nodes = self.fleet_of(*"abcde")
        first = self.kill(fleet)
        assert 502 == first.status
        assert "2 nodes failed on this request" in refusal_of(first)["message"]
        last = self.kill(fleet)
        assert (422, "fatal_request") == (last.status, refusal_of(last)["code"])
        assert ("false", True) == (
            last.headers["x-should-retry"],
            int(last.headers["retry-after"]) > 590,
        )
        assert 2 == self.deliveries(nodes)
        assert 200 == fleet.chat("hi").status
        self.assert_at_rest(fleet)

    def test_nodes_that_live(self) -> None:
        """If only connections broke, the client comes again shortly, and may then be answered."""
        nodes = [self.scripted(name) for name in "abc"]
        fleet = self.fleet(*nodes)
        client = fleet.chat("hi")
        for node in nodes[:2]:
            node.reset()
            fleet.flush()
        assert 502 == client.status
        again = fleet.chat("hi")
        assert (503, "request_suspected") == (again.status, refusal_of(again)["code"])
        assert "5" == again.headers["retry-after"]
        assert [] == fleet.events("request_fatal")
        fleet.advance(1)
        fleet.poll()
        last = fleet.chat("hi")
        assert (None, 3) == (last.status, sum(len(node.requests) for node in nodes))
        fleet.leave(last)

    def test_it_is_told(self) -> None:
        """To the operator: once in the log, and in two counters; the prompt is nowhere."""
        fleet, _ = self.fleet_of(*"abc")
        self.kill(fleet)
        fleet.advance(2)
        fleet.poll()
        self.kill(fleet)
        (told,) = fleet.events("request_fatal")
        assert (MODEL, ["a", "b"], REFUSED_SECONDS) == (
            told["model"],
            told["nodes"],
            told["refused_seconds"],
        )
        assert 1 == fleet.sample("cortex_fatal_requests_total")
        assert 1 == fleet.sample("cortex_fatal_requests_refused_total")
        assert not [event for event in fleet.log_events if WORDS in str(event)]

    def test_one_node(self) -> None:
        """A node alone dies twice of a request that comes again, and not a third time."""
        fleet, nodes = self.fleet_of("a")
        for status in (502, 502, 422):
            assert status == self.kill(fleet).status
            fleet.advance(2)
            fleet.poll()
        assert 2 == self.deliveries(nodes)

    def test_each_dialect(self) -> None:
        """The refusal stands in the envelope of the client's route."""
        fleet, _ = self.fleet_of(*"ab")
        turns = [{"role": "user", "content": WORDS}]
        for path, body in (
            ("/v1/messages", {"messages": turns, "max_tokens": 9}),
            ("/v1/responses", {"input": WORDS, "store": False}),
        ):
            for _ in range(2):
                client = fleet.request("POST", path, json={"model": MODEL, **body})
                fleet.advance(2)
                fleet.poll()
            assert 422 == client.status
            assert "invalid_request_error" == client.json()["error"]["type"]

    def test_it_ends(self) -> None:
        """After ten minutes it is tried again."""
        fleet, nodes = self.fleet_of(*"ab")
        self.kill(fleet)
        fleet.advance(2)
        fleet.poll()
        assert 422 == self.kill(fleet).status
        for node in nodes:
            node.faults.fatal_words = b""
        fleet.advance(REFUSED_SECONDS)
        fleet.poll()
        assert 200 == self.kill(fleet).status

    def test_requests_beside_it(self) -> None:
        """They are answered by another node, and no longer suspected."""
        nodes = [self.node(name, prompt_seconds=5.0) for name in "abcd"]
        nodes[0].faults.fatal_words = WORDS.encode()
        fleet = self.fleet(*nodes)
        innocents = [fleet.chat(f"hi {number}") for number in range(8)]
        self.kill(fleet)
        fleet.advance(12)
        assert {200} == {client.status for client in innocents}
        fleet.poll()
        assert {200} == {self.asked(fleet, f"hi {number}").status for number in range(8)}

    def asked(self, fleet: InMemoryFleet, text: str) -> Client:
        client = fleet.chat(text)
        fleet.advance(6)
        return client
