"""Signs of life of passed-on Messages, and how attempts go on from them (translation.md 1.6)."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.messages_passed.answer import passed_factory
from cortexd.dialects.messages_to_chat.answer import answer_factory
from cortexd.dialects.wire.exchange import Responder
from cortexd.dialects.wire.profile import ThinkingWish
from tests.dialects.message_answers import (
    ESTIMATE,
    check,
    content_of,
    events_of,
    inputs_of,
    names,
    terms,
)
from tests.dialects.node_answers import chat_chunk, event, relay
from tests.dialects.node_messages import (
    PING,
    PING_EVENT,
    SERVER_CALL,
    SHOWN,
    STOPPED,
    block,
    block_start,
    call_block,
    ended,
    names_of,
    passed_stream,
    sse_of,
    started,
    text_block,
    thinking_block,
    thinking_delta,
    told,
    whole_stream,
)


class WaitingTests(SynchronousTestCase):
    def test_begins_the_message(self) -> None:
        """The first sign of life begins the message; the node's own start is then left out."""
        made = passed_stream()
        first = events_of(made.waiting(5.0))

        assert ["message_start", "ping"] == names(first)
        assert {
            "input_tokens": ESTIMATE,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
            "service_tier": "standard",
        } == first[0][1]["message"]["usage"]
        assert PING_EVENT == made.waiting(15.0) == made.waiting(119.0)
        assert b"" == made.feed(sse_of(started()))
        assert PING_EVENT == made.waiting(20.0)

    def test_thinking_keeps_alive(self) -> None:
        """After 120 s who asked for thinking gets a thinking block, and deltas without a word."""
        for wish in (ThinkingWish.SHOWN, ThinkingWish.WITHHELD):
            made = passed_stream(thinking=wish)
            made.waiting(5.0)
            out = events_of(made.waiting(120.0) + made.waiting(130.0))
            assert ["+0", ".0", ".0"] == names(out)
            assert [thinking_delta("")] * 2 == [data["delta"] for _, data in out[1:]]
        made = passed_stream(thinking=ThinkingWish.NONE)
        made.waiting(5.0)

        assert PING_EVENT == made.waiting(500.0)

    def test_late_first_sign(self) -> None:
        """A first sign that comes late begins the message and the thinking at once."""
        assert ["message_start", "+0", ".0"] == names(events_of(passed_stream().waiting(200.0)))

    def test_thinking_is_gone_on_with(self) -> None:
        """The node's thinking goes on in the block that kept the client waiting."""
        whole = [
            started(),
            *thinking_block(0, "hm", signature="theirs"),
            *text_block(1, "a"),
            ended(),
            STOPPED,
        ]
        events = told([5.0, 125.0, whole])

        assert (
            "message_start ping +0 .0 .0 .0 -0 +1 .1 -1 message_delta message_stop"
        ) == " ".join(names(events))
        thinking, text = content_of(events)
        assert ("hm", "theirs", "a") == (thinking["thinking"], thinking["signature"], text["text"])

    def test_thinking_that_starts_with_words(self) -> None:
        """Words in the start of that thinking are not lost."""
        start = {"type": "thinking", "thinking": "hm", "signature": ""}
        events = told([130.0, [started(), *block(0, start), ended(), STOPPED]])

        assert ["hm"] == [block["thinking"] for block in content_of(events)]

    def test_other_blocks_stop_the_thinking(self) -> None:
        """What else comes first stops that block, signed as ours, and indexes go on from it."""
        for first in (text_block(0, "a"), call_block(0, "f", "{}"), SERVER_CALL):
            rest = [*text_block(1, "b"), ended(), STOPPED]
            events = told([130.0, [started(), *first], rest])
            assert (
                "message_start +0 .0 .0 -0 +1 .1 -1 +2 .2 -2 message_delta message_stop"
            ) == " ".join(names(events))
            deltas = [data["delta"] for name, data in events if name == "content_block_delta"]
            assert {"type": "signature_delta", "signature": "cortex"} == deltas[1]
        events = told([130.0, [started(), *call_block(0, "f", given={"a": 1}), ended(), STOPPED]])
        assert [("toolu_0", "f", '{"a":1}')] == inputs_of(events)

    def test_end_while_thinking(self) -> None:
        """An answer without a word ends the block too."""
        assert "message_start +0 .0 .0 -0 message_delta message_stop" == (
            names_of([130.0, [started(), ended(), STOPPED]])
        )

    def test_silence_after_the_start(self) -> None:
        """A node that has begun and is silent is kept company too."""
        whole = [*text_block(0, "a"), ended(), STOPPED]

        assert "message_start ping +0 .0 .0 .0 -0 +1 .1 -1 message_delta message_stop" == (
            names_of([[started()], 60.0, 125.0, 135.0, whole])
        )

    def test_silence_within_a_block(self) -> None:
        """A block that is open is kept alive by empty deltas of its own kind, if it has any."""
        call = {"type": "tool_use", "id": "x", "name": "f", "input": {}}
        for start, key in (
            ({"type": "text", "text": ""}, "text"),
            ({"type": "thinking", "thinking": ""}, "thinking"),
            (call, "partial_json"),
        ):
            made = passed_stream()
            made.waiting(130.0)  # a block of ours comes first
            for data in (started(), *text_block(0, "a"), block_start(1, start)):
                made.feed(sse_of(data))
            assert PING_EVENT == made.waiting(60.0)
            ((name, data),) = events_of(made.waiting(150.0))
            assert ("content_block_delta", 2, "") == (name, data["index"], data["delta"][key])
        made = passed_stream()
        for data in (started(), block_start(0, {"type": "new_block"})):
            made.feed(sse_of(data))
        assert PING_EVENT == made.waiting(150.0)

    def test_silence_between_blocks(self) -> None:
        """Between blocks, and when the end is being told, there are only pings."""
        for data in ([started(), *text_block(0, "a")], [started(), ended()]):
            made = passed_stream()
            for each in data:
                made.feed(sse_of(each))
            assert PING_EVENT == made.waiting(150.0)

    def test_pings_of_the_node(self) -> None:
        """Pings of the node are no sign of life: ours must still be given, and keep the client."""
        made = passed_stream()
        made.feed(sse_of(started()))

        assert b"" == made.feed(sse_of(PING))
        assert ["+0", ".0"] == names(events_of(made.waiting(130.0)))


class AttemptTests(SynchronousTestCase):
    WHOLE = (started(), *text_block(0, "a"), ended(), STOPPED)

    def test_across_attempts(self) -> None:
        """What an attempt told while it waited the next one goes on from."""
        assert "message_start ping ping +0 .0 -0 message_delta message_stop" == (
            names_of([5.0, 15.0, [b"CUDA error"]], [[*self.WHOLE]])
        )
        expected = "message_start +0 .0 .0 .0 -0 +1 .1 -1 message_delta message_stop"
        assert expected == names_of(
            [130.0, [b"CUDA error"]], [140.0, [started(), b"CUDA error"]], [[*self.WHOLE]]
        )

    def test_what_was_thrown_away(self) -> None:
        """What an attempt told in the breath in which its node failed was never told."""
        broken = [started(), *text_block(0, "a"), b"CUDA error"]

        assert "message_start +0 .0 -0 message_delta message_stop" == (
            names_of([broken], [[*self.WHOLE]])
        )
        assert "message_start +0 .0 .0 -0 +1 .1 -1 message_delta message_stop" == (
            names_of([130.0, broken], [[*self.WHOLE]])
        )

    def test_refused_after_the_wait(self) -> None:
        """An error after a wait is an event, and the block that kept the client is not stopped."""
        assert "message_start ping +0 .0 error" == names_of([5.0, 130.0, [b"CUDA error"]])
        assert "error" == names_of([[b"CUDA error"]])

    def test_nodes_of_both_kinds(self) -> None:
        """A node that chats, and one that speaks Messages, go on from what the other told."""
        for chat_first in (True, False):
            request = terms()
            chat = answer_factory(request)
            passed = passed_factory(request.asked, thinking=SHOWN)
            first: Responder = chat() if chat_first else passed()
            out = first.waiting(5.0) + first.waiting(130.0)
            if chat_first:
                out += relay(passed(), whole_stream(text_block(0, "a")))
            else:
                end = chat_chunk("a", finish="stop")
                second = chat()
                out += second.feed(event(end)) + second.finish()
            events = events_of(out)
            check(events)
            assert ["thinking", "text"] == [block["type"] for block in content_of(events)]

    def test_requests_share_nothing(self) -> None:
        """What one request was told says nothing of another."""
        passed_stream().waiting(130.0)

        assert ["message_start", "ping"] == names(events_of(passed_stream().waiting(5.0)))
