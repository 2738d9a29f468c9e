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

from bench.fuzz.answers import NodeAnswer, Said, chat_answers
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
from bench.fuzz.judging import check_asked, expected_of
from bench.fuzz.messages_answers import messages_answers
from bench.fuzz.mutations import damage, encode, mutate
from bench.fuzz.refusals import refusal_of
from bench.fuzz.report import findings, rows
from bench.fuzz.trials import GATEWAY, TRANSLATION, Tally, run
from bench.fuzz.verdicts import Answered, Expected, Wrong, check
from bench.simulator.fleets import seeded
from cortexd.dialects.profile import MISTRALRS, Profile, Speaks

JSON = {"content-type": "application/json", "request-id": "req_0"}
STREAM = {"content-type": "text/event-stream"}
HELLO = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
COUNTS = dict.fromkeys(
    (
        "input_tokens",
        "output_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
    ),
    0,
)
MESSAGE: dict[str, Any] = {
    "id": "msg_0",
    "type": "message",
    "role": "assistant",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": COUNTS,
}
START = {"type": "message_start", "message": MESSAGE}
TEXT = {"type": "text", "text": ""}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": TEXT}
DELTA = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": "hi"},
}
STOP = {"type": "content_block_stop", "index": 0}
END = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    "usage": COUNTS,
}
OVER = {"type": "message_stop"}
ERROR = {
    "type": "error",
    "error": {"type": "api_error", "message": "broken"},
    "request_id": None,
}
CHAT_ERROR = {"error": {"message": "a", "type": "server_error", "param": None, "code": None}}
CHOICE: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": None}
CHUNK: dict[str, Any] = {
    "id": "chatcmpl-0",
    "created": 1,
    "model": MODEL,
    "choices": [{**CHOICE, "finish_reason": "stop"}],
}
FAILED = {"type": "response.failed", "sequence_number": 0}


def events(*given: dict[str, Any]) -> bytes:
    return b"".join(
        f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in given
    )


def chunks(*given: object) -> bytes:
    return b"".join(
        b"data: " + (b"[DONE]" if each == "[DONE]" else json.dumps(each).encode()) + b"\n\n"
        for each in given
    )


def expected(route: str = MESSAGES, **known: Any) -> Expected:
    return Expected(route, **{"must_succeed": False, "node_failed": False, **known})


def case(
    body: bytes, kind: str = "good", route: str = MESSAGES, speaks: Speaks = Speaks.CHAT
) -> Case:
    profile = MISTRALRS if speaks is Speaks.CHAT else Profile(speaks=speaks)
    return Case(0, route, kind, body, None, {}, profile)


def said_by(delta: dict[str, Any]) -> dict[str, Any]:
    return {**CHUNK, "choices": [{**CHOICE, "delta": delta}]}


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


class VerdictTests(SynchronousTestCase):
    def wrong(self, answered: Answered, known: Expected) -> str:
        with self.assertRaises(Wrong) as caught:
            check(answered, known)
        return str(caught.exception)

    def test_good_answers(self) -> None:
        """What clients of each dialect must get is found right."""
        whole = {**MESSAGE, "stop_reason": "end_turn", "content": [TEXT]}
        for route, headers, body in (
            (MESSAGES, STREAM, events(START, BLOCK, DELTA, STOP, END, OVER)),
            (MESSAGES, STREAM, events(START, {"type": "ping"}, END, OVER)),
            (MESSAGES, JSON, json.dumps(whole).encode()),
            (COUNT_TOKENS, JSON, b'{"input_tokens":1}'),
            (CHAT, STREAM, b": keep-alive\n\n" + chunks(CHUNK, "[DONE]")),
            (CHAT, JSON, json.dumps(CHUNK).encode()),
            (RESPONSES, STREAM, events({**FAILED, "type": "response.completed"})),
        ):
            check(Answered(200, headers, body), expected(route, must_succeed=True))

    def test_streams_that_fail(self) -> None:
        """A stream that its node broke ends with an error, and its connection is closed."""
        for route, body in (
            (MESSAGES, events(START, BLOCK, DELTA, ERROR)),
            (CHAT, chunks(CHUNK, CHAT_ERROR)),
        ):
            answered = Answered(200, STREAM, body, is_cut=True)
            check(answered, expected(route, node_failed=True))

            assert "a stream failed though the node did not" == self.wrong(
                answered, expected(route)
            )
            assert "the end against that of the connection" == self.wrong(
                Answered(200, STREAM, body), expected(route, node_failed=True)
            )

    def test_wrong_message_streams(self) -> None:
        """Blocks, indexes, names and the end of a Messages stream are looked at."""
        for body, words in (
            (events(START, BLOCK, DELTA), "a stream without an end"),
            (events(START, BLOCK, STOP, END), "a stream without an end"),
            (events(START, BLOCK, BLOCK), "two open blocks"),
            (events(START, {**BLOCK, "index": 1}), "a block index out of order"),
            (events(START, BLOCK, STOP, BLOCK), "a block index out of order"),
            (events(START, DELTA), "a delta without a block"),
            (events(BLOCK), "a block outside the message"),
            (events(START, START), "a second message_start"),
            (events(START, BLOCK, END), "a message_delta too early"),
            (events(START, OVER), "a message_stop without its message_delta"),
            (events(START, END, OVER, OVER), "an event after the end"),
            (events(START, ERROR, OVER), "an event after the end"),
            (chunks(START), "an event whose name is not its type"),
            (b"data: {", "a stream that ends inside an event"),
            (b"", "a stream that ends inside an event"),
        ):
            assert words == self.wrong(Answered(200, STREAM, body), expected()), body

    def test_wrong_chat_streams(self) -> None:
        """Identity, framing and the end of a chat stream are looked at."""
        for body, words in (
            (chunks(CHUNK), "a stream without an end"),
            (chunks("[DONE]", CHUNK), "an event after the end"),
            (chunks({**CHUNK, "id": "7"}), "an answer without our id"),
            (chunks({**CHUNK, "choices": None}), "an answer without choices"),
            (events(ERROR), "a named event in a chat stream"),
            (b"data: \xff\n\n", "a stream that is not UTF-8"),
        ):
            assert words == self.wrong(Answered(200, STREAM, body), expected(CHAT)), body

    def test_what_must_not_end_well(self) -> None:
        """What a node broke off may not look complete, streamed or whole."""
        whole = {**MESSAGE, "stop_reason": "end_turn"}
        known = {"node_failed": True, "must_fail": True}
        for route, headers, body, words in (
            (MESSAGES, STREAM, events(START, END, OVER), "a broken stream"),
            (CHAT, STREAM, chunks(CHUNK, "[DONE]"), "a broken stream"),
            (MESSAGES, JSON, json.dumps(whole).encode(), "a broken answer"),
        ):
            answered = Answered(200, headers, body)
            assert self.wrong(answered, expected(route, **known)).startswith(words)
        check(Answered(200, STREAM, events(FAILED)), expected(RESPONSES, **known))

    def test_what_the_node_said(self) -> None:
        """What is heard of an answer is what the node said: text, thoughts and calls."""
        call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"b":1}'}}
        body = chunks(said_by({"content": "hi", "tool_calls": [call]}), CHUNK, "[DONE]")
        said = Said("hi", "", (("a", "f", '{"b": 1}'),))

        check(Answered(200, STREAM, body), expected(CHAT, said=said))
        for other, words in (
            (said._replace(text="h"), "another text"),
            (said._replace(thinking="h"), "other thoughts"),
            (said._replace(calls=()), "other calls"),
        ):
            found = self.wrong(Answered(200, STREAM, body), expected(CHAT, said=other))
            assert found.startswith(words)
        message = events(START, BLOCK, DELTA, STOP, END, OVER)
        check(Answered(200, STREAM, message), expected(said=Said("hi")))
        assert "another text than the node's" == self.wrong(
            Answered(200, STREAM, message), expected(said=Said("h"))
        )

    def test_blocks_that_are_passed_on(self) -> None:
        """A block nobody knows is a fault of ours, unless the node speaks the client's dialect."""
        odd = {**BLOCK, "content_block": {"type": "server_tool_use"}}
        answered = Answered(200, STREAM, events(START, odd, STOP, END, OVER))

        assert "a block of unknown type" == self.wrong(answered, expected())
        check(answered, expected(is_passed_on=True))

    def test_chats_made_of_messages(self) -> None:
        """Calls of a chat that was made of another dialect come in order, before its one end."""
        call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}
        nameless = {**call, "function": {"name": "", "arguments": ""}}
        for body, words in (
            (chunks("[DONE]"), "a stream without a finish_reason"),
            (chunks(CHUNK, CHUNK, "[DONE]"), "a chunk after the finish_reason"),
            (chunks(said_by({"tool_calls": [nameless]})), "a call that begins without id or name"),
            (chunks(said_by({"tool_calls": [{**call, "index": 1}]})), "a call out of order"),
        ):
            assert words == self.wrong(Answered(200, STREAM, body), expected(CHAT)), words

    def test_wrong_refusals(self) -> None:
        """An error must be in the envelope of the route, and may be a 5xx by the node alone."""
        ours, theirs = json.dumps(ERROR).encode(), json.dumps(CHAT_ERROR).encode()
        for status, route, body, words in (
            (400, MESSAGES, theirs, "not the Anthropic envelope"),
            (400, COUNT_TOKENS, theirs, "not the Anthropic envelope"),
            (400, CHAT, ours, "not the OpenAI envelope"),
            (400, MESSAGES, b"<html>", "an error is not JSON"),
            (502, MESSAGES, ours, "status 502 though the node did not fail"),
            (302, MESSAGES, ours, "status 302"),
        ):
            assert words == self.wrong(Answered(status, JSON, body), expected(route))
        good = expected(must_succeed=True)
        assert "status 400 for a good body" == self.wrong(Answered(400, JSON, ours), good)
        check(Answered(502, JSON, ours), expected(node_failed=True))

    def test_wrong_whole_answers(self) -> None:
        """A whole answer must have what the SDKs read without a look."""
        for route, body, words in (
            (MESSAGES, json.dumps(MESSAGE).encode(), "a message without a stop_reason"),
            (MESSAGES, b"{}", "no message"),
            (COUNT_TOKENS, b'{"input_tokens":0}', "a count that is none"),
            (COUNT_TOKENS, b'{"input_tokens":1,"a":1}', "not the answer to a count"),
            (CHAT, b"{}", "an answer without our id"),
        ):
            assert words == self.wrong(Answered(200, JSON, body), expected(route))
        streamed = expected(streams=True)
        assert "streamed or not against the request" == self.wrong(
            Answered(200, JSON, b"{}"), streamed
        )


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
