"""Whatever a node sends, in whatever pieces: what a Messages client gets is of its dialect."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.exchange import Responder
from cortexd.dialects.wire.json_values import encode
from cortexd.dialects.wire.profile import Profile, ThinkingWish
from cortexd.errors import CortexError
from cortexd.sse import SseDecoder
from tests.dialects.message_answers import (
    Step,
    call_delta,
    calls,
    check,
    content_of,
    ending_of,
    events_of,
    factory,
    serve,
)
from tests.dialects.node_answers import USAGE, chat_chunk, chat_streams, cut, event, relay, stream

_WISHES = st.fixed_dictionaries(
    {
        "stop": st.lists(st.sampled_from(["END", "N", "\n\n", "ab"]), max_size=2),
        "thinking": st.sampled_from(ThinkingWish),
        "one_tool_call": st.booleans(),
        "profile": st.builds(
            Profile,
            context_window=st.sampled_from([None, 28, 4096]),
            inline_thinking=st.booleans(),
        ),
    }
)

_ODD = st.sampled_from([None, 0, -1, 7, 1.5, True, "", "x", [], {}, [None], {"a": None}, 2**80])
_TEXT = st.sampled_from(
    ["a", "END", "E", "N", "\n", " ", "", '"', "\\", "大", "ab" * 500, "<think>", "</thi", "nk>"]
)
_PIECES = st.sampled_from(
    ['{"a":1}', '{"a"', ":1}", "{}", "{", "}", "", " ", "null", '"', "\\", "x"]
)
_INDEXES = st.sampled_from([0, 1, 2, None, -1, "x", 2**70, True])
_IDS = st.sampled_from(["", "x", "y", "toolu_0ff_0", None])
_NAMES = st.sampled_from(["", "f", "g", None])
_FINISHES = st.sampled_from(["stop", "length", "tool_calls", "content_filter", "eos", ""])
_USAGES = st.sampled_from([None, USAGE, {}, {"prompt_tokens": None}, {"prompt_tokens": 2**70}, 7])


@st.composite
def _call_chunks(draw: st.DrawFn) -> dict[str, Any]:
    deltas = [
        call_delta(draw(_INDEXES), draw(st.none() | _PIECES), id=draw(_IDS), name=draw(_NAMES))
        for _ in range(draw(st.integers(1, 3)))
    ]
    return calls(*deltas, finish=draw(st.sampled_from([None, None, None, "tool_calls"])))


@st.composite
def _odd_chunks(draw: st.DrawFn) -> Any:
    """Return a chunk one field of which is of an odd type."""
    chunk = draw(_call_chunks())
    (choice,) = chunk["choices"]
    call = choice["delta"]["tool_calls"][0]
    places: list[tuple[Any, str]] = [
        (chunk, "choices"),
        (chunk, "error"),
        (chunk, "id"),
        (choice, "delta"),
        (choice, "finish_reason"),
        (choice, "stop_reason"),
        (choice["delta"], "content"),
        (choice["delta"], "reasoning"),
        (choice["delta"], "refusal"),
        (choice["delta"], "tool_calls"),
        (choice["delta"], "function_call"),
        (call, "function"),
        (call, "id"),
        (call["function"], "name"),
        (call["function"], "arguments"),
    ]
    parent, key = draw(st.sampled_from(places))
    parent[key] = draw(_ODD)
    return chunk


_CHUNKS = st.one_of(
    st.builds(chat_chunk, _TEXT),
    st.builds(chat_chunk, _TEXT),
    st.builds(lambda text: chat_chunk(reasoning_content=text), _TEXT),
    _call_chunks(),
    _call_chunks(),
    st.builds(lambda finish, usage: chat_chunk(finish=finish, usage=usage), _FINISHES, _USAGES),
    st.builds(lambda usage: {"choices": [], "usage": usage}, _USAGES),
    _odd_chunks(),
    st.sampled_from([b"[DONE]", b"CUDA error", b"7", b"", b"\xff", {"error": {"message": "x"}}]),
)
_STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.lists(_CHUNKS.map(event), min_size=1, max_size=4),
        st.sampled_from([5.0, 119.0, 120.0, 400.0]),
    ),
    max_size=12,
)


def outcome(make: Callable[[], Responder], pieces: list[bytes]) -> bytes:
    """Return what goes downstream of a node's stream in pieces, with its error if it has one."""
    responder, decoder = make(), SseDecoder()
    out: list[bytes] = []
    try:
        for piece in pieces:
            for each in decoder.feed(piece):
                out.append(responder.feed(each))
        out.append(responder.finish())
    except CortexError as error:
        out.append(responder.fail(error) or repr(error).encode())
    return b"".join(out)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=150)
    @given(chat_streams(), st.lists(st.integers(0), max_size=12), _WISHES, st.booleans())
    def test_any_chunking(
        self, given_stream: tuple[Any, bytes], cuts: list[int], wishes: Any, streams: bool
    ) -> None:
        """However the bytes of an answer are cut, the client's are the same."""
        _, data = given_stream
        make = factory(streams=streams, **wishes)

        assert outcome(make, [data]) == outcome(make, cut(data, cuts))

    @settings(max_examples=200)
    @given(st.lists(_CHUNKS, max_size=8), st.lists(st.integers(0), max_size=12), _WISHES)
    def test_any_chunking_of_anything(
        self, chunks: list[Any], cuts: list[int], wishes: Any
    ) -> None:
        """However the bytes of anything are cut, the client's are the same."""
        lines = [chunk if isinstance(chunk, bytes) else encode(chunk) for chunk in chunks]
        data = b"".join([b"data: " + line + b"\n\n" for line in lines])
        for streams in (True, False):
            make = factory(streams=streams, **wishes)
            assert outcome(make, [data]) == outcome(make, cut(data, cuts))

    @settings(max_examples=300)
    @given(st.lists(_STEPS, min_size=1, max_size=3), _WISHES)
    def test_hostile_nodes(self, attempts: list[list[Step]], wishes: Any) -> None:
        """Whatever nodes send, and however long they are silent, the stream is a valid one."""
        check(events_of(serve(factory(**wishes), attempts)))

    @settings(max_examples=150)
    @given(_STEPS, _WISHES)
    def test_hostile_nodes_of_whole_answers(self, steps: list[Step], wishes: Any) -> None:
        """Of whatever nodes send a whole message is made, or an error."""
        out = serve(factory(streams=False, **wishes), [steps])
        responder = factory(streams=False, **wishes)()
        for step in steps:
            try:
                for each in step if isinstance(step, list) else ():
                    out = out or responder.feed(each)
                out = out or responder.finish()
            except CortexError:
                break
        if out:
            message = json.loads(out)
            assert isinstance(message["stop_reason"], str)
            assert all(isinstance(block.get("input", {}), dict) for block in message["content"])

    @settings(max_examples=150)
    @given(chat_streams(), _WISHES)
    def test_streamed_and_gathered_agree(
        self, given_stream: tuple[Any, bytes], wishes: Any
    ) -> None:
        """Who streams and who does not get the same blocks, reason and counts."""
        _, data = given_stream
        events = events_of(relay(factory(**wishes)(), data))
        check(events)
        blocks = content_of(events)
        for block in blocks:
            if block["type"] == "tool_use":
                block["input"] = json.loads(block["input"])
        reason, usage = ending_of(events)
        whole = json.loads(relay(factory(streams=False, **wishes)(), data))

        assert whole["content"] == blocks
        assert reason["stop_reason"] == whole["stop_reason"]
        assert usage | {"service_tier": "standard"} == whole["usage"]

    @settings(max_examples=150)
    @given(chat_streams(), st.integers(0))
    def test_cut_short(self, given_stream: tuple[Any, bytes], place: int) -> None:
        """A stream that is cut off is an answer only if its finish reason had come whole."""
        _, data = given_stream
        (kept, _) = cut(data, [place])
        finished = any(b'"finish_reason":"' in each.data for each in SseDecoder().feed(kept))
        events = events_of(outcome(factory(), [kept]))
        check(events)

        assert ("message_stop" if finished else "error") == events[-1][0]


class HugeTests(SynchronousTestCase):
    def test_huge_text(self) -> None:
        """A text of megabytes in one chunk, and a search through it, come out whole."""
        text = "ab\n" * 1_000_000
        chunks = [chat_chunk(text), chat_chunk(finish="stop", usage=USAGE)]
        for stop in ([], ["END", "abab"]):
            events = events_of(relay(factory(stop=stop)(), stream(*chunks)))
            check(events)
            assert text == content_of(events)[0]["text"]

    def test_huge_arguments(self) -> None:
        """So do arguments of a megabyte in small pieces."""
        pieces = ['{"a":"', *(['}\\"{x' * 10] * 20_000), '"}']
        chunks = [calls(call_delta(0, piece, id="x", name="f")) for piece in pieces]
        events = events_of(
            relay(factory()(), stream(*chunks, chat_chunk(finish="stop", usage=USAGE)))
        )
        check(events)

        assert "".join(pieces) == content_of(events)[0]["input"]

    def test_many_calls(self) -> None:
        """Hundreds of calls at once are each told of, one after the other."""
        many = calls(*(call_delta(at, "{}", id=f"x{at}", name="f") for at in range(500)))
        events = events_of(relay(factory()(), stream(many, chat_chunk(finish="stop", usage=USAGE))))
        check(events)

        assert [f"x{at}" for at in range(500)] == [block["id"] for block in content_of(events)]
