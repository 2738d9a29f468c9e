"""What the fuzz holds against each dialect's clients."""

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bench.fuzz.answers import Said
from bench.fuzz.asking import (
    CHAT,
    COUNT_TOKENS,
    MESSAGES,
    RESPONSES,
)
from bench.fuzz.bodies import MODEL
from bench.fuzz.hearing import Wrong
from bench.fuzz.verdicts import Answered, Expected, check

JSON = {"content-type": "application/json", "request-id": "req_0"}
STREAM = {"content-type": "text/event-stream"}
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
RESPONSE: dict[str, Any] = {
    **dict.fromkeys(
        ("error", "incomplete_details", "instructions", "metadata", "parallel_tool_calls"), None
    ),
    **dict.fromkeys(("temperature", "text", "tool_choice", "tools", "top_p"), None),
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "in_progress",
    "model": MODEL,
    "output": [],
    "usage": None,
}
TEXT_PART = {"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}
ITEM = {"id": "msg_1", "type": "message", "content": [TEXT_PART]}
TOKENS_USED: dict[str, Any] = {
    "input_tokens": 1,
    "output_tokens": 1,
    "total_tokens": 2,
    "input_tokens_details": {},
    "output_tokens_details": {"reasoning_tokens": 0},
}
COMPLETED = {**RESPONSE, "status": "completed", "output": [ITEM], "usage": TOKENS_USED}
FAILED = {**RESPONSE, "status": "failed", "error": {"code": "server_error", "message": "no"}}
CREATED = {"type": "response.created", "response": RESPONSE}
ADDED = {"type": "response.output_item.added", "output_index": 0, "item": {**ITEM, "content": []}}
AT = {"output_index": 0, "item_id": "msg_1"}
TEXT_DELTA = {"type": "response.output_text.delta", **AT, "delta": "hi"}
TEXT_DONE = {"type": "response.output_text.done", **AT, "text": "hi"}
ITEM_DONE = {"type": "response.output_item.done", "output_index": 0, "item": ITEM}
ENDED = {"type": "response.completed", "response": COMPLETED}
RESPONSE_EVENTS = (CREATED, ADDED, TEXT_DELTA, TEXT_DONE, ITEM_DONE, ENDED)


def events(*given: dict[str, Any]) -> bytes:
    return b"".join(
        f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in given
    )


def chunks(*given: object) -> bytes:
    return b"".join(
        b"data: " + (b"[DONE]" if each == "[DONE]" else json.dumps(each).encode()) + b"\n\n"
        for each in given
    )


def response_events(*given: dict[str, Any]) -> bytes:
    return events(*({**each, "sequence_number": place} for place, each in enumerate(given)))


def expected(route: str = MESSAGES, **known: Any) -> Expected:
    return Expected(route, **{"must_succeed": False, "node_failed": False, **known})


def said_by(delta: dict[str, Any]) -> dict[str, Any]:
    return {**CHUNK, "choices": [{**CHOICE, "delta": delta}]}


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
            (RESPONSES, STREAM, response_events(*RESPONSE_EVENTS)),
            (RESPONSES, JSON, json.dumps(COMPLETED).encode()),
        ):
            check(Answered(200, headers, body), expected(route, must_succeed=True))
        passed_on = events({"type": "response.completed", "sequence_number": 0})
        check(Answered(200, STREAM, passed_on), expected(RESPONSES, is_passed_on=True))

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

    def test_wrong_response_streams(self) -> None:
        """Items, parts, texts, numbers and the end of a response's stream are looked at."""
        other = {**ITEM_DONE, "item": {**ITEM, "id": "msg_2"}}
        part = {"type": "response.content_part.added", **AT}
        for given, words in (
            (RESPONSE_EVENTS[:-1], "a stream without an end"),
            (RESPONSE_EVENTS[1:], "response.created elsewhere"),
            ((*RESPONSE_EVENTS, ENDED), "an event after the end"),
            ((CREATED, ADDED, ADDED), "two open items"),
            ((CREATED, TEXT_DELTA), "an event outside an item"),
            ((CREATED, ADDED, TEXT_DONE), "another text than that of the deltas"),
            ((CREATED, ADDED, part, ITEM_DONE), "an item that is done too early"),
            ((CREATED, ADDED, other), "an item that has changed its id"),
            ((CREATED, ADDED, {**TEXT_DELTA, "output_index": 1}), "an output_index out of order"),
            ((CREATED, ADDED, {**AT, "type": "response.odd"}), "an event that OpenAI has not"),
            ((CREATED, ENDED), "another output than the items"),
        ):
            body = response_events(*given)
            assert words == self.wrong(Answered(200, STREAM, body), expected(RESPONSES)), words
        body = events({**CREATED, "sequence_number": 1})
        assert "a sequence_number out of order" == self.wrong(
            Answered(200, STREAM, body), expected(RESPONSES)
        )

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
        failed = response_events(CREATED, {"type": "response.failed", "response": FAILED})
        check(Answered(200, STREAM, failed), expected(RESPONSES, **known))

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
