"""Signs of life of a Messages stream, and how attempts go on from them (translation.md 1.6)."""

import json

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.profile import ThinkingWish
from cortexd.errors import BadGateway
from tests.covers import covers
from tests.dialects.message_answers import (
    Step,
    calls,
    check,
    content_of,
    events_of,
    factory,
    names,
    serve,
)
from tests.dialects.node_answers import USAGE, chat_chunk, event, tool_call

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
END = event(chat_chunk(finish="stop", usage=USAGE))
TEXT = event(chat_chunk("a"))
THOUGHT = event(chat_chunk(reasoning_content="t"))
ERROR = event(b"CUDA error")


def told(*attempts: list[Step]) -> str:
    """Return the names of all events of these attempts, checked."""
    events = events_of(serve(factory(), attempts))
    check(events)
    return " ".join(names(events))


class WaitingTests(SynchronousTestCase):
    @covers("4.2 0")
    def test_begins_the_message(self) -> None:
        """The first sign of life begins the message; the next ones are pings."""
        responder = factory()()
        first = responder.waiting(5.0)

        assert ["message_start", "ping"] == names(events_of(first))
        assert 11 == events_of(first)[0][1]["message"]["usage"]["input_tokens"]
        assert PING == responder.waiting(15.0) == responder.waiting(119.0)

    @covers("4.2 0")
    def test_thinking_keeps_alive(self) -> None:
        """After 120 s who asked for thinking gets a thinking block, and deltas without a word."""
        for wish in (ThinkingWish.SHOWN, ThinkingWish.WITHHELD):
            responder = factory(thinking=wish)()
            responder.waiting(5.0)
            out = responder.waiting(120.0) + responder.waiting(130.0)

            assert ["+0", ".0", ".0"] == names(events_of(out))
            deltas = [data["delta"] for name, data in events_of(out) if name.endswith("delta")]
            assert [{"type": "thinking_delta", "thinking": ""}] * 2 == deltas

    def test_late_first_sign(self) -> None:
        """A first sign that comes late begins the message and the thinking at once."""
        assert ["message_start", "+0", ".0"] == names(events_of(factory()().waiting(200.0)))

    def test_no_thinking_asked_for(self) -> None:
        """Who did not ask for thinking gets pings and never a block that nobody filled."""
        responder = factory(thinking=ThinkingWish.NONE)()
        responder.waiting(5.0)

        assert PING == responder.waiting(500.0)

    def test_thinking_is_gone_on_with(self) -> None:
        """Real thinking goes on in the block that kept the client waiting."""
        assert "message_start ping +0 .0 .0 .0 -0 +1 .1 -1 message_delta message_stop" == (
            told([5.0, 125.0, [THOUGHT], [TEXT], [END]])
        )

    def test_thinking_stops_for_text_and_calls(self) -> None:
        """Text or a call ends that block, signed as any thinking, and takes the next index."""
        call = event(calls(tool_call("f", "{}")))
        for first in (TEXT, call):
            out = serve(factory(), [[130.0, [first], [END]]])
            check(events_of(out))
            content = content_of(events_of(out))
            assert {"type": "thinking", "thinking": "", "signature": "cortex"} == content[0]
            assert 2 == len(content)

    def test_end_while_thinking(self) -> None:
        """An answer without a word ends the block too."""
        assert "message_start +0 .0 .0 -0 message_delta message_stop" == told([130.0, [END]])

    def test_silence_within_a_block(self) -> None:
        """A block that is open is kept alive by empty deltas of its own kind."""
        for first, key in (
            (chat_chunk("a"), "text"),
            (chat_chunk(reasoning_content="t"), "thinking"),
            (calls({"id": "x", "function": {"name": "f", "arguments": "{"}}), "partial_json"),
        ):
            responder = factory()()
            responder.feed(event(first))
            assert PING == responder.waiting(60.0)
            ((name, data),) = events_of(responder.waiting(150.0))
            assert ("content_block_delta", 0, "") == (name, data["index"], data["delta"][key])

    def test_held_text_stays_held(self) -> None:
        """A sign of life neither drops nor shows what is held back of a text."""
        blanks, beginning, rest = (event(chat_chunk(text)) for text in ("\n", "E", "x"))
        steps: list[Step] = [[blanks], [beginning], 130.0, [rest], [END]]
        out = serve(factory(stop=["END"]), [steps])
        check(events_of(out))

        assert "\nEx" == content_of(events_of(out))[1]["text"]

    def test_whole_answers_wait_in_silence(self) -> None:
        """Who wants a whole message gets nothing before its end."""
        responder = factory(streams=False)()

        assert b"" == responder.waiting(500.0) == responder.fail(BadGateway("gone"))


class AttemptTests(SynchronousTestCase):
    def test_the_queue_begins_the_attempt_goes_on(self) -> None:
        """What the queue's responder began the attempt's does not begin again."""
        assert "message_start ping ping +0 .0 -0 message_delta message_stop" == (
            told([5.0, 15.0, [ERROR]], [[TEXT], [END]])
        )

    def test_thinking_across_attempts(self) -> None:
        """A thinking block that kept the client waiting stays open from one attempt to the next."""
        expected = "message_start +0 .0 .0 .0 -0 +1 .1 -1 message_delta message_stop"

        assert expected == told([130.0, [ERROR]], [140.0, [ERROR]], [[TEXT], [END]])
        # A chunk without content says nothing to a client whose message has begun.
        role = event(chat_chunk())
        assert "message_start ping +0 .0 .0 -0 +1 .1 -1 message_delta message_stop" == (
            told([5.0, [role], 130.0, [ERROR]], [[TEXT], [END]])
        )

    def test_what_was_thrown_away(self) -> None:
        """What an attempt told in the breath in which its node failed was never told."""
        assert "message_start +0 .0 -0 message_delta message_stop" == (
            told([[TEXT, ERROR]], [[TEXT], [END]])
        )
        assert "message_start +0 .0 .0 -0 +1 .1 -1 message_delta message_stop" == (
            told([130.0, [TEXT, ERROR]], [[TEXT], [END]])
        )

    def test_refused_after_the_wait(self) -> None:
        """An error after a wait is an event, and the block that kept the client is not stopped."""
        assert "message_start ping +0 .0 error" == told([5.0, 130.0, [ERROR]])

    def test_refused_at_once(self) -> None:
        """An error before anything is told is the only event of its stream."""
        assert "error" == told([[ERROR]])

    def test_requests_share_nothing(self) -> None:
        """What one request was told says nothing of another."""
        factory()().waiting(130.0)

        assert ["message_start", "ping"] == names(events_of(factory()().waiting(5.0)))

    def test_whole_answers_share_nothing(self) -> None:
        """What one attempt gathered is not in the next one's message."""
        out = serve(factory(streams=False), [[[TEXT], [ERROR]], [[TEXT], [END]]])

        assert ["a"] == [block["text"] for block in json.loads(out)["content"]]
