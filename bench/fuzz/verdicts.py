"""Checks of the answers that clients of each dialect must get, whatever they sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.fuzz.answers import Said
from bench.fuzz.asking import CHAT, COUNT_TOKENS, MESSAGES, RESPONSES
from bench.fuzz.hearing import Heard, Wrong, need, read_object
from bench.fuzz.response_events import ENDS_OF_RESPONSES, check_response, read_response_stream

_ANTHROPIC_ERRORS = frozenset(
    {
        "invalid_request_error",
        "authentication_error",
        "billing_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "api_error",
        "timeout_error",
        "overloaded_error",
    }
)
_OPENAI_ERRORS = frozenset(
    {
        "invalid_request_error",
        "server_error",
        "permission_error",
        "rate_limit_error",
        "insufficient_quota",
    }
)
_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)
_DELTA_OF_BLOCK = {
    "text": {"text_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
}
_KNOWN_DELTAS = frozenset().union(*_DELTA_OF_BLOCK.values())


@dataclass(frozen=True, slots=True)
class Answered:
    """A client's answer. With ``is_cut`` its connection was closed before the end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Expected:
    """The requirements on an answer, known before it.

    - ``must_succeed``: the body is good, and the node answered it well.
    - ``may_lack``: a refusal is accepted if it states that the node's dialect lacks the feature.
    - ``node_failed``: the node may be the cause of an error.
    - ``must_fail``: the node's answer was not complete.
    - ``streams``: whether the client requested a stream, ``None`` where the body leaves that open.
    - ``is_passed_on``: the node speaks the client's dialect, so unknown parts of its answer pass.
    - ``said``: the model's output, ``None`` where it is unknown.
    """

    route: str
    must_succeed: bool
    node_failed: bool
    streams: bool | None = None
    may_lack: bool = False
    must_fail: bool = False
    is_passed_on: bool = False
    said: Said | None = None


def check(answered: Answered, expected: Expected) -> None:
    """Raise Wrong if a client of the route must not get this answer."""
    try:
        _check(answered, expected)
    except (KeyError, TypeError, AttributeError) as error:
        raise Wrong(f"an answer of another shape: {error!r}") from error


def _check(answered: Answered, expected: Expected) -> None:
    status, content_type = answered.status, answered.headers.get("content-type", "")
    need(status == 200 or 400 <= status <= 599, f"status {status}")
    if status != 200:
        _check_refusal(answered, expected)
        return
    streams = content_type == "text/event-stream"
    need(streams or content_type == "application/json", f"200 of type {content_type!r}")
    if expected.streams is not None and expected.route != COUNT_TOKENS:
        need(streams is expected.streams, "streamed or not against the request")
    if not streams:
        need(not answered.is_cut, "a whole answer was cut")
        need(not expected.must_fail, "a broken answer of the node became a whole one")
        _check_whole(answered, expected)
        return
    ends_well = _CHECKS_OF_STREAMS[expected.route](answered.body, expected)
    if expected.route == RESPONSES:  # its failures have an end of their own
        need(not answered.is_cut, "a stream of a response was cut")
    else:
        need(ends_well is not answered.is_cut, "the end against that of the connection")
    need(ends_well or expected.node_failed, "a stream failed though the node did not")
    need(not (ends_well and expected.must_fail), "a broken stream of the node ended as complete")


# Refusals.


def _check_refusal(answered: Answered, expected: Expected) -> None:
    body = read_object(answered.body, "an error")
    status = answered.status
    if expected.route in (CHAT, RESPONSES):
        _check_chat_error(body)
    else:
        _check_messages_error(body)
        need(answered.headers.get("request-id") or status == 413, "no request-id")
    need(answered.headers.get("content-type") == "application/json", "an error of another type")
    need(not answered.is_cut or status == 413, "the connection was cut after an error")
    need(status < 500 or expected.node_failed, f"status {status} though the node did not fail")
    need(
        not expected.must_succeed or (expected.may_lack and _says_what_lacks(body)),
        f"status {status} for a good body",
    )


def _says_what_lacks(body: dict[str, Any]) -> bool:
    """Whether a refusal is for what a node of another dialect has not: a parameter, or nothing."""
    error = body["error"]
    return error["code"] == "unsupported_parameter" or "accepts no empty turn" in error["message"]


def _check_messages_error(body: dict[str, Any]) -> None:
    need(body.keys() == {"type", "error", "request_id"}, "not the Anthropic envelope")
    error = body["error"]
    need(body["type"] == "error" and isinstance(error, dict), "not the Anthropic envelope")
    need(error.keys() == {"type", "message"}, "not the Anthropic envelope")
    need(error["type"] in _ANTHROPIC_ERRORS, "an error type Anthropic has not")
    need(isinstance(error["message"], str) and error["message"], "an error without words")
    need("internal error" not in error["message"], "an internal error")


def _check_chat_error(body: dict[str, Any]) -> None:
    error = body.get("error")
    need(body.keys() == {"error"} and isinstance(error, dict), "not the OpenAI envelope")
    assert isinstance(error, dict)  # noqa: S101 -- for mypy: it was just looked at
    need(error.keys() == {"message", "type", "param", "code"}, "not the OpenAI envelope")
    need(error["type"] in _OPENAI_ERRORS, "an error type OpenAI has not")
    need(isinstance(error["message"], str) and error["message"], "an error without words")
    need("internal error" not in error["message"], "an internal error")


# Whole answers.


def _check_whole(answered: Answered, expected: Expected) -> None:
    body = read_object(answered.body, "an answer")
    if expected.route == COUNT_TOKENS:
        tokens = body.get("input_tokens")
        need(body.keys() == {"input_tokens"}, "not the answer to a count")
        need(type(tokens) is int and tokens >= 1, "a count that is none")
    elif expected.route == MESSAGES:
        _check_message(body)
        need(isinstance(body["stop_reason"], str), "a message without a stop_reason")
        for block in body["content"]:
            _check_kind(block, expected)
            need(
                block["type"] != "tool_use" or isinstance(block["input"], dict),
                "a tool call whose input is no object",
            )
        heard = Heard()
        for block in body["content"]:
            heard.take_block(block)
        heard.check(expected.said)
    elif expected.route == CHAT:
        _check_identity(body)
        if expected.said is not None:
            heard = Heard()
            message = body["choices"][0]["message"]
            if message["refusal"]:
                message["content"] = expected.said.text and message["refusal"]
            heard.take_delta(message)
            heard.check(expected.said)
    elif not expected.is_passed_on:
        check_response(body, expected.said)


def _check_kind(block: dict[str, Any], expected: Expected) -> None:
    kind = block.get("type")
    is_known = kind in _DELTA_OF_BLOCK or (expected.is_passed_on and isinstance(kind, str))
    need(is_known, "a block of unknown type")


def _check_message(message: Any) -> None:
    need(isinstance(message, dict), "a message that is no object")
    need(message.get("type") == "message" and message.get("role") == "assistant", "no message")
    need(str(message.get("id")).startswith("msg_"), "a message without our id")
    need(isinstance(message.get("content"), list), "a message without content")
    need("stop_sequence" in message, "a message without stop_sequence")
    _check_counts(message.get("usage"))


def _check_counts(usage: Any) -> None:
    need(
        isinstance(usage, dict) and all(type(usage.get(count)) is int for count in _COUNTS),
        "usage without its four counts",
    )


def _check_identity(body: dict[str, Any]) -> None:
    need(str(body.get("id")).startswith("chatcmpl-"), "an answer without our id")
    need(type(body.get("created")) is int and body.get("model"), "an answer without identity")
    need(isinstance(body.get("choices"), list), "an answer without choices")


# Streams. Each check returns whether the stream says that its answer is complete.


def _frames(body: bytes) -> Iterator[tuple[str, str]]:
    """Yield name and data of each event; the last may not be torn."""
    need(body.endswith(b"\n\n"), "a stream that ends inside an event")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Wrong("a stream that is not UTF-8") from None
    for frame in text[:-2].split("\n\n"):
        if frame.startswith(":"):
            continue
        *before, data = frame.split("\n")
        need(data.startswith("data: ") and len(before) < 2, "an event that is not one line of data")
        yield "".join(before).removeprefix("event: "), data.removeprefix("data: ")


def _chat_stream(body: bytes, expected: Expected) -> bool:
    ended = failed = False
    calls, heard = _ChatCalls(), Heard()
    for name, data in _frames(body):
        need(not (ended or failed), "an event after the end")
        need(not name, "a named event in a chat stream")
        if data == "[DONE]":
            ended = True
            continue
        chunk = read_object(data.encode(), "a chunk")
        if "error" in chunk:
            _check_chat_error(chunk)
            failed = True
            continue
        _check_identity(chunk)
        for choice in chunk["choices"]:
            need(isinstance(choice.get("delta"), dict), "a choice without a delta")
            if not expected.is_passed_on:
                calls.take(choice)
                heard.take_delta(choice["delta"])
    need(ended or failed, "a stream without an end")
    if ended and not expected.is_passed_on:
        need(calls.has_finished, "a stream without a finish_reason")
        heard.check(expected.said)
    return ended


class _ChatCalls:
    """Follows what was made of another dialect: calls one after the other, and one end."""

    def __init__(self) -> None:
        self.has_finished = False
        self._calls = 0

    def take(self, choice: dict[str, Any]) -> None:
        """Take the next choice. Raises Wrong."""
        need(choice["index"] == 0, "a second choice")
        need(not self.has_finished, "a chunk after the finish_reason")
        self.has_finished = choice["finish_reason"] is not None
        for call in choice["delta"].get("tool_calls", ()):
            function = call["function"]
            if call["index"] == self._calls:
                self._calls += 1
                need(call["id"] and function["name"], "a call that begins without id or name")
            need(call["index"] == self._calls - 1, "a call out of order")
            need(isinstance(function["arguments"], str), "a call without arguments")


def _messages_stream(body: bytes, expected: Expected) -> bool:
    reader = _MessageEvents(expected)
    for name, data in _frames(body):
        event = read_object(data.encode(), "an event")
        need(event.get("type") == name, "an event whose name is not its type")
        reader.take(event)
    need(reader.phase in ("ended", "failed"), "a stream without an end")
    if reader.phase == "ended":
        reader.heard.check(expected.said)
    return reader.phase == "ended"


def _responses_stream(body: bytes, expected: Expected) -> bool:
    events = [(name, read_object(data.encode(), "an event")) for name, data in _frames(body)]
    if not expected.is_passed_on:
        return read_response_stream(events, expected.said)
    numbers = 0
    last = ""
    for name, event in events:
        if name and not name.startswith("response."):
            continue  # of the node's own kind
        need(last not in ENDS_OF_RESPONSES, "an event after the end")
        kind = name or str(event.get("type"))
        if kind.startswith("response."):
            in_order = event.get("sequence_number", numbers) == numbers
            need(in_order, "a sequence_number out of order")
            numbers += 1
            last = kind
    need(last in ENDS_OF_RESPONSES, "a stream without an end")
    return last != "response.failed"


_CHECKS_OF_STREAMS = {
    MESSAGES: _messages_stream,
    CHAT: _chat_stream,
    RESPONSES: _responses_stream,
}


class _MessageEvents:
    """Follows the events of a message: one open block, indexes without a gap, one end."""

    def __init__(self, expected: Expected) -> None:
        self.phase = "waiting"
        self.heard = Heard()
        self._expected = expected
        self._open: str | None = None
        self._index = 0

    def take(self, event: dict[str, Any]) -> None:
        """Take the next event. Raises Wrong."""
        kind = event["type"]
        need(self.phase not in ("ended", "failed"), "an event after the end")
        if kind == "ping":
            return
        if kind == "error":
            _check_messages_error(event)
            self.phase = "failed"
        elif kind == "message_start":
            need(self.phase == "waiting", "a second message_start")
            _check_message(event.get("message"))
            self.phase = "running"
        elif kind == "message_delta":
            need(self.phase == "running" and self._open is None, "a message_delta too early")
            need(isinstance(event["delta"].get("stop_reason"), str), "no stop_reason")
            need("stop_sequence" in event["delta"], "no stop_sequence")
            _check_counts(event.get("usage"))
            self.phase = "stopping"
        elif kind == "message_stop":
            need(self.phase == "stopping", "a message_stop without its message_delta")
            self.phase = "ended"
        else:
            need(self.phase == "running", "a block outside the message")
            need(event.get("index") == self._index, "a block index out of order")
            self._take_block(kind, event)

    def _take_block(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "content_block_start":
            need(self._open is None, "two open blocks")
            block = event["content_block"]
            _check_kind(block, self._expected)
            self._open = block["type"]
            self.heard.take_block(block)
            need(
                self._open != "tool_use"
                or (block["id"] and block["name"] and block["input"] == {}),
                "a tool call without id, name or empty input",
            )
        elif kind == "content_block_delta":
            need(self._open is not None, "a delta without a block")
            delta = event["delta"]
            kind = delta["type"]
            need(
                kind in _DELTA_OF_BLOCK.get(self._open or "", ())
                or (self._expected.is_passed_on and kind not in _KNOWN_DELTAS)
                or self._open not in _DELTA_OF_BLOCK,
                "a delta of another block",
            )
            self.heard.take_block_delta(self._open or "", delta)
        elif kind == "content_block_stop":
            need(self._open is not None, "a stop without a block")
            self._open = None
            self._index += 1
        else:
            raise Wrong("an event that Anthropic has not")
