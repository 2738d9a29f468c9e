"""Messages answers: makers of them, what a client reads in them, and a checker of their events."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cortexd.dialects.messages_to_chat.answer import answer_factory
from cortexd.dialects.messages_to_chat.reading import AnswerTerms
from cortexd.dialects.wire.asked import Asked, Opening
from cortexd.dialects.wire.exchange import Responder
from cortexd.dialects.wire.profile import MISTRALRS, Profile, ThinkingWish
from cortexd.errors import CortexError
from cortexd.sse import ServerSentEvent
from tests.dialects.node_answers import chat_chunk, relay, stream

MODEL = "claude-opus-4"
ESTIMATE = 11
COUNTS = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
)

Event = tuple[str, dict[str, Any]]


def asked(*, streams: bool = True) -> Asked:
    """Return what a Messages client asked."""
    return Asked(
        model=MODEL,
        streams=streams,
        message_id="msg_0ff",
        prompt_estimate=ESTIMATE,
        opening=Opening(),
        request_id="req_7",
    )


def terms(
    *,
    streams: bool = True,
    stop: Sequence[str] = (),
    thinking: ThinkingWish = ThinkingWish.SHOWN,
    one_tool_call: bool = False,
    profile: Profile = MISTRALRS,
) -> AnswerTerms:
    return AnswerTerms(
        asked=asked(streams=streams),
        stop_sequences=tuple(stop),
        thinking=thinking,
        one_tool_call=one_tool_call,
        profile=profile,
    )


def factory(**wishes: Any) -> Callable[[], Responder]:
    """Return the maker of one request's responders; ``wishes`` as for ``terms``."""
    return answer_factory(terms(**wishes))


def call_delta(index: object, arguments: str | None = None, **given: Any) -> dict[str, Any]:
    """Return a piece of a tool call; ``id`` and ``name`` where they are given."""
    function = {"arguments": arguments} | {
        key: value for key, value in given.items() if key == "name"
    }
    call = {"function": function} | {key: value for key, value in given.items() if key == "id"}
    return call if index is None else call | {"index": index}


def calls(*deltas: dict[str, Any], **chunk: Any) -> dict[str, Any]:
    """Return a chunk with these pieces of calls."""
    return chat_chunk(tool_calls=list(deltas), **chunk)


def events_of(downstream: bytes) -> list[Event]:
    """Return names and data of events; each must be one event line and one data line."""
    *blocks, rest = downstream.split(b"\n\n")
    assert b"" == rest
    found = []
    for block in blocks:
        named, data = block.split(b"\n")
        assert named.startswith(b"event: ")
        assert data.startswith(b"data: ")
        parsed = json.loads(data[6:])
        assert named[7:].decode() == parsed["type"]
        found.append((parsed["type"], parsed))
    return found


def streamed(*chunks: object, **wishes: Any) -> list[Event]:
    """Return the events of the answer to these chunks, without pings, checked."""
    events = events_of(relay(factory(**wishes)(), stream(*chunks)))
    check(events)
    return [event for event in events if event[0] != "ping"]


def gathered(*chunks: object, **wishes: Any) -> Any:
    """Return the whole message of these chunks."""
    return json.loads(relay(factory(streams=False, **wishes)(), stream(*chunks)))


def check(events: list[Event]) -> None:
    """Assert that events are a stream of the dialect, complete or with an error at its end.

    Written against the dialect's reference, apart from what makes the events.
    """
    started = ended = failed = False
    closing = False
    open_index: int | None = None
    open_type = arguments = ""
    next_index = 0
    deltas = {
        "thinking": {"thinking_delta", "signature_delta"},
        "text": {"text_delta"},
        "tool_use": {"input_json_delta"},
    }
    call_ids = set()
    for name, data in events:
        assert not ended, f"{name} after the end"
        assert not failed, f"{name} after the error"
        if name == "message_start":
            assert not started
            started = True
            message = data["message"]
            assert [] == message["content"]
            assert None is message["stop_reason"] is message["stop_sequence"]
            assert_counts(message["usage"])
            continue
        if name == "error":
            assert {"type", "message"} == data["error"].keys()
            failed = True
            continue
        assert started, f"{name} before message_start"
        if name == "ping":
            continue
        if name == "content_block_start":
            assert not closing
            assert None is open_index
            assert next_index == data["index"]
            open_index, open_type = next_index, data["content_block"]["type"]
            arguments = ""
            next_index += 1
            if open_type == "tool_use":
                assert {} == data["content_block"]["input"]
                assert data["content_block"]["name"]
                assert data["content_block"]["id"] not in call_ids
                call_ids.add(data["content_block"]["id"])
        elif name == "content_block_delta":
            assert open_index == data["index"]
            assert data["delta"]["type"] in deltas[open_type]
            arguments += data["delta"].get("partial_json", "")
        elif name == "content_block_stop":
            assert open_index == data["index"]
            assert not arguments or arguments.lstrip().startswith("{")
            open_index = None
        elif name == "message_delta":
            assert not closing
            assert None is open_index
            closing = True
            assert isinstance(data["delta"]["stop_reason"], str)
            assert "stop_sequence" in data["delta"]
            assert_counts(data["usage"])
        else:
            assert "message_stop" == name
            assert closing
            ended = True
    assert ended != failed


def assert_counts(usage: dict[str, Any]) -> None:
    for count in COUNTS:
        assert type(usage[count]) is int
        assert usage[count] >= 0


def content_of(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return the content blocks that a client puts together; arguments stay text."""
    content: list[dict[str, Any]] = []
    for name, data in events:
        if name == "content_block_start":
            block = dict(data["content_block"])
            if block["type"] == "tool_use":
                block["input"] = ""
            content.append(block)
        elif name == "content_block_delta":
            delta = dict(data["delta"])
            del delta["type"]
            ((key, text),) = delta.items()
            content[data["index"]][key if key != "partial_json" else "input"] += text
    return content


def inputs_of(events: Iterable[Event]) -> list[tuple[str, str, str]]:
    """Return id, name and arguments of each tool call."""
    return [
        (block["id"], block["name"], block["input"])
        for block in content_of(events)
        if block["type"] == "tool_use"
    ]


def names(events: Iterable[Event]) -> list[str]:
    """Return the names of events, those of blocks by what they do and where: ``+0 .0 -0``."""
    signs = {
        "content_block_start": "+",
        "content_block_delta": ".",
        "content_block_stop": "-",
    }
    return [signs[name] + str(data["index"]) if name in signs else name for name, data in events]


def ending_of(events: list[Event]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of how a message ended, and its usage."""
    (_, data), (last, _) = events[-2:]
    assert "message_stop" == last
    return data["delta"], data["usage"]


Step = float | list[ServerSentEvent]
"""What happens in an attempt: seconds of silence so far, or the events of one read."""


def serve(make: Callable[[], Responder], attempts: Sequence[Sequence[Step]]) -> bytes:
    """Return what a client gets, by the rules of the relay, of attempts each at another node."""
    sent: list[bytes] = []
    failed: CortexError | None = None
    for steps in attempts:
        responder, spoke = make(), False
        try:
            for step in steps:
                if isinstance(step, float):
                    sent.append(responder.waiting(step))
                    continue
                out, error = b"", None
                try:
                    for event in step:
                        out += responder.feed(event)
                except CortexError as caught:
                    error = caught
                if out and (spoke or error is None):
                    spoke = True
                    sent.append(out)
                if error is not None:
                    raise error
                if responder.done:
                    return b"".join(sent)
            return b"".join([*sent, responder.finish()])
        except CortexError as error:
            if spoke:
                return b"".join([*sent, responder.fail(error)])
            failed = error
    assert failed is not None
    return b"".join([*sent, make().fail(failed)])
