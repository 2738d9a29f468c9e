import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.speech import read_request
from cortexd.dialects.wire.exchange import Responder
from cortexd.errors import BadGateway
from cortexd.sse import ServerSentEvent
from tests.dialects.bodies import assert_read_or_refused, bodies, refusal, upstream_body

BODIES = bodies(
    {
        "model": st.just("m"),
        "input": st.text(),
        "voice": st.just("alloy"),
        "response_format": st.sampled_from(["wav", "pcm", "mp3"]),
    }
)


def responder(**fields: object) -> Responder:
    body = json.dumps({"model": "m", "input": "hi"} | fields).encode()
    return read_request(body).exchange("m", random_id="x", now=0).first.make_responder()


class SpeechTests(SynchronousTestCase):
    def test_a_format_is_always_named(self) -> None:
        """A node refuses a request that names none: wav is taken where the client does not say."""
        assert {"input": "hi", "response_format": "wav"} == upstream_body(read_request, input="hi")
        assert (
            "pcm"
            == upstream_body(read_request, input="hi", response_format="pcm")["response_format"]
        )

    def test_the_sound_is_passed_on(self) -> None:
        """Bytes as they are, under the type of what was asked for."""
        sound = bytes(range(256))
        for kind in ("wav", "pcm"):
            found = responder(response_format=kind)
            assert sound == found.take_body(sound)
            assert (f"audio/{kind}", True, 1) == (
                found.content_type,
                found.done,
                found.content_chunks,
            )

    def test_refused(self) -> None:
        """Formats no node makes, and what is no text, are refused by their field."""
        cases: list[tuple[dict[str, object], str]] = [
            ({"input": None}, "input"),
            ({"input": ["hi"]}, "input"),
            ({"response_format": "mp3"}, "response_format"),
            ({"response_format": {}}, "response_format"),
            ({"stream_format": "sse"}, "stream_format"),
        ]
        for fields, param in cases:
            assert param == refusal(read_request, **{"input": "hi"} | fields).param, fields
        assert "unsupported_value" == refusal(read_request, input="hi", response_format="mp3").code

    def test_no_sound(self) -> None:
        """An empty answer, or one in events, is the node's fault."""
        with self.assertRaises(BadGateway):
            responder().take_body(b"")
        with self.assertRaises(BadGateway):
            responder().feed(ServerSentEvent(b"x"))
        with self.assertRaises(BadGateway):
            responder().finish()

    @settings(max_examples=150)
    @given(BODIES)
    def test_any_body(self, body: bytes) -> None:
        """Any body is a request that can be sent, or a mistake of the client's."""
        assert_read_or_refused(read_request, body)
