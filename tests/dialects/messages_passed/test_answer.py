"""Messages passed on, of a node that speaks the dialect itself."""

import json
from dataclasses import replace
from typing import Any

from anthropic import APIStatusError
from anthropic.types import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.messages_passed.answer import PassedAggregate, passed_factory
from cortexd.dialects.wire.exchange import EVENT_STREAM, JSON, Usage
from cortexd.errors import BadGateway, NodeError, Overloaded
from tests.covers import covers
from tests.dialects.anthropic_oracle import ASKED, client
from tests.dialects.message_answers import (
    ESTIMATE,
    Event,
    asked,
    check,
    ending_of,
    events_of,
    inputs_of,
    names,
)
from tests.dialects.node_answers import broken_after, failure, relay
from tests.dialects.node_messages import (
    CITATION,
    ODD_EVENT,
    PING,
    SERVER_CALL,
    SERVER_RESULT,
    SHOWN,
    START_USAGE,
    STOPPED,
    Data,
    block,
    block_delta,
    block_start,
    call_block,
    check_passed,
    ended,
    error,
    input_delta,
    message_stream,
    message_streams,
    names_of,
    passed_stream,
    sse_of,
    started,
    text_block,
    text_delta,
    thinking_block,
    thinking_delta,
    whole_stream,
)

FAILED = sse_of(b"CUDA error")


def streamed(*blocks: list[Data], end: Data | None = None) -> list[Event]:
    """Return the events of a message with these blocks, checked."""
    events = events_of(relay(passed_stream(), whole_stream(*blocks, end=end)))
    check_passed(events)
    return events


def gathered(*blocks: list[Data], end: Data | None = None) -> Any:
    """Return the whole message of these blocks."""
    made = passed_factory(asked(streams=False), thinking=SHOWN)()
    assert isinstance(made, PassedAggregate)
    return json.loads(relay(made, whole_stream(*blocks, end=end)))


class PassingTests(SynchronousTestCase):
    def test_events(self) -> None:
        """The node's events are passed on as they are, each under its name."""
        blocks = [thinking_block(0, "h", "m"), text_block(1, "a", ""), call_block(2, "f", "{", "}")]
        events = streamed(*blocks)
        check(events)
        given = [data for block in blocks for data in block]

        assert given == [data for _, data in events[1:-2]]
        assert ("message_stop", STOPPED) == events[-1]

    def test_what_is_not_known(self) -> None:
        """Blocks, deltas and fields that are not known are passed on untouched."""
        cited = {"type": "citations_delta", "citation": CITATION}
        new = {"type": "new_delta", "value": [1, {"a": None}]}
        blocks = [
            SERVER_CALL,
            SERVER_RESULT,
            block(2, {"type": "text", "text": "", "new": {"a": 1.5}}, text_delta("a"), cited, new),
            block(3, {"type": "new_block", "data": 2**70}, new),
        ]

        assert [data for block in blocks for data in block] == (
            [data for _, data in streamed(*blocks)[1:-2]]
        )

    @covers("T30")
    def test_t30_message_start(self) -> None:
        """T30: Id and model are ours; all four counts are there, estimated where need be."""
        zeros = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        estimated = {"input_tokens": ESTIMATE, "output_tokens": 0, **zeros}
        for usage, expected in (
            (START_USAGE, START_USAGE),
            ({**START_USAGE, "new": 1}, {**START_USAGE, "new": 1}),
            ({"input_tokens": 0, "output_tokens": 0}, estimated),
            ({**START_USAGE, "input_tokens": 0}, {**START_USAGE, "input_tokens": 0}),
            ({"input_tokens": 9, "cache_read_input_tokens": None}, estimated | {"input_tokens": 9}),
            (None, estimated),
        ):
            ((name, data),) = events_of(
                passed_stream().feed(sse_of(started(usage, container=None)))
            )
            assert "message_start" == name
            assert {
                "id": "msg_0ff",
                "type": "message",
                "role": "assistant",
                "model": "claude-opus-4",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "container": None,
                "usage": {"service_tier": "standard", **expected},
            } == data["message"]

    @covers("T52", "T30", "T31")
    def test_t52_message_delta(self) -> None:
        """T52: The end is told once, with a reason, the stop sequence's key and all counts."""
        delta, usage = ending_of(streamed(text_block(0, "a")))
        assert {"stop_reason": "end_turn", "stop_sequence": None} == delta
        assert {**START_USAGE, "output_tokens": 5} == usage

        made = passed_stream()
        parts = [
            ended("stop_sequence", {"output_tokens": 2}, stop_sequence="END"),
            ended(None, {"output_tokens": 3, "server_tool_use": {"web_search_requests": 1}}),
            {"type": "message_delta", "context_management": {"applied_edits": []}},
        ]
        native = started({"input_tokens": 0, "output_tokens": 0})
        events = events_of(relay(made, message_stream(native, *parts, STOPPED)))
        check_passed(events)
        assert {
            "type": "message_delta",
            "context_management": {"applied_edits": []},
            "delta": {"stop_reason": "stop_sequence", "stop_sequence": "END"},
            "usage": {
                "input_tokens": ESTIMATE,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 3,
                "server_tool_use": {"web_search_requests": 1},
            },
        } == events[-2][1]
        assert Usage(ESTIMATE, 3, estimated=True) == made.usage

    def test_usage_of_the_record(self) -> None:
        """The record has the node's counts, and ours where it has none."""
        for start, end, expected in (
            (START_USAGE, {"output_tokens": 5}, Usage(100, 5, cached_tokens=80)),
            (None, None, Usage(ESTIMATE, 2, estimated=True)),
            ({"input_tokens": 4}, None, Usage(4, 2, estimated=True)),
        ):
            made = passed_stream()
            data = message_stream(started(start), *text_block(0, "a", "b"), ended(usage=end))
            made_of = relay(made, data + message_stream(STOPPED))
            assert expected == made.usage
            assert expected.completion_tokens == ending_of(events_of(made_of))[1]["output_tokens"]
        assert ("msg_node_7", 2) == (made.upstream_id, made.content_chunks)

    def test_arguments_at_start(self) -> None:
        """Arguments that came with the start of a call are told as a delta, for clients to find."""
        events = streamed(call_block(0, "f", given={"city": "大阪"}), call_block(1, "g"))
        check(events)

        assert ["+0", ".0", "-0", "+1", "-1"] == names(events)[1:-2]
        assert [("toolu_0", "f", '{"city":"大阪"}'), ("toolu_1", "g", "")] == inputs_of(events)

    @covers("T40")
    def test_t40_events_of_the_node(self) -> None:
        """T40: Events that are not the dialect's stay behind, and so do the node's pings."""
        data = message_stream(
            PING, started(), ODD_EVENT, PING, *text_block(0, "a"), ended(), STOPPED
        )

        assert [name for name, _ in streamed(text_block(0, "a"))] == (
            [name for name, _ in events_of(relay(passed_stream(), data))]
        )

    @covers("2.1 context_management")
    def test_edits_of_the_context(self) -> None:
        """Who asks for edits of the context is told of none, if the node does not tell of some."""
        made = {"applied_edits": [{"type": "clear_thinking_20251015"}]}
        silent, telling = ended(), {**ended(), "context_management": made}
        for end, edits, expected in (
            (silent, True, {"applied_edits": []}),
            (telling, True, made),
            (telling, False, made),
            (silent, False, None),
        ):
            data = whole_stream(text_block(0, "a"), end=end)
            request = replace(asked(), edits_context=edits)
            (_, delta), _ = events_of(relay(passed_stream(request), data))[-2:]
            assert expected == delta.get("context_management")
            whole = passed_factory(replace(request, streams=False), thinking=SHOWN)()
            assert expected == json.loads(relay(whole, data)).get("context_management")

    def test_nothing_after_the_end(self) -> None:
        """What comes after the end is not told, and no error is."""
        made = passed_stream()
        relay(made, whole_stream(text_block(0, "a")))

        assert made.done
        assert b"" == made.feed(sse_of(started())) == made.finish() == made.waiting(500.0)
        assert b"" == made.fail(BadGateway("late"))
        assert (EVENT_STREAM, True, False) == (made.content_type, made.streams, made.cut_short)


class FailureTests(SynchronousTestCase):
    def test_broken(self) -> None:
        """However far a stream came, without its stop it is broken, and ends with an error."""
        data = [started(), *text_block(0, "a"), *call_block(1, "f", "{}"), ended()]
        for count in range(len(data) + 1):
            made = passed_stream()
            out = b"".join([made.feed(sse_of(each)) for each in data[:count]])
            with self.assertRaises(BadGateway) as caught:
                made.finish()
            events = events_of(out + made.fail(caught.exception))
            check_passed(events)
            assert "upstream_disconnected" == caught.exception.code
            assert {
                "type": "error",
                "error": {
                    "type": "api_error",
                    "message": "the node broke off before the answer was complete",
                },
                "request_id": "req_7",
            } == events[-1][1]

    def test_error(self) -> None:
        """An error of the node is told in its words, in our envelope, and nothing after it."""
        made = passed_stream()
        data = message_stream(started(), *text_block(0, "a"), error("overloaded_error", "busy"))
        caught = failure(made, data)
        ((_, told_error),) = events_of(made.fail(caught))

        assert isinstance(caught, Overloaded)
        assert ({"type": "overloaded_error", "message": "busy"}, "req_7") == (
            told_error["error"],
            told_error["request_id"],
        )
        assert b"" == made.fail(caught) == made.waiting(9.0) == made.feed(sse_of(STOPPED))
        assert b"" == made.finish()

    def test_an_open_block_is_not_stopped(self) -> None:
        """A failure leaves the open block open, so that no client takes it for whole."""
        call = {"type": "tool_use", "id": "x", "name": "f", "input": {}}
        opened = [started(), block_start(0, call), block_delta(0, input_delta('{"a"'))]

        assert "message_start +0 .0 error" == names_of([opened, [b"CUDA error"]])

    def test_error_first(self) -> None:
        """An error as the first event is raised before a byte, so another node may be asked."""
        made = passed_stream()
        with self.assertRaises(NodeError):
            made.feed(FAILED)
        whole = [started(), *text_block(0, "a"), ended(), STOPPED]

        assert "message_start +0 .0 -0 message_delta message_stop" == (
            names_of([[b"CUDA error"]], [whole])
        )

    def test_deep_nests(self) -> None:
        """What is nested as deep as can be read is passed on, or refused, and crashes nothing."""
        refused = set()
        for depth in (500, *range(800, 1010)):  # a message is deeper than an event by a level
            nested = b"[" * depth + b"]" * depth
            start = sse_of(block_start(0, {"type": "new", "deep": "x"})).data
            deep = start.replace(b'"x"', nested)
            stop = {"type": "content_block_stop", "index": 0}
            for streams in (True, False):
                made = passed_factory(asked(streams=streams), thinking=SHOWN)()
                try:
                    for data in (started(), deep, stop, ended(), STOPPED):
                        made.feed(sse_of(data))
                except (BadGateway, NodeError) as caught:
                    assert depth > 500
                    refused.add(caught.message)

        assert "the node's answer is nested too deeply" in refused


class AggregateTests(SynchronousTestCase):
    @covers("T16")
    def test_t16_whole(self) -> None:
        """T16: Who does not ask for a stream gets one message of all that was streamed."""
        message = gathered(
            thinking_block(0, "h", "m"),
            text_block(1, "he", "llo"),
            call_block(2, "f", '{"city":', '"大阪"}'),
            call_block(3, "g"),
            call_block(4, "h", given={"a": 1}),
            block(5, {"type": "tool_use", "id": "toolu_5", "name": "i"}),
            end=ended("tool_use", container={"id": "c"}),
        )

        assert {
            "id": "msg_0ff",
            "type": "message",
            "role": "assistant",
            "model": "claude-opus-4",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "text", "text": "hello"},
                {"type": "tool_use", "id": "toolu_2", "name": "f", "input": {"city": "大阪"}},
                {"type": "tool_use", "id": "toolu_3", "name": "g", "input": {}},
                {"type": "tool_use", "id": "toolu_4", "name": "h", "input": {"a": 1}},
                {"type": "tool_use", "id": "toolu_5", "name": "i", "input": {}},
            ],
            "container": {"id": "c"},
            "stop_reason": "tool_use",
            "stop_sequence": None,
            "usage": {**START_USAGE, "output_tokens": 5, "service_tier": "standard"},
        } == message

    def test_what_is_not_known(self) -> None:
        """Server tools, citations, and what nobody knows are all in the message."""
        cited = {"type": "citations_delta", "citation": CITATION}
        new = {"type": "new_delta", "data": "b", "more": [1]}
        message = gathered(
            SERVER_CALL,
            SERVER_RESULT,
            block(
                2, {"type": "text", "text": "", "citations": None}, text_delta("a"), cited, cited
            ),
            block(3, {"type": "new_block", "data": "a", "kept": {"x": 1}}, new, new),
            end={**ended(usage={"new": 7}), "context_management": {"applied_edits": []}},
        )
        call, result, text, other = message["content"]

        assert {"query": "a"} == call["input"]
        assert SERVER_RESULT[0]["content_block"] == result
        assert {"type": "text", "text": "a", "citations": [CITATION, CITATION]} == text
        assert {"type": "new_block", "data": "abb", "kept": {"x": 1}, "more": [1]} == other
        assert {"applied_edits": []} == message["context_management"]
        assert 7 == message["usage"]["new"]

    def test_unsigned_thinking(self) -> None:
        """Thinking that the node did not sign has an empty signature, which the SDKs look for."""
        unsigned = block(0, {"type": "thinking", "thinking": ""}, thinking_delta("t"))

        assert [{"type": "thinking", "thinking": "t", "signature": ""}] == (
            gathered(unsigned)["content"]
        )

    def test_arguments_cut_off(self) -> None:
        """Arguments that are no object are kept as they came."""
        (call,) = gathered(call_block(0, "f", '{"a":'), end=ended("max_tokens"))["content"]

        assert {"_raw_arguments": '{"a":'} == call["input"]

    def test_broken(self) -> None:
        """Without its stop there is no message, and nothing goes out before."""
        data = [started(), *text_block(0, "a"), ended()]
        for count in range(len(data) + 1):
            made = passed_factory(asked(streams=False), thinking=SHOWN)()
            caught = failure(made, message_stream(*data[:count]))
            assert ("upstream_disconnected", True) == (caught.code, caught.elsewhere)
            assert b"" == made.fail(caught) == made.waiting(500.0)
        assert (JSON, False) == (made.content_type, made.streams)


class SdkTests(SynchronousTestCase):
    BLOCKS = (
        thinking_block(0, "hm"),
        text_block(1, "he", "llo"),
        call_block(2, "weather", '{"city":"大阪"}'),
        call_block(3, "time", given={"zone": "JST"}),
    )

    def test_messages(self) -> None:
        """Streamed after a long wait or whole, the SDK finds thinking, text, calls and counts."""
        data = whole_stream(*self.BLOCKS, end=ended("tool_use"))
        made = passed_stream()
        body = made.waiting(5.0) + made.waiting(130.0) + relay(made, data)
        with client(made, body).messages.stream(**ASKED) as answer:
            streamed_message = answer.get_final_message()
        whole = passed_factory(asked(streams=False), thinking=SHOWN)()
        created = client(whole, relay(whole, data)).messages.create(**ASKED)
        for message in (streamed_message, created):
            assert isinstance(message, Message)
            thinking, text, weather, time = (block.model_dump() for block in message.content)
            assert ("hm", "sig") == (thinking["thinking"], thinking["signature"])
            assert "hello" == text["text"]
            assert ("toolu_2", {"city": "大阪"}) == (weather["id"], weather["input"])
            assert {"zone": "JST"} == time["input"]
            assert ("tool_use", None) == (message.stop_reason, message.stop_sequence)
            usage = message.usage
            assert (20, 80, 0, 5) == (
                usage.input_tokens,
                usage.cache_read_input_tokens,
                usage.cache_creation_input_tokens,
                usage.output_tokens,
            )

    def test_failure_in_the_middle(self) -> None:
        """A stream that breaks off raises in the SDK, with the type and words of the error."""
        made = passed_stream()
        body = broken_after(made, sse_of(started()))
        with (
            self.assertRaises(APIStatusError) as raised,
            client(made, body).messages.stream(**ASKED) as answer,
        ):
            answer.get_final_message()

        assert "broke off" in str(raised.exception.body)

    @settings(max_examples=50)
    @given(message_streams(), st.sampled_from([0.0, 5.0, 130.0]))
    def test_any_message(self, given_stream: tuple[Any, bytes], waited: float) -> None:
        """The SDK reads of every stream what it reads of the whole message."""
        _, data = given_stream
        made = passed_stream()
        body = (made.waiting(waited) if waited else b"") + relay(made, data)
        with client(made, body).messages.stream(**ASKED) as answer:
            found = answer.get_final_message().model_dump()
        whole = passed_factory(asked(streams=False), thinking=SHOWN)()
        expected: Any = client(whole, relay(whole, data)).messages.create(**ASKED)
        wanted = expected.model_dump()
        blocks = found["content"]
        if len(blocks) > len(wanted["content"]):
            assert {"thinking": "", "signature": "cortex"}.items() <= blocks.pop(0).items()
        for each in blocks:
            each.pop("parsed_output", None)

        assert wanted["content"] == blocks
        assert wanted["stop_reason"] == found["stop_reason"]
        assert wanted["usage"]["output_tokens"] == found["usage"]["output_tokens"]
