"""Tool calls in the stream of a Messages answer: steps 6 to 8 of translation.md 4.2, and traps."""

import json

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.exchange import Usage
from cortexd.errors import BadGateway
from tests.covers import covers
from tests.dialects.message_answers import (
    ESTIMATE,
    call_delta,
    calls,
    check,
    ending_of,
    events_of,
    factory,
    inputs_of,
    names,
    streamed,
)
from tests.dialects.node_answers import USAGE, chat_chunk, event, failure, relay, stream, tool_call

END = chat_chunk(finish="stop", usage=USAGE)


class CallTests(SynchronousTestCase):
    @covers("4.2 6")
    def test_point_6_generations(self) -> None:
        """Another id at the same index is another call, with or without an index."""
        for index in (0, None, 7, "x"):
            events = streamed(
                calls(call_delta(index, '{"a":1}', id="x", name="f")),
                calls(call_delta(index, '{"b":', id="y", name="f")),
                calls(call_delta(index, "2}")),
                END,
            )
            assert [("x", "f", '{"a":1}'), ("y", "f", '{"b":2}')] == inputs_of(events)

    @covers("T12", "4.2 6")
    def test_t12_repeated_id_and_name(self) -> None:
        """T12: An id and a name repeated with each piece of arguments are one call's."""
        events = streamed(
            *(calls(call_delta(0, piece, id="x", name="f")) for piece in ('{"a"', ":", "1}")), END
        )

        assert [("x", "f", '{"a":1}')] == inputs_of(events)

    @covers("4.2 6")
    def test_point_6_arguments_before_the_name(self) -> None:
        """Arguments wait for the name; the id may come before it, after it, or never."""
        for first, second in (({"id": "x"}, {}), ({}, {"id": "x"})):
            events = streamed(
                calls(call_delta(0, '{"a"', **first)),
                calls(call_delta(0, ":1}", name="f", **second)),
                END,
            )
            assert [("x", "f", '{"a":1}')] == inputs_of(events)
        events = streamed(calls(call_delta(0, None, name="f")), calls(call_delta(0, "{}")), END)
        assert [("toolu_0ff_0", "f", "{}")] == inputs_of(events)

    @covers("4.2 6")
    def test_point_6_same_id_twice(self) -> None:
        """Two calls of one message never share an id: clients drop the second."""
        events = streamed(
            calls(tool_call("f", "{}") | {"id": "x"}, tool_call("g", "{}", 1) | {"id": "x"}),
            calls(tool_call("h", "{}", 2) | {"id": ""}),
            END,
        )

        assert [("x", "f"), ("toolu_0ff_1", "g"), ("toolu_0ff_2", "h")] == [
            (call_id, name) for call_id, name, _ in inputs_of(events)
        ]

    @covers("2.3 ids")
    def test_ids_are_not_rewritten(self) -> None:
        """T38: An id, be it odd or one of nine characters, reaches the client as it is."""
        for call_id in ("call_1234-abc.def:0", "aB3dE6gH9"):
            events = streamed(calls(tool_call("f", "{}") | {"id": call_id}), END)
            assert call_id == inputs_of(events)[0][0]

    def test_call_without_a_name(self) -> None:
        """A call that never got a name cannot be told of, and must not be lost in silence."""
        for nameless in (call_delta(0, "{}"), call_delta(0, None, id="x")):
            error = failure(factory()(), stream(calls(nameless), END))
            assert (BadGateway, "the node sent a tool call without a name") == (
                type(error),
                error.message,
            )
        assert [] == inputs_of(streamed(calls({"index": 0}), END))

    @covers("T4", "4.2 7")
    def test_t4_point_7_one_open_block(self) -> None:
        """T4: Calls that come interleaved are told one after the other, each whole."""
        events = streamed(
            calls(call_delta(0, '{"a":', id="x", name="f")),
            calls(call_delta(1, '{"b":', id="y", name="g")),
            calls(call_delta(0, "1}")),
            calls(call_delta(1, "2}")),
            chat_chunk(finish="tool_calls", usage=USAGE),
        )

        assert "+0 .0 .0 -0 +1 .1 .1 -1" == " ".join(names(events)[1:-2])
        assert [("x", "f", '{"a":1}'), ("y", "g", '{"b":2}')] == inputs_of(events)

    @covers("4.2 7", "4.2 9")
    def test_point_7_queue(self) -> None:
        """While one call is not whole another waits; the end starts what waits, by index."""
        events = streamed(
            calls(call_delta(0, '{"a":', id="x", name="f")),
            calls(call_delta(2, '{"c":3}', id="z", name="h")),
            calls(call_delta(1, '{"b":2}', id="y", name="g")),
            chat_chunk(finish="length", usage=USAGE),
        )

        assert [("x", '{"a":'), ("y", '{"b":2}'), ("z", '{"c":3}')] == [
            (call_id, arguments) for call_id, _, arguments in inputs_of(events)
        ]
        assert "max_tokens" == ending_of(events)[0]["stop_reason"]

    def test_point_7_no_arguments_yet(self) -> None:
        """A call whose arguments have not begun is not whole: another waits for it too."""
        events = streamed(
            calls(call_delta(0, None, id="x", name="f"), call_delta(1, "{}", id="y", name="g")),
            calls(call_delta(0, '{"a":1}')),
            END,
        )

        assert [("x", "f", '{"a":1}'), ("y", "g", "{}")] == inputs_of(events)

    @covers("4.2 7")
    def test_point_7_arguments_after_the_stop(self) -> None:
        """Arguments for a call that was stopped are the node's failure; white space is none."""
        first, second = tool_call("f", '{"a":1}'), tool_call("g", "{}", 1)
        error = failure(factory()(), stream(calls(first), calls(second), calls(call_delta(0, "x"))))

        assert (BadGateway, "api_error") == (type(error), error.anthropic_type)
        assert "the node sent arguments for a tool call that had ended" == error.message
        events = streamed(calls(first), calls(second), calls(call_delta(0, " \n")), END)
        assert ['{"a":1}', "{}"] == [arguments for _, _, arguments in inputs_of(events)]

    @covers("4.2 8")
    def test_point_8_arguments_are_deltas(self) -> None:
        """Arguments come as deltas, never in the block's start; where there are none, no delta."""
        for empty in ("", None):
            events = streamed(calls(tool_call("f", "") | call_delta(0, empty, name="f")), END)
            assert ["+0", "-0"] == names(events)[1:3]
            assert {} == events[1][1]["content_block"]["input"]

    @covers("4.2 8")
    def test_point_8_blank_arguments(self) -> None:
        """White space alone is no argument: no delta has it but with what follows it."""
        name, blanks = call_delta(0, " ", id="x", name="f"), calls(call_delta(0, "\n"))

        assert ["+0", "-0"] == names(streamed(calls(name), blanks, END))[1:3]
        events = streamed(calls(name), blanks, calls(call_delta(0, "{}")), END)
        assert ["+0", ".0", "-0"] == names(events)[1:4]
        assert [("x", "f", " \n{}")] == inputs_of(events)

    @covers("4.1 tool_calls", "2.2 tool_use")
    def test_arguments_that_are_no_object(self) -> None:
        """They are told in an object, as in an answer that is not streamed: an input is one.

        A client that replays anything else in its history is refused.
        """
        for pieces in (["null"], ["[1,", "2]"], [' "{', '}"'], ["tr", "ue"]):
            first, *rest = pieces
            events = streamed(
                calls(call_delta(0, first, id="x", name="f")),
                *(calls(call_delta(0, piece)) for piece in rest),
                calls(call_delta(1, "{}", id="y", name="g")),
                END,
            )
            (_, _, told), second = inputs_of(events)
            assert {"_raw_arguments": "".join(pieces)} == json.loads(told)
            assert ("y", "g", "{}") == second

    @covers("T53")
    def test_t53_arguments_keep_their_bytes(self) -> None:
        """T53: What the model wrote in arguments is passed on as it wrote it."""
        written = '{"city": "大阪",  "b":1.0}'
        data = relay(factory()(), stream(calls(tool_call("f", written)), END))

        assert "大阪".encode() in data
        assert written == inputs_of(events_of(data))[0][2]

    def test_function_call_of_old(self) -> None:
        """The single call of before there were several is a call like any other."""
        events = streamed(
            chat_chunk(function_call={"name": "f", "arguments": '{"a"'}),
            chat_chunk(function_call={"arguments": ":1}"}),
            chat_chunk(finish="function_call", usage=USAGE),
        )

        assert [("toolu_0ff_0", "f", '{"a":1}')] == inputs_of(events)
        assert "tool_use" == ending_of(events)[0]["stop_reason"]

    @covers("T25", "2.3 disable_parallel_tool_use")
    def test_t25_one_call_only(self) -> None:
        """T25: Where one call is wanted the first ends the answer, and the node is hung up on."""
        responder = factory(one_tool_call=True)()
        out = responder.feed(event(calls(call_delta(0, '{"a":', id="x", name="f"))))
        assert not responder.done
        out += responder.feed(
            event(calls(call_delta(0, "1}"), call_delta(1, "{}", id="y", name="g")))
        )
        events = events_of(out)
        check(events)

        assert [("x", "f", '{"a":1}')] == inputs_of(events)
        assert "tool_use" == ending_of(events)[0]["stop_reason"]
        assert responder.done
        assert getattr(responder, "cut_short", False)
        assert b"" == responder.feed(event(calls(call_delta(1, "{}")))) == responder.finish()
        assert Usage(ESTIMATE, 2, estimated=True) == responder.usage

    def test_t25_a_call_that_is_never_whole(self) -> None:
        """T25: Where one call is wanted no other takes its place, be it whole or not."""
        first, second = call_delta(0, None, id="x", name="f"), call_delta(1, "{}", id="y", name="g")
        events = streamed(calls(first, second), END, one_tool_call=True)

        assert [("x", "f", "")] == inputs_of(events)

    def test_t25_calls_in_the_last_chunk(self) -> None:
        """T25: Of two calls in the node's last chunk one is told, with the node's own counts."""
        responder = factory(one_tool_call=True)()
        two = calls(tool_call("f", "{}"), tool_call("g", "{}", 1), finish="tool_calls")
        events = events_of(relay(responder, stream(two, {"choices": [], "usage": USAGE})))

        assert [("call-0", "f", "{}")] == inputs_of(events)
        assert 8 == ending_of(events)[1]["output_tokens"]
        assert not getattr(responder, "cut_short", True)
