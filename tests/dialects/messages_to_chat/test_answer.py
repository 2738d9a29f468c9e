"""The whole message, by the rows of translation.md 4.1 (chat to Messages), streamed or not."""

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.exchange import JSON, Responder, Usage
from cortexd.dialects.wire.json_values import encode
from cortexd.dialects.wire.profile import Profile, ThinkingWish
from cortexd.dialects.wire.thoughts import signature_of
from cortexd.dialects.wire.token_counts import read_counts
from cortexd.errors import BadGateway, ContextOverflow, CortexError, NodeError
from cortexd.sse import SseDecoder
from tests.covers import covers
from tests.dialects.message_answers import (
    ESTIMATE,
    MODEL,
    call_delta,
    calls,
    content_of,
    ending_of,
    events_of,
    factory,
    gathered,
    streamed,
)
from tests.dialects.node_answers import (
    KEEP_ALIVE,
    USAGE,
    chat_chunk,
    event,
    failure,
    relay,
    stream,
    tool_call,
)

END = chat_chunk(finish="stop", usage=USAGE)


def answer(finish: object = "stop", usage: object = USAGE, **message: object) -> bytes:
    """Return a whole answer of a node (nodes.md 4.2)."""
    return encode(
        {
            "id": "12",
            "object": "chat.completion",
            "created": 1_790_000_001,
            "model": "org/base",
            "system_fingerprint": "local",
            "session_id": "s",
            "files": [],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": finish,
                    "logprobs": {"content": []},
                    "message": {"role": "assistant", "content": None, "tool_calls": None} | message,
                }
            ],
            "usage": usage,
        }
    )


def whole(body: bytes, **wishes: Any) -> Any:
    return json.loads(factory(streams=False, **wishes)().take_body(body))


def both(*chunks: object, **wishes: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return how an answer ends and its usage, streamed and whole."""
    message = gathered(*chunks, **wishes)
    reason = {key: value for key, value in message.items() if key.startswith("stop_")}
    usage = {key: value for key, value in message["usage"].items() if key != "service_tier"}
    return [ending_of(streamed(*chunks, **wishes)), (reason, usage)]


class MessageTests(SynchronousTestCase):
    @covers("T16", "2.1 service_tier and its like")
    def test_t16_message(self) -> None:
        """T16: Who wants no stream gets one Message, under our id and the name asked for."""
        responder = factory(streams=False)()
        out = relay(responder, stream(chat_chunk("he"), chat_chunk("llo"), END))

        assert (JSON, False) == (responder.content_type, responder.streams)
        assert {
            "id": "msg_0ff",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [{"type": "text", "text": "hello"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 20,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 8,
                "service_tier": "standard",
            },
        } == json.loads(out)

    @covers("4.1 id")
    def test_row_id(self) -> None:
        """The node's id is for the log."""
        responder = factory(streams=False)()
        relay(responder, stream(END))

        assert "13" == responder.upstream_id

    @covers("4.1 reasoning")
    def test_row_thinking(self) -> None:
        """Thinking, by either of its names, is a signed block before the text."""
        thinking = {"type": "thinking", "thinking": "hm", "signature": "cortex"}
        text = {"type": "text", "text": "a"}
        for field in ("reasoning_content", "reasoning"):
            message = whole(answer(content="a", **{field: "hm"}))
            assert [thinking, text] == message["content"]
            assert [thinking, text] == gathered(chat_chunk("a", **{field: "hm"}), END)["content"]
        withheld = whole(answer(content="a", reasoning="hm"), thinking=ThinkingWish.WITHHELD)
        carried = {"type": "thinking", "thinking": "", "signature": signature_of("hm")}
        assert [carried, text] == withheld["content"]
        unasked = whole(answer(content="a", reasoning="hm"), thinking=ThinkingWish.NONE)
        assert [text] == unasked["content"]

    @covers("4.1 content empty")
    def test_row_empty_content(self) -> None:
        """Content that is empty or null is no block."""
        for content in ("", None):
            assert [] == whole(answer(content=content))["content"]
            assert [] == gathered(chat_chunk(content), END)["content"]

    def test_refusal_words(self) -> None:
        """A refusal's words are text like any other."""
        assert [{"type": "text", "text": "no"}] == whole(answer(refusal="no"))["content"]

    @covers("4.1 tool_calls")
    def test_row_tool_calls(self) -> None:
        """Arguments are an object, in the node's own bytes; where there are none, an empty one."""
        for written, expected in (
            ('{"city": "大阪", "n": 1.0}', {"city": "大阪", "n": 1.0}),
            ("", {}),
            (" \n", {}),
            ('{"a":', {"_raw_arguments": '{"a":'}),
            ("[1]", {"_raw_arguments": "[1]"}),
            ("null", {"_raw_arguments": "null"}),
            ('{"a":NaN}', {"_raw_arguments": '{"a":NaN}'}),
            ('{"a":' * 3_000, {"_raw_arguments": '{"a":' * 3_000}),
        ):
            call = {"type": "tool_use", "id": "call-0", "name": "f", "input": expected}
            message = gathered(calls(tool_call("f", written)), END)
            assert [call] == message["content"]
            assert "tool_use" == message["stop_reason"]
            assert [call] == whole(answer(tool_calls=[tool_call("f", written)]))["content"]
        body = factory(streams=False)().take_body(
            answer(tool_calls=[tool_call("f", '{"city": "大阪", "n": 1.0}')])
        )
        assert '{"city": "大阪", "n": 1.0}'.encode() in body

    @covers("4.1 tool_calls")
    def test_row_unparsable_arguments(self) -> None:
        """Arguments cut off by the limit end the message with max_tokens."""
        message = gathered(calls(tool_call("f", '{"a":')), chat_chunk(finish="length", usage=USAGE))

        assert ({"_raw_arguments": '{"a":'}, "max_tokens") == (
            message["content"][0]["input"],
            message["stop_reason"],
        )

    def test_whole_calls_without_index(self) -> None:
        """Calls of a whole answer are told apart by their place."""
        bare = [{"function": {"name": "f", "arguments": None}} for _ in range(2)]

        assert ["toolu_0ff_0", "toolu_0ff_1"] == [
            block["id"] for block in whole(answer(tool_calls=bare))["content"]
        ]

    @covers("T25", "2.3 disable_parallel_tool_use")
    def test_t25_one_call_only(self) -> None:
        """T25: Where one call is wanted one is told of."""
        two = [tool_call("f", "{}"), tool_call("g", "{}", 1)]
        responder = factory(streams=False, one_tool_call=True)()
        responder.feed(event(calls(*two)))

        assert (True, True) == (responder.done, getattr(responder, "cut_short", None))
        assert ["f"] == [block["name"] for block in json.loads(responder.finish())["content"]]
        message = whole(answer(tool_calls=two), one_tool_call=True)
        assert (["f"], 8) == (
            [block["name"] for block in message["content"]],
            message["usage"]["output_tokens"],
        )


class StopReasonTests(SynchronousTestCase):
    def assert_ends(self, expected: dict[str, Any], *chunks: object, **wishes: Any) -> None:
        for reason, _ in both(*chunks, **wishes):
            assert {"stop_sequence": None} | expected == reason

    @covers("4.1 finish stop", "T9")
    def test_row_stop(self) -> None:
        """What only stopped has ended its turn, unless there is a call."""
        for finish in ("stop", "eos"):
            last = chat_chunk(finish=finish)
            self.assert_ends({"stop_reason": "end_turn"}, chat_chunk("a"), last)
            self.assert_ends({"stop_reason": "tool_use"}, calls(tool_call("f", "{}")), last)

    @covers("4.1 finish tool_calls")
    def test_row_tool_calls(self) -> None:
        """A call ends the message with tool_use; a call that never came does not."""
        for finish in ("tool_calls", "function_call"):
            last = chat_chunk(finish=finish)
            self.assert_ends({"stop_reason": "tool_use"}, calls(tool_call("f", "{}")), last)
            self.assert_ends({"stop_reason": "end_turn"}, chat_chunk("a"), last)

    @covers("4.1 finish length")
    def test_row_length(self) -> None:
        """The client's limit is max_tokens; a window that is full is told apart from it."""
        last = chat_chunk(finish="length", usage=USAGE)
        for window, expected in (
            (None, "max_tokens"),
            (29, "max_tokens"),
            (28, "model_context_window_exceeded"),
            (20, "model_context_window_exceeded"),
        ):
            profile = Profile(context_window=window)
            self.assert_ends({"stop_reason": expected}, last, profile=profile)
            self.assert_ends(
                {"stop_reason": expected}, calls(tool_call("f", "{}")), last, profile=profile
            )
        # An estimate is not enough to say so.
        tiny = Profile(context_window=1)
        self.assert_ends({"stop_reason": "max_tokens"}, chat_chunk(finish="length"), profile=tiny)

    @covers("4.1 finish content_filter")
    def test_row_content_filter(self) -> None:
        """A filter is a refusal, with the details that clients read."""
        details = {"type": "refusal", "category": None, "explanation": None}

        self.assert_ends(
            {"stop_reason": "refusal", "stop_details": details},
            chat_chunk("a"),
            chat_chunk(finish="content_filter"),
        )

    @covers("4.1 canceled")
    def test_row_no_end(self) -> None:
        """An answer that was given up, or has no reason to have ended, is none."""
        for finish, words in (
            ("canceled", "(canceled)"),
            ("error", "(error)"),
            (None, "broke off"),
        ):
            for error in (
                failure(factory()(), stream(chat_chunk("a", finish=finish))),
                failure(factory(streams=False)(), stream(chat_chunk("a", finish=finish))),
                self.refused(answer(finish=finish)),
            ):
                assert BadGateway is type(error)
                assert words in error.message
                assert error.elsewhere

    @staticmethod
    def refused(body: bytes) -> CortexError:
        responder = factory(streams=False)()
        try:
            found = responder.take_body(body)
        except CortexError as error:
            assert not responder.done
            return error
        raise AssertionError(f"answered {found!r}")

    def test_bodies_that_are_no_answer(self) -> None:
        """A body that cannot be understood, or is an error, is the node's failure."""
        for body, kind in (
            (b"OK", NodeError),
            (b"[]", BadGateway),
            (b"{}", BadGateway),
            (b'{"choices": {}}', BadGateway),
            (b'{"choices": [{"message": "x", "finish_reason": "stop"}]}', BadGateway),
            (
                b'{"error": {"message": "prompt is too long"}}',
                ContextOverflow,
            ),
        ):
            assert kind is type(self.refused(body)), body


class UsageTests(SynchronousTestCase):
    @covers("T31", "4.1 usage")
    def test_t31_row_usage(self) -> None:
        """T31: Tokens from the cache, or for it, are not input, which is never negative."""
        for details, expected in (
            ({"cached_tokens": 80}, (20, 0, 80)),
            ({"cached_tokens": 120}, (0, 0, 120)),
            ({"cached_tokens": 30, "cache_write_tokens": 50}, (20, 50, 30)),
            ({"cached_tokens": None}, (100, 0, 0)),
            ({"cached_tokens": -1}, (100, 0, 0)),
            ({"cached_tokens": "many"}, (100, 0, 0)),
            (None, (100, 0, 0)),
            ("odd", (100, 0, 0)),
        ):
            usage = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": details}
            for _, counts in both(chat_chunk("a", finish="stop", usage=usage)):
                assert {
                    "input_tokens": expected[0],
                    "cache_creation_input_tokens": expected[1],
                    "cache_read_input_tokens": expected[2],
                    "output_tokens": 5,
                } == counts

    @covers("4.1 usage")
    def test_row_thinking_tokens(self) -> None:
        """Tokens of thinking are told where the node tells them."""
        usage = USAGE | {"completion_tokens_details": {"reasoning_tokens": 3}}
        for _, counts in both(chat_chunk("a", finish="stop", usage=usage)):
            assert {"thinking_tokens": 3} == counts["output_tokens_details"]
        for details in (None, {}, {"reasoning_tokens": None}):
            assert None is read_counts({"completion_tokens_details": details}).thinking

    @covers("T30")
    def test_t30_usage_that_never_comes(self) -> None:
        """T30: Where the node counts nothing our estimate is told: clients compact by it."""
        uncounted = {"prompt_tokens": 0, "completion_tokens": 8}
        for usage, output in ((None, 2), (7, 2), ("many", 2), ({}, 2), (uncounted, 8)):
            for _, counts in both(chat_chunk("a"), chat_chunk("b", finish="stop", usage=usage)):
                assert (ESTIMATE, output) == (counts["input_tokens"], counts["output_tokens"])

    def test_measure(self) -> None:
        """The record has the node's counts, or the estimate as such."""
        counted, uncounted = (factory(streams=False)() for _ in range(2))
        relay(counted, stream(chat_chunk("a"), END))
        relay(uncounted, stream(chat_chunk("a", finish="stop")))

        assert (Usage(20, 8), 1) == (counted.usage, counted.content_chunks)
        assert Usage(ESTIMATE, 1, estimated=True) == uncounted.usage

    @covers("4.1 logprobs and its like")
    def test_row_harmless(self) -> None:
        """What the dialect has no place for is left out."""
        extra = {"session_id": "s", "files": [], "agentic_tool_calls": [], "adapter_generation": 1}
        plain = [chat_chunk("a"), chat_chunk("b", finish="stop", usage=USAGE)]
        rich = [chunk | extra for chunk in plain]
        for chunk in rich:
            chunk["choices"] = [chunk["choices"][0] | {"logprobs": {"token": "a", "logprob": -1}}]

        assert streamed(*plain) == streamed(*rich)
        assert gathered(*plain) == gathered(*rich)


class FaultTests(SynchronousTestCase):
    def responders(self) -> list[Responder]:
        return [factory()(), factory(streams=False)()]

    def assert_fails(self, data: object, kind: type[CortexError], words: str) -> None:
        for responder in self.responders():
            responder.feed(event(chat_chunk("a")))
            try:
                out = responder.feed(event(data))
            except CortexError as error:
                found = error
            else:
                raise AssertionError(f"{data!r} gave {out!r}")
            assert kind is type(found), found
            assert words in found.message
            assert not responder.done

    def test_errors_of_the_node(self) -> None:
        """Errors in a stream are the node's, as a line of text up to v0.9.2, as JSON since."""
        words = "Prompt sequence length is greater than 64, perhaps consider using ..."

        self.assert_fails(words.encode(), ContextOverflow, words)
        self.assert_fails({"error": {"message": words}}, ContextOverflow, words)
        self.assert_fails(b"CUDA error", NodeError, "CUDA error")

    def test_shapes_nobody_knows(self) -> None:
        """What cannot be understood is the node's failure, named by its field."""
        for data, words in (
            ([], "not an object"),
            ({"choices": "x"}, "'choices'"),
            ({"choices": [1]}, "'choices'"),
            ({"choices": [{"delta": "x"}]}, "'delta'"),
            (chat_chunk(finish=1), "'finish_reason'"),
            (chat_chunk(content=7), "'content'"),  # type: ignore[arg-type] # what is tested
            (chat_chunk(reasoning={}), "'reasoning'"),
            (chat_chunk(tool_calls={}), "'tool_calls'"),
            (chat_chunk(tool_calls=["f"]), "'tool_calls'"),
            (calls({"function": "f"}), "'function'"),
            (calls({"id": 7}), "'id'"),
            (calls({"function": {"name": []}}), "'name'"),
            (calls({"function": {"arguments": {}}}), "'arguments'"),
            (chat_chunk(function_call="f"), "'function'"),
        ):
            self.assert_fails(data, BadGateway, words)

    def test_an_answer_that_cannot_be_ended(self) -> None:
        """Of an answer that is no message the event says so that ends it, as in a stream."""
        for streams in (True, False):
            responder = factory(streams=streams)()
            events = SseDecoder().feed(stream(calls(call_delta(0, "{}")), END))
            with self.assertRaises(BadGateway):
                for event in events:
                    responder.feed(event)
            assert not responder.done

    def test_end_without_finish(self) -> None:
        """A stream that ends without a reason is broken off, or was none."""
        for chunk in (chat_chunk("a"), KEEP_ALIVE):
            for responder in self.responders():
                error = failure(responder, stream(chunk, end=b""))
                assert (BadGateway, True) == (type(error), error.elsewhere)


class AgreementTests(SynchronousTestCase):
    def test_streamed_and_whole_agree(self) -> None:
        """A client that streams and one that does not get the same blocks."""
        chunks = (
            chat_chunk(reasoning_content="t"),
            chat_chunk("\na"),
            calls(tool_call("f", '{"a":1}'), finish="tool_calls", usage=USAGE),
        )
        pieces = content_of(events_of(relay(factory()(), stream(*chunks))))
        pieces[-1]["input"] = json.loads(pieces[-1]["input"])

        assert gathered(*chunks)["content"] == pieces
