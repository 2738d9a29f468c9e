"""The short way of a chunk."""

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd import sse
from cortexd.dialects.nodes.chat_stream import Identity
from cortexd.dialects.openai.chat_answer import ChatStream
from cortexd.dialects.routes.completions import CompletionStream
from cortexd.dialects.wire.frames import Mould, learn
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.sse import ServerSentEvent

KEY = b'"content":"'


def frame(text: str, **changed: object) -> bytes:
    choice = {
        "index": 0,
        "finish_reason": None,
        "logprobs": None,
        "delta": {"role": "assistant", "content": text, "tool_calls": None},
    }
    chunk = {"id": "13", "created": 1, "model": "m", "usage": None, "choices": [choice], **changed}
    return encode(chunk)


def render(chunk: JsonObject) -> bytes:
    return b"data: " + encode({"ours": chunk["choices"][0]["delta"]["content"]}) + b"\n\n"


def learned(text: str = "he") -> Mould:
    mould = learn(frame(text), KEY, text, render)
    assert mould is not None
    return mould


def chat() -> ChatStream:
    return ChatStream(Identity("chatcmpl-1", 5, "model"), include_usage=True)


def said(stream: bytes) -> list[object]:
    return [json.loads(event[6:]) for event in stream.decode().split("\n\n") if event]


class MouldTests(SynchronousTestCase):
    def test_a_fitting_chunk_is_cast(self) -> None:
        """A chunk in the learned frame comes out in ours, with its own text."""
        mould = learned()

        assert b'data: {"ours":" w\xc3\xb6rld"}\n\n' == mould.cast(sse.encode(frame(" wörld")))
        assert mould.has_fitted

    def test_what_does_not_fit_goes_the_long_way(self) -> None:
        """Another frame, an escape, a control character, torn UTF-8 or no text is not cast."""
        mould = learned()
        others = [
            frame("x", created=2),
            frame("x", usage={"prompt_tokens": 1}),
            frame('say "x"'),
            frame("two\nlines"),
            frame("back\\slash"),
            frame(""),
            frame("x").replace(b'"x"', b'"\xff"'),
            frame("x").replace(b'"x"', b'"\x01"'),
            frame("x").replace(b'"x"', b"null"),
            frame("x")[:-1],
            b"[DONE]",
        ]

        assert [None] * len(others) == [mould.cast(sse.encode(other)) for other in others]
        assert not mould.has_fitted

    def test_a_frame_that_repeats_the_text_is_not_learned(self) -> None:
        """Where the text stands twice it cannot be told which of them is the text."""
        twice = frame("he", other={"content": "he"})

        assert learn(twice, KEY, "he", render) is None

    def test_an_escaped_text_teaches_nothing(self) -> None:
        """A text that is written otherwise than it reads is no place to cut."""
        for text in ("two\nlines", 'a "b"', "c\\d", ""):
            assert learn(frame(text), KEY, text, render) is None

    @given(st.lists(st.text(max_size=6), max_size=12))
    def test_the_short_way_says_what_the_long_way_says(self, texts: list[str]) -> None:
        """A stream says the same, chunk for chunk, whether its chunks were cast or not."""
        events = [ServerSentEvent(frame(text)) for text in ["a", "b", *texts]]
        streamed = chat()
        short = [said(streamed.feed(event)) for event in events]
        long = []
        for index, event in enumerate(events):
            alone = chat()
            if index:
                alone.feed(ServerSentEvent(frame("", id=str(index))))
            long.append(said(alone.feed(event)))

        assert long == short
        assert sum(bool(text) for text in ["a", "b", *texts]) == streamed.content_chunks

    def test_a_frame_learned_in_vain_is_the_last(self) -> None:
        """A node whose frames differ each time is not asked to teach again and again."""
        stream = chat()
        for created in range(5):
            assert said(stream.feed(ServerSentEvent(frame(f"t{created}", created=created))))

        assert said(stream.feed(ServerSentEvent(frame("again", created=1))))
        assert 6 == stream.content_chunks

    def test_completions_take_the_short_way_too(self) -> None:
        """A stream of text says each of its texts under our identity."""
        stream = CompletionStream(
            Identity("cmpl-1", 5, "model"), include_usage=False, prompt_bytes=8
        )
        texts = ["one", " two", " three", ' "four"', " five"]
        chunks = [
            encode({"id": "3", "choices": [{"index": 0, "text": text, "finish_reason": None}]})
            for text in texts
        ]
        out = [said(stream.feed(ServerSentEvent(chunk)))[0] for chunk in chunks]

        assert texts == [chunk["choices"][0]["text"] for chunk in out]  # type: ignore[index] # JSON
        assert {"cmpl-1"} == {chunk["id"] for chunk in out}  # type: ignore[index] # JSON
        assert 5 == stream.content_chunks
