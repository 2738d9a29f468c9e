import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.chat_stream import Identity, WholeAnswer
from cortexd.dialects.routes.completions import ROUTE, CompletionStream, read_request
from cortexd.dialects.wire.exchange import Exchange, Usage
from cortexd.dialects.wire.json_values import decode, encode
from cortexd.errors import BadGateway
from tests.dialects.bodies import assert_read_or_refused, bodies, refusal, upstream_body
from tests.dialects.node_answers import (
    DONE,
    KEEP_ALIVE,
    USAGE,
    chunks_of,
    cut,
    event,
    failure,
    relay,
    stream,
    text_chunk,
)

IDENTITY = Identity("cmpl-ours", 1_790_000_100, "acme/chat")
SIGNED = {"id": "cmpl-ours", "created": 1_790_000_100, "model": "acme/chat"}
ANSWER = stream(text_chunk("he"), text_chunk("llo", finish="stop"))
PROMPTS = st.text() | st.lists(st.text(), max_size=2) | st.lists(st.integers(0, 9), max_size=2)
BODIES = bodies(
    {
        "model": st.just("m"),
        "prompt": PROMPTS,
        "stream": st.booleans(),
        "stream_options": st.just({"include_usage": True}),
        "n": st.sampled_from([1, 2]),
        "max_tokens": st.integers(1, 9),
    }
)


def responder(*, include_usage: bool = False) -> CompletionStream:
    return CompletionStream(IDENTITY, include_usage=include_usage, prompt_bytes=36)


def exchange(**fields: object) -> Exchange:
    body = json.dumps({"model": "alias", "prompt": "once"} | fields).encode()
    return read_request(body).exchange("org/target", random_id="abc", now=1_790_000_000.9)


def sent(**fields: object) -> Any:
    return upstream_body(read_request, **{"prompt": "once"} | fields)


class RequestTests(SynchronousTestCase):
    def test_streams_only_if_the_client_does(self) -> None:
        """The node's stream counts no tokens, so it is asked for only where the client streams."""
        for streams, kind in ((True, CompletionStream), (False, WholeAnswer)):
            found = exchange(stream=streams)
            assert (ROUTE, ROUTE, "org/target") == (found.route, found.first.path, found.model)
            assert (streams, streams) == (found.streams, found.first.streams)
            assert streams is decode(found.first.body)["stream"]
            assert isinstance(found.first.make_responder(), kind)

    def test_body(self) -> None:
        """Fields pass through but for nulls and the stream's options; one prompt is a string."""
        fields = {"max_tokens": 5, "suffix": "end", "seed": 10**30}

        assert fields | {"prompt": "once", "stream": True} == sent(
            **fields, stream=True, stream_options={"include_usage": True}, logprobs=None
        )
        assert "once" == sent(prompt=["once"])["prompt"]

    def test_refused(self) -> None:
        """Any other prompt, and several choices in a stream, are refused by their field."""
        cases: list[tuple[dict[str, object], str, str]] = [
            ({"prompt": None}, "prompt", "found null"),
            ({"prompt": ["a", "b"]}, "prompt", "found an array"),
            ({"prompt": [1, 2]}, "prompt", "found an array"),
            ({"prompt": {}}, "prompt", "found an object"),
            ({"stream": 1}, "stream", "found a number"),
            ({"stream": True, "n": 2}, "n", "cannot be streamed"),
            ({"max_tokens": 0}, "max_tokens", "1 or more"),
        ]
        for fields, param, words in cases:
            error = refusal(read_request, **{"prompt": "once"} | fields)
            assert param == error.param
            assert words in error.message

    @settings(max_examples=250)
    @given(BODIES)
    def test_any_body(self, body: bytes) -> None:
        """Any body is a request that can be sent, or a mistake of the client's."""
        assert_read_or_refused(read_request, body)


class StreamTests(SynchronousTestCase):
    def test_chunks(self) -> None:
        """A chunk of the node is ours but for its id, its time and its model."""
        chunks = chunks_of(relay(responder(), ANSWER))

        assert [
            text_chunk("he") | SIGNED,
            text_chunk("llo", finish="stop") | SIGNED,
        ] == chunks

    def test_estimated_usage(self) -> None:
        """A client that asked gets an estimate, marked as one, after chunks whose usage is null."""
        asked = responder(include_usage=True)
        *chunks, last = chunks_of(relay(asked, ANSWER))

        assert [None, None] == [chunk["usage"] for chunk in chunks]
        assert last == SIGNED | {
            "object": "text_completion",
            "choices": [],
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "total_tokens": 12,
                "estimated": True,
            },
        }
        assert Usage(10, 2, estimated=True) == asked.usage

    def test_usage_unasked(self) -> None:
        """A client that did not ask gets none, but the estimate is there for the metrics."""
        unasked = responder()

        assert b"usage" not in relay(unasked, ANSWER)
        assert Usage(10, 2, estimated=True) == unasked.usage

    def test_counted_usage(self) -> None:
        """Where a node does count, its count is told and not the estimate."""
        counting = responder(include_usage=True)
        *_, last = chunks_of(
            relay(counting, stream(text_chunk("a", finish="stop") | {"usage": USAGE}))
        )

        assert USAGE == last["usage"]
        assert Usage(20, 8) == counting.usage

    def test_prompt_of_an_estimate(self) -> None:
        """The estimate of a prompt is by its bytes, whatever they spell."""
        found = exchange(prompt="é" * 18, stream=True).first.make_responder()
        relay(found, ANSWER)

        assert Usage(10, 2, estimated=True) == found.usage

    def test_end(self) -> None:
        """The stream is complete once a finish reason came; it ends once; before, it is broken."""
        bare = responder()
        assert relay(responder(), ANSWER) == relay(bare, ANSWER.removesuffix(DONE))
        assert bare.done
        assert relay(responder(), ANSWER) == relay(responder(), ANSWER + DONE)
        for end in (DONE, b""):
            error = failure(responder(), stream(text_chunk("he"), KEEP_ALIVE, end=end))
            assert BadGateway is type(error)

    def test_shapes_nobody_knows(self) -> None:
        """What cannot be understood is the node's fault."""
        chunks: list[object] = [[], {"choices": "x"}, {"choices": [{"text": 7}]}]
        for chunk in chunks:
            with self.assertRaises(BadGateway):
                responder().feed(event(chunk))

    @settings(max_examples=100)
    @given(st.lists(st.text()), st.lists(st.integers(0), max_size=9), st.integers(0))
    def test_any_cut(self, texts: list[str], cuts: list[int], place: int) -> None:
        """Bytes cut anywhere mean the same; a stream cut short is never finished."""
        data = stream(*(text_chunk(text) for text in texts), text_chunk("", finish="length"))
        plain = relay(responder(), data)

        assert plain == relay(responder(), *cut(data, cuts))
        assert "".join(texts) == "".join(chunk["choices"][0]["text"] for chunk in chunks_of(plain))
        unfinished = data[: place % data.index(b'"length"')]
        assert BadGateway is type(failure(responder(), unfinished))


class WholeAnswerTests(SynchronousTestCase):
    def test_answer(self) -> None:
        """An answer given whole has the node's own counts and our identity."""
        answer = text_chunk("hello", finish="stop") | {"usage": USAGE}
        found = exchange().first.make_responder()

        assert answer | {
            "id": "cmpl-abc",
            "created": 1_790_000_000,
            "model": "org/target",
        } == decode(found.take_body(encode(answer)))
        assert Usage(20, 8) == found.usage

    def test_token_probabilities(self) -> None:
        """Whole or streamed, they come in the shape that completions have, with their places."""

        def token(text: str) -> dict[str, Any]:
            return {"token": text, "logprob": -0.5, "bytes": [], "top_logprobs": []}

        def told(text: str, logprobs: Any, finish: str | None = None) -> dict[str, Any]:
            chunk = text_chunk(text, finish=finish)
            chunk["choices"][0]["logprobs"] = logprobs
            return chunk

        words = ["he", "llo", " you"]
        whole = told("".join(words), {"content": [token(word) for word in words]}, "stop")
        answer = decode(exchange(logprobs=0).first.make_responder().take_body(encode(whole)))
        found = answer["choices"][0]["logprobs"]
        assert (words, [0, 2, 5]) == (found["tokens"], found["text_offset"])
        assert ([-0.5] * 3, [{}] * 3) == (found["token_logprobs"], found["top_logprobs"])

        pieces = [told("he", token("he")), told("llo", None), told(" you", token(" you"))]
        streamed = exchange(logprobs=0, stream=True).first.make_responder()
        chunks = chunks_of(relay(streamed, stream(*pieces, text_chunk("", finish="stop"))))
        probabilities = [chunk["choices"][0]["logprobs"] for chunk in chunks]
        assert [[0], None, [5], None] == [each and each["text_offset"] for each in probabilities]
