"""The stream of a Messages answer, by translation.md 4.2 and the traps of translation.md 7."""

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.messages_to_chat.stream import MessageStream
from cortexd.dialects.wire.exchange import EVENT_STREAM, Usage
from cortexd.dialects.wire.profile import ThinkingWish
from cortexd.dialects.wire.thoughts import signature_of
from cortexd.errors import BadGateway, NodeError, Overloaded
from tests.covers import covers
from tests.dialects.message_answers import (
    ESTIMATE,
    MODEL,
    call_delta,
    calls,
    check,
    content_of,
    ending_of,
    events_of,
    factory,
    inputs_of,
    names,
    streamed,
    terms,
)
from tests.dialects.node_answers import (
    AGENTIC,
    DONE,
    KEEP_ALIVE,
    USAGE,
    chat_chunk,
    cut,
    event,
    failure,
    relay,
    stream,
    tool_call,
)

HELLO = (chat_chunk("he"), chat_chunk("llo", finish="stop", usage=USAGE))
WHOLE = ["message_start", "+0", ".0", ".0", "-0", "message_delta", "message_stop"]
END = chat_chunk(finish="stop", usage=USAGE)


def texts(events: list[Any]) -> list[Any]:
    return [block.get("text", block["type"]) for block in content_of(events)]


class ReadingTests(SynchronousTestCase):
    @covers("4.2 1")
    def test_point_1_framing(self) -> None:
        """Lines end in any way, a space may be missing, data may be on several lines."""
        plain = relay(factory()(), stream(*HELLO))
        crlf, cr = (stream(*HELLO).replace(b"\n", end) for end in (b"\r\n", b"\r"))
        tight = stream(*HELLO).replace(b"data: ", b"data:")
        spread = stream(*HELLO).replace(b',"choices"', b'\ndata: ,"choices"')

        for data in (crlf, cr, tight, spread):
            assert plain == relay(factory()(), data)

    @covers("4.2 1", "T40")
    def test_point_1_t40_events_of_the_node(self) -> None:
        """T40: Comments and named events, agentic ones too, do not reach the client."""
        between = [AGENTIC, KEEP_ALIVE, b"event: odd\ndata: {}\n\n", b"id: 7\nretry: 5\n\n"]

        assert streamed(*HELLO) == streamed(*between, HELLO[0], *between, HELLO[1])

    @covers("4.2 1", "T20")
    def test_t20_torn_characters(self) -> None:
        """T20: A character torn between two reads is whole, wherever it is torn."""
        data = stream(chat_chunk("Ōsaka 大阪 🏯"), END)
        expected = relay(factory()(), data)

        assert "Ōsaka 大阪 🏯".encode() in expected
        for place in range(len(data)):
            assert expected == relay(factory()(), *cut(data, [place]))


class BeginningTests(SynchronousTestCase):
    @covers("4.2 2", "T30")
    def test_point_2_t30_message_start(self) -> None:
        """T30: The first chunk begins the message, all four counts in it, the input estimated."""
        (name, data), *_ = streamed(*HELLO)

        assert "message_start" == name
        assert {
            "id": "msg_0ff",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": ESTIMATE,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 0,
                "service_tier": "standard",
            },
        } == data["message"]

    @covers("4.2 2")
    def test_point_2_any_first_chunk(self) -> None:
        """A role, a call, a usage or nothing at all: the first chunk begins the message, once."""
        for first in (
            chat_chunk(),
            chat_chunk(""),
            calls(tool_call("f", "{}")),
            {"choices": [], "usage": USAGE},
            {"choices": None},
            {},
        ):
            responder = factory()()
            assert "message_start" == events_of(responder.feed(event(first)))[0][0]
            assert b"message_start" not in responder.feed(event(chat_chunk("a")))

    @covers("T5", "4.2 2")
    def test_t5_a_call_first(self) -> None:
        """T5: Where a call comes first there is no empty text block, nor an empty delta."""
        events = streamed(calls(tool_call("f", '{"a":1}'), finish="tool_calls", usage=USAGE))

        assert ["message_start", "+0", ".0", "-0", "message_delta", "message_stop"] == names(events)
        assert [("call-0", "f", '{"a":1}')] == inputs_of(events)


class OrderTests(SynchronousTestCase):
    @covers("4.2 3")
    def test_point_3_all_in_one_chunk(self) -> None:
        """One chunk may bring thinking, text, calls, the end and usage, taken in this order."""
        events = streamed(
            chat_chunk(
                "said",
                reasoning_content="thought",
                tool_calls=[tool_call("f", "{}")],
                finish="tool_calls",
                usage=USAGE,
            )
        )

        assert ["thinking", "text", "tool_use"] == [b["type"] for b in content_of(events)]
        assert "tool_use" == ending_of(events)[0]["stop_reason"]

    @covers("4.2 3")
    def test_point_3_error_before_all(self) -> None:
        """An error beside content is an error."""
        responder = factory()()
        error = failure(responder, stream(chat_chunk("a") | {"error": {"message": "lost"}}))

        assert (NodeError, "lost") == (type(error), error.message)

    @covers("4.2 3", "T7")
    def test_point_3_t7_usage_on_every_chunk(self) -> None:
        """T7: A usage on each chunk ends nothing; the last one counts, and arguments stay whole."""
        counted = [USAGE | {"completion_tokens": count} for count in range(4)]
        events = streamed(
            chat_chunk("a", usage=counted[0]),
            calls(call_delta(0, '{"a":', id="x", name="f"), usage=counted[1]),
            calls(call_delta(0, "1}"), usage=counted[2]),
            chat_chunk(finish="tool_calls", usage=counted[3]),
        )

        assert ["message_start", "+0", ".0", "-0", "+1", ".1", ".1", "-1"] == names(events)[:-2]
        assert [("x", "f", '{"a":1}')] == inputs_of(events)
        assert 3 == ending_of(events)[1]["output_tokens"]

    @covers("4.2 3")
    def test_other_choices(self) -> None:
        """Only the first choice is the answer."""
        both = chat_chunk("a")
        both["choices"].append(chat_chunk("b")["choices"][0] | {"index": 1})

        assert ["a"] == texts(streamed(both, END))

    @covers("4.2 4")
    def test_point_4_empty_deltas(self) -> None:
        """Empty strings and nulls open no block."""
        events = streamed(
            chat_chunk(""),
            chat_chunk(reasoning_content=""),
            chat_chunk(reasoning_content=None, tool_calls=[]),
            END,
        )

        assert ["message_start", "message_delta", "message_stop"] == names(events)

    @covers("4.2 4")
    def test_point_4_held_white_space(self) -> None:
        """White space before a text waits for it, and is dropped where none follows."""
        call = tool_call("f", "{}")

        assert ["\n\n he"] == texts(
            streamed(chat_chunk("\n"), chat_chunk("\n"), chat_chunk(" he"), END)
        )
        assert [] == texts(streamed(chat_chunk("\n"), END))
        assert ["tool_use"] == texts(streamed(chat_chunk("\n"), calls(call), END))
        assert ["a \n"] == texts(streamed(chat_chunk("a"), chat_chunk(" \n"), END))
        assert ["thinking", "b"] == texts(
            streamed(chat_chunk("\n"), chat_chunk(reasoning_content="t"), chat_chunk("b"), END)
        )
        # Held back while thinking goes on: it is no reason to end the thinking.
        assert ["thinking", "\nb"] == texts(
            streamed(chat_chunk(reasoning_content="t"), chat_chunk("\n"), chat_chunk("b"), END)
        )

    @covers("4.2 5", "T10")
    def test_point_5_t10_blocks(self) -> None:
        """T10: Thinking, text and call have blocks of their own, thinking is signed at its end."""
        events = streamed(
            chat_chunk(reasoning_content="th"),
            chat_chunk(reasoning_content="ink"),
            chat_chunk("sp"),
            chat_chunk("eak"),
            calls(tool_call("f", '{"a":1}'), finish="tool_calls", usage=USAGE),
        )

        assert "+0 .0 .0 .0 -0 +1 .1 .1 -1 +2 .2 -2" == " ".join(names(events)[1:-2])
        assert [
            {"type": "thinking", "thinking": "think", "signature": "cortex"},
            {"type": "text", "text": "speak"},
            {"type": "tool_use", "id": "call-0", "name": "f", "input": '{"a":1}'},
        ] == content_of(events)
        assert "signature_delta" == events[4][1]["delta"]["type"]

    @covers("4.2 5")
    def test_point_5_there_and_back(self) -> None:
        """Thinking after text, and text after a call, open blocks of their own."""
        events = streamed(
            chat_chunk("a"),
            chat_chunk(reasoning="b"),
            calls(tool_call("f", "{}")),
            chat_chunk("c"),
            END,
        )

        assert ["a", "thinking", "tool_use", "c"] == texts(events)

    @covers("2.1 thinking.display")
    def test_thinking_wishes(self) -> None:
        """Withheld thinking rides in the signature of an empty block; unwanted is left out."""
        chunks = (
            chat_chunk(reasoning_content="th"),
            chat_chunk(reasoning_content="ink"),
            chat_chunk("a"),
            END,
        )

        hidden = {"type": "thinking", "thinking": "", "signature": signature_of("think")}
        assert [hidden] == content_of(streamed(*chunks, thinking=ThinkingWish.WITHHELD))[:1]
        assert ["a"] == texts(streamed(*chunks, thinking=ThinkingWish.NONE))

    def test_text_in_half_a_call(self) -> None:
        """A call that is not whole is never stopped for text: clients would take it for whole."""
        half = calls(call_delta(0, '{"a":', id="x", name="f"))
        for chunk in (chat_chunk("a"), chat_chunk(reasoning_content="a")):
            error = failure(factory()(), stream(half, chunk, END))
            assert BadGateway is type(error)
            assert "in the middle of a tool call" in error.message
        events = streamed(half, chat_chunk("\n"), calls(call_delta(0, "1}")), chat_chunk("b"), END)
        assert ["tool_use", "\nb"] == texts(events)


class EndingTests(SynchronousTestCase):
    @covers("4.2 9", "T8")
    def test_point_9_t8_late_usage(self) -> None:
        """T8: After the finish reason the node's usage is awaited, and told."""
        responder = factory()()
        out = responder.feed(event(chat_chunk("a")))
        assert b"" == responder.feed(event(chat_chunk(finish="stop")))
        assert b"" == responder.feed(event({"choices": [], "usage": USAGE}))
        events = events_of(out + responder.feed(event(b"[DONE]")))
        check(events)

        assert {
            "input_tokens": 20,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 8,
        } == ending_of(events)[1]
        assert Usage(20, 8) == responder.usage

    @covers("4.2 9")
    def test_point_9_usage_that_never_comes(self) -> None:
        """Where no counts have come by the end of the wait for them, it is the answer's end."""
        responder = factory()()
        out = responder.feed(event(chat_chunk("a", finish="stop")))
        assert responder.finished
        assert b'event: ping\ndata: {"type":"ping"}\n\n' == responder.waiting(200.0)
        events = events_of(out + responder.finish())
        check(events)

        assert responder.done
        assert (ESTIMATE, 1) == (
            ending_of(events)[1]["input_tokens"],
            ending_of(events)[1]["output_tokens"],
        )
        assert b"" == responder.waiting(20.0) == responder.fail(BadGateway("late"))

    def test_point_9_an_end_that_is_none(self) -> None:
        """An end that leaves half a call behind is a failure, however well the node called it."""
        responder = factory()()
        responder.feed(event(calls(call_delta(0, "{}"))))
        responder.feed(event(chat_chunk(finish="stop")))

        with self.assertRaises(BadGateway):
            responder.finish()

    @covers("T9")
    def test_t9_a_call_that_stopped(self) -> None:
        """T9: A call ends the message with tool_use, whatever the node calls the end."""
        for finish in ("stop", "tool_calls", "eos"):
            events = streamed(calls(tool_call("f", "{}"), finish=finish, usage=USAGE))
            assert "tool_use" == ending_of(events)[0]["stop_reason"]

    @covers("T52")
    def test_t52_stop_reason_and_sequence(self) -> None:
        """T52: The last delta always has a reason, and the key of a stop sequence."""
        assert {"stop_reason": "end_turn", "stop_sequence": None} == ending_of(streamed(*HELLO))[0]

    @covers("4.2 10")
    def test_point_10_ends(self) -> None:
        """A stream with a finish reason needs no ``[DONE]``; one without it has failed."""
        plain = relay(factory()(), stream(*HELLO))

        assert plain == relay(factory()(), stream(*HELLO, end=b""))
        for end in (DONE, b""):
            responder = factory()()
            error = failure(responder, stream(chat_chunk("a"), end=end))
            assert (BadGateway, False) == (type(error), responder.done)
            assert error.elsewhere

    @covers("T17", "4.2 10", "4.2 11")
    def test_t17_cut_off_after_text(self) -> None:
        """T17: A stream that ends without a reason ends in an error, with nothing of an end."""
        responder = factory()()
        out = responder.feed(event(chat_chunk("a")))
        with self.assertRaises(BadGateway) as caught:
            responder.finish()
        events = events_of(out + responder.fail(caught.exception))
        check(events)

        assert ["message_start", "+0", ".0", "error"] == names(events)

    @covers("4.2 10")
    def test_point_10_content_after_the_end(self) -> None:
        """What a node says after its finish reason is ignored, the short way too."""
        plain_text = [chat_chunk("a"), chat_chunk("b"), chat_chunk("c")]
        late = [chat_chunk("c"), calls(tool_call("f", "{}")), chat_chunk("d", finish="length")]

        assert streamed(*plain_text, END) == streamed(*plain_text, END, *late)
        last = chat_chunk("c", finish="stop", usage=USAGE)
        assert streamed(*plain_text, last) == streamed(*plain_text, last, *late)

    @covers("4.2 11")
    def test_point_11_failure(self) -> None:
        """A failure leaves the open block as it is, names the request, and is the last word."""
        responder = factory()()
        out = responder.feed(event(calls(tool_call("f", "{}"))))
        failed = responder.fail(Overloaded("full"))

        assert ["message_start", "+0", ".0", "error"] == names(events_of(out + failed))
        assert [
            (
                "error",
                {
                    "type": "error",
                    "error": {"type": "overloaded_error", "message": "full"},
                    "request_id": "req_7",
                },
            )
        ] == events_of(failed)
        assert b"" == responder.feed(event(END)) == responder.finish()
        assert b"" == responder.waiting(5.0) == responder.fail(BadGateway("again"))

    @covers("4.2 13")
    def test_point_13_only_the_dialect(self) -> None:
        """Each event has its name and its data, and ``[DONE]`` is none of them."""
        data = relay(factory()(), stream(*HELLO))

        assert WHOLE == names(events_of(data))
        assert b"DONE" not in data

    def test_face(self) -> None:
        """A stream says so, and a node that was asked for one must stream."""
        responder = factory()()

        assert (EVENT_STREAM, True) == (responder.content_type, responder.streams)
        with self.assertRaises(BadGateway):
            responder.take_body(json.dumps(chat_chunk("a")).encode())

    def test_measure(self) -> None:
        """Chunks count as content when they bring text, thinking or a call, shown or not."""
        responder = factory(thinking=ThinkingWish.NONE)()
        for chunk, expected in (
            (chat_chunk(), 0),
            (chat_chunk("a"), 1),
            (chat_chunk("b"), 2),
            (chat_chunk(reasoning_content="c"), 3),
            (calls(tool_call("f", "{}")), 4),
            (END, 4),
        ):
            responder.feed(event(chunk))
            assert expected == responder.content_chunks
        assert (Usage(20, 8), "13") == (responder.usage, responder.upstream_id)


class ShortWayTests(SynchronousTestCase):
    def test_same_events(self) -> None:
        """Chunks in the frame of the one before say what they say when their frames differ."""
        for field in ("content", "reasoning_content", "reasoning"):
            words = ["a", " b", "\n", ' "c"', " \\", " 大阪", "d"]
            chunks: list[dict[str, Any]] = [
                {"id": "1", "choices": [{"index": 0, "delta": {field: word}}]} for word in words
            ]
            differing = [chunk | {"created": at} for at, chunk in enumerate(chunks)]

            assert streamed(*chunks, END) == streamed(*differing, END)
            assert "".join(words) in content_of(streamed(*chunks, END))[0].values()

    def test_taken(self) -> None:
        """Text and thinking take the short way from their third chunk on, each in its block."""
        responder = MessageStream(terms())
        for field in ("content", "reasoning_content"):
            for text in ("a", "b", "c"):
                responder.feed(event(chat_chunk() | {"choices": [{"delta": {field: text}}]}))
            assert responder.mould is not None
            assert responder.mould.has_fitted

    def test_nothing_beside_the_text_is_lost(self) -> None:
        """Arguments and usage that come beside a text count each time they come."""
        begun, digit = calls(call_delta(0, '{"a":', id="x")), call_delta(0, "1", id="x")
        named = calls(call_delta(0, "}", name="f"))
        for field in ("content", "reasoning_content"):
            digits = [chat_chunk(**{field: text}, tool_calls=[digit]) for text in "abc"]
            events = streamed(begun, *digits, named, END)
            assert [("x", "f", '{"a":111}')] == inputs_of(events)

        few, more = ({"prompt_tokens": 3, "completion_tokens": count} for count in (1, 2))
        counted = [chat_chunk("a", usage=usage) for usage in (few, more, few, more)]
        assert 2 == ending_of(streamed(*counted, chat_chunk(finish="stop")))[1]["output_tokens"]

    def test_not_taken(self) -> None:
        """Text that must be searched for stop sequences is read, and so is a call."""
        searching = MessageStream(terms(stop=("END",)))
        calling = MessageStream(terms())
        for text in ("{", "b", "c"):
            searching.feed(event(chat_chunk(text)))
            calling.feed(event(calls(call_delta(0, text, id="x", name="f"))))

        assert None is searching.mould is calling.mould
