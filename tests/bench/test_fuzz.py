"""The fuzz: what it sends, what it holds against each dialect's clients, and that it can find."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from bench.fuzz.answers import NodeAnswer, chat_answers
from bench.fuzz.asking import (
    CHAT,
    CLIENT_HEADERS,
    COUNT_TOKENS,
    MESSAGES,
    RESPONSES,
    Asked,
    upstream_path,
)
from bench.fuzz.bodies import MODEL
from bench.fuzz.cases import Case, Cases
from bench.fuzz.gateway import GatewayInMemory, InstantNode, read_response, watched
from bench.fuzz.hearing import Wrong
from bench.fuzz.judging import check_asked, expected_of
from bench.fuzz.messages_answers import messages_answers
from bench.fuzz.mutations import damage, encode, mutate
from bench.fuzz.refusals import refusal_of
from bench.fuzz.report import findings, rows
from bench.fuzz.trials import GATEWAY, TRANSLATION, Tally, run
from bench.fuzz.verdicts import Expected, check
from bench.simulator.fleets import seeded
from cortexd.dialects.wire.profile import MISTRALRS, Profile, Speaks

HELLO = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"type": "text", "text": ""}


def expected(route: str = MESSAGES, **known: Any) -> Expected:
    return Expected(route, **{"must_succeed": False, "node_failed": False, **known})


def case(
    body: bytes, kind: str = "good", route: str = MESSAGES, speaks: Speaks = Speaks.CHAT
) -> Case:
    profile = MISTRALRS if speaks is Speaks.CHAT else Profile(speaks=speaks)
    return Case(0, route, kind, body, None, {}, profile)


class BodyTests(SynchronousTestCase):
    def test_the_same_number_is_the_same_case(self) -> None:
        """A body can be made again from the seed and its number, in whatever order."""
        forth = [Cases(3)[number] for number in range(50)]
        back = [Cases(3)[number] for number in reversed(range(50))]

        assert forth == back[::-1]
        assert forth != [Cases(4)[number] for number in range(50)]

    def test_all_kinds_are_made(self) -> None:
        """Each kind of body is made for each route, and for nodes of each kind."""
        cases = [Cases(5)[number] for number in range(400)]

        assert {
            (route, kind)
            for route in (MESSAGES, COUNT_TOKENS, CHAT, RESPONSES)
            for kind in ("good", "mutated", "damaged")
        } == {(each.route, each.kind) for each in cases}
        assert set(Speaks) == {each.speaks for each in cases if each.route == CHAT}

    @settings(max_examples=100)
    @given(st.integers())
    def test_the_body_that_is_changed_stays_as_it_was(self, seed: int) -> None:
        """Mutations are made on a copy, so that no case depends on those before it."""
        chance, body = seeded(seed), json.loads(json.dumps(HELLO))

        encode(mutate(body, chance), chance)

        assert HELLO == body

    @settings(max_examples=100)
    @given(st.integers())
    def test_damage_is_done(self, seed: int) -> None:
        """Any bytes can be damaged, also none."""
        for body in (b"", b"{}", b'{"a":1}'):
            assert isinstance(damage(body, seeded(seed)), bytes)

    def test_what_no_tree_can_hold(self) -> None:
        """Numbers, strings and nests that are no tree are written in the place of a mark."""
        written = {
            mark: encode({"a": f"\x00raw {mark}"}, seeded(0))
            for mark in ("word 0", "digits 20", "arrays 3", "blocks 1")
        }

        assert b'{"a":1e999}' == written["word 0"].replace(b" ", b"")
        assert b"9" * 20 in written["digits 20"]
        assert b"[[[1]]]" in written["arrays 3"]
        assert json.loads(written["blocks 1"])["a"][0]["content"] == 1


class GatewayTests(SynchronousTestCase):
    def test_a_good_body_reaches_the_node(self) -> None:
        """The gateway in memory is the daemon's own, and the node is asked in its dialect."""
        body = json.dumps(HELLO).encode()
        for speaks in Speaks:
            gateway = GatewayInMemory(InstantNode(speaks))
            answers = chat_answers(1) if speaks is Speaks.CHAT else messages_answers(1)
            gateway.node.expect({True: answers.streams[0], False: answers.bodies[0]})
            with watched(gateway) as faults:
                answered = gateway.ask(f"{MESSAGES}?beta=true", body)

            check(answered, expected(must_succeed=True, streams=False, is_passed_on=True))
            (asked,) = gateway.node.asked
            assert upstream_path(MESSAGES, speaks) == asked.path
            assert refusal_of(asked, speaks) is None
            assert [] == faults

    def test_a_messages_node(self) -> None:
        """A chat reaches a node that speaks Messages alone, and so does a count of tokens."""
        gateway = GatewayInMemory(InstantNode(Speaks.MESSAGES))
        counted = NodeAnswer(200, "application/json", (b'{"input_tokens":4711}',), is_fault=False)
        with watched(gateway) as faults:
            stream = messages_answers(1).streams[0]
            gateway.node.expect({True: stream})
            answered = gateway.ask(CHAT, json.dumps(HELLO).encode())
            check(answered, expected(CHAT, must_succeed=True, said=stream.said))
            assert [MESSAGES] == [asked.path for asked in gateway.node.asked]
            gateway.node.expect({False: counted})
            answered = gateway.ask(COUNT_TOKENS, json.dumps(HELLO).encode())

        assert {"input_tokens": 4711} == json.loads(answered.body)
        assert [] == faults

    def test_a_crash_is_found(self) -> None:
        """What nobody foresaw is a fault in the log, and no answer that passes."""

        class Crashing(InstantNode):
            def request(self, method: str, url: object, **arguments: Any) -> Deferred[Any]:
                if method == "POST":
                    raise ZeroDivisionError
                return super().request(method, url, **arguments)

        gateway = GatewayInMemory(Crashing())
        with watched(gateway) as faults:
            answered = gateway.ask(CHAT, json.dumps(HELLO).encode())

        with self.assertRaises(Wrong):
            check(answered, expected(CHAT))
        assert 500 == answered.status
        assert ["ZeroDivisionError" in fault for fault in faults] == [True]
        assert 1 == len(self.flushLoggedErrors(ZeroDivisionError))

    def test_what_a_reader_of_the_node_raises_is_found(self) -> None:
        """What is raised where the node's bytes arrive is a fault in the log, as with a socket."""
        ends: list[Failure] = []

        class Raising(Protocol):
            def dataReceived(self, data: bytes) -> None:
                raise ZeroDivisionError

            def connectionLost(self, reason: Failure = connectionDone) -> None:
                ends.append(reason)

        gateway = GatewayInMemory()
        stream = chat_answers(1).streams[0]
        gateway.node.expect({True: stream, False: stream})
        with watched(gateway) as faults:
            url = f"http://127.0.0.1:1{CHAT}"
            asked = gateway.node.request("POST", url, data=b'{"messages":"hi"}', headers=Headers())
            self.successResultOf(asked).deliverBody(Raising())

        assert ["ZeroDivisionError" in fault for fault in faults] == [True]
        assert [ConnectionLost] == [type(reason.value) for reason in ends]
        assert 1 == len(self.flushLoggedErrors(ZeroDivisionError))

    def test_responses_that_are_not_whole(self) -> None:
        """A response must end, by its length, its last chunk or its connection."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: a\r\n"
        chunked = head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"

        whole = read_response(chunked + b"0\r\n\r\n", is_closed=False)
        cut = read_response(chunked, is_closed=True)

        assert (200, b"hi", False) == (whole.status, whole.body, whole.is_cut)
        assert (b"hi", True) == (cut.body, cut.is_cut)
        for written in (b"", chunked, head + b"Content-Length: 3\r\n\r\nhi"):
            with self.assertRaises(Wrong):
                read_response(written, is_closed=False)

    def test_refusals_of_a_node(self) -> None:
        """The node in memory refuses what a mistral.rs node does."""
        for body, status in (
            (b"{", 400),
            (b"{}", 422),
            (b'{"messages":"hi","max_tokens":0}', 500),
            (b'{"messages":[{"role":"user","content":"hi"}]}', None),
        ):
            refusal = refusal_of(Asked(CHAT, body, {}), Speaks.CHAT)
            assert status == (None if refusal is None else refusal.status)

    def test_refusals_of_other_nodes(self) -> None:
        """A node that speaks Messages has its rules, and the full API has more of them."""
        blank = json.dumps({**HELLO, "messages": [{"role": "user", "content": [TEXT]}]}).encode()
        hello = json.dumps(HELLO).encode()
        for path, body, headers, both, alone in (
            (MESSAGES, hello, CLIENT_HEADERS, None, None),
            (MESSAGES, blank, CLIENT_HEADERS, None, 400),
            (MESSAGES, hello, {}, None, 400),
            (CHAT, hello, {}, None, 404),
            (MESSAGES, b"{", CLIENT_HEADERS, 400, 400),
        ):
            for speaks, status in ((Speaks.BOTH, both), (Speaks.MESSAGES, alone)):
                refusal = refusal_of(Asked(path, body, headers), speaks)
                assert status == (None if refusal is None else refusal.status), (path, speaks)


class JudgingTests(SynchronousTestCase):
    def test_what_a_node_is_asked(self) -> None:
        """A node is asked once, in its dialect, for what it takes where the client's is good."""
        body = json.dumps(HELLO).encode()
        chat = case(body, route=CHAT, speaks=Speaks.MESSAGES)
        good = Asked(MESSAGES, body, CLIENT_HEADERS)
        check_asked(chat, [good], has_first_profile=True)
        for asked, words in (
            ([good, good], "more than once"),
            ([Asked(CHAT, body, {})], "the node was asked for /v1/chat"),
            ([Asked(MESSAGES, b"{}", CLIENT_HEADERS)], "one that a node does not take"),
        ):
            with self.assertRaises(Wrong) as caught:
                check_asked(chat, asked, has_first_profile=True)
            assert words in str(caught.exception)

    def test_what_the_client_is_to_blame_for(self) -> None:
        """Of a request that is passed on, the node must take what it would of the client."""
        bad = case(b"{}", speaks=Speaks.MESSAGES)
        check_asked(bad, [Asked(MESSAGES, b"{}", CLIENT_HEADERS)], has_first_profile=True)
        good = case(json.dumps(HELLO).encode(), speaks=Speaks.MESSAGES)
        with self.assertRaises(Wrong):
            check_asked(good, [Asked(MESSAGES, b"{}", CLIENT_HEADERS)], has_first_profile=True)

    def test_what_is_expected(self) -> None:
        """A good body must be answered, unless its node failed; what was broken must fail."""
        good = case(json.dumps(HELLO).encode(), route=CHAT, speaks=Speaks.MESSAGES)
        stream = messages_answers(1).streams[0]
        broken = next(each for each in messages_answers(1).bad_streams if each.is_broken)

        known = expected_of(good, stream, node_refused=False)
        assert (True, False, stream.said) == (known.must_succeed, known.must_fail, known.said)
        known = expected_of(good, broken, node_refused=False)
        assert (False, True, None) == (known.must_succeed, known.must_fail, known.said)


class RunTests(SynchronousTestCase):
    def test_a_few_hundred_bodies(self) -> None:
        """The dialects and the gateway stand a small run, and each case is counted once."""
        tally = run(seed=1, first=0, end=300, every=3)

        assert {} == tally.wrongs, findings(tally)
        at = {TRANSLATION: 0, GATEWAY: 0}
        for (where, *_), count in tally.outcomes.items():
            at[where] += count
        assert {TRANSLATION: 300, GATEWAY: 100} == at

    def test_the_shortest_body_is_kept(self) -> None:
        """Of what is found, how often is told, and the shortest body of all processes."""
        one, other = Tally(), Tally()
        one.note(GATEWAY, case(b"{}"), "wrong")
        one.note_wrong(GATEWAY, case(b"{123}"), "it fell over")
        other.note_wrong(GATEWAY, case(b"{1}"), "it fell over")
        other.note_wrong(GATEWAY, case(b"{12}"), "it fell over")

        one.add(other)

        assert [
            f"3 times: {GATEWAY}: {MESSAGES}: it fell over",
            "  body 0, good, 3 bytes: b'{1}'",
        ] == findings(one)
        assert [
            ["", TRANSLATION, GATEWAY],
            ["bodies", "0", "1"],
            [f"  for {MESSAGES}", "0", "1"],
            ["  at nodes that speak chat", "0", "1"],
            ["  good", "0", "1"],
            ["answered wrong", "0", "1"],
        ] == rows(one)
