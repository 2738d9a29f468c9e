"""The Anthropic SDK reads our answers: its client over a transport in memory."""

from collections.abc import Iterable
from typing import Any

from anthropic import APIStatusError
from anthropic.types import Message, TextBlock, ThinkingBlock, ToolUseBlock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import BadGateway
from tests.dialects.anthropic_oracle import ASKED, client
from tests.dialects.message_answers import calls, factory
from tests.dialects.node_answers import (
    USAGE,
    broken_after,
    chat_chunk,
    event,
    relay,
    stream,
    tool_call,
)

THINKING = chat_chunk(reasoning_content="hm")
TEXT = (chat_chunk("he"), chat_chunk("llo"))
CALLS = calls(
    tool_call("weather", '{"city":"大阪"}'),
    tool_call("time", "", 1),
    finish="tool_calls",
    usage=USAGE | {"prompt_tokens_details": {"cached_tokens": 5}},
)


def streamed(chunks: Iterable[object]) -> Message:
    responder = factory()()
    waited = responder.waiting(5.0) + responder.waiting(130.0)
    body = waited + relay(responder, stream(*chunks))
    with client(responder, body).messages.stream(**ASKED) as answer:
        return answer.get_final_message()


def whole(chunks: Iterable[object]) -> Message:
    responder = factory(streams=False)()
    message = client(responder, relay(responder, stream(*chunks))).messages.create(**ASKED)
    assert isinstance(message, Message)
    return message


class SdkTests(SynchronousTestCase):
    def test_messages(self) -> None:
        """Streamed after a long wait or whole, the SDK finds thinking, text, calls and counts."""
        for message in (streamed([THINKING, *TEXT, CALLS]), whole([THINKING, *TEXT, CALLS])):
            thinking, text, weather, time = message.content
            assert isinstance(thinking, ThinkingBlock)
            assert ("hm", "cortex") == (thinking.thinking, thinking.signature)
            assert isinstance(text, TextBlock)
            assert "hello" == text.text
            assert isinstance(weather, ToolUseBlock)
            assert ("call-0", {"city": "大阪"}) == (weather.id, weather.input)
            assert isinstance(time, ToolUseBlock)
            assert {} == time.input
            assert ("tool_use", None) == (message.stop_reason, message.stop_sequence)
            usage = message.usage
            assert (15, 5, 0, 8) == (
                usage.input_tokens,
                usage.cache_read_input_tokens,
                usage.cache_creation_input_tokens,
                usage.output_tokens,
            )

    def test_odd_arguments(self) -> None:
        """Blank arguments, and those that are no object, are an object, streamed or whole."""
        for arguments, expected in ((" ", {}), ("null", {"_raw_arguments": "null"})):
            chunks = [calls(tool_call("weather", arguments), finish="tool_calls", usage=USAGE)]
            for message in (streamed(chunks), whole(chunks)):
                call = message.content[-1]
                assert isinstance(call, ToolUseBlock)
                assert expected == call.input

    def test_refusal(self) -> None:
        """The SDK finds the details of a refusal."""
        chunks = [*TEXT, chat_chunk(finish="content_filter", usage=USAGE)]
        for message in (streamed(chunks), whole(chunks)):
            assert message.stop_details is not None
            assert "refusal" == message.stop_details.type == message.stop_reason

    def test_failure_in_the_middle(self) -> None:
        """A stream that breaks off raises in the SDK, with the type and words of the error."""
        responder = factory()()
        body = broken_after(responder, event(TEXT[0]))
        with (
            self.assertRaises(APIStatusError) as caught,
            client(responder, body).messages.stream(**ASKED) as answer,
        ):
            answer.get_final_message()
        error_body: Any = caught.exception.body

        assert {
            "type": "error",
            "error": {
                "type": "api_error",
                "message": "the node broke off before the answer was complete",
            },
            "request_id": "req_7",
        } == error_body

    def test_failure_before_anything(self) -> None:
        """An error that is a stream's only event raises too."""
        responder = factory()()
        body = responder.fail(BadGateway("gone"))
        with (
            self.assertRaises(APIStatusError),
            client(responder, body).messages.stream(**ASKED) as answer,
        ):
            answer.get_final_message()
