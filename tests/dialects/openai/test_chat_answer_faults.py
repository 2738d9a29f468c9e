"""What a node's chat answer may have wrong, and what the client gets then."""

from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.chat_stream import Identity
from cortexd.dialects.openai.chat_answer import ChatAggregate, ChatStream
from cortexd.dialects.wire.exchange import Responder
from cortexd.errors import BadGateway, ContextOverflow, NodeError
from tests.dialects.node_answers import (
    DONE,
    KEEP_ALIVE,
    USAGE,
    chat_chunk,
    event,
    failure,
    relay,
    stream,
)

IDENTITY = Identity("chatcmpl-ours", 1_790_000_100, "acme/chat")
HELLO = stream(chat_chunk("he"), chat_chunk("llo", finish="stop", usage=USAGE))


def chat_stream(*, include_usage: bool = False) -> ChatStream:
    return ChatStream(IDENTITY, include_usage=include_usage)


def both() -> tuple[ChatStream, ChatAggregate]:
    return chat_stream(), ChatAggregate(IDENTITY)


def pairs(*, include_usage: bool = False) -> Iterator[tuple[Responder, Responder]]:
    """Return two responders of each kind, to compare their answers."""
    yield chat_stream(include_usage=include_usage), chat_stream(include_usage=include_usage)
    yield ChatAggregate(IDENTITY), ChatAggregate(IDENTITY)


class FaultTests(SynchronousTestCase):
    def assert_fails(self, data: object, kind: type[Exception], words: str) -> None:
        """Assert that both responders fail so at this event, though an answer had begun."""
        for responder in both():
            responder.feed(event(chat_chunk("a")))
            try:
                out = responder.feed(event(data))
            except (BadGateway, ContextOverflow, NodeError) as error:
                found = error
            else:
                raise AssertionError(f"{data!r} gave {out!r}")
            assert kind is type(found), found
            assert words in found.message
            assert not responder.done

    def test_errors_of_the_node(self) -> None:
        """Errors in a stream are the node's, as a line of text up to v0.9.2, as JSON since."""
        words = "Prompt sequence length is greater than 64, perhaps consider using ..."
        wrapped = {"message": words, "type": "server_error", "param": None, "code": None}
        for data in (
            words.encode(),
            {"error": wrapped},
            {"error": words},
            {"error": wrapped, "choices": []},
        ):
            self.assert_fails(data, ContextOverflow, words)
        self.assert_fails(b"CUDA error: \xff", NodeError, "CUDA error: \N{REPLACEMENT CHARACTER}")
        self.assert_fails(b'"torn \xff"', NodeError, "torn")
        self.assert_fails(b"", NodeError, "without a message")
        self.assert_fails({"error": {"code": 7}}, NodeError, '{"code":7}')
        self.assert_fails(b"[" * 5_000, NodeError, "[[[")

    def test_answers_given_up(self) -> None:
        """An answer that the node canceled is no answer."""
        for reason in ("canceled", "error"):
            self.assert_fails(chat_chunk("b", finish=reason), BadGateway, f"({reason})")

    def test_shapes_nobody_knows(self) -> None:
        """What cannot be understood is the node's fault, named by its field."""
        for data, words in (
            ([], "not an object"),
            (7, "not an object"),
            ({"choices": {}}, "'choices'"),
            ({"choices": "x"}, "'choices'"),
            ({"choices": [1]}, "'choices'"),
            ({"choices": [{"delta": "x"}]}, "'delta'"),
            (chat_chunk(finish={}), "'finish_reason'"),
            (chat_chunk(finish=1), "'finish_reason'"),
            (chat_chunk(content=7), "'content'"),  # type: ignore[arg-type] # what is tested
            (chat_chunk(reasoning_content=["x"]), "'reasoning_content'"),
            (chat_chunk(tool_calls={}), "'tool_calls'"),
            (chat_chunk(tool_calls=["f"]), "'tool_calls'"),
            (chat_chunk(tool_calls=[{"function": "f"}]), "'function'"),
            (chat_chunk(tool_calls=[{"function": {"arguments": {}}}]), "'arguments'"),
        ):
            self.assert_fails(data, BadGateway, words)

    def test_end_without_finish(self) -> None:
        """A stream that ends without a reason is broken off, ``[DONE]`` or not."""
        for chunk in (chat_chunk("a"), chat_chunk("a", finish=""), KEEP_ALIVE):
            for end in (DONE, b""):
                for responder in both():
                    error = failure(responder, stream(chunk, end=end))
                    assert BadGateway is type(error)
                    assert error.elsewhere
                    assert not responder.done

    def test_finish_without_done(self) -> None:
        """A stream whose answer has ended is complete, though ``[DONE]`` is missing."""
        whole = HELLO.removesuffix(DONE)
        for answered, bare in pairs():
            assert relay(answered, HELLO) == relay(bare, whole)
            assert bare.done

    def test_no_stream(self) -> None:
        """A node that was asked to stream must."""
        for responder in both():
            with self.assertRaises(BadGateway):
                responder.take_body(b"{}")
