import json
from itertools import groupby, pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.chat_stream import Identity
from cortexd.dialects.openai.chat_answer import ChatStream
from cortexd.dialects.openai.serial_calls import SerialCalls
from tests.covers import covers
from tests.dialects.node_answers import USAGE, chat_chunk, chunks_of, relay, stream


def piece(index: int, arguments: str | None, **fields: str) -> dict[str, Any]:
    """Return a delta of a call, with an id and a name where they are given."""
    function: dict[str, Any] = {"arguments": arguments}
    if "name" in fields:
        function["name"] = fields.pop("name")
    return {"index": index, "function": function, **fields}


def taken(*deltas: dict[str, Any]) -> list[list[int]]:
    """Return the indexes told after each delta and, last, at the end."""
    calls = SerialCalls()
    told = [calls.take([delta], is_last=False) for delta in deltas]
    told.append(calls.take([], is_last=True))
    return [[delta["index"] for delta in group] for group in told]


OBJECTS = st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=3).map(json.dumps)
NO_OBJECTS = st.sampled_from(["", "[]", '{"a"', "{}}", '{"a":"}', " "])


@st.composite
def by_turns(draw: st.DrawFn, arguments: st.SearchStrategy[str]) -> list[dict[str, Any]]:
    """Give the deltas of a few calls, each cut anywhere, by turns in any order."""
    queues = []
    for index in range(draw(st.integers(1, 4))):
        text = draw(arguments)
        ends = draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=4))
        bounds = [0, *sorted(end for end in ends if end < len(text)), len(text)]
        queues.append([piece(index, text[start:end]) for start, end in pairwise(bounds)])
    deltas = []
    while waiting := [queue for queue in queues if queue]:
        deltas.append(draw(st.sampled_from(waiting)).pop(0))
    return deltas


def all_told(deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    calls = SerialCalls()
    told = [sent for delta in deltas for sent in calls.take([delta], is_last=False)]
    return told + calls.take([], is_last=True)


def arguments_of(deltas: list[dict[str, Any]], index: int) -> str:
    """Return the arguments that the deltas of one call have together."""
    of_one = [delta for delta in deltas if delta["index"] == index]
    return "".join(delta["function"]["arguments"] or "" for delta in of_one)


class SerialCallsTests(SynchronousTestCase):
    def test_whole_calls(self) -> None:
        """Calls that come whole are told as they come."""
        calls = SerialCalls()
        deltas = [piece(0, '{"a": 1}'), piece(1, "{}"), piece(2, '{"b": "}"}')]

        assert deltas == calls.take(deltas, is_last=False)

    @covers("T15")
    def test_by_turns(self) -> None:
        """A call waits until the one before it is whole, and then has all of its own told."""
        deltas = [piece(0, '{"a":'), piece(1, '{"b":'), piece(0, "1}"), piece(1, "2}")]

        assert [[0], [], [0, 1], [1], []] == taken(*deltas)

    def test_the_end(self) -> None:
        """The end tells what waits, each call for itself, after the arguments of the open one."""
        deltas = [piece(0, ""), piece(2, '{"c":'), piece(1, "{}"), piece(2, "3")]

        assert [[0], [], [], [], [0, 2, 2, 1]] == taken(*deltas)

    def test_late_arguments(self) -> None:
        """What comes for a call that was told already is not lost."""
        deltas = [piece(0, "{}"), piece(1, '{"b":'), piece(0, " "), piece(1, "2}")]

        assert [[0], [1], [0], [1], []] == taken(*deltas)

    def test_no_arguments(self) -> None:
        """A call that ends without arguments gets those that clients can parse, once."""
        for blank in ("", None, " "):
            at_the_end = SerialCalls()
            assert [piece(0, "{}")] == at_the_end.take([piece(0, blank)], is_last=True)
        bare = {"index": 0, "id": "x"}
        calls = SerialCalls()

        assert [bare] == calls.take([bare], is_last=False)
        assert [piece(0, "{}")] == calls.take([], is_last=True)

    @given(by_turns(OBJECTS | NO_OBJECTS))
    def test_nothing_is_lost(self, deltas: list[dict[str, Any]]) -> None:
        """However calls are cut and mixed, each has all of its deltas told, in their order."""
        told = all_told(deltas)

        for index in {delta["index"] for delta in deltas}:
            given = arguments_of(deltas, index)
            assert arguments_of(told, index) == (given if given.strip() else given + "{}")

    @given(by_turns(OBJECTS))
    def test_one_after_the_other(self, deltas: list[dict[str, Any]]) -> None:
        """Calls whose arguments are objects are each told to the end before the next begins."""
        runs = [index for index, _ in groupby(delta["index"] for delta in all_told(deltas))]

        assert sorted(set(runs)) == sorted(runs)


class StreamTests(SynchronousTestCase):
    @covers("T15")
    def test_a_stream_of_chunks(self) -> None:
        """A chat client is told one call after the other, and then the end of the answer.

        A chunk of which all is held back has an empty delta.
        """
        chunks = chunks_of(
            relay(
                ChatStream(Identity("chatcmpl-ours", 1, "acme/chat"), include_usage=False),
                stream(
                    chat_chunk(tool_calls=[piece(0, '{"a":', id="x", name="f")]),
                    chat_chunk(tool_calls=[piece(1, '{"b":', id="y", name="g")]),
                    chat_chunk(tool_calls=[piece(0, "1")]),
                    chat_chunk(tool_calls=[piece(1, "2}")], finish="tool_calls", usage=USAGE),
                ),
            )
        )
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        told = [[call["index"] for call in delta.get("tool_calls", [])] for delta in deltas]

        assert [[0], [], [0], [1, 1], []] == told
        assert [None, None, None, None, "tool_calls"] == [
            chunk["choices"][0]["finish_reason"] for chunk in chunks
        ]
