"""Whatever a node that speaks Messages sends: what a Messages client gets is of its dialect."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.messages_passed.answer import passed_factory
from cortexd.dialects.wire.profile import ThinkingWish
from cortexd.errors import CortexError
from cortexd.sse import SseDecoder
from tests.dialects.message_answers import asked, check, content_of, ending_of, events_of
from tests.dialects.node_answers import cut, relay
from tests.dialects.node_messages import (
    SHOWN,
    hostile_streams,
    message_stream,
    message_streams,
    told,
)


def outcome(pieces: list[bytes], *, streams: bool) -> bytes:
    """Return what goes downstream of a node's stream in pieces, with its error if it has one."""
    made, decoder = passed_factory(asked(streams=streams), thinking=SHOWN)(), SseDecoder()
    out: list[bytes] = []
    try:
        for piece in pieces:
            out += [made.feed(each) for each in decoder.feed(piece)]
        out.append(made.finish())
    except CortexError as caught:
        out.append(made.fail(caught) or repr(caught).encode())
    return b"".join(out)


_SILENCES = st.sampled_from([5.0, 119.0, 120.0, 400.0])
_ATTEMPTS = st.lists(
    st.tuples(st.lists(_SILENCES, max_size=2), hostile_streams, st.integers(0), _SILENCES),
    min_size=1,
    max_size=3,
)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=150)
    @given(message_streams(), st.lists(st.integers(0), max_size=12), st.booleans())
    def test_any_chunking(
        self, given_stream: tuple[Any, bytes], cuts: list[int], streams: bool
    ) -> None:
        """However the bytes of a message are cut, the client's are the same."""
        _, data = given_stream

        assert outcome([data], streams=streams) == outcome(cut(data, cuts), streams=streams)

    @settings(max_examples=400)
    @given(_ATTEMPTS, st.sampled_from(ThinkingWish))
    def test_hostile_nodes(self, attempts: list[Any], thinking: ThinkingWish) -> None:
        """Whatever nodes send, and however long they are silent, the stream is a valid one."""
        steps = []
        for silences, events, place, silence in attempts:
            at = place % (len(events) + 1)
            reads = [[each] for each in events]
            steps.append([*silences, *reads[:at], silence, *reads[at:]])

        told(*steps, thinking=thinking)

    @settings(max_examples=300)
    @given(hostile_streams)
    def test_hostile_nodes_of_whole_answers(self, events: list[Any]) -> None:
        """Of whatever a node sends a whole message is made, or an error."""
        made = passed_factory(asked(streams=False), thinking=SHOWN)()
        try:
            message = json.loads(relay(made, message_stream(*events)))
        except CortexError:
            return

        assert isinstance(message["stop_reason"], str)
        assert all(isinstance(block["type"], str) for block in message["content"])
        for each in message["content"]:
            if each["type"] == "tool_use":
                assert isinstance(each["input"], dict)

    @settings(max_examples=150)
    @given(message_streams())
    def test_streamed_and_gathered_agree(self, given_stream: tuple[Any, bytes]) -> None:
        """Who streams and who does not get the same blocks, reason and counts."""
        _, data = given_stream
        events = events_of(outcome([data], streams=True))
        check(events)
        blocks = content_of(events)
        for each in blocks:
            if each["type"] == "tool_use":
                each["input"] = json.loads(each["input"] or "{}")
        reason, usage = ending_of(events)
        whole = json.loads(outcome([data], streams=False))

        assert whole["content"] == blocks
        assert reason["stop_reason"] == whole["stop_reason"]
        assert usage.items() <= whole["usage"].items()

    @settings(max_examples=100)
    @given(message_streams(), st.integers(0))
    def test_cut_short(self, given_stream: tuple[Any, bytes], place: int) -> None:
        """A stream that is cut off is an answer only if its last event had come whole."""
        _, data = given_stream
        (kept, _) = cut(data, [place])
        is_whole = any(each.name == b"message_stop" for each in SseDecoder().feed(kept))
        events = events_of(outcome([kept], streams=True))
        check(events)

        assert ("message_stop" if is_whole else "error") == events[-1][0]
