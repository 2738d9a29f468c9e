"""Responses of nodes that answer them: requests passed on, and responses in one piece."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.responses import ROUTE, read_request
from cortexd.dialects.wire.exchange import Usage
from cortexd.dialects.wire.json_values import encode
from cortexd.errors import BadGateway
from cortexd.fleet.affinity import Kept, StateKind
from cortexd.sse import SseDecoder
from tests.dialects.bodies import (
    JSON_VALUES,
    assert_read_or_refused,
    bodies,
    refusal,
    upstream_body,
)
from tests.dialects.response_events import DELTA, NATIVE, exchange, responder, response

NAMES = st.sampled_from(["f", "g"])
FUNCTIONS = st.fixed_dictionaries({"type": st.just("function"), "name": NAMES})
TOOLS = st.one_of(
    FUNCTIONS,
    st.fixed_dictionaries({"type": st.just("web_search"), "external_web_access": st.booleans()}),
    st.fixed_dictionaries(
        {
            "type": st.just("namespace"),
            "name": NAMES,
            "tools": st.lists(FUNCTIONS | JSON_VALUES, max_size=2) | JSON_VALUES,
        }
    ),
    st.fixed_dictionaries({"type": st.text(max_size=4) | JSON_VALUES}),
    JSON_VALUES,
)
BODIES = bodies(
    {
        "model": st.just("m"),
        "input": st.text() | st.lists(JSON_VALUES, max_size=2),
        "stream": st.booleans(),
        "store": st.booleans(),
        "background": st.booleans(),
        "previous_response_id": st.sampled_from(["resp_1", ""]),
        "tools": st.lists(TOOLS, max_size=3),
        "tool_choice": st.sampled_from(["auto", "required", {"type": "web_search"}]),
    }
)


class RequestTests(SynchronousTestCase):
    def test_the_body_goes_up_as_it_is(self) -> None:
        """Only the model is another; what nobody here knows, and null, stay what they are."""
        fields = {
            "input": [{"role": "user", "content": "hi", "x": None}],
            "stream": None,
            "tools": [{"type": "function", "name": "f", "strict": None}],
            "include": ["reasoning.encrypted_content"],
            "big": 10**30,
        }
        assert fields == upstream_body(read_request, NATIVE, **fields)

    def test_exchange(self) -> None:
        """The node streams where the client takes a stream, and nowhere else."""
        for stream in (True, False):
            found = exchange(stream=stream)
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
            found = exchange(previous_response_id="resp_0", **{"stream": False, **fields})
            (reference,) = found.follows
            assert (is_kept, Kept(StateKind.RESPONSE, "resp_0"), "previous_response_id") == (
                found.first.is_kept,
                reference.kept,
                reference.param,
            ), fields

    def test_refused(self) -> None:
        """What decides where a request goes must be of its type."""
        cases: list[tuple[dict[str, object], str]] = [
            ({"previous_response_id": 7}, "previous_response_id"),
            ({"previous_response_id": ""}, "previous_response_id"),
            ({"stream": "yes"}, "stream"),
            ({"store": 1}, "store"),
            ({"background": []}, "background"),
            ({"background": True, "stream": True}, "stream"),
            ({"model": 7}, "model"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
        ]
        for fields, param in cases:
            assert param == refusal(read_request, NATIVE, **{"input": "hi", **fields}).param, fields

    def test_a_limit_that_no_node_heeds(self) -> None:
        """It is refused, as one of the calls that a node runs by itself must not be ignored."""
        error = refusal(read_request, NATIVE, input="hi", max_tool_calls=2)
        assert ("max_tool_calls", "unsupported_parameter") == (error.param, error.code)
        assert (
            upstream_body(read_request, NATIVE, input="hi", max_tool_calls=None)["max_tool_calls"]
            is None
        )

    @settings(max_examples=250)
    @given(BODIES)
    def test_any_body(self, body: bytes) -> None:
        """Any body is a request that can be sent, or a mistake of the client's."""
        assert_read_or_refused(read_request, body, [NATIVE])


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
