"""OpenAI chat completions: the answer, streamed, gathered from a stream, or passed on whole.

The node speaks nearly the same dialect. What differs (nodes.md 4.1, 4.2 and 4.3): its ids are small
counters that collide, every delta names the role, usage sits on the finish chunk whether asked for
or not, token probabilities of a stream come as one bare object, agentic events carry names, and an
error may be a line of plain text.

An answer is complete once a chunk has brought a ``finish_reason``. A stream that ends without one
is broken, ``[DONE]`` or not: an engine that is killed ends its streams in good order
(nodes.md 2.5.2).
"""

from __future__ import annotations

from types import NoneType
from typing import Any, Final

from cortexd.dialects.nodes.answers import as_it_came, broken_off, unknown_shape
from cortexd.dialects.nodes.chat_stream import (
    Identity,
    InOnePiece,
    NodeStream,
    StreamedAnswer,
    WholeAnswer,
    read_choices,
)
from cortexd.dialects.openai.serial_calls import SerialCalls
from cortexd.dialects.openai.token_probabilities import settle_probabilities
from cortexd.dialects.wire.json_values import JsonObject, encode, integer
from cortexd.sse import ServerSentEvent

AGENTIC_EVENTS: Final = frozenset(
    {b"agentic_tool_call_progress", b"agentic_tool_approval_required", b"file_produced"}
)
"""What nodes tell of their own tools, and ask (nodes.md 4.3.8)."""


def _brings_content(choice: JsonObject) -> bool:
    """Check a choice's delta, complete what a node may leave out of it, and tell what it brings."""
    delta = choice["delta"] = _object(choice, "delta")
    for field in ("content", "reasoning_content"):
        if not isinstance(delta.get(field), (str, NoneType)):
            raise unknown_shape(field)
    calls = delta.get("tool_calls")
    if calls is not None:
        _check_tool_calls(calls)
    return bool(delta.get("content") or delta.get("reasoning_content") or calls)


def _calls(delta: JsonObject, *, single_call: bool) -> list[JsonObject]:
    """Return the calls of a checked delta; of several at a time the first where one is wanted."""
    calls: list[JsonObject] = delta.get("tool_calls") or []
    return [call for call in calls if call["index"] == 0] if single_call else calls


def _object(parent: JsonObject, field: str) -> JsonObject:
    value = parent.get(field)
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise unknown_shape(field)


def _check_tool_calls(calls: object) -> None:
    """Check the calls of one delta and give each its index, which the SDKs merge deltas by."""
    if not isinstance(calls, list):
        raise unknown_shape("tool_calls")
    for index, call in enumerate(calls):
        if not isinstance(call, dict):
            raise unknown_shape("tool_calls")
        if not isinstance(call.get("index"), int):
            call["index"] = index
        function = _object(call, "function")
        if not isinstance(function.get("arguments"), (str, NoneType)):
            raise unknown_shape("arguments")


class ChatStream(StreamedAnswer):
    """Makes the stream an OpenAI client expects of a node's stream.

    With ``agentic_events`` those go along that no OpenAI client knows; with ``single_call`` only
    the first call of a tool does.
    """

    kind = "chat.completion.chunk"
    text_key = b'"content":"'

    def __init__(
        self,
        identity: Identity,
        *,
        include_usage: bool,
        agentic_events: bool = False,
        single_call: bool = False,
    ) -> None:
        super().__init__(identity, _brings_content, include_usage=include_usage)
        self._agentic_events = agentic_events
        self._single_call = single_call
        self._role_is_sent = False
        self._calls = SerialCalls()

    def aside(self, event: ServerSentEvent) -> bytes:
        """Return an event about what the node does by itself, for who asked it to."""
        if self._agentic_events and event.name in AGENTIC_EVENTS:
            return as_it_came(event)
        return b""

    def text_of(self, choice: JsonObject) -> str | None:
        """Return the text of a choice that brings nothing else, once the role is told."""
        delta = choice["delta"]
        others = delta.keys() - {"content", "role", "tool_calls"}
        if others or delta.get("tool_calls") or choice.get("logprobs") or not self._role_is_sent:
            return None
        text = delta.get("content")
        return text if isinstance(text, str) else None

    def amend(self, chunk: JsonObject) -> None:
        """Name the role once, tell calls in their order, put right what clients misread."""
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if self._role_is_sent:
                delta.pop("role", None)
            else:
                delta["role"] = "assistant"
                self._role_is_sent = True
            given = _calls(delta, single_call=self._single_call)
            delta.pop("tool_calls", None)
            if calls := self._calls.take(given, is_last=self.finished):
                delta["tool_calls"] = calls
            settle_probabilities(choice)


class ChatAggregate(InOnePiece, NodeStream):
    """Gathers a node's stream into the one answer of a client that asked for no stream.

    With ``single_call`` that has only the first call of a tool.
    """

    def __init__(self, identity: Identity, *, single_call: bool = False) -> None:
        super().__init__(_brings_content)
        self._identity = identity
        self._single_call = single_call
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._tool_calls: dict[int, JsonObject] = {}
        self._arguments: dict[int, list[str]] = {}
        self._finish_reason: Any = None
        self._last: JsonObject = {}

    def feed(self, event: ServerSentEvent) -> bytes:
        """Gather one event; nothing goes downstream yet."""
        chunk = self.take_chunk(event)
        if chunk is None:
            return b""
        if chunk["choices"]:
            self._last = chunk
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if delta.get("content"):
                self._content.append(delta["content"])
            if delta.get("reasoning_content"):
                self._reasoning.append(delta["reasoning_content"])
            for call in _calls(delta, single_call=self._single_call):
                self._take_tool_call(call)
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return b""

    def _take_tool_call(self, delta: JsonObject) -> None:
        index = integer(delta["index"])
        call = self._tool_calls.setdefault(
            index, {"id": None, "type": "function", "function": {"name": None}}
        )
        function = _object(delta, "function")
        call["id"] = delta.get("id") or call["id"]
        call["function"]["name"] = function.get("name") or call["function"]["name"]
        self._arguments.setdefault(index, []).append(function.get("arguments") or "")

    def finish(self) -> bytes:
        """Return the whole answer; see Responder."""
        if not self.finished:
            raise broken_off()
        self.done = True
        for index, call in self._tool_calls.items():
            call["function"]["arguments"] = "".join(self._arguments[index])
        calls = [self._tool_calls[index] for index in sorted(self._tool_calls)]
        content = "".join(self._content)
        message: JsonObject = {
            "role": "assistant",
            "content": content if content or not calls else None,
            "refusal": None,
        }
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if calls:
            message["tool_calls"] = calls
        answer = {
            **self._last,  # what is said of the whole: a fingerprint, an adapter's generation
            "id": self._identity.id,
            "object": "chat.completion",
            "created": self._identity.created,
            "model": self._identity.model,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": self._finish_reason,
                }
            ],
            "usage": self.node_usage,
        }
        return encode(answer)


def whole_answer(identity: Identity, *, single_call: bool = False) -> WholeAnswer:
    """Return what passes on an answer that the node gave whole, under our own identity.

    With ``single_call`` each choice has only the first call of a tool.
    """

    def amend(answer: JsonObject) -> None:
        identity.sign_whole(answer)
        for choice in read_choices(answer):
            settle_probabilities(choice)
            message = choice.get("message")
            calls = message.get("tool_calls") if isinstance(message, dict) else None
            if single_call and isinstance(calls, list):
                del calls[1:]

    return WholeAnswer(amend)
