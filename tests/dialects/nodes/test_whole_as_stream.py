import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.chat_stream import Identity
from cortexd.dialects.nodes.whole_as_stream import WholeAsStream, with_whole
from cortexd.dialects.openai.chat_answer import ChatAggregate, ChatStream
from cortexd.dialects.wire.exchange import Translation
from cortexd.errors import BadGateway
from cortexd.sse import ServerSentEvent

IDENTITY = Identity("chatcmpl-ours", 1_790_000_100, "acme/chat")
USAGE = {"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 28}
ARGUMENTS = st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2).map(json.dumps)
CALLS = st.lists(ARGUMENTS, max_size=3).map(
    lambda several: [
        {"index": i, "id": f"call-{i}", "type": "function", "function": {"name": "f"}}
        | {"function": {"name": f"f{i}", "arguments": arguments}}
        for i, arguments in enumerate(several)
    ]
)


def answer(**message: object) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return json.dumps({"id": "7", "choices": [choice], "usage": USAGE}).encode()


def forced(tool_choice: object, *, streams: bool = True) -> Translation:
    upstream = {"model": "m", "stream": streams, "tool_choice": tool_choice}
    translation = Translation(
        path="/", body=b"{}", streams=streams, make_responder=lambda: ChatAggregate(IDENTITY)
    )
    return with_whole(translation, upstream)


class WholeTests(SynchronousTestCase):
    def test_which(self) -> None:
        """Only a stream that forces a call can be asked whole, with the same body but for that."""
        for free in ("auto", "none", None):
            assert None is forced(free).whole
        assert None is forced("required", streams=False).whole
        choices: tuple[object, ...] = ("required", {"type": "function", "function": {"name": "f"}})
        for choice in choices:
            whole = forced(choice).whole
            assert whole is not None
            assert not whole.streams
            assert {"model": "m", "tool_choice": choice} == json.loads(whole.body)

    @settings(max_examples=50)
    @given(st.text(max_size=5), st.text(max_size=5), CALLS)
    def test_same_message(self, content: str, thinking: str, calls: list[dict[str, Any]]) -> None:
        """Collected again, the chunks make the message that the node gave."""
        body = answer(content=content, reasoning_content=thinking, tool_calls=calls)
        responder = WholeAsStream(ChatAggregate(IDENTITY))
        told = json.loads(responder.take_body(body))

        message = told["choices"][0]["message"]
        assert (thinking or None) == message.get("reasoning_content")
        assert content == (message["content"] or "")
        given = [{name: call[name] for name in ("id", "type", "function")} for call in calls]
        assert given == message.get("tool_calls", [])
        assert (USAGE, "stop") == (told["usage"], told["choices"][0]["finish_reason"])
        assert (True, "7") == (responder.done, responder.upstream_id)

    def test_stream(self) -> None:
        """A client with a stream gets each part in a chunk, and the end as in any stream."""
        responder = WholeAsStream(ChatStream(IDENTITY, include_usage=False))
        call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
        told = responder.take_body(answer(content="hi", tool_calls=[call])).decode()
        *events, last = [each.removeprefix("data: ") for each in told.split("\n\n") if each]

        assert "[DONE]" == last
        deltas = [json.loads(each)["choices"][0]["delta"] for each in events]
        assert [{"role": "assistant", "content": "hi"}, {"tool_calls": [call]}, {}] == deltas
        assert all({"finish_reason", "index"} <= json.loads(e)["choices"][0].keys() for e in events)

    def test_faults(self) -> None:
        """An answer without a message, or a stream, is a fault of the node."""
        for body in (b"{}", b'{"choices":[]}', b'{"choices":[{"message":1}]}', b"[]", b"{"):
            with self.assertRaises(BadGateway):
                WholeAsStream(ChatAggregate(IDENTITY)).take_body(body)
        with self.assertRaises(BadGateway):
            WholeAsStream(ChatAggregate(IDENTITY)).feed(ServerSentEvent(b"{}", b"message"))
        with self.assertRaises(BadGateway):
            WholeAsStream(ChatAggregate(IDENTITY)).finish()
