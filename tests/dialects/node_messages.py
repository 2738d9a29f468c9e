"""What a node that speaks Messages answers, by the dialect's reference, and a checker of streams.

The shapes are those of Anthropic; what mistral.rs leaves out is in nodes.md 5.4 and 5.5.
"""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from cortexd import sse
from cortexd.dialects.messages_passed.answer import PassedStream, passed_factory
from cortexd.dialects.wire.asked import Asked
from cortexd.dialects.wire.json_values import encode
from cortexd.dialects.wire.profile import ThinkingWish
from cortexd.sse import ServerSentEvent
from tests.dialects.message_answers import (
    Event,
    Step,
    asked,
    assert_counts,
    events_of,
    names,
    serve,
)

START_USAGE = {
    "input_tokens": 20,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 80,
    "output_tokens": 1,
}
END_USAGE = {"output_tokens": 5}
PING = {"type": "ping"}
PING_EVENT = b'event: ping\ndata: {"type":"ping"}\n\n'
SHOWN = ThinkingWish.SHOWN
ODD_EVENT = {"type": "agentic_tool_call_progress", "tool": "web_search"}
CITATION = {
    "type": "web_search_result_location",
    "url": "https://example.org/a",
    "title": "A",
    "cited_text": "a",
    "encrypted_index": "x",
}

Data = dict[str, Any]


def started(usage: object = START_USAGE, **message: object) -> Data:
    """Return the event that begins a message."""
    given = {
        "id": "msg_node_7",
        "type": "message",
        "role": "assistant",
        "model": "org/base",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    return {"type": "message_start", "message": given | message}


def block_start(index: object, block: object) -> Data:
    return {"type": "content_block_start", "index": index, "content_block": block}


def block_delta(index: object, delta: object) -> Data:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def block_stop(index: object) -> Data:
    return {"type": "content_block_stop", "index": index}


def block(index: int, content_block: Data, *deltas: Data) -> list[Data]:
    """Return all events of one block."""
    pieces = [block_delta(index, delta) for delta in deltas]
    return [block_start(index, content_block), *pieces, block_stop(index)]


def text_delta(text: str) -> Data:
    return {"type": "text_delta", "text": text}


def thinking_delta(text: str) -> Data:
    return {"type": "thinking_delta", "thinking": text}


def input_delta(text: str) -> Data:
    return {"type": "input_json_delta", "partial_json": text}


def text_block(index: int, *texts: str) -> list[Data]:
    return block(index, {"type": "text", "text": ""}, *map(text_delta, texts))


def thinking_block(index: int, *texts: str, signature: str = "sig") -> list[Data]:
    signed = {"type": "signature_delta", "signature": signature}
    start = {"type": "thinking", "thinking": "", "signature": ""}
    return block(index, start, *map(thinking_delta, texts), signed)


def call_block(index: int, name: str, *pieces: str, given: Data | None = None) -> list[Data]:
    """Return the events of a tool call; ``given`` are arguments that its start has whole."""
    start = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": given or {}}
    return block(index, start, *map(input_delta, pieces))


SERVER_CALL = block(
    0,
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
    input_delta('{"query": "a"}'),
)
SERVER_RESULT = block(
    1,
    {
        "type": "web_search_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": [{"type": "web_search_result", "url": "https://example.org/a", "title": "A"}],
    },
)


def ended(stop_reason: object = "end_turn", usage: object = END_USAGE, **delta: object) -> Data:
    """Return the event that says how a message ended."""
    fields = {"stop_reason": stop_reason, "stop_sequence": None} | delta
    return {"type": "message_delta", "delta": fields, "usage": usage}


STOPPED = {"type": "message_stop"}


def error(kind: object, message: object) -> Data:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_node"}


def sse_of(data: object) -> ServerSentEvent:
    """Return the event of these data, named as they are; bytes have no name."""
    if isinstance(data, bytes):
        return ServerSentEvent(data)
    name = data.get("type") if isinstance(data, dict) else None
    encoded = encode(data)
    return ServerSentEvent(encoded, name.encode()) if isinstance(name, str) else sse_of(encoded)


def message_stream(*events: object) -> bytes:
    """Return the bytes of a stream; bytes among its events are parts of it as they are."""
    parts = []
    for data in events:
        if isinstance(data, bytes):
            parts.append(data)
        else:
            encoded, name = sse_of(data)
            parts.append(sse.encode(encoded, name))
    return b"".join(parts)


def whole_stream(*blocks: Sequence[Data], end: Data | None = None) -> bytes:
    """Return the bytes of a whole message with these blocks."""
    between = [data for block in blocks for data in block]
    return message_stream(started(), *between, end or ended(), STOPPED)


def check_passed(events: Sequence[Event]) -> None:
    """Assert that events are a stream of the dialect, complete or with an error at its end.

    As ``message_answers.check``, but of whatever blocks and deltas a node may have.
    """
    names = [name for name, _ in events]
    assert names.count("message_start") <= 1
    assert names.count("message_delta") == names.count("message_stop") <= 1
    assert names[-1] in ("message_stop", "error")
    assert not {"message_stop", "error"} & set(names[:-1])
    if names != ["error"]:
        assert "message_start" == names[0]
        assert_counts(events[0][1]["message"]["usage"])
    open_index, blocks = None, 0
    for name, data in events:
        if name == "content_block_start":
            assert (None, blocks) == (open_index, data["index"])
            open_index, blocks = blocks, blocks + 1
            assert isinstance(data["content_block"]["type"], str)
        elif name == "content_block_delta":
            assert open_index == data["index"]
        elif name == "content_block_stop":
            assert open_index == data["index"]
            open_index = None
        elif name == "message_delta":
            assert None is open_index
            assert isinstance(data["delta"]["stop_reason"], str)
            assert "stop_sequence" in data["delta"]
            assert_counts(data["usage"])
        else:
            assert name in ("message_start", "message_stop", "ping", "error")


def passed_stream(request: Asked | None = None, *, thinking: ThinkingWish = SHOWN) -> PassedStream:
    made = passed_factory(request or asked(), thinking=thinking)()
    assert isinstance(made, PassedStream)
    return made


def told(*attempts: list[Any], thinking: ThinkingWish = SHOWN) -> list[Event]:
    """Return what a client gets of attempts, each a list of seconds of silence and of events."""
    steps: list[list[Step]] = [
        [step if isinstance(step, float) else [sse_of(data) for data in step] for step in attempt]
        for attempt in attempts
    ]
    events = events_of(serve(passed_factory(asked(), thinking=thinking), steps))
    check_passed(events)
    return events


def names_of(*attempts: list[Any], **wishes: Any) -> str:
    return " ".join(names(told(*attempts, **wishes)))


# Strategies.

_TEXTS = st.lists(st.text(), max_size=3)
_ARGUMENTS = st.dictionaries(st.text(), st.integers() | st.text(), max_size=2)


@st.composite
def _calls(draw: st.DrawFn, index: int) -> list[Data]:
    arguments = draw(_ARGUMENTS)
    name = draw(st.sampled_from(["search", "read"]))
    if draw(st.booleans()):
        return call_block(index, name, given=arguments)
    written = json.dumps(arguments, ensure_ascii=False) if arguments else ""
    place = draw(st.integers(0, len(written)))
    return call_block(index, name, "", written[:place], written[place:])


@st.composite
def message_streams(draw: st.DrawFn) -> tuple[list[Data], bytes]:
    """Return the events of a complete stream, and its bytes with what may come between them."""
    events = [started(draw(st.sampled_from([START_USAGE, {"input_tokens": 0}, None])))]
    for index in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["text", "thinking", "call"]))
        if kind == "text":
            events += text_block(index, *draw(_TEXTS))
        elif kind == "thinking":
            events += thinking_block(index, *draw(_TEXTS))
        else:
            events += draw(_calls(index))
    reason = draw(st.sampled_from(["end_turn", "max_tokens", "tool_use", "refusal", "new_reason"]))
    usage = draw(st.sampled_from([END_USAGE, START_USAGE, {"output_tokens": None}, None]))
    events += [ended(reason, usage), STOPPED]
    noise = st.sampled_from([b"", b"", b":\n\n", message_stream(PING), message_stream(ODD_EVENT)])
    parts: list[object] = []
    for data in events:
        parts += [draw(noise), data]
    return events, message_stream(*parts)


_ODD = st.sampled_from([None, 0, -1, 7, 1.5, True, "", "x", [], {}, [None], {"a": None}, 2**80])
_INDEXES = st.sampled_from([0, 0, 0, 1, 2, 7, "x", None])
_BLOCKS = st.sampled_from(
    [
        {"type": "text", "text": ""},
        {"type": "text", "text": "a", "citations": [CITATION]},
        {"type": "text"},
        {"type": "thinking", "thinking": ""},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "tool_use", "id": "x", "name": "f", "input": {}},
        {"type": "tool_use", "id": "x", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "x", "name": "f"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "new_block", "new_field": {"a": [1]}},
    ]
)
_DELTAS = st.sampled_from(
    [
        text_delta("a"),
        text_delta(""),
        thinking_delta("t"),
        {"type": "signature_delta", "signature": "s"},
        input_delta('{"a":1}'),
        input_delta("{"),
        input_delta(" "),
        {"type": "citations_delta", "citation": CITATION},
        {"type": "citations_delta"},
        {"type": "new_delta", "new_field": "x", "other": [1]},
    ]
)
_EVENTS = st.one_of(
    st.just(started()),
    st.builds(block_start, _INDEXES, _BLOCKS),
    st.builds(block_delta, _INDEXES, _DELTAS),
    st.builds(block_delta, _INDEXES, _DELTAS),
    st.builds(block_stop, _INDEXES),
    st.builds(ended, st.sampled_from(["end_turn", "refusal", "", None]), _ODD),
    st.just(STOPPED),
    st.just(PING),
)


@st.composite
def _odd_events(draw: st.DrawFn) -> Data:
    """Return an event one field of which is of an odd type."""
    data: Data = json.loads(json.dumps(draw(_EVENTS)))
    places = [(data, key) for key in data]
    for inner in list(data.values()):
        if isinstance(inner, dict):
            places += [(inner, key) for key in inner]
    parent, key = draw(st.sampled_from(places))
    parent[key] = draw(_ODD)
    return data


def _orderly(parts: list[Any]) -> list[Any]:
    """Return a stream of which each block is where it may be, and so more of it is read."""
    return [data for part in parts for data in (part if isinstance(part, list) else [part])]


any_events: st.SearchStrategy[list[Any]] = st.lists(
    st.one_of(
        _EVENTS,
        _odd_events(),
        st.builds(lambda start, deltas: block(0, start, *deltas), _BLOCKS, st.lists(_DELTAS)),
        st.builds(lambda start, deltas: block(0, start, *deltas), _BLOCKS, st.lists(_DELTAS)),
        st.sampled_from(
            [b"[DONE]", b"CUDA error", b"7", b"\xff", b'{"error":"x"}', b"{}", error("x", None)]
        ),
        st.just([ended(), STOPPED]),
    ),
    max_size=8,
).map(_orderly)
"""Whatever a node may send, much of it out of turn."""

hostile_streams: st.SearchStrategy[list[Any]] = any_events | any_events.map(
    lambda events: [started(), *events]
)
