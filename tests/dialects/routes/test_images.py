import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.images import read_request
from cortexd.dialects.wire.json_values import decode, encode
from cortexd.errors import BadGateway
from tests.dialects.bodies import assert_read_or_refused, bodies, refusal, upstream_body

BODIES = bodies(
    {
        "model": st.just("m"),
        "prompt": st.text(),
        "size": st.sampled_from(["auto", "1x1", "0x0", "1024x1024", "1x1\n"]),
        "response_format": st.sampled_from(["url", "b64_json"]),
    }
)


def answered(body: object, **fields: object) -> object:
    """Return what a client gets of a node's answer."""
    request = read_request(json.dumps({"model": "m", "prompt": "cat"} | fields).encode())
    responder = request.exchange("m", random_id="x", now=0).first.make_responder()
    return decode(responder.take_body(encode(body)))


class ImagesTests(SynchronousTestCase):
    def test_the_node_is_asked_for_base64(self) -> None:
        """Whatever the client asked for: a node's own URL is a path on its disk."""
        for fields in ({}, {"response_format": "url"}, {"response_format": "b64_json"}):
            sent = upstream_body(read_request, prompt="cat", n=2, quality=None, **fields)
            assert {"prompt": "cat", "n": 2, "response_format": "B64Json"} == sent

    def test_size(self) -> None:
        """OpenAI's size is width and height to a node; the node chooses where it is auto."""
        assert (640, 480) == (
            upstream_body(read_request, prompt="cat", size="640x480")["width"],
            upstream_body(read_request, prompt="cat", size="640x480")["height"],
        )
        assert "width" not in upstream_body(read_request, prompt="cat", size="auto")

    def test_each_format(self) -> None:
        """The image stands in the field that was asked for: in a URL that holds it, or bare."""
        whole = {"created": 1, "data": [{"url": None, "b64_json": "QQ=="}]}

        assert {"created": 1, "data": [{"b64_json": "QQ=="}]} == answered(whole)
        assert {
            "created": 1,
            "data": [{"url": "data:image/png;base64,QQ=="}],
        } == answered(whole, response_format="url")

    def test_refused(self) -> None:
        """What a node cannot do is refused by its field."""
        cases: list[tuple[dict[str, object], str]] = [
            ({"prompt": None}, "prompt"),
            ({"response_format": "B64Json"}, "response_format"),
            ({"size": "big"}, "size"),
            ({"size": "0x10"}, "size"),
            ({"size": 7}, "size"),
            ({"stream": True}, "stream"),
        ]
        for fields, param in cases:
            assert param == refusal(read_request, **{"prompt": "cat"} | fields).param, fields

    def test_shapes_nobody_knows(self) -> None:
        """An answer without images is the node's fault."""
        bad: list[object] = [{}, {"data": 1}, {"data": [1]}, {"data": [{"url": "/images/x.png"}]}]
        for body in bad:
            with self.assertRaises(BadGateway):
                answered(body)

    @settings(max_examples=150)
    @given(BODIES)
    def test_any_body(self, body: bytes) -> None:
        """Any body is a request that can be sent, or a mistake of the client's."""
        assert_read_or_refused(read_request, body)
