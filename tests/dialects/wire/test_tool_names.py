import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.exchange import JSON, Usage
from cortexd.dialects.wire.frames import Mould
from cortexd.dialects.wire.json_values import decode, encode
from cortexd.dialects.wire.profile import ToolIdFormat
from cortexd.dialects.wire.tool_names import (
    RenamingResponder,
    messages_id,
    upstream_id,
    upstream_name,
)
from cortexd.errors import BadGateway, CortexError
from cortexd.sse import ServerSentEvent
from tests.covers import covers
from tests.dialects.bodies import JSON_VALUES

NAMES = {"alias_1": "tool.one", "alias_2": "tool.two"}


class Recorder:
    """A responder that keeps what it is given and counts it."""

    def __init__(self) -> None:
        self.content_type = JSON
        self.streams = False
        self.done = self.cut_short = self.finished = self.fails_in_order = False
        self.mould: Mould | None = None
        self.content_chunks = 0
        self.usage: Usage | None = None
        self.upstream_id: str | None = None
        self.fed: list[ServerSentEvent] = []

    def feed(self, event: ServerSentEvent) -> bytes:
        self.fed.append(event)
        self.content_chunks += 1
        self.finished = True
        self.upstream_id = "7"
        return b"fed"

    def take_body(self, body: bytes) -> bytes:
        self.done = True
        return body

    def finish(self) -> bytes:
        self.done = True
        self.usage = Usage(1, 2)
        return b"finished"

    def fail(self, error: CortexError) -> bytes:
        return error.message.encode()

    def waiting(self, elapsed: float, words: str = "") -> bytes:
        return b"%d" % elapsed


def fed(data: bytes) -> bytes:
    """Return the data of the event that reaches the inner responder."""
    inner = Recorder()
    RenamingResponder(inner, NAMES).feed(ServerSentEvent(data, b"message"))
    (event,) = inner.fed
    assert b"message" == event.name
    return event.data


def chunk(*names: Any) -> bytes:
    calls = [{"index": index, "function": {"name": name}} for index, name in enumerate(names)]
    return encode({"id": "7", "choices": [{"delta": {"tool_calls": calls}}]})


class UpstreamNameTests(SynchronousTestCase):
    def test_taken_names_stay(self) -> None:
        """A name that is taken upstream stays, up to 64 characters."""
        for name in ("weather", "mcp__a-b__C9", "x" * 64):
            assert name == upstream_name(name)

    def test_others_get_an_alias(self) -> None:
        """A name that is too long, or holds what is not taken, becomes one that can be read."""
        assert re.fullmatch(r"get_weather_[0-9a-f]{16}", upstream_name("get.weather"))
        assert re.fullmatch(r"x{47}_[0-9a-f]{16}", upstream_name("x" * 65))

    @covers("2.3 name not taken upstream")
    @settings(max_examples=200)
    @given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), unique=True, max_size=6))
    def test_any_names(self, names: list[str]) -> None:
        """Every name has an alias that is taken, no two the same one, and always that one."""
        found = [upstream_name(name) for name in names]

        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in found)
        assert len(set(names)) == len(set(found))
        assert found == [upstream_name(name) for name in names]


class UpstreamIdTests(SynchronousTestCase):
    @covers("2.3 ids")
    def test_never_rewritten(self) -> None:
        """ids: never rewritten where any is taken."""
        for call_id in ("toolu_01A", "call_1234-abc.def:0", "abcdef123"):
            assert call_id == upstream_id(call_id, ToolIdFormat.ANY)

    @covers("T38", "2.3 ids")
    def test_t38_mistral9(self) -> None:
        """T38: an id becomes 9 letters and digits, always the same ones; such an id stays."""
        first = upstream_id("toolu_01A", ToolIdFormat.MISTRAL9)

        assert re.fullmatch(r"[A-Za-z0-9]{9}", first)
        assert first == upstream_id("toolu_01A", ToolIdFormat.MISTRAL9)
        assert first == upstream_id(first, ToolIdFormat.MISTRAL9)
        assert first != upstream_id("toolu_01B", ToolIdFormat.MISTRAL9)

    def test_ids_of_messages(self) -> None:
        """Messages takes letters, digits, _ and -: another id becomes one of these, always one."""
        for call_id in ("toolu_01A", "call-1"):
            assert call_id == messages_id(call_id, ToolIdFormat.ANY)
        others = ("functions.weather:0", "functions.weather:1", "é", "a\n", "名")
        found = [messages_id(call_id, ToolIdFormat.ANY) for call_id in others]
        for alias in found:
            assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", alias)
        assert len(others) == len(set(found))
        assert found == [messages_id(call_id, ToolIdFormat.ANY) for call_id in others]
        nine = ToolIdFormat.MISTRAL9
        assert upstream_id("a.b", nine) == messages_id("a.b", nine)


class RenamingResponderTests(SynchronousTestCase):
    @covers("2.3 name not taken upstream")
    def test_names_come_back(self) -> None:
        """Calls of a chunk get the client's names; names that are no alias stay."""
        assert decode(chunk("tool.one", "alias_", "tool.two", None)) == decode(
            fed(chunk("alias_1", "alias_", "alias_2", None))
        )

    def test_other_events_pass_untouched(self) -> None:
        """What holds no alias, or is no chunk, passes byte for byte."""
        for data in (b'{ "choices": [] }', b"[DONE]", b"alias_1 is not known", b'"alias_1"'):
            assert data == fed(data)

    def test_names_of_a_whole_answer(self) -> None:
        """An answer that the node gave whole gets them too."""
        call = {"function": {"name": "alias_1", "arguments": "{}"}}
        message = {"content": "alias_2", "tool_calls": [call]}
        body = encode({"choices": [{"message": message}]})
        found = decode(RenamingResponder(Recorder(), NAMES).take_body(body))

        call["function"]["name"] = "tool.one"
        assert {"choices": [{"message": message}]} == found

    def test_alias_as_text(self) -> None:
        """A text in which an alias is spelled stays as it is."""
        data = {"choices": [{"delta": {"content": "alias_1", "tool_calls": None}}]}

        assert data == decode(fed(encode(data)))

    @settings(max_examples=100)
    @given(JSON_VALUES, st.sampled_from(["choices", "delta", "tool_calls", "function"]))
    def test_any_shape(self, value: object, field: str) -> None:
        """A chunk of any shape is the inner responder's to judge."""
        shape: Any = value
        for name in ("function", "tool_calls", "delta", "choices"):
            shape = {name: shape} if name in ("function", "delta") else {name: [shape]}
            if name == field:
                shape = {name: value}
        try:
            data = encode(shape | {"id": "alias_1"})
        except ValueError:  # a lone surrogate, which no node can send either
            return
        assert decode(data) == decode(fed(data))

    def test_the_face(self) -> None:
        """All else is the inner responder's: what it says, and what it tells of itself."""
        inner = Recorder()
        responder = RenamingResponder(inner, NAMES)
        assert (JSON, False, False) == (responder.content_type, responder.streams, responder.done)
        assert b"fed" == responder.feed(ServerSentEvent(b"{}"))
        assert (1, "7", None, True) == (
            responder.content_chunks,
            responder.upstream_id,
            responder.usage,
            responder.finished,
        )
        assert b"3" == responder.waiting(3.0)
        assert b"broken" == responder.fail(BadGateway("broken"))
        assert b"finished" == responder.finish()
        assert (True, Usage(1, 2)) == (responder.done, responder.usage)
        assert b"{}" == RenamingResponder(Recorder(), NAMES).take_body(b"{}")
