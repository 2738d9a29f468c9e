from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd import sse
from cortexd.dialects.nodes.chat_stream import Identity, WholeAnswer
from cortexd.dialects.openai.chat_answer import ChatAggregate, ChatStream, whole_answer
from cortexd.dialects.wire.exchange import EVENT_STREAM, JSON, Responder, Usage
from cortexd.dialects.wire.json_values import decode, encode
from cortexd.errors import BadGateway
from tests.covers import covers
from tests.dialects.node_answers import (
    AGENTIC,
    KEEP_ALIVE,
    USAGE,
    chat_chunk,
    chat_streams,
    chunks_of,
    cut,
    event,
    failure,
    relay,
    stream,
    tool_call,
)

IDENTITY = Identity("chatcmpl-ours", 1_790_000_100, "acme/chat")
SIGNED = {"id": "chatcmpl-ours", "created": 1_790_000_100, "model": "acme/chat"}
CHUNK = SIGNED | {"object": "chat.completion.chunk"}
WEATHER = tool_call("weather", '{"city":"Ōsaka"}')
HELLO = stream(chat_chunk("he"), chat_chunk("llo", finish="stop", usage=USAGE))


def chat_stream(*, include_usage: bool = False) -> ChatStream:
    return ChatStream(IDENTITY, include_usage=include_usage)


def tool_delta(name: str | None, arguments: str, **fields: str) -> dict[str, Any]:
    """Return a delta of a call without an index."""
    return {"function": {"name": name, "arguments": arguments}, **fields}


def streamed(*chunks: object, include_usage: bool = False) -> list[Any]:
    return chunks_of(relay(chat_stream(include_usage=include_usage), stream(*chunks)))


def gathered(*chunks: object) -> Any:
    return decode(relay(ChatAggregate(IDENTITY), stream(*chunks)))


def both() -> tuple[ChatStream, ChatAggregate]:
    return chat_stream(), ChatAggregate(IDENTITY)


def pairs(*, include_usage: bool = False) -> Iterator[tuple[Responder, Responder]]:
    """Return two responders of each kind, to compare their answers."""
    yield chat_stream(include_usage=include_usage), chat_stream(include_usage=include_usage)
    yield ChatAggregate(IDENTITY), ChatAggregate(IDENTITY)


def accumulated(chunks: list[Any]) -> dict[str, Any]:
    """Return what a client makes of our stream: the message, its end and its usage."""
    found: dict[str, Any] = {"content": "", "reasoning": "", "calls": {}, "finish": None}
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            found["content"] += delta.get("content") or ""
            found["reasoning"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or ():
                index = call.pop("index")
                assert index not in found["calls"]
                found["calls"][index] = call
            found["finish"] = choice["finish_reason"] or found["finish"]
    found["usage"] = chunks[-1].get("usage")
    return found


class StreamTests(SynchronousTestCase):
    @covers("3 C->C finish chunk")
    def test_chunk(self) -> None:
        """A chunk of the node is ours but for its id, its time, its model, its usage and nulls.

        The finish reason comes after the content, with an empty delta.
        """
        first, second, last = streamed(
            chat_chunk("he"), chat_chunk("llo", finish="length", usage=USAGE)
        )

        choice = {"index": 0, "logprobs": None}
        assert first == CHUNK | {
            "system_fingerprint": "local",
            "choices": [
                choice | {"finish_reason": None, "delta": {"role": "assistant", "content": "he"}}
            ],
        }
        assert [choice | {"finish_reason": None, "delta": {"content": "llo"}}] == second["choices"]
        assert [choice | {"finish_reason": "length", "delta": {}}] == last["choices"]

    def test_role_comes_once(self) -> None:
        """The node names the role in every delta, the client is told it in the first."""
        chunks = streamed(
            chat_chunk(role=None), chat_chunk("a"), chat_chunk("b"), chat_chunk(finish="stop")
        )

        assert ["assistant", None, None, None] == [
            chunk["choices"][0]["delta"].get("role") for chunk in chunks
        ]

    @covers("3 C->C usage chunk")
    def test_usage_unasked(self) -> None:
        """A client that did not ask for usage gets none, and no chunk without choices."""
        chunks = streamed(
            chat_chunk("a"),
            chat_chunk(finish="stop", usage=USAGE),
            chat_chunk(usage=USAGE) | {"choices": []},
        )

        assert [1, 1] == [len(chunk["choices"]) for chunk in chunks]
        assert not any("usage" in chunk for chunk in chunks)

    @covers("3 C->C usage chunk")
    def test_usage_asked_for(self) -> None:
        """A client that asked for usage gets it in a last chunk without choices, else null."""
        *chunks, last = streamed(
            chat_chunk("a"), chat_chunk("b", finish="stop", usage=USAGE), include_usage=True
        )

        assert [None, None, None] == [chunk["usage"] for chunk in chunks]
        assert CHUNK | {"choices": [], "usage": USAGE} == last

    def test_last_usage_counts(self) -> None:
        """Of several counts the last is the whole, also where it comes after the end."""
        responder = chat_stream(include_usage=True)
        early = {"prompt_tokens": 20, "completion_tokens": 1}
        chunks = chunks_of(
            relay(
                responder,
                stream(
                    chat_chunk("a", usage=early),
                    chat_chunk(finish="stop"),
                    chat_chunk(usage=USAGE) | {"choices": []},
                ),
            )
        )

        assert [None, None, USAGE] == [chunk["usage"] for chunk in chunks]
        assert Usage(20, 8) == responder.usage

    def test_usage_that_never_came(self) -> None:
        """Where the node counts nothing, or nonsense, the client gets no count that is made up."""
        for usage in (None, 7, "many"):
            chunks = streamed(chat_chunk(finish="stop", usage=usage), include_usage=True)
            assert {None} == {chunk["usage"] for chunk in chunks}

    def test_tool_calls(self) -> None:
        """Tool calls come whole, before the finish reason; an index the node left out is given."""
        bare = [
            {"id": "a", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "index": None, "function": {"name": "g", "arguments": "{}"}},
        ]
        chunk, last = streamed(chat_chunk(finish="tool_calls", tool_calls=[WEATHER]))
        unindexed, _ = streamed(chat_chunk(finish="tool_calls", tool_calls=bare))

        assert [WEATHER] == chunk["choices"][0]["delta"]["tool_calls"]
        assert [("a", 0), ("b", 1)] == [
            (call["id"], call["index"]) for call in unindexed["choices"][0]["delta"]["tool_calls"]
        ]
        assert None is chunk["choices"][0]["finish_reason"]
        assert ({}, "tool_calls") == (
            last["choices"][0]["delta"],
            last["choices"][0]["finish_reason"],
        )

    @covers("3 C->C call indexes")
    def test_indexes(self) -> None:
        """Each call has one index in all of its deltas, and no other call has it.

        Whether upstreams leave the index out, or give one to calls that differ in their ids.
        """
        for index in ({}, {"index": None}, {"index": 0}):
            chunks = streamed(
                chat_chunk(tool_calls=[index | tool_delta("f", '{"a":', id="x")]),
                chat_chunk(tool_calls=[index | tool_delta(None, "1}", id="x")]),
                chat_chunk(tool_calls=[index | tool_delta("g", '{"b":', id="y")]),
                chat_chunk(tool_calls=[index | tool_delta(None, "2}")]),
                chat_chunk(tool_calls=[index | tool_delta("h", "", id="z")]),
                chat_chunk(finish="tool_calls"),
            )
            calls = [
                call
                for chunk in chunks
                for call in chunk["choices"][0]["delta"].get("tool_calls", ())
            ]
            assert [0, 0, 1, 1, 2, 2] == [call["index"] for call in calls]
            assert "{}" == calls[-1]["function"]["arguments"]

    def test_token_probabilities(self) -> None:
        """The node's bare token probability becomes the list that clients read."""
        token = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
        shaped = {"content": [token], "refusal": None}

        for logprobs, expected in ((token, shaped), (shaped, shaped), (None, None)):
            chunk, _ = streamed(chat_chunk("a", finish="stop", logprobs=logprobs))
            assert expected == chunk["choices"][0]["logprobs"]

    @covers("3 C->C agentic events", "T40")
    def test_named_events(self) -> None:
        """Agentic events and comments do not reach the client."""
        plain = relay(chat_stream(), HELLO)

        assert plain == relay(chat_stream(), AGENTIC + KEEP_ALIVE + HELLO)

    @covers("3 C->C agentic events")
    def test_agentic_events(self) -> None:
        """Who asked for them gets those that nodes have, by name and as they are, and no others."""
        asked = [
            b"event: " + name + b'\ndata: {"id":\ndata: 1}\n\n'
            for name in (
                b"agentic_tool_call_progress",
                b"agentic_tool_approval_required",
                b"file_produced",
            )
        ]
        others = b"event: odd\ndata: {}\n\n" + KEEP_ALIVE
        responder = ChatStream(IDENTITY, include_usage=False, agentic_events=True)
        plain = relay(chat_stream(), HELLO)

        assert b"".join(asked) + plain == relay(responder, b"".join([*asked, others]) + HELLO)
        assert b"" == responder.feed(sse.ServerSentEvent(b"{}", b"file_produced"))
        with self.assertRaises(BadGateway):  # which no client could decode
            ChatStream(IDENTITY, include_usage=False, agentic_events=True).feed(
                sse.ServerSentEvent(b"\xff", b"file_produced")
            )

    def test_sparse_chunks(self) -> None:
        """A chunk without choices, or a choice without a delta, is none of the client's worry."""
        chunks = streamed(
            {"id": "13"},
            {"choices": None},
            {"choices": [{"index": 0, "finish_reason": None}]},
            {"choices": [{"index": 0, "finish_reason": "stop", "delta": None}]},
        )

        assert [{"role": "assistant"}, {}] == [chunk["choices"][0]["delta"] for chunk in chunks]

    def test_after_the_end(self) -> None:
        """Nothing that follows ``[DONE]`` reaches the client, and the end comes once."""
        responder = chat_stream()
        plain = relay(chat_stream(), HELLO)

        assert plain == relay(responder, HELLO + stream(chat_chunk("more")))
        assert responder.done
        assert b"" == responder.finish()

    def test_face(self) -> None:
        """A stream says so, stays alive by a comment, and fails in an event that SDKs raise at."""
        responder = chat_stream()

        assert (EVENT_STREAM, True) == (responder.content_type, responder.streams)
        assert [] == sse.SseDecoder().feed(responder.waiting(5.0))
        (failed,) = sse.SseDecoder().feed(responder.fail(BadGateway("gone")))
        assert {
            "error": {
                "message": "gone",
                "type": "server_error",
                "param": None,
                "code": "bad_gateway",
            }
        } == decode(failed.data)


class AggregateTests(SynchronousTestCase):
    def test_answer(self) -> None:
        """The pieces of a stream make one answer, under our identity, with the node's usage."""
        assert SIGNED | {
            "object": "chat.completion",
            "system_fingerprint": "local",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "hello", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": USAGE,
        } == decode(relay(ChatAggregate(IDENTITY), HELLO))

    def test_reasoning(self) -> None:
        """Reasoning is gathered beside the text."""
        message = gathered(
            chat_chunk(reasoning_content="think"),
            chat_chunk(reasoning_content="ing"),
            chat_chunk("done", finish="stop"),
        )["choices"][0]["message"]

        assert ("thinking", "done") == (message["reasoning_content"], message["content"])

    @covers("3 C->C no arguments")
    def test_no_arguments(self) -> None:
        """A call of a whole answer without arguments gets those that clients can parse."""
        for blank in ("", " ", None):
            call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": blank}}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
            answer = {"id": "7", "choices": [{"index": 0, "message": message}]}
            told = decode(whole_answer(IDENTITY).take_body(encode(answer)))
            (found,) = told["choices"][0]["message"]["tool_calls"]
            assert call | {"function": {"name": "f", "arguments": "{}"}} == found

    def test_tool_calls(self) -> None:
        """Calls are gathered by their index, in pieces or whole, and then content may be null."""
        pieces = [
            chat_chunk(tool_calls=[tool_call("g", '{"a"', 1)]),
            chat_chunk(tool_calls=[{"index": 1, "function": {"arguments": ":1}"}}]),
            chat_chunk(finish="tool_calls", tool_calls=[WEATHER, {"index": 2}]),
        ]
        choice = gathered(*pieces)["choices"][0]

        unnamed = {"name": None, "arguments": "{}"}
        assert (None, "tool_calls") == (choice["message"]["content"], choice["finish_reason"])
        assert [
            {"id": "call-0", "type": "function", "function": WEATHER["function"]},
            {"id": "call-1", "type": "function", "function": {"name": "g", "arguments": '{"a":1}'}},
            {"id": None, "type": "function", "function": unnamed},
        ] == choice["message"]["tool_calls"]

    def test_empty(self) -> None:
        """An answer without a word is an empty string, as OpenAI has it."""
        assert "" == gathered(chat_chunk(finish="stop"))["choices"][0]["message"]["content"]

    def test_what_is_said_of_the_whole(self) -> None:
        """What chunks say beside their choices, the answer says once, under our identity."""
        adapted = {"adapter_generation": "ab" * 32}
        told = gathered(
            chat_chunk("a") | adapted, chat_chunk(finish="stop") | adapted, {"choices": []}
        )

        assert adapted.items() <= told.items()
        assert SIGNED.items() <= told.items()
        assert "chat.completion" == told["object"]

    def test_silent_until_the_end(self) -> None:
        """Before its end nothing goes out: no piece, no sign of life, no error event."""
        responder = ChatAggregate(IDENTITY)

        assert (JSON, False) == (responder.content_type, responder.streams)
        assert b"" == responder.feed(event(chat_chunk("a")))
        assert b"" == responder.waiting(60.0) == responder.fail(BadGateway("gone"))


class MeasureTests(SynchronousTestCase):
    def test_content_chunks(self) -> None:
        """Chunks count as content when they bring text, reasoning or a call; a role is none."""
        for responder in both():
            for chunk, expected in (
                (chat_chunk(), 0),
                (chat_chunk(""), 0),
                (chat_chunk("a"), 1),
                (chat_chunk(reasoning_content="b"), 2),
                (chat_chunk(tool_calls=[WEATHER]), 3),
                (chat_chunk(finish="stop", usage=USAGE), 3),
            ):
                responder.feed(event(chunk))
                assert expected == responder.content_chunks
            assert (Usage(20, 8), "13") == (responder.usage, responder.upstream_id)

    def test_no_id(self) -> None:
        """A node that gives no id has none in the log."""
        for responder in both():
            responder.feed(event({"choices": []}))
            assert None is responder.upstream_id


class WholeAnswerTests(SynchronousTestCase):
    def test_answer(self) -> None:
        """An answer given whole is passed on under our identity, all its choices in it."""
        choices = [
            {"index": index, "finish_reason": "stop", "logprobs": {"content": []}, "message": {}}
            for index in range(2)
        ]
        answer = {"id": "12", "created": 1, "model": "x", "choices": choices, "usage": USAGE}
        responder = WholeAnswer(IDENTITY.sign)

        assert answer | SIGNED == decode(responder.take_body(encode(answer)))
        assert (True, 1, Usage(20, 8), "12") == (
            responder.done,
            responder.content_chunks,
            responder.usage,
            responder.upstream_id,
        )

    def test_refused(self) -> None:
        """An answer that was given up or cannot be understood is the node's fault."""
        for body in (
            b"OK",
            b"[]",
            b'{"id": "\xff"}',
            b"[" * 5_000,
            b'{"choices": {}}',
            b'{"choices": [{"finish_reason": "canceled"}]}',
        ):
            responder = WholeAnswer(IDENTITY.sign)
            with self.assertRaises(BadGateway) as caught:
                responder.take_body(body)
            assert caught.exception.elsewhere
            assert not responder.done

    def test_no_choices(self) -> None:
        """An answer without choices, on which every SDK relies, is the node's fault."""
        for body in (b"{}", b'{"choices": null}'):
            with self.assertRaises(BadGateway) as caught:
                WholeAnswer(IDENTITY.sign_whole).take_body(body)
            assert caught.exception.elsewhere

        assert SIGNED | {"choices": []} == decode(
            WholeAnswer(IDENTITY.sign_whole).take_body(b'{"choices": []}')
        )

    def test_no_stream(self) -> None:
        """A node that was not asked to stream must not."""
        error = failure(WholeAnswer(IDENTITY.sign), HELLO)

        assert BadGateway is type(error)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=150)
    @given(chat_streams(), st.lists(st.integers(0), max_size=12), st.booleans())
    def test_any_chunking(
        self, given_stream: tuple[Any, bytes], cuts: list[int], include_usage: bool
    ) -> None:
        """However the node's bytes are cut, the client's are the same."""
        _, data = given_stream
        for whole, pieces in pairs(include_usage=include_usage):
            assert relay(whole, data) == relay(pieces, *cut(data, cuts))

    @settings(max_examples=150)
    @given(chat_streams(), st.integers(0))
    def test_cut_short(self, given_stream: tuple[list[Any], bytes], place: int) -> None:
        """A stream that is cut off is an answer only if its finish reason had come whole."""
        _, data = given_stream
        (kept, _) = cut(data, [place])
        came = sse.SseDecoder().feed(kept)
        finished = any(b'"finish_reason":"' in event.data for event in came)
        for responder in both():
            if finished:
                assert relay(responder, kept)
            else:
                assert BadGateway is type(failure(responder, kept))
            assert finished == responder.done

    @settings(max_examples=150)
    @given(chat_streams())
    def test_streamed_and_gathered_agree(self, given_stream: tuple[list[Any], bytes]) -> None:
        """A client that streams and one that does not get the same text, calls and usage."""
        sent, data = given_stream
        pieces = accumulated(chunks_of(relay(chat_stream(include_usage=True), data)))
        whole = decode(relay(ChatAggregate(IDENTITY), data))
        (choice,) = whole["choices"]
        message = choice["message"]

        assert pieces == {
            "content": message["content"] or "",
            "reasoning": message.get("reasoning_content", ""),
            "calls": dict(enumerate(message.get("tool_calls", []))),
            "finish": choice["finish_reason"],
            "usage": whole["usage"],
        }
        assert pieces["content"] == "".join(
            chunk["choices"][0]["delta"]["content"] or "" for chunk in sent
        )
