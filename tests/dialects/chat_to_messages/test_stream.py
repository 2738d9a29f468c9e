"""A chat stream made of a node's Messages stream, by the steps of translation.md 4.4."""

import json
from typing import Any

import httpx2
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import APIError, OpenAI
from openai.lib.streaming.chat import ChatCompletionStream
from openai.types.chat import ChatCompletion
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.chat_to_messages.answer import chat_on_messages_factory
from cortexd.dialects.chat_to_messages.stream import ChatOnMessagesStream
from cortexd.dialects.nodes.chat_stream import DONE_EVENT
from cortexd.dialects.wire.exchange import EVENT_STREAM, Usage
from cortexd.dialects.wire.json_values import encode
from cortexd.errors import BadGateway, CortexError, NodeError, Overloaded
from cortexd.sse import ServerSentEvent, SseDecoder
from tests.covers import covers
from tests.dialects.chat_on_messages_bodies import IDENTITY, NAMES
from tests.dialects.node_answers import broken_after, chunks_of, cut, failure, relay
from tests.dialects.node_messages import (
    CITATION,
    ODD_EVENT,
    PING,
    SERVER_CALL,
    SERVER_RESULT,
    START_USAGE,
    STOPPED,
    Data,
    block,
    call_block,
    ended,
    error,
    hostile_streams,
    message_stream,
    message_streams,
    sse_of,
    started,
    text_block,
    thinking_block,
    whole_stream,
)


def responder(*, include_usage: bool = False) -> ChatOnMessagesStream:
    made = chat_on_messages_factory(
        IDENTITY, streams=True, include_usage=include_usage, names=NAMES
    )()
    assert isinstance(made, ChatOnMessagesStream)
    return made


def streamed(*blocks: list[Data], end: Data | None = None, include_usage: bool = False) -> Any:
    """Return the chunks of the answer to a message with these blocks."""
    return chunks_of(relay(responder(include_usage=include_usage), whole_stream(*blocks, end=end)))


def deltas(*blocks: list[Data], end: Data | None = None) -> list[Any]:
    """Return the deltas between the role and the finish."""
    _, *between, _ = streamed(*blocks, end=end)
    assert {None} == {chunk["choices"][0]["finish_reason"] for chunk in between} | {None}
    return [chunk["choices"][0]["delta"] for chunk in between]


def fed(*events: object) -> bytes:
    made = responder()
    return b"".join([made.feed(sse_of(data)) for data in events])


class StepTests(SynchronousTestCase):
    @covers("4.4 message_start", "T47")
    def test_message_start(self) -> None:
        """The start is a chunk of the role; id, birth and model are ours, and in every chunk."""
        made = responder()
        (first,) = SseDecoder().feed(made.feed(sse_of(started())))

        assert {
            "object": "chat.completion.chunk",
            "choices": [
                {
                    "index": 0,
                    "delta": {"role": "assistant", "content": ""},
                    "logprobs": None,
                    "finish_reason": None,
                }
            ],
            "id": "chatcmpl-ours",
            "created": 1_790_000_100,
            "model": "acme/chat",
        } == json.loads(first.data)
        assert ("msg_node_7", Usage(100, 1, cached_tokens=80)) == (made.upstream_id, made.usage)
        for chunk in streamed(text_block(0, "a"), include_usage=True):
            assert {"id", "created", "model", "choices", "object", "usage"} == chunk.keys()
            assert "chatcmpl-ours" == chunk["id"]

    @covers("4.4 text_delta")
    def test_text_delta(self) -> None:
        """Text is content, whatever block it is in, and empty text is nothing."""
        assert [{"content": "he"}, {"content": "llo"}, {"content": " 大阪"}] == (
            deltas(text_block(0, "he", "", "llo"), text_block(1, " 大阪"))
        )
        assert [{"content": "a"}] == deltas(block(0, {"type": "text", "text": "a"}))

    @covers("4.4 thinking_delta")
    def test_thinking_delta(self) -> None:
        """Thinking is reasoning, and what is redacted of it is left out."""
        redacted = block(1, {"type": "redacted_thinking", "data": "x"})

        assert [{"reasoning_content": "h"}, {"reasoning_content": "m"}, {"content": "a"}] == (
            deltas(thinking_block(0, "h", "m"), redacted, text_block(2, "a"))
        )

    @covers("4.4 signature_delta and ping")
    def test_signature_delta_and_ping(self) -> None:
        """A signature says nothing, nor does a ping: an answer that waits can move elsewhere."""
        assert [{"reasoning_content": "t"}] == deltas(thinking_block(0, "t", signature="s" * 99))
        assert b"" == fed(PING)
        assert fed(started()) == fed(PING, started(), PING)

    @covers("4.4 tool_use block", "4.4 input_json_delta", "T14")
    def test_t14_tool_calls(self) -> None:
        """T14: The indexes of calls count calls alone; each begins with id and name."""
        found = deltas(
            text_block(0, "a"),
            call_block(1, "read", '{"a":', "1}"),
            thinking_block(2, "t"),
            call_block(3, "up_read", "", '{"大":2}'),
        )

        def of_call(index: int, arguments: str, **named: str) -> Any:
            function = {"name": named["name"], "arguments": ""} if named else {}
            call: Data = {"index": index, "function": function | {"arguments": arguments}}
            return {
                "tool_calls": [call | ({"id": named["id"], "type": "function"} if named else {})]
            }

        assert [
            {"content": "a"},
            of_call(0, "", id="toolu_1", name="read"),
            of_call(0, '{"a":'),
            of_call(0, "1}"),
            {"reasoning_content": "t"},
            of_call(1, "", id="toolu_3", name="mcp.read"),
            of_call(1, '{"大":2}'),
        ] == found

    @covers("4.4 content_block_stop")
    def test_a_call_without_deltas(self) -> None:
        """A call without deltas has the arguments of its start, or none, and always an object."""

        def arguments(call: list[Data]) -> list[str]:
            return [d["tool_calls"][0]["function"]["arguments"] for d in deltas(call)]

        assert ["", "{}"] == arguments(call_block(0, "f"))
        assert ["", "{}"] == arguments(call_block(0, "f", ""))
        assert ["", '{"city":"大阪","b":[1]}'] == (
            arguments(call_block(0, "f", given={"city": "大阪", "b": [1]}))
        )
        assert ["", '{"b":2}'] == arguments(call_block(0, "f", '{"b":2}', given={"a": 1}))

    @covers("4.4 message_delta")
    def test_message_delta(self) -> None:
        """The end is a chunk with the reason, once, and its usage goes over the start's."""
        made = responder(include_usage=True)
        made.feed(sse_of(started()))
        out = made.feed(sse_of(ended("max_tokens", {"output_tokens": 7, "input_tokens": None})))
        (event,) = SseDecoder().feed(out)

        assert {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"} == (
            json.loads(event.data)["choices"][0]
        )
        assert None is json.loads(event.data)["usage"]
        assert Usage(100, 7, cached_tokens=80) == made.usage
        assert b"" == made.feed(sse_of(ended("end_turn")))

    @covers("4.4 message_stop", "T31")
    def test_message_stop(self) -> None:
        """T31: The stop brings the usage where it was asked for, cached tokens too, and the end."""
        *chunks, last = streamed(text_block(0, "a"), include_usage=True)

        assert ([], None) == (last["choices"], chunks[-1]["usage"])
        assert {
            "prompt_tokens": 100,
            "completion_tokens": 5,
            "total_tokens": 105,
            "prompt_tokens_details": {"cached_tokens": 80},
        } == last["usage"]
        assert all("usage" not in chunk for chunk in streamed(text_block(0, "a")))
        made = responder()
        made.feed(sse_of(started()))
        made.feed(sse_of(ended()))
        assert (DONE_EVENT, True) == (made.feed(sse_of(STOPPED)), made.done)
        assert b"" == made.finish() == made.feed(sse_of(PING))

    def test_no_usage(self) -> None:
        """A node that counts nothing gives no chunk of usage."""
        data = message_stream(started(None), ended(usage=None), STOPPED)
        *_, last = chunks_of(relay(responder(include_usage=True), data))

        assert "stop" == last["choices"][0]["finish_reason"]

    @covers("4.4 error")
    def test_error(self) -> None:
        """An error is an event of the chat's envelope, and no ``[DONE]`` follows it."""
        made = responder()
        data = message_stream(started(), *text_block(0, "a"), error("overloaded_error", "busy"))
        caught = failure(made, data)
        (event,) = SseDecoder().feed(made.fail(caught))

        assert isinstance(caught, Overloaded)
        assert {
            "error": {
                "message": "busy",
                "type": "server_error",
                "param": None,
                "code": "overloaded",
            }
        } == json.loads(event.data)

    @covers("4.4 end before message_stop", "T17")
    def test_t17_end_before_message_stop(self) -> None:
        """T17: However far a stream came, without its stop it is broken and has no end."""
        events = [started(), *text_block(0, "a"), *call_block(1, "f", "{}"), ended()]
        for count in range(len(events) + 1):
            made = responder()
            data = message_stream(*events[:count])
            caught = failure(made, data)
            body = made.fail(caught)
            assert (BadGateway, "upstream_disconnected") == (type(caught), caught.code)
            assert b'"code":"upstream_disconnected"' in body
            assert b"[DONE]" not in body

    @covers("4.4 unknown event", "T40")
    def test_t40_unknown_events(self) -> None:
        """T40: Events that the dialect does not have are not for the client."""
        events = [started(), *text_block(0, "a"), ended(), STOPPED]
        between = [each for data in events for each in (ODD_EVENT, data)]

        assert fed(*events) == fed(*between)

    @covers("4.4 error first")
    def test_error_first(self) -> None:
        """An error as the first event is raised before a byte: it can have its own status."""
        made = responder()
        assert b"" == made.feed(sse_of(PING))
        with self.assertRaises(Overloaded) as caught:
            made.feed(sse_of(error("overloaded_error", "busy")))

        assert (503, True) == (caught.exception.status, caught.exception.elsewhere)


class AnswerTests(SynchronousTestCase):
    @covers("4.1 back server blocks")
    def test_server_blocks(self) -> None:
        """Blocks of a tool that the node ran are left out, but they alone are no answer."""
        assert [{"content": "a"}] == deltas(SERVER_CALL, SERVER_RESULT, text_block(2, "a"))
        with self.assertRaises(BadGateway) as caught:
            streamed(SERVER_CALL, SERVER_RESULT)

        assert 502 == caught.exception.status
        assert "unsupported upstream block 'web_search_tool_result'" in caught.exception.message

    @covers("4.1 back text blocks")
    def test_citations(self) -> None:
        """Citations of URLs come once, with the end, each for its part of the text."""
        cited = {"type": "citations_delta", "citation": CITATION}
        other = {"type": "citations_delta", "citation": {"type": "page_location"}}
        texts = [
            text_block(0, "大a"),
            block(
                1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "bc"}, cited, other
            ),
            block(2, {"type": "text", "text": "d", "citations": [CITATION]}),
        ]
        *_, last = streamed(*texts)

        def annotation(start: int, end: int) -> Any:
            at = {"start_index": start, "end_index": end}
            return {
                "type": "url_citation",
                "url_citation": at | {"title": "A", "url": "https://example.org/a"},
            }

        assert {"annotations": [annotation(2, 4), annotation(4, 5)]} == last["choices"][0]["delta"]

    def test_signs_of_life(self) -> None:
        """A sign of life is a comment, at any time."""
        made = responder()

        assert b": keep-alive\n\n" == made.waiting(5.0) == made.waiting(500.0)
        assert (EVENT_STREAM, True, False) == (made.content_type, made.streams, made.cut_short)

    def test_a_whole_body(self) -> None:
        """A node that does not stream though asked to is at fault."""
        with self.assertRaises(BadGateway):
            responder().take_body(b"{}")


def oracle(body: bytes, *, strict: bool = True) -> ChatCompletionStream[None]:
    """Return what the OpenAI SDK reads as the stream of an answer.

    With ``strict`` tools it parses the arguments as they come, and refuses half an answer.
    """

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": EVENT_STREAM}, content=body)

    http_client = httpx2.Client(transport=httpx2.MockTransport(answer))
    sdk = OpenAI(api_key="none", max_retries=0, http_client=http_client)
    tools: Any = [
        {
            "type": "function",
            "function": {
                "name": name,
                "strict": strict,
                "parameters": {"type": "object", "additionalProperties": False, "properties": {}},
            },
        }
        for name in ("read", "mcp.read")
    ]
    return sdk.chat.completions.stream(
        model="m", messages=[{"role": "user", "content": "hi"}], tools=tools
    ).__enter__()


class SdkTests(SynchronousTestCase):
    @covers("T15")
    def test_t15_stream_helper(self) -> None:
        """T15: The SDK's helper puts text, strict calls, citations and usage together."""
        cited = {"type": "citations_delta", "citation": CITATION}
        data = whole_stream(
            thinking_block(0, "hm"),
            block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hello"}, cited),
            call_block(2, "read", '{"a"', ":1}"),
            call_block(3, "up_read"),
            end=ended("tool_use"),
        )
        body = relay(responder(include_usage=True), data)
        completion: ChatCompletion = oracle(body).get_final_completion()
        (choice,) = completion.choices
        message: Any = choice.message

        assert ("tool_calls", "hello", "hm") == (
            choice.finish_reason,
            message.content,
            message.reasoning_content,
        )
        assert [("toolu_2", "read", '{"a":1}'), ("toolu_3", "mcp.read", "{}")] == [
            (call.id, call.function.name, call.function.arguments) for call in message.tool_calls
        ]
        assert ["https://example.org/a"] == [a.url_citation.url for a in message.annotations]
        assert completion.usage is not None
        assert (100, 5) == (completion.usage.prompt_tokens, completion.usage.completion_tokens)

    def test_broken(self) -> None:
        """The SDK raises where a stream broke off, with the words of the error."""
        made = responder()
        body = broken_after(made, sse_of(started()))
        with self.assertRaises(APIError) as raised:
            oracle(body).get_final_completion()

        assert "broke off" in raised.exception.message

    @settings(max_examples=50)
    @given(message_streams())
    def test_any_message(self, given_stream: tuple[Any, bytes]) -> None:
        """The SDK reads every message as what the node said."""
        events, data = given_stream
        read = oracle(relay(responder(), data), strict=False)
        read.until_done()
        completion = read.current_completion_snapshot  # half an answer has no final completion
        said = [e["delta"] for e in events if e["type"] == "content_block_delta"]
        message: Any = completion.choices[0].message

        assert "".join(d.get("text", "") for d in said) == (message.content or "")
        assert [call.id for call in message.tool_calls or ()] == [
            e["content_block"]["id"]
            for e in events
            if e["type"] == "content_block_start" and e["content_block"]["type"] == "tool_use"
        ]
        for call in message.tool_calls or ():
            assert isinstance(json.loads(call.function.arguments), dict)


def outcome(pieces: list[bytes]) -> bytes:
    """Return what goes downstream of a node's stream in pieces, with its error if it has one."""
    made, decoder = responder(include_usage=True), SseDecoder()
    out: list[bytes] = []
    try:
        for piece in pieces:
            out += [made.feed(event) for event in decoder.feed(piece)]
        out.append(made.finish())
    except CortexError as caught:
        out.append(made.fail(caught))
    return b"".join(out)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=150)
    @given(message_streams(), st.lists(st.integers(0), max_size=12))
    def test_any_chunking(self, given_stream: tuple[Any, bytes], cuts: list[int]) -> None:
        """However the bytes of a message are cut, the client's are the same."""
        _, data = given_stream

        assert outcome([data]) == outcome(cut(data, cuts))

    @settings(max_examples=400)
    @given(hostile_streams)
    def test_hostile_nodes(self, events: list[Any]) -> None:
        """Whatever a node sends, the stream ends with ``[DONE]`` or with an error, never both."""
        out = outcome([message_stream(*events)])
        *chunks, last = SseDecoder().feed(out)
        reasons = [
            choice["finish_reason"]
            for chunk in chunks
            for choice in json.loads(chunk.data)["choices"]
            if choice["finish_reason"] is not None
        ]

        assert len(reasons) <= 1
        if last == ServerSentEvent(b"[DONE]"):
            assert 1 == len(reasons)
            assert b'"message_stop"' in message_stream(*events)
        else:
            assert {"error"} == json.loads(last.data).keys()

    @settings(max_examples=100)
    @given(message_streams(), st.integers(0))
    def test_cut_short(self, given_stream: tuple[Any, bytes], place: int) -> None:
        """A stream that is cut off is an answer only if its last event had come whole."""
        _, data = given_stream
        (kept, _) = cut(data, [place])
        is_whole = any(event.name == b"message_stop" for event in SseDecoder().feed(kept))

        assert is_whole == outcome([kept]).endswith(DONE_EVENT)

    def test_deep_arguments(self) -> None:
        """Arguments nested as deep as can be read are told, or refused, and crash nothing."""
        for depth in (500, *range(800, 1010)):
            nested: Any = b"[" * depth + b"]" * depth
            start = encode(call_block(0, "f", given={"a": "deep"})[0]).replace(b'"deep"', nested)
            try:
                fed(started(), start, {"type": "content_block_stop", "index": 0})
            except (BadGateway, NodeError):
                assert depth > 500

    def test_usage_of_the_record(self) -> None:
        """The record has what the node counted, the start's prompt and the end's completion."""
        made = responder()
        relay(made, message_stream(started(START_USAGE), *text_block(0, "a"), ended(), STOPPED))

        assert (Usage(100, 5, cached_tokens=80), 1) == (made.usage, made.content_chunks)
