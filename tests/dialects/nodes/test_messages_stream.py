"""A node's Messages stream, read and checked."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.messages_stream import NEXT, MessagesReader, Phase
from cortexd.dialects.wire.exchange import Usage
from cortexd.dialects.wire.token_counts import TokenCounts
from cortexd.errors import (
    BadGateway,
    CortexError,
    NodeError,
    Overloaded,
)
from cortexd.sse import ServerSentEvent, SseDecoder
from tests.covers import covers
from tests.dialects.node_answers import cut
from tests.dialects.node_messages import (
    CITATION,
    END_USAGE,
    ODD_EVENT,
    PING,
    SERVER_CALL,
    START_USAGE,
    STOPPED,
    block,
    block_delta,
    block_start,
    block_stop,
    call_block,
    ended,
    hostile_streams,
    input_delta,
    message_streams,
    sse_of,
    started,
    text_block,
    text_delta,
    thinking_block,
    thinking_delta,
)


def read(*events: object, reader: MessagesReader | None = None) -> list[Any]:
    """Return what a reader says of each of these events."""
    reader = reader or MessagesReader()
    return [reader.take_event(sse_of(data)) for data in events]


def refusal(*events: object) -> CortexError:
    """Return the error with which the last of these events is refused."""
    *before, last = events
    reader = MessagesReader()
    read(*before, reader=reader)
    try:
        found = read(last, reader=reader)
    except CortexError as caught:
        return caught
    raise AssertionError(f"read {found!r}")


class EventTests(SynchronousTestCase):
    def test_a_whole_message(self) -> None:
        """What is read of a message is what the node said, and it is done at its last event."""
        events = [started(), *thinking_block(0, "hm"), *text_block(1, "a", "b"), ended(), STOPPED]
        reader = MessagesReader()

        assert events == read(*events, reader=reader)
        assert reader.done
        assert ("msg_node_7", "end_turn") == (reader.upstream_id, reader.stop_reason)

    def test_events_that_say_nothing(self) -> None:
        """Pings and events that the dialect does not have are passed over, named or not."""
        odd = [PING, ODD_EVENT, {"type": "new"}, b'{"type":"ping"}', b'{"type":"new"}']

        assert [None] * 5 == read(*odd)
        assert None is MessagesReader().take_event(ServerSentEvent(b"not JSON", b"odd"))

    def test_names(self) -> None:
        """An event may have no name, or a name alone."""
        unnamed = ServerSentEvent(sse_of(started()).data)
        named = sse_of(STOPPED)._replace(data=b'{"amazon":1}')
        reader = MessagesReader()

        assert started() == reader.take_event(unnamed)
        read(ended(), reader=reader)
        assert {"type": "message_stop", "amazon": 1} == reader.take_event(named)

    def test_nothing_after_the_end(self) -> None:
        """What follows the end is not looked at."""
        reader = MessagesReader()
        read(started(), ended(), STOPPED, reader=reader)

        assert [None, None, None] == read(b"[DONE]", started(), b"garbage", reader=reader)

    def test_indexes_are_ours(self) -> None:
        """Blocks are counted from nought without a gap, however the node counts them."""
        given = [*text_block(3, "a"), *text_block(0, "b"), *text_block(0, "c")]
        _, *found = read(started(), *given)

        assert [0, 0, 0, 1, 1, 1, 2, 2, 2] == [data["index"] for data in found]

    def test_what_is_not_known(self) -> None:
        """Blocks, deltas and fields that are not known are let pass as they are."""
        new = {"type": "new_delta", "value": [1, {"a": None}]}
        events = [
            started(container={"id": "c"}),
            *SERVER_CALL,
            *block(1, {"type": "new_block", "data": 7}, new, text_delta("a"), input_delta("{")),
            *block(2, {"type": "text", "text": "", "new": 1}, new),
            ended(new_field="x"),
            {**STOPPED, "metrics": {"a": 1}},
        ]

        assert events == read(*events)

    def test_absent_texts(self) -> None:
        """A text that is absent or null is an empty one."""
        _, start, first, second = read(
            started(),
            block_start(0, {"type": "text"}),
            block_delta(0, {"type": "text_delta"}),
            block_delta(0, {"type": "text_delta", "text": None}),
        )

        assert {"type": "text", "text": ""} == start["content_block"]
        assert text_delta("") == first["delta"] == second["delta"]


class OrderTests(SynchronousTestCase):
    def test_the_table(self) -> None:
        """In each phase the events of the table lead where it says, and all others are errors."""
        ways: dict[Phase, list[Any]] = {
            Phase.WAITING: [],
            Phase.BETWEEN: [started()],
            Phase.IN_BLOCK: [started(), block_start(0, {"type": "text", "text": ""})],
            Phase.ENDING: [started(), ended()],
        }
        events = [
            started(),
            block_start(0, {"type": "text", "text": ""}),
            block_delta(0, text_delta("a")),
            block_stop(0),
            ended(),
            STOPPED,
        ]
        for phase, way in ways.items():
            for data in events:
                expected = NEXT.get((phase, data["type"]))
                reader = MessagesReader()
                read(*way, reader=reader)
                assert phase is reader.phase
                if expected is None:
                    found = refusal(*way, data)
                    assert isinstance(found, BadGateway)
                    assert found.elsewhere
                    assert f"the node sent a {data['type']} out of order" == found.message
                else:
                    read(data, reader=reader)
                    assert expected is reader.phase

    def test_another_block(self) -> None:
        """What is about a block that is not the open one is refused."""
        opened = [started(), block_start(1, {"type": "text", "text": ""})]
        for data in (block_delta(0, text_delta("a")), block_stop(0)):
            assert "for a block that is not open" in refusal(*opened, data).message

    def test_mixed_blocks(self) -> None:
        """A block that is known takes no delta that is another's: clients drop such an answer."""
        for kind, deltas in {
            "text": [thinking_delta("t"), input_delta("{}")],
            "thinking": [text_delta("a"), input_delta("{}")],
            "tool_use": [text_delta("a"), thinking_delta("t")],
        }.items():
            start = {"type": kind, "id": "x", "name": "f"}
            for delta in deltas:
                found = refusal(started(), block_start(0, start), block_delta(0, delta))
                assert f"the node sent a {delta['type']} out of order" == found.message

    def test_an_end_without_a_reason(self) -> None:
        """A ``message_delta`` that does not say why the answer ended does not end it."""
        for reason in (None, ""):
            reader = MessagesReader()
            read(started(), ended(reason, {"output_tokens": 3}), reader=reader)
            assert (Phase.BETWEEN, None) == (reader.phase, reader.stop_reason)
            assert isinstance(refusal(started(), ended(reason), STOPPED), BadGateway)
            read(*text_block(0, "a"), ended(), STOPPED, reader=reader)
            assert reader.done

    def test_the_end_in_parts(self) -> None:
        """Of an end that is told in parts the later ones count, but null says nothing."""
        reader = MessagesReader()
        read(
            started(),
            ended("max_tokens", {"output_tokens": 3}, container={"id": "c"}),
            ended("end_turn", {"output_tokens": 4, "input_tokens": None}, container=None),
            {**ended(None, None), "context_management": {"applied_edits": []}},
            {**ended(None, None), "context_management": None},
            reader=reader,
        )

        assert {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "container": {"id": "c"}},
            "usage": {"output_tokens": 4},
            "context_management": {"applied_edits": []},
        } == reader.ending

    def test_done_is_no_end(self) -> None:
        """``[DONE]`` is of another dialect and ends nothing."""
        found = refusal(started(), ended(), b"[DONE]")

        assert (502, "upstream_disconnected", True) == (found.status, found.code, found.elsewhere)


class ShapeTests(SynchronousTestCase):
    def test_wrong_shapes(self) -> None:
        """A field that is needed and of the wrong shape is refused by its name."""
        opened = [started(), block_start(0, {"type": "text", "text": ""})]
        call = {"type": "tool_use", "id": "x", "name": "f"}
        cases: list[tuple[str, list[Any]]] = [
            ("type", [{}]),
            ("type", [{"type": 7}]),
            ("message", [{"type": "message_start"}]),
            ("message", [{"type": "message_start", "message": "x"}]),
            ("content_block", [started(), block_start(0, None)]),
            ("content_block", [started(), block_start(0, {})]),
            ("index", [started(), block_start(None, {"type": "text"})]),
            ("index", [started(), block_start(True, {"type": "text"})]),
            ("text", [started(), block_start(0, {"type": "text", "text": 7})]),
            ("thinking", [started(), block_start(0, {"type": "thinking", "thinking": []})]),
            ("id", [started(), block_start(0, call | {"id": ""})]),
            ("name", [started(), block_start(0, call | {"name": None})]),
            ("input", [started(), block_start(0, call | {"input": []})]),
            ("delta", [*opened, block_delta(0, None)]),
            ("delta", [*opened, block_delta(0, {})]),
            ("index", [*opened, block_delta("0", text_delta("a"))]),
            ("text", [*opened, block_delta(0, {"type": "text_delta", "text": 1})]),
            ("index", [*opened, {"type": "content_block_stop"}]),
            ("delta", [started(), {"type": "message_delta", "delta": 7}]),
            ("stop_reason", [started(), ended(7)]),
        ]
        for field, events in cases:
            found = refusal(*events)
            assert isinstance(found, BadGateway)
            assert (
                f"{field!r} in the node's answer does not have the expected format" == found.message
            )

    def test_no_object(self) -> None:
        """An event that is JSON and no object is refused."""
        assert "the node sent an event that is not an object" == refusal(b"7").message


class CountTests(SynchronousTestCase):
    def test_usage(self) -> None:
        """The prompt's tokens are those from a cache and to one too; later counts win."""
        reader = MessagesReader()
        read(started({**START_USAGE, "cache_creation_input_tokens": 3}), reader=reader)
        assert Usage(103, 1, cached_tokens=80) == reader.usage
        read(ended(usage={**END_USAGE, "input_tokens": None}), reader=reader)

        assert Usage(103, 5, cached_tokens=80) == reader.usage
        assert TokenCounts(20, 3, 80, 5) == reader.counts() == reader.counts_or(7)

    def test_thinking_tokens(self) -> None:
        """The tokens of thinking are told where the node tells them."""
        reader = MessagesReader()
        read(started(), reader=reader)
        usage = {"output_tokens": 5, "output_tokens_details": {"thinking_tokens": 2}}
        read(ended(usage=usage), reader=reader)

        assert TokenCounts(20, 0, 80, 5, 2) == reader.counts()

    def test_no_usage(self) -> None:
        """A node that counts nothing leaves the usage unknown, and the prompt to an estimate."""
        for usage in (None, {}, {"input_tokens": None}, 7):
            reader = MessagesReader()
            read(started(usage), reader=reader)
            assert None is reader.usage
            assert TokenCounts(7, 0, 0, 0) == reader.counts_or(7)

    def test_content_chunks(self) -> None:
        """What brings content is counted, and a signature or an empty delta does not."""
        for expected, events in (
            (2, text_block(0, "a", "", "b")),
            (1, thinking_block(0, "t")),
            (2, call_block(0, "f", "", "{}")),
            (1, call_block(0, "f")),
            (1, block(0, {"type": "text", "text": "a"})),
            (1, block(0, {"type": "redacted_thinking", "data": "x"})),
            (1, block(0, {"type": "text"}, {"type": "citations_delta", "citation": CITATION})),
        ):
            reader = MessagesReader()
            read(started(), *events, reader=reader)
            assert expected == reader.content_chunks

    def test_arguments_at_start(self) -> None:
        """Arguments that came with the start of a call count where no delta brings any."""
        for expected, events in (
            (b'{"a":1}', call_block(0, "f", given={"a": 1})),
            (b'{"a":1}', call_block(0, "f", "", " ", given={"a": 1})),
            (b"", call_block(0, "f", '{"b":2}', given={"a": 1})),
            (b"", call_block(0, "f")),
        ):
            reader = MessagesReader()
            read(started(), *events, reader=reader)
            assert expected == reader.block.arguments_at_start


class ErrorTests(SynchronousTestCase):
    def test_of_other_shapes(self) -> None:
        """An error without a type or a name, or as plain text, is the node's, in its words."""
        for data, words in (
            (b'{"error":{"message":"lost"}}', "lost"),
            (b'{"error":"lost"}', "lost"),
            (b'{"type":"error","message":"lost"}', "lost"),
            (b"lost", "lost"),
            (b"\xfflost", "\N{REPLACEMENT CHARACTER}lost"),
            (b'{"type":"error"}', '{"type":"error"}'),
            (b"", "the node broke off its stream without a message"),
        ):
            found = refusal(started(), data)
            assert (NodeError, words) == (type(found), found.message)
        named = ServerSentEvent(b'{"error":{"type":"overloaded_error","message":"m"}}', b"error")
        with self.assertRaises(Overloaded):
            MessagesReader().take_event(named)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=150)
    @given(message_streams(), st.lists(st.integers(0), max_size=12))
    def test_any_chunking(self, given_stream: tuple[Any, bytes], cuts: list[int]) -> None:
        """However the bytes of a message are cut, its events are read the same."""
        events, data = given_stream
        decoder, reader = SseDecoder(), MessagesReader()
        found = [
            read_data
            for piece in cut(data, cuts)
            for event in decoder.feed(piece)
            if (read_data := reader.take_event(event)) is not None
        ]

        assert [data["type"] for data in events] == [data["type"] for data in found]
        assert reader.done

    @settings(max_examples=400)
    @given(hostile_streams)
    def test_hostile_nodes(self, events: list[Any]) -> None:
        """Whatever a node sends is read, passed over, or refused as an error of ours."""
        reader = MessagesReader()
        kinds = []
        try:
            for data in events:
                found = reader.take_event(sse_of(data))
                kinds += [] if found is None else [found["type"]]
        except CortexError:
            assert not reader.done
        assert reader.done == ("message_stop" in kinds)
        assert 0 <= kinds.count("content_block_start") - kinds.count("content_block_stop") <= 1


class UnknownTests(SynchronousTestCase):
    @covers("4.4 unknown event")
    def test_an_unknown_event_between_others(self) -> None:
        """Events that the dialect does not have change nothing of those around them."""
        events = [started(), *text_block(0, "a"), ended(), STOPPED]
        between = [each for data in events for each in (ODD_EVENT, data)]

        assert read(*events) == [data for data in read(*between) if data is not None]
