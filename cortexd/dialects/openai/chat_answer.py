"""OpenAI chat completions: the answer, streamed, collected from a stream, or passed on whole.

The node speaks nearly the same dialect. The differences (nodes.md 4.1, 4.2 and 4.3): its ids are
small counters that collide, every delta has the role, the finish chunk always has the usage, token
probabilities of a stream are a plain object, agentic events have names, and an error may be a line
of plain text.

An answer is complete after a chunk with a ``finish_reason``. A stream that ends without one is
broken, even with ``[DONE]``: a killed engine ends its streams properly (nodes.md 2.5.2).
"""

from __future__ import annotations

from itertools import chain
from types import NoneType
from typing import Any, Final

from cortexd.dialects.nodes.answers import (
    as_it_came,
    broken_off,
    check_gathered,
    unknown_shape,
)
from cortexd.dialects.nodes.chat_stream import (
    Identity,
    InOnePiece,
    NodeStream,
    StreamedAnswer,
    WholeAnswer,
    read_choices,
    read_finish_reason,
    words_chunk,
)
from cortexd.dialects.openai.call_indexes import CallIndexes
from cortexd.dialects.openai.serial_calls import NO_ARGUMENTS, SerialCalls
from cortexd.dialects.openai.token_probabilities import settle_probabilities
from cortexd.dialects.wire.json_values import JsonObject, encode, integer
from cortexd.sse import ServerSentEvent

AGENTIC_EVENTS: Final = frozenset(
    {b"agentic_tool_call_progress", b"agentic_tool_approval_required", b"file_produced"}
)
"""A node's events about its own tools, and its requests for approval (nodes.md 4.3.8)."""


def _brings_content(choice: JsonObject) -> bool:
    """Check a choice's delta, add missing fields, and return whether it has content."""
    delta = choice["delta"] = _object(choice, "delta")
    for field in ("content", "reasoning_content"):
        if not isinstance(delta.get(field), (str, NoneType)):
            raise unknown_shape(field)
    calls = delta.get("tool_calls")
    if calls is not None:
        _check_tool_calls(calls)
    return bool(delta.get("content") or delta.get("reasoning_content") or calls)


def _calls(delta: JsonObject, indexes: CallIndexes, *, single_call: bool) -> list[JsonObject]:
    """Return the calls of a checked delta; with ``single_call`` only those of the first call."""
    calls: list[JsonObject] = delta.get("tool_calls") or []
    indexes.settle(calls)
    return [call for call in calls if call["index"] == indexes.first] if single_call else calls


def _object(parent: JsonObject, field: str) -> JsonObject:
    value = parent.get(field)
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise unknown_shape(field)


def _check_tool_calls(calls: object) -> None:
    """Check the calls of one delta. Raises BadGateway."""
    if not isinstance(calls, list):
        raise unknown_shape("tool_calls")
    for call in calls:
        if not isinstance(call, dict):
            raise unknown_shape("tool_calls")
        function = _object(call, "function")
        if not isinstance(function.get("arguments"), (str, NoneType)):
            raise unknown_shape("arguments")


class ChatStream(StreamedAnswer):
    """Makes a stream for OpenAI clients from a node's stream.

    With ``agentic_events``, it includes these events, which OpenAI clients do not know. With
    ``single_call``, it includes only the first tool call.
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
        self._indexes = CallIndexes()
        self._calls = SerialCalls()

    def waiting(self, elapsed: float, words: str = "") -> bytes:
        """Return words about the wait as thinking, without any a comment; see Responder.

        The role is left to the answer itself: SDKs add up what comes of it (translation.md 1.5).
        """
        if not words or self.content_chunks:
            return super().waiting(elapsed)
        return words_chunk(self._identity, words, include_usage=self._include_usage)

    def aside(self, event: ServerSentEvent) -> bytes:
        """Return an event about the node's own work, if the client requested such work."""
        if self._agentic_events and event.name in AGENTIC_EVENTS:
            return as_it_came(event)
        return b""

    def text_of(self, choice: JsonObject) -> str | None:
        """Return the text of a choice without other content, after the role was sent."""
        delta = choice["delta"]
        others = delta.keys() - {"content", "role", "tool_calls"}
        if others or delta.get("tool_calls") or choice.get("logprobs") or not self._role_is_sent:
            return None
        text = delta.get("content")
        return text if isinstance(text, str) else None

    def amend(self, chunk: JsonObject) -> None:
        """Send the role only once, sort the calls, and fix fields that clients misread."""
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if self._role_is_sent:
                delta.pop("role", None)
            else:
                delta["role"] = "assistant"
                self._role_is_sent = True
            given = _calls(delta, self._indexes, single_call=self._single_call)
            delta.pop("tool_calls", None)
            if calls := self._calls.take(given, is_last=self.finished):
                delta["tool_calls"] = calls
            settle_probabilities(choice)

    def pieces(self, chunk: JsonObject) -> tuple[JsonObject, ...]:
        """Return the chunk, split before the finish reason: it needs an empty delta of its own.

        openai-go sees the end of a call or a text only there (translation.md 1.7.5).
        """
        last = [choice for choice in chunk["choices"] if read_finish_reason(choice) is not None]
        for choice in last:
            if not any(choice["delta"].values()):
                choice["delta"] = {}
        if not any(choice["delta"] for choice in last):
            return (chunk,)
        endings = [{**choice, "delta": {}, "logprobs": None} for choice in last]
        for choice in last:
            choice["finish_reason"] = None
        return chunk, {**chunk, "choices": endings}


class ChatAggregate(InOnePiece, NodeStream):
    """Collects a node's stream into the whole answer for a client without a stream.

    With ``single_call``, the answer has only the first tool call.
    """

    def __init__(self, identity: Identity, *, single_call: bool = False) -> None:
        super().__init__(_brings_content)
        self._identity = identity
        self._single_call = single_call
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._indexes = CallIndexes()
        self._tool_calls: dict[int, JsonObject] = {}
        self._arguments: dict[int, list[str]] = {}
        self._finish_reason: Any = None
        self._last: JsonObject = {}

    def feed(self, event: ServerSentEvent) -> bytes:
        """Collect one event; no bytes go downstream yet."""
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
            for call in _calls(delta, self._indexes, single_call=self._single_call):
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
        check_gathered(chain(self._content, self._reasoning, *self._arguments.values()))
        self.done = True
        for index, call in self._tool_calls.items():
            arguments = "".join(self._arguments[index])
            call["function"]["arguments"] = arguments if arguments.strip() else NO_ARGUMENTS
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
            **self._last,  # fields of the whole answer: a fingerprint, an adapter's generation
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
    """Return the responder that passes on a node's whole answer, with our identity.

    With ``single_call``, each choice has only the first tool call.
    """

    def amend(answer: JsonObject) -> None:
        identity.sign_whole(answer)
        for choice in read_choices(answer):
            settle_probabilities(choice)
            message = choice.get("message")
            calls = message.get("tool_calls") if isinstance(message, dict) else None
            if not isinstance(calls, list):
                continue
            if single_call:
                del calls[1:]
            for call in calls:
                _complete_arguments(call)

    return WholeAnswer(amend)


def _complete_arguments(call: object) -> None:
    """Set the arguments of a whole call that has none, because clients parse them."""
    function = call.get("function") if isinstance(call, dict) else None
    if isinstance(function, dict):
        arguments = function.get("arguments")
        if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
            function["arguments"] = NO_ARGUMENTS
