import base64
import json
import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.embeddings import ROUTE, read_request
from cortexd.dialects.wire.exchange import Responder, Usage
from cortexd.dialects.wire.json_values import decode, encode
from cortexd.errors import BadGateway
from tests.dialects.bodies import assert_read_or_refused, bodies, refusal, upstream_body

BODIES = bodies(
    {
        "model": st.just("m"),
        "input": st.text() | st.lists(st.text(), max_size=2) | st.lists(st.integers(0, 9)),
        "encoding_format": st.sampled_from(["float", "base64"]),
        "dimensions": st.integers(1, 9),
    }
)


def responder(**fields: object) -> Responder:
    body = json.dumps({"model": "alias", "input": "hi"} | fields).encode()
    return read_request(body).exchange("org/target", random_id="x", now=0).first.make_responder()


def answer(*vectors: object) -> dict[str, Any]:
    """Return what a node answers with these vectors."""
    return {
        "object": "list",
        "model": "org/base",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


class RequestTests(SynchronousTestCase):
    def test_exchange(self) -> None:
        """The node is asked for numbers, once, and cannot stream them."""
        request = read_request(
            b'{"model": "alias", "input": ["a"], "encoding_format": "base64", "user": null}'
        )
        found = request.exchange("org/target", random_id="x", now=0)

        assert (ROUTE, ROUTE, "org/target") == (found.route, found.first.path, found.model)
        assert (False, False) == (found.streams, found.first.streams)
        assert {"model": "org/target", "input": ["a"]} == decode(found.first.body)

    def test_inputs(self) -> None:
        """Texts, lists of texts and lists of tokens are the node's to judge."""
        inputs: list[object] = ["a", ["a", "b"], [1, 2], [[1], [2]], []]
        for given_input in inputs:
            assert given_input == upstream_body(read_request, input=given_input)["input"]

    def test_refused(self) -> None:
        """No input, and an encoding nobody knows, are refused by their field."""
        cases: list[tuple[dict[str, object], str, str]] = [
            ({"input": None}, "input", "found null"),
            ({"input": {}}, "input", "found an object"),
            ({"encoding_format": "hex"}, "encoding_format", '"base64"'),
            ({"encoding_format": []}, "encoding_format", '"base64"'),
        ]
        for fields, param, words in cases:
            error = refusal(read_request, **{"input": "hi"} | fields)
            assert param == error.param
            assert words in error.message

    @settings(max_examples=250)
    @given(BODIES)
    def test_any_body(self, body: bytes) -> None:
        """Any body is a request that can be sent, or a mistake of the client's."""
        assert_read_or_refused(read_request, body)


class AnswerTests(SynchronousTestCase):
    def test_numbers(self) -> None:
        """Numbers are passed on as they are, under the catalogue's model, with their usage."""
        for fields in ({}, {"encoding_format": "float"}, {"encoding_format": None}):
            found = responder(**fields)
            given_answer = answer([0.5, -1.25], [2, 3])
            assert given_answer | {"model": "org/target"} == decode(
                found.take_body(encode(given_answer))
            )
            assert (Usage(3, 0), True) == (found.usage, found.done)

    @settings(max_examples=100)
    @given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False))))
    def test_base64(self, vectors: list[list[float]]) -> None:
        """Base64 is that of little-endian 32-bit floats, one after the other."""
        body = responder(encoding_format="base64").take_body(encode(answer(*vectors)))

        assert [struct.pack(f"<{len(vector)}f", *vector) for vector in vectors] == [
            base64.b64decode(item["embedding"], validate=True) for item in decode(body)["data"]
        ]

    def test_encoded_by_the_node(self) -> None:
        """What a node has encoded itself is passed on."""
        body = responder(encoding_format="base64").take_body(encode(answer("AACAPw==")))

        assert "AACAPw==" == decode(body)["data"][0]["embedding"]

    def test_shapes_nobody_knows(self) -> None:
        """An answer that cannot be encoded is the node's fault, and another may do better."""
        bad: list[object] = [
            {},
            {"data": None},
            {"data": {"a": 1}},
            {"data": [{}]},
            answer(None),
            answer({}),
            answer(7),
            answer(["1"]),
            answer([10**400]),
        ]
        for given_answer in bad:
            with self.assertRaises(BadGateway) as caught:
                responder(encoding_format="base64").take_body(json.dumps(given_answer).encode())
            assert caught.exception.elsewhere
