"""Responses made of a node's chat answers, whole and streamed, by translation.md 10.3."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd import sse
from cortexd.dialects.responses_to_chat.thoughts import reveal
from cortexd.dialects.wire.exchange import EVENT_STREAM, Responder, Usage
from cortexd.dialects.wire.json_values import decode, encode
from cortexd.errors import (
    BadGateway,
    BadRequest,
    ContextOverflow,
    CortexError,
    NodeError,
    RateLimited,
)
from cortexd.sse import SseDecoder
from tests.covers import covers
from tests.dialects.node_answers import (
    USAGE,
    chat_chunk,
    chat_streams,
    cut,
    failure,
    fed,
    relay,
    stream,
    tool_call,
)
from tests.dialects.response_bodies import (
    TOOLS,
    check,
    exchange,
    of_sdk,
    responder,
    streamed,
    validate,
    whole,
)
from tests.dialects.response_events import read

HELLO = (chat_chunk("he"), chat_chunk("llo", finish="stop", usage=USAGE))
COUNTED = {
    **USAGE,
    "prompt_tokens_details": {"cached_tokens": 15},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


class StreamTests(SynchronousTestCase):
    @covers("10.3 events", "10.3 text")
    def test_text(self) -> None:
        """Each event that today's SDK knows, in its order."""
        assert [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ] == kinds(streamed(*HELLO))

    @covers("10.3 thinking", "10.3 order of items", "10.3 calls")
    def test_an_answer_with_everything(self) -> None:
        """Thinking, text and calls are items, one after the other, each done before the next."""
        answer = stream(
            chat_chunk(reasoning_content="Hm."),
            chat_chunk("Look"),
            chat_chunk(tool_calls=[tool_call("search", '{"q":1}'), tool_call("read", "{}", 1)]),
            chat_chunk(finish="tool_calls", usage=USAGE),
        )
        out = relay(responder(include=["reasoning.encrypted_content"]), answer)
        events = read(out)
        check(events)
        output = events[-1]["response"]["output"]

        assert ["reasoning", "message", "function_call", "function_call"] == [
            item["type"] for item in output
        ]
        assert [{"type": "summary_text", "text": "Hm."}] == output[0]["summary"]
        assert "Hm." == reveal(output[0]["encrypted_content"])
        assert ["reasoning_summary_text.delta", "reasoning_summary_text.done"] == [
            kind for kind in kinds(events) if kind.startswith("reasoning_summary_text")
        ]
        assert ["rs_x_0", "msg_x_1", "fc_x_2", "fc_x_3"] == [item["id"] for item in output]
        assert ["call-0", "call-1"] == [item["call_id"] for item in output[2:]]
        found = of_sdk(out)
        assert ("Look", ["search", "read"]) == (
            found.output_text,
            [item.name for item in found.output if item.type == "function_call"],
        )

    def test_without_being_asked(self) -> None:
        """Thinking has no encrypted content, unless the request includes it."""
        events = streamed(chat_chunk(reasoning_content="Hm."), *HELLO)
        assert "encrypted_content" not in events[-1]["response"]["output"][0]

    @covers("10.3 status")
    def test_answers_that_end_early(self) -> None:
        """By length or by a filter the response is incomplete, and its last item too."""
        for finish, reason in (
            ("length", "max_output_tokens"),
            ("content_filter", "content_filter"),
        ):
            events = streamed(chat_chunk(reasoning_content="Hm."), chat_chunk("he", finish=finish))
            response = events[-1]["response"]
            assert ("incomplete", {"reason": reason}) == (
                response["status"],
                response["incomplete_details"],
            )
            assert "incomplete" == response["output"][1]["status"]
            assert response == whole(
                chat_chunk(reasoning_content="Hm."), chat_chunk("he", finish=finish), tools=TOOLS
            )

    @covers("10.3 usage")
    def test_usage(self) -> None:
        """All counts are there; those that the node does not report are 0."""
        for usage, cached, thought in ((USAGE, 0, 0), (COUNTED, 15, 3)):
            found = whole(chat_chunk("x", finish="stop", usage=usage))
            assert {
                "input_tokens": 20,
                "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
                "output_tokens": 8,
                "output_tokens_details": {"reasoning_tokens": thought},
                "total_tokens": 28,
            } == found["usage"]
        each = responder()
        relay(each, stream(*HELLO))
        assert (Usage(20, 8), 2, "13", EVENT_STREAM) == (
            each.usage,
            each.content_chunks,
            each.upstream_id,
            each.content_type,
        )

    @covers("10.3 identity", "10.3 repeated fields")
    def test_what_a_response_repeats(self) -> None:
        """It has our id, and what the request said, or OpenAI's defaults."""
        fields: dict[str, Any] = {
            "instructions": "Be kind.",
            "temperature": 0.5,
            "metadata": {"a": "b"},
            "reasoning": {"effort": "low"},
            "max_output_tokens": 9,
            "store": False,
            "user": "u",
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "tools": [{"type": "function", "function": {"name": "f"}}],
        }
        found = whole(*HELLO, **fields)
        assert ("resp_x", 7, "org/target", "response") == (
            found["id"],
            found["created_at"],
            found["model"],
            found["object"],
        )
        for name in ("instructions", "temperature", "metadata", "max_output_tokens", "user"):
            assert fields[name] == found[name]
        assert {"effort": "low", "summary": None} == found["reasoning"]
        assert {"type": "function", "name": "f"} == found["tool_choice"]
        tool = {"type": "function", "name": "f", "parameters": None, "strict": False}
        assert [tool] == found["tools"]
        mode = whole(*HELLO, tool_choice={"type": "auto"})["tool_choice"]
        assert "auto" == mode, "the SDK has no object of this type"
        plain = whole(*HELLO, tools=None)
        assert (True, 1.0, "auto", {"format": {"type": "text"}}, [], {}, "disabled") == tuple(
            plain[name]
            for name in (
                "store",
                "top_p",
                "tool_choice",
                "text",
                "tools",
                "metadata",
                "truncation",
            )
        )

    def test_a_whole_answer_of_the_node(self) -> None:
        """A node that was not asked to stream gives the same response."""
        answer = chat_chunk("hello", finish="stop", usage=USAGE)
        message = {**answer, "choices": [{**answer["choices"][0]}]}
        message["choices"][0]["message"] = message["choices"][0].pop("delta")
        found = decode(responder(stream=False).take_body(encode(message)))

        validate(found)
        assert whole(*HELLO, tools=TOOLS) == found

    def test_the_outcome(self) -> None:
        """The responder that ends the answer leaves the response for the gateway to store."""
        for streams in (True, False):
            asked = exchange(stream=streams)
            assert asked.outcome is not None
            assert "in_progress" == asked.outcome.begun["status"]
            relay(asked.first.make_responder(), stream(*HELLO))
            assert asked.outcome.response is not None
            assert "completed" == asked.outcome.response["status"]
            assert "hello" == asked.outcome.response["output"][0]["content"][0]["text"]


class FailureTests(SynchronousTestCase):
    @covers("10.3 failure")
    def test_failures_in_the_middle(self) -> None:
        """The response fails with what is done; the code says whether to try again."""
        for error, code in (
            (NodeError("out of memory"), "server_error"),
            (BadGateway("it broke off"), "server_error"),
            (BadRequest("no", param="input", code="invalid_value"), "invalid_prompt"),
            (RateLimited("slow down"), "rate_limit_exceeded"),
        ):
            asked = exchange(stream=True)
            each = asked.first.make_responder()
            out = fed(each, stream(chat_chunk(reasoning_content="Hm."), chat_chunk("he"), end=b""))
            events = read(out + each.fail(error))
            check(events)
            response = events[-1]["response"]
            assert (code, error.message) == (
                response["error"]["code"],
                response["error"]["message"],
            )
            assert ["reasoning"] == [item["type"] for item in response["output"]]
            assert b"" == each.fail(error) == each.waiting(1.0)
            assert asked.outcome is not None
            assert response == asked.outcome.response
            assert each.fails_in_order

    @covers("10.3 failure")
    def test_a_prompt_that_is_too_long(self) -> None:
        """It has the code by which Codex knows it, although the SDK's type lacks it."""
        out = responder().fail(ContextOverflow("too long"))
        error = read(out)[-1]["response"]["error"]
        assert {
            "code": "context_length_exceeded",
            "type": "context_length_exceeded",
            "message": "too long",
        } == error

    def test_nothing_follows_the_end(self) -> None:
        """Whatever a node sends after the end of a response, and after its failure, is ignored."""
        fault = NodeError("no")
        for is_failed in (False, True):
            found = responder()
            fed(found, stream(*HELLO, end=b""))
            assert b"response." in (found.fail(fault) if is_failed else found.finish())
            assert b"" == fed(found, stream(*HELLO))
            assert (b"", b"") == (found.fail(fault), found.waiting(9.0))
            assert b"" == found.finish()

    def test_streams_that_break(self) -> None:
        """An end without a finish reason is a fault of the node, for both kinds of clients."""
        for streams in (True, False):
            for end in (b"", b"data: [DONE]\n\n"):
                answer = stream(chat_chunk("he"), end=end)
                assert failure(responder(stream=streams), answer).elsewhere

    def test_content_in_the_middle_of_a_call(self) -> None:
        """A call whose arguments are cut off by text cannot be told."""
        half = tool_call("search", '{"q":')
        found = failure(responder(), stream(chat_chunk(tool_calls=[half]), *HELLO))
        assert "middle of a tool call" in found.message


class SilenceTests(SynchronousTestCase):
    @covers("10.3 silence")
    def test_keep_alives(self) -> None:
        """One begins the response; the others are events without effect, in one sequence."""
        asked = exchange(stream=True, instructions="Be kind.")
        queued, first, second = (asked.first.make_responder() for _ in range(3))
        out = queued.waiting(1.0) + queued.waiting(11.0)
        out += first.waiting(21.0)
        first.feed(SseDecoder().feed(stream(chat_chunk("lost")))[0])  # never sent: it failed
        out += fed(second, stream(chat_chunk("he"), end=b"")) + second.waiting(31.0)
        out += relay(second, stream(chat_chunk("llo", finish="stop")))
        events = read(out)
        check(events)

        assert 4 == kinds(events).count("in_progress")
        assert "Be kind." == events[0]["response"]["instructions"]
        assert "hello" == events[-1]["response"]["output"][0]["content"][0]["text"]
        assert "hello" == of_sdk(out).output_text

    def test_a_wait_that_comes_to_nothing(self) -> None:
        """What a keep-alive has begun fails under the same id, in another responder."""
        asked = exchange(stream=True)
        out = asked.first.make_responder().waiting(1.0)
        out += asked.first.make_responder().fail(NodeError("no"))
        check(read(out))

    def test_nothing_before_the_end(self) -> None:
        """A client without a stream gets nothing before the response."""
        each = responder(stream=False)
        assert b"" == each.waiting(1.0) == each.fail(NodeError("no"))


def short_way(each: Responder, data: bytes) -> bytes:
    """Return what goes downstream for a stream of events, each by the short way if it fits."""
    out = b""
    for event in SseDecoder().feed(data):
        mould = each.mould
        cast = mould.cast(sse.encode(event.data)) if mould is not None else None
        if cast is None:
            out += each.feed(event)
        else:
            each.content_chunks += 1
            out += cast
    return out


class AnyStreamTests(SynchronousTestCase):
    @settings(max_examples=60)
    @given(chat_streams(), st.lists(st.integers(0), max_size=4))
    def test_any_chunking(self, given_stream: Any, cuts: list[int]) -> None:
        """The pieces in which a node's stream comes do not matter, nor does the short way."""
        chunks, data = given_stream
        at_once = relay(responder(), data)
        assert at_once == relay(responder(), *cut(data, cuts))
        each = responder()
        assert at_once == short_way(each, data) + each.finish()
        events = read(at_once)
        check(events)
        response = events[-1]["response"]
        assert response == decode(relay(responder(stream=False), data))
        said = "".join(
            part["text"] for item in response["output"] for part in item.get("content", ())
        )
        sent = "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in chunks)
        assert "".join(sent.split()) == "".join(said.split()), "white space alone is no item"

    @settings(max_examples=60)
    @given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=4), st.booleans())
    def test_the_short_way(self, texts: list[str], thinks: bool) -> None:
        """Chunks with text alone are cut and counted as if they had been parsed."""
        field = "reasoning_content" if thinks else "content"
        chunks = [chat_chunk(**{field: text}) for text in ("a", "b", *texts)]
        data = stream(*chunks, *HELLO)
        each = responder()

        assert relay(responder(), data) == short_way(each, data) + each.finish()
        assert len(texts) + 4 == each.content_chunks

    def test_a_stream_that_fails_before_it_begins(self) -> None:
        """The failed response has its beginning, whether the first chunk or the end is at fault."""
        for data in (b"", b'data: {"choices":[{"index":0,"delta":7}]}\n\n'):
            each = responder()
            told = read(each.fail(self.assertRaises(CortexError, relay, each, data)))
            check(told)
            assert ["response.created", "response.in_progress", "response.failed"] == [
                event["type"] for event in told
            ]

    @settings(max_examples=60)
    @given(chat_streams(), st.integers(0), st.binary(max_size=8))
    def test_any_damage(self, given_stream: Any, place: int, junk: bytes) -> None:
        """A damaged stream ends as a response, whole or failed, or fails before it begins."""
        _, data = given_stream
        place %= len(data) + 1
        each = responder()
        out = b""
        try:
            for event in SseDecoder().feed(data[:place] + junk + data[place:]):
                out += each.feed(event)
            out += each.finish()
        except CortexError as error:
            out += each.fail(error)
        check(read(out))
