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

from bench.fuzz.answers import Answers
from bench.fuzz.bodies import MODEL
from bench.fuzz.gateway import GatewayInMemory, InstantNode, read_response, refusal_of
from bench.fuzz.mutations import damage, encode, mutate
from bench.fuzz.report import findings, rows
from bench.fuzz.trials import GATEWAY, TRANSLATION, Case, Cases, Tally, run
from bench.fuzz.verdicts import CHAT, COUNT_TOKENS, MESSAGES, Answered, Expected, Wrong, check
from bench.simulator.fleets import seeded
from cortexd.dialects.profile import MISTRALRS

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
CHUNK = {
    "id": "chatcmpl-0",
    "created": 1,
    "model": MODEL,
    "choices": [{"index": 0, "delta": {}}],
}


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


def case(body: bytes, kind: str = "good") -> Case:
    return Case(0, MESSAGES, kind, body, None, {}, MISTRALRS)


class BodyTests(SynchronousTestCase):
    def test_the_same_number_is_the_same_case(self) -> None:
        """A body can be made again from the seed and its number, in whatever order."""
        forth = [Cases(3)[number] for number in range(50)]
        back = [Cases(3)[number] for number in reversed(range(50))]

        assert forth == back[::-1]
        assert forth != [Cases(4)[number] for number in range(50)]

    def test_all_kinds_are_made(self) -> None:
        """Each kind of body is made for each route."""
        cases = [Cases(5)[number] for number in range(300)]

        assert {
            (route, kind)
            for route in (MESSAGES, COUNT_TOKENS, CHAT)
            for kind in ("good", "mutated", "damaged")
        } == {(each.route, each.kind) for each in cases}

    @settings(max_examples=100, deadline=None)
    @given(st.integers())
    def test_the_body_that_is_changed_stays_as_it_was(self, seed: int) -> None:
        """Mutations are made on a copy, so that no case depends on those before it."""
        chance, body = seeded(seed), json.loads(json.dumps(HELLO))

        encode(mutate(body, chance), chance)

        assert HELLO == body

    @settings(max_examples=100, deadline=None)
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
            assert "the end of the stream against that of the connection" == self.wrong(
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
        gateway = GatewayInMemory()
        stream = Answers.of(1).streams[0]
        gateway.node.expect({True: stream, False: stream})
        with gateway.watched():
            body = json.dumps(HELLO).encode()
            answered = gateway.ask(f"{MESSAGES}?beta=true", body)

        check(answered, expected(must_succeed=True, streams=False))
        assert [None] == [refusal_of(asked) for asked in gateway.node.asked]
        assert [] == gateway.faults

    def test_a_crash_is_found(self) -> None:
        """What nobody foresaw is a fault in the log, and no answer that passes."""

        class Crashing(InstantNode):
            def request(self, method: str, url: object, **arguments: Any) -> Deferred[Any]:
                if method == "POST":
                    raise ZeroDivisionError
                return super().request(method, url, **arguments)

        gateway = GatewayInMemory(Crashing())
        with gateway.watched():
            answered = gateway.ask(CHAT, json.dumps(HELLO).encode())

        with self.assertRaises(Wrong):
            check(answered, expected(CHAT))
        assert 500 == answered.status
        assert ["ZeroDivisionError" in fault for fault in gateway.faults] == [True]
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
        stream = Answers.of(1).streams[0]
        gateway.node.expect({True: stream, False: stream})
        with gateway.watched():
            asked = gateway.node.request("POST", "", data=b'{"messages":"hi"}')
            self.successResultOf(asked).deliverBody(Raising())

        assert ["ZeroDivisionError" in fault for fault in gateway.faults] == [True]
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
            refusal = refusal_of(body)
            assert status == (None if refusal is None else refusal.status)


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
            ["  good", "0", "1"],
            ["answered wrong", "0", "1"],
        ] == rows(one)
