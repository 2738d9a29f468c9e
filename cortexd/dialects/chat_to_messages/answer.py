"""OpenAI chat completions from a node that speaks Messages: responders and whole answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from cortexd.dialects.chat_to_messages.stream import ChatOnMessagesStream, ChatReader, Piece
from cortexd.dialects.nodes.chat_stream import Identity, InOnePiece
from cortexd.dialects.nodes.messages_stream import disconnected
from cortexd.dialects.wire.exchange import Responder
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.sse import ServerSentEvent


def chat_on_messages_factory(
    identity: Identity, *, streams: bool, include_usage: bool, names: Mapping[str, str]
) -> Callable[[], Responder]:
    """Return the factory of the responders of one chat request to nodes that speak Messages.

    ``streams`` means that the client gets a stream, and ``include_usage`` that it gets a chunk with
    usage. ``names`` maps the upstream's name of a tool to the client's, if they differ. The
    upstream request must always ask for a stream.
    """
    if not streams:
        return partial(ChatOnMessagesAggregate, identity, names=names)
    return partial(ChatOnMessagesStream, identity, include_usage=include_usage, names=names)


class ChatOnMessagesAggregate(InOnePiece, ChatReader):
    """Collects a node's message into the whole answer for a client without a stream."""

    def __init__(self, identity: Identity, *, names: Mapping[str, str]) -> None:
        super().__init__(names)
        self._identity = identity
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._tool_calls: list[JsonObject] = []
        self._arguments: list[list[str]] = []
        self._last = Piece({})

    def feed(self, event: ServerSentEvent) -> bytes:
        """Collect one event; no bytes go downstream yet."""
        for piece in self.read(event):
            self._gather(piece)
        return b""

    def _gather(self, piece: Piece) -> None:
        delta = piece.delta
        self._content.append(delta.get("content", ""))
        self._reasoning.append(delta.get("reasoning_content", ""))
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                self._tool_calls.append({key: call[key] for key in ("id", "type", "function")})
                self._arguments.append([])
            self._arguments[-1].append(call["function"]["arguments"])
        if piece.finish_reason is not None:
            self._last = piece

    def finish(self) -> bytes:
        """Return the whole answer; see Responder."""
        if not self.done:
            raise disconnected()
        answer: JsonObject = {
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": self._message(),
                    "logprobs": None,
                    "finish_reason": self._last.finish_reason,
                }
            ],
            "usage": self.chat_usage,
        }
        self._identity.sign(answer)
        return encode(answer)

    def _message(self) -> JsonObject:
        text = "".join(self._content)
        message: JsonObject = {"role": "assistant", "content": text or None, "refusal": None}
        if self.stop_reason == "refusal":
            message |= {"content": None, "refusal": text or self._explanation()}
        reasoning = "".join(self._reasoning)
        if reasoning:
            message["reasoning_content"] = reasoning
        if self._tool_calls:
            for call, pieces in zip(self._tool_calls, self._arguments, strict=True):
                call["function"]["arguments"] = _compact("".join(pieces))
            message["tool_calls"] = self._tool_calls
        return message | self._last.delta

    def _explanation(self) -> str:
        """Return the explanation of a refusal, if the node sends one outside the text."""
        details = self.ending["delta"].get("stop_details")
        explanation = details.get("explanation") if isinstance(details, dict) else None
        return explanation if isinstance(explanation, str) else ""


def _compact(arguments: str) -> str:
    """Return arguments without white space between values; invalid JSON is unchanged."""
    try:
        return msgspec.json.format(arguments, indent=-1)
    except (msgspec.DecodeError, RecursionError):  # for example, cut by the token limit
        return arguments
