"""A whole chat answer made of a node's Messages stream, by translation.md 4.1."""

import json
from typing import Any

import httpx2
from hypothesis import given, settings
from openai import OpenAI
from openai.types.chat import ChatCompletion
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.chat_to_messages.answer import (
    ChatOnMessagesAggregate,
    chat_on_messages_factory,
)
from cortexd.dialects.wire.exchange import JSON, Usage
from cortexd.errors import BadGateway, CortexError, Overloaded
from tests.covers import covers
from tests.dialects.chat_on_messages_bodies import IDENTITY, NAMES
from tests.dialects.node_answers import chunks_of, failure, relay
from tests.dialects.node_messages import (
    CITATION,
    ODD_EVENT,
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
    text_delta,
    thinking_block,
    whole_stream,
)


def responder() -> ChatOnMessagesAggregate:
    made = chat_on_messages_factory(IDENTITY, streams=False, include_usage=False, names=NAMES)()
    assert isinstance(made, ChatOnMessagesAggregate)
    return made


def gathered(*blocks: list[Data], end: Data | None = None) -> Any:
    return json.loads(relay(responder(), whole_stream(*blocks, end=end)))


def message(*blocks: list[Data], end: Data | None = None) -> Any:
    return gathered(*blocks, end=end)["choices"][0]["message"]


def finish_reason(stop_reason: str, *blocks: list[Data]) -> Any:
    return gathered(*blocks, end=ended(stop_reason))["choices"][0]["finish_reason"]


class ContentTests(SynchronousTestCase):
    @covers("T47")
    def test_whole(self) -> None:
        """The answer has our id, birth and model, one choice, and the usage."""
        assert {
            "id": "chatcmpl-ours",
            "object": "chat.completion",
            "created": 1_790_000_100,
            "model": "acme/chat",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "hello", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "total_tokens": 105,
                "prompt_tokens_details": {"cached_tokens": 80},
            },
        } == gathered(text_block(0, "he", "llo"))

    @covers("4.1 back text blocks")
    def test_text(self) -> None:
        """Text blocks are joined, and none is null; citations of URLs become annotations."""
        assert "ab" == message(text_block(0, "a"), thinking_block(1), text_block(2, "b"))["content"]
        assert None is message()["content"]
        assert None is message(call_block(0, "f"))["content"]
        page = {"type": "citations_delta", "citation": {"type": "page_location", "title": "B"}}
        url = {"type": "citations_delta", "citation": CITATION | {"title": None}}
        cited = block(1, {"type": "text", "text": ""}, url, text_delta("bc"), page)
        assert [
            {
                "type": "url_citation",
                "url_citation": {
                    "start_index": 1,
                    "end_index": 3,
                    "title": "",
                    "url": "https://example.org/a",
                },
            }
        ] == message(text_block(0, "a"), cited)["annotations"]
        assert "annotations" not in message(text_block(0, "a"), block(1, {"type": "text"}, page))

    @covers("4.1 back thinking")
    def test_thinking(self) -> None:
        """Thinking is the reasoning, without its signature; what is redacted is left out."""
        redacted = block(1, {"type": "redacted_thinking", "data": "x"})
        found = message(thinking_block(0, "h", "m"), redacted, thinking_block(2, "!"))

        assert {"role": "assistant", "content": None, "refusal": None} | {
            "reasoning_content": "hm!"
        } == found

    @covers("4.1 back tool_use")
    def test_tool_use(self) -> None:
        """Calls come in the order of their blocks, by the client's names, arguments compact."""
        assert [
            {
                "id": "toolu_0",
                "type": "function",
                "function": {"name": "read", "arguments": '{"city":"大阪","n":1.10}'},
            },
            {
                "id": "toolu_2",
                "type": "function",
                "function": {"name": "mcp.read", "arguments": "{}"},
            },
            {
                "id": "toolu_3",
                "type": "function",
                "function": {"name": "f", "arguments": '{"a":[1,{"b":null}]}'},
            },
        ] == message(
            call_block(0, "read", '{"city": "大', '阪", "n" : 1.10}\n'),
            text_block(1, "a"),
            call_block(2, "up_read", " "),
            call_block(3, "f", given={"a": [1, {"b": None}]}),
        )["tool_calls"]

    def test_arguments_cut_off(self) -> None:
        """Arguments that the limit of tokens cut off are given as they came."""
        calls = message(call_block(0, "f", '{"a": [1'), end=ended("max_tokens"))["tool_calls"]

        assert ['{"a": [1'] == [call["function"]["arguments"] for call in calls]

    @covers("4.1 back server blocks")
    def test_server_blocks(self) -> None:
        """Blocks of tools that the node ran are an error, unless text or calls remain."""
        caught = failure(responder(), whole_stream(SERVER_CALL))
        assert (BadGateway, 502) == (type(caught), caught.status)
        assert "unsupported upstream block 'server_tool_use'" in caught.message

        assert "a" == message(SERVER_CALL, SERVER_RESULT, text_block(2, "a"))["content"]
        assert 1 == len(message(SERVER_CALL, call_block(1, "f"))["tool_calls"])


class EndingTests(SynchronousTestCase):
    @covers("4.1 back end_turn, stop_sequence")
    def test_stop(self) -> None:
        """An end of the turn and a stop sequence are a stop, and so is a reason nobody knows."""
        for reason in ("end_turn", "stop_sequence", "new_reason"):
            assert "stop" == finish_reason(reason, text_block(0, "a"))

    @covers("4.1 back max_tokens, model_context_window_exceeded")
    def test_length(self) -> None:
        """Both limits of tokens are a matter of length."""
        for reason in ("max_tokens", "model_context_window_exceeded"):
            assert "length" == finish_reason(reason, text_block(0, "a"))

    @covers("4.1 back stop tool_use")
    def test_tool_use(self) -> None:
        """A stop for a tool is one for calls."""
        assert "tool_calls" == finish_reason("tool_use", call_block(0, "f"))

    @covers("4.1 back refusal")
    def test_refusal(self) -> None:
        """A refusal's text is the refusal and not the content, or else what explains it."""
        found = gathered(text_block(0, "I can", "not"), end=ended("refusal"))["choices"][0]
        assert "content_filter" == found["finish_reason"]
        assert (None, "I cannot") == (found["message"]["content"], found["message"]["refusal"])

        for details, expected in (
            ({"type": "refusal", "explanation": "no"}, "no"),
            ({"type": "refusal", "explanation": None}, ""),
            (None, ""),
        ):
            bare = message(end=ended("refusal", stop_details=details))
            assert (None, expected) == (bare["content"], bare["refusal"])

    @covers("4.1 back pause_turn")
    def test_pause_turn(self) -> None:
        """A turn that pauses is one that stops."""
        found = gathered(SERVER_CALL, text_block(1, "a"), end=ended("pause_turn"))["choices"][0]

        assert ("stop", "a") == (found["finish_reason"], found["message"]["content"])

    @covers("4.1 back usage", "T31")
    def test_t31_usage(self) -> None:
        """T31: The prompt is all that was read, of a cache and to one too; thinking is told."""
        start = {**START_USAGE, "cache_creation_input_tokens": 7}
        end = {"output_tokens": 5, "output_tokens_details": {"thinking_tokens": 3}}
        made = responder()
        answer = json.loads(relay(made, message_stream(started(start), ended(usage=end), STOPPED)))

        assert {
            "prompt_tokens": 107,
            "completion_tokens": 5,
            "total_tokens": 112,
            "prompt_tokens_details": {"cached_tokens": 80},
            "completion_tokens_details": {"reasoning_tokens": 3},
        } == answer["usage"]
        assert Usage(107, 5, cached_tokens=80) == made.usage
        assert (100, 80, 105) == (
            (usage := gathered(text_block(0, "a"))["usage"])["prompt_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"],
            usage["total_tokens"],
        )

    def test_no_usage(self) -> None:
        """What the node has not counted is null."""
        data = message_stream(started(None), ended(usage=None), STOPPED)

        assert None is json.loads(relay(responder(), data))["usage"]


class FailureTests(SynchronousTestCase):
    def test_broken(self) -> None:
        """However far a stream came, without its stop there is no answer."""
        events = [started(), *text_block(0, "a"), ended()]
        for count in range(len(events) + 1):
            made = responder()
            caught = failure(made, message_stream(*events[:count]))
            assert ("upstream_disconnected", True) == (caught.code, caught.elsewhere)
            assert b"" == made.fail(caught)

    def test_error(self) -> None:
        """An error in the middle is raised as what it is."""
        data = message_stream(started(), *text_block(0, "a"), error("overloaded_error", "busy"))

        assert isinstance(failure(responder(), data), Overloaded)

    def test_silence(self) -> None:
        """Nothing goes out before the whole answer."""
        made = responder()

        assert b"" == made.feed(sse_of(started())) == made.waiting(500.0)
        assert (JSON, False, False) == (made.content_type, made.streams, made.done)
        with self.assertRaises(BadGateway):
            made.take_body(b"{}")

    @covers("T40")
    def test_t40_unknown_events(self) -> None:
        """T40: Events that the dialect does not have are not in the answer."""
        data = message_stream(
            started(), ODD_EVENT, *text_block(0, "a"), ODD_EVENT, ended(), STOPPED
        )

        assert gathered(text_block(0, "a")) == json.loads(relay(responder(), data))


class SdkTests(SynchronousTestCase):
    def test_openai(self) -> None:
        """The OpenAI SDK finds text, reasoning, calls, annotations and counts."""
        cited = {"type": "citations_delta", "citation": CITATION}
        blocks = [
            thinking_block(0, "hm"),
            block(1, {"type": "text", "text": ""}, text_delta("hello"), cited),
            call_block(2, "up_read", '{"a": 1}'),
        ]
        body = relay(responder(), whole_stream(*blocks, end=ended("tool_use")))

        def answer(request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, headers={"content-type": JSON}, content=body)

        http_client = httpx2.Client(transport=httpx2.MockTransport(answer))
        sdk = OpenAI(api_key="none", max_retries=0, http_client=http_client)
        asked: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        completion: ChatCompletion = sdk.chat.completions.create(**asked)
        ChatCompletion.model_validate(completion.model_dump(), strict=True)
        (choice,) = completion.choices
        found: Any = choice.message

        assert ("tool_calls", "hello", "hm") == (
            choice.finish_reason,
            found.content,
            found.reasoning_content,
        )
        assert [("toolu_2", "mcp.read", '{"a":1}')] == [
            (call.id, call.function.name, call.function.arguments) for call in found.tool_calls
        ]
        assert [(0, 5, "A")] == [
            (cited.start_index, cited.end_index, cited.title)
            for cited in (annotation.url_citation for annotation in found.annotations)
        ]
        assert completion.usage is not None
        assert (100, 5) == (completion.usage.prompt_tokens, completion.usage.completion_tokens)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=150)
    @given(message_streams())
    def test_streamed_and_gathered_agree(self, given_stream: tuple[Any, bytes]) -> None:
        """Who streams and who does not get the same text, calls, reason and counts."""
        _, data = given_stream
        make = chat_on_messages_factory(IDENTITY, streams=True, include_usage=True, names=NAMES)
        chunks = chunks_of(relay(make(), data))
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        (whole,) = json.loads(relay(responder(), data))["choices"]
        found = whole["message"]
        pieces = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
        arguments: dict[int, str] = {}
        for piece in pieces:
            at = piece["index"]
            arguments[at] = arguments.get(at, "") + piece["function"]["arguments"]

        text = "".join(choice["delta"].get("content", "") for choice in choices)
        assert text == (found["content"] or found["refusal"] or "")
        assert choices[-1]["finish_reason"] == whole["finish_reason"]
        assert [json.loads(written) for _, written in sorted(arguments.items())] == [
            json.loads(call["function"]["arguments"]) for call in found.get("tool_calls", ())
        ]
        usage = [chunk["usage"] for chunk in chunks if not chunk["choices"]]
        assert usage in ([], [json.loads(relay(responder(), data))["usage"]])

    @settings(max_examples=300)
    @given(hostile_streams)
    def test_hostile_nodes(self, events: list[Any]) -> None:
        """Of whatever a node sends an answer is made, or an error."""
        try:
            answer = json.loads(relay(responder(), message_stream(*events)))
        except CortexError:
            return
        (choice,) = answer["choices"]

        assert choice["finish_reason"] in ("stop", "content_filter")
        assert isinstance(choice["message"].get("tool_calls", []), list)
