"""Responses of nodes that speak only Messages: two translations, one after the other."""

from typing import Any

from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.exchange import Responder, Usage
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.profile import Profile, Speaks
from cortexd.errors import BadGateway
from tests.dialects.node_answers import failure, relay
from tests.dialects.node_messages import (
    call_block,
    message_stream,
    message_streams,
    started,
    text_block,
    thinking_block,
    whole_stream,
)
from tests.dialects.response_bodies import TOOLS, check, exchange, refused, validate
from tests.dialects.response_events import read

ON_MESSAGES = Profile(speaks=Speaks.MESSAGES)


def responder(**fields: object) -> Responder:
    asked = exchange(ON_MESSAGES, **{"stream": True, "tools": TOOLS, **fields})
    return asked.first.make_responder()


class RequestTests(SynchronousTestCase):
    def test_a_request(self) -> None:
        """It becomes a Messages request with the turns, calls and tools of the conversation."""
        items: list[dict[str, Any]] = [
            {"role": "user", "content": "go"},
            {"type": "function_call", "call_id": "c1", "name": "search", "arguments": ""},
            {"type": "function_call_output", "call_id": "c1", "output": "found"},
        ]
        found = exchange(ON_MESSAGES, input=items, instructions="Be kind.", tools=TOOLS).first
        body = decode(found.body)

        assert ("/v1/messages", True) == (found.path, body["stream"])
        assert [{"type": "text", "text": "Be kind."}] == body["system"]
        assert ["user", "assistant", "user"] == [turn["role"] for turn in body["messages"]]
        assert "found" == body["messages"][2]["content"][0]["content"]
        assert ["search", "read", "patch", "files__list"] == [t["name"] for t in body["tools"]]

    def test_what_such_nodes_lack(self) -> None:
        """It is refused as a chat with it is."""
        audio = {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}
        assert refused(ON_MESSAGES, input=[{"role": "user", "content": [audio]}])


class AnswerTests(SynchronousTestCase):
    def test_an_answer(self) -> None:
        """Thinking, text and calls are items, with the client's names and the node's counts."""
        answer = whole_stream(
            thinking_block(0, "Hm."),
            text_block(1, "Lo", "ok"),
            call_block(2, "files__list", '{"a":', "1}"),
        )
        each = responder()
        events = read(relay(each, answer))
        check(events)
        thought, said, called = events[-1]["response"]["output"]

        assert "Hm." == thought["summary"][0]["text"]
        assert "Look" == said["content"][0]["text"]
        assert ("list", "files", '{"a":1}') == (
            called["name"],
            called["namespace"],
            called["arguments"],
        )
        assert 80 == events[-1]["response"]["usage"]["input_tokens_details"]["cached_tokens"]
        assert (Usage(100, 5, cached_tokens=80), True) == (each.usage, each.done)

    def test_a_stream_that_breaks(self) -> None:
        """It is a fault of the node, and the response fails."""
        broken = message_stream(started(), *text_block(0, "x")[:-1])
        assert isinstance(failure(responder(), broken), BadGateway)
        each = responder()
        out = each.waiting(1.0) + each.fail(BadGateway("no"))
        check(read(out))

    @settings(max_examples=40)
    @given(message_streams())
    def test_any_answer(self, streamed: Any) -> None:
        """Streamed or whole, it is the same response."""
        _, data = streamed
        events = read(relay(responder(), data))
        check(events)
        whole = decode(relay(responder(stream=False), data))
        validate(whole)
        assert events[-1]["response"] == whole
