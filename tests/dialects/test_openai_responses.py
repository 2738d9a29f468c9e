import itertools
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd import sse
from cortexd.dialects.exchange import Responder, Usage
from cortexd.dialects.json_values import decode, encode
from cortexd.dialects.openai_responses import ROUTE, read_request
from cortexd.errors import BadGateway, CortexError, ModelNotFound, NodeError, NodeTimeout
from cortexd.sse import SseDecoder
from tests.dialects.bodies import (
    JSON_VALUES,
    assert_read_or_refused,
    bodies,
    refusal,
    upstream_body,
)

BODIES = bodies(
    {
        "model": st.just("m"),
        "input": st.text() | st.lists(JSON_VALUES, max_size=2),
        "stream": st.booleans(),
        "store": st.booleans(),
        "background": st.booleans(),
        "previous_response_id": st.sampled_from(["resp_1", ""]),
    }
)


def responder(*, stream: bool = True, **fields: object) -> Responder:
    body = json.dumps({"model": "alias", "input": "hi", "stream": stream} | fields).encode()
    return read_request(body).exchange("org/target", random_id="x", now=7.5).first.make_responder()


def event(kind: str, **fields: object) -> bytes:
    """Return a node's event as bytes."""
    return sse.encode(encode({"type": kind, **fields}), kind.encode())


def response(status: str, **fields: object) -> dict[str, object]:
    return {"id": "resp_1", "object": "response", "model": "org/target", "status": status, **fields}


CREATED = event("response.created", response=response("in_progress", instructions="be kind"))
DELTA = event("response.output_text.delta", delta="hé\u2028 llo")
COMPLETED = event(
    "response.completed",
    response=response("completed", usage={"input_tokens": 3, "output_tokens": 2}),
)
WHOLE = CREATED + DELTA + DELTA + COMPLETED


def run(found: Responder, *pieces: bytes) -> bytes:
    """Return what a responder makes of a node's bytes."""
    decoder = SseDecoder()
    return b"".join(found.feed(each) for piece in pieces for each in decoder.feed(piece))


def failed(found: Responder, error: CortexError) -> dict[str, Any]:
    """Return the event by which a responder tells of an error."""
    (told,) = SseDecoder().feed(found.fail(error))
    assert b"response.failed" == told.name
    data: dict[str, Any] = decode(told.data)
    assert ("response.failed", "failed") == (data["type"], data["response"]["status"])
    return data


class RequestTests(SynchronousTestCase):
    def test_the_body_goes_up_as_it_is(self) -> None:
        """Only the model is another; what nobody here knows, and null, stay what they are."""
        fields = {
            "input": [{"role": "user", "content": "hi", "x": None}],
            "stream": None,
            "tools": [{"type": "namespace", "name": "n", "tools": []}],
            "include": ["reasoning.encrypted_content"],
            "big": 10**30,
        }
        assert fields == upstream_body(read_request, **fields)

    def test_exchange(self) -> None:
        """The node streams where the client takes a stream, and nowhere else."""
        for stream in (True, False):
            body = json.dumps({"model": "alias", "input": "hi", "stream": stream}).encode()
            found = read_request(body).exchange("org/target", random_id="x", now=0)
            assert (ROUTE, ROUTE, "org/target") == (found.route, found.first.path, found.model)
            assert (stream, stream) == (found.streams, found.first.streams)

    def test_what_is_kept(self) -> None:
        """A node keeps a response unless told not to, and always what it makes in background."""
        cases: list[tuple[dict[str, object], bool]] = [
            ({}, True),
            ({"store": None}, True),
            ({"store": True}, True),
            ({"store": False}, False),
            ({"store": False, "background": True}, True),
        ]
        for fields, is_kept in cases:
            body = json.dumps({"model": "m", "previous_response_id": "resp_0"} | fields).encode()
            found = read_request(body).exchange("m", random_id="x", now=0)
            assert (is_kept, "resp_0") == (found.is_kept, found.follows), fields

    def test_refused(self) -> None:
        """What decides where a request goes must be of its type."""
        cases: list[tuple[dict[str, object], str]] = [
            ({"previous_response_id": 7}, "previous_response_id"),
            ({"previous_response_id": ""}, "previous_response_id"),
            ({"stream": "yes"}, "stream"),
            ({"store": 1}, "store"),
            ({"background": []}, "background"),
            ({"background": True, "stream": True}, "stream"),
            ({"model": None}, "model"),
        ]
        for fields, param in cases:
            assert param == refusal(read_request, **fields).param, fields

    @settings(max_examples=250, deadline=None)
    @given(BODIES)
    def test_any_body(self, body: bytes) -> None:
        """Any body is a request that can be sent, or a mistake of the client's."""
        assert_read_or_refused(read_request, body)


class StreamTests(SynchronousTestCase):
    def test_events_are_passed_on_under_their_names(self) -> None:
        """Byte by byte what the node sent; id, usage and content are learnt on the way."""
        found = responder()

        assert WHOLE == run(found, WHOLE)
        assert (True, "resp_1", Usage(3, 2), 2) == (
            found.done,
            found.upstream_id,
            found.usage,
            found.content_chunks,
        )
        assert b"" == found.finish()

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.integers(0, len(WHOLE)), max_size=8))
    def test_any_chunking(self, cuts: list[int]) -> None:
        """However the bytes are cut, the same bytes go out."""
        edges = [0, *sorted(cuts), len(WHOLE)]
        pieces = [WHOLE[start:end] for start, end in itertools.pairwise(edges)]

        assert WHOLE == run(responder(), *pieces)

    def test_the_id_is_known_at_once(self) -> None:
        """With the first event, so that a client may cancel what it is being told."""
        found = responder()
        run(found, CREATED)

        assert ("resp_1", False) == (found.upstream_id, found.done)

    def test_each_end(self) -> None:
        """Three events end a response; nothing after them goes out."""
        for kind in ("response.completed", "response.failed", "response.incomplete"):
            last = event(kind, response=response("x"))
            found = responder()
            assert CREATED + last == run(found, CREATED + last + b"data: [DONE]\n\n" + DELTA)
            assert (True, "resp_1", None) == (found.done, found.upstream_id, found.usage)

    def test_without_names(self) -> None:
        """An event without a name is what its data say, and goes out without one."""
        bare = b"".join(
            b"data: " + line.removeprefix(b"data: ") + b"\n\n"
            for line in WHOLE.split(b"\n")
            if line.startswith(b"data: ")
        )
        found = responder()

        assert bare == run(found, bare)
        assert (True, "resp_1", 2) == (found.done, found.upstream_id, found.content_chunks)

    def test_events_of_the_node_alone(self) -> None:
        """Names that OpenAI does not have are passed on too, whatever their data are."""
        progress = sse.encode(b'{"round": 1}', b"agentic_tool_call_progress")

        assert progress == run(responder(), progress)

    def test_broken_off(self) -> None:
        """A stream that ends without its last event is broken, [DONE] or not."""
        for end in (b"", b"data: [DONE]\n\n"):
            found = responder()
            with self.assertRaises(BadGateway) as caught:
                run(found, CREATED + DELTA + end)
                found.finish()
            assert caught.exception.elsewhere

    def test_errors_of_the_node(self) -> None:
        """An error event, which Codex ignores, is an error here, in the node's words."""
        words = "sampling went wrong"
        for data in (
            {"type": "error", "sequence_number": 1, "error": {"code": "x", "message": words}},
            {"type": "error", "error_type": "x", "message": words},
        ):
            for name in (b"error", None):
                with self.assertRaises(NodeError) as caught:
                    run(responder(), CREATED + sse.encode(encode(data), name))
                assert words == caught.exception.message
        with self.assertRaises(NodeError) as caught:
            run(responder(), CREATED + sse.encode(words.encode()))
        assert words == caught.exception.message
        with self.assertRaises(NodeError) as caught:
            run(responder(), sse.encode(encode({"error": {"message": words}})))
        assert words == caught.exception.message

    def test_shapes_nobody_knows(self) -> None:
        """What cannot be understood is the node's fault, and another may do better."""
        for data, name in (
            (b"[1]", None),
            (b"{}", None),
            (b'{"type": 7}', None),
            (b'{"response": 1}', b"response.created"),
            (b"{}", b"response.completed"),
            (b"[]", b"response.completed"),
        ):
            with self.assertRaises(BadGateway) as caught:
                run(responder(), sse.encode(data, name))
            assert caught.exception.elsewhere

    def test_a_failure_in_the_middle(self) -> None:
        """It is the response of before, failed, with code and words, and the next number."""
        found = responder()
        run(found, CREATED + DELTA)

        told = failed(found, NodeTimeout("node a sent nothing for 600 s"))
        assert 2 == told["sequence_number"]
        assert (
            response(
                "failed",
                instructions="be kind",
                error={"code": "timeout", "message": "node a sent nothing for 600 s"},
            )
            == (told["response"])
        )

    def test_a_failure_before_anything(self) -> None:
        """It has what every response has, as far as it is known."""
        told = failed(responder(), ModelNotFound("gone"))

        assert 0 == told["sequence_number"]
        assert ("org/target", 7, [], "model_not_found") == (
            told["response"]["model"],
            told["response"]["created_at"],
            told["response"]["output"],
            told["response"]["error"]["code"],
        )

    def test_silence(self) -> None:
        """The sign of life is a comment, of which no client sees anything."""
        sign = responder().waiting(12.0)

        assert sign.startswith(b":")
        assert [] == SseDecoder().feed(sign)


class WholeTests(SynchronousTestCase):
    def test_passed_on(self) -> None:
        """Byte by byte, with id and usage learnt."""
        body = b'{ "id": "resp_9", "usage": {"input_tokens": 5, "output_tokens": 1}, "x": 1.50 }'
        found = responder(stream=False)

        assert body == found.take_body(body)
        assert ("resp_9", Usage(5, 1), True) == (found.upstream_id, found.usage, found.done)

    def test_what_has_no_usage_yet(self) -> None:
        """A response that is only queued has an id and no usage."""
        found = responder(stream=False, background=True)
        found.take_body(encode(response("queued")))

        assert ("resp_1", None) == (found.upstream_id, found.usage)

    def test_shapes_nobody_knows(self) -> None:
        """What is no object is the node's fault."""
        for body in (b"", b"[]", b"{", b'"x"'):
            with self.assertRaises(BadGateway) as caught:
                responder(stream=False).take_body(body)
            assert caught.exception.elsewhere

    def test_a_stream_that_nobody_asked_for(self) -> None:
        """It is refused, as a stream's responder refuses a whole answer."""
        (each,) = SseDecoder().feed(DELTA)
        with self.assertRaises(BadGateway):
            responder(stream=False).feed(each)
        with self.assertRaises(BadGateway):
            responder(stream=False).finish()
        with self.assertRaises(BadGateway):
            responder().take_body(b"{}")
