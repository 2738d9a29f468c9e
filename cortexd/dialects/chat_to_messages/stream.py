"""OpenAI chat completions of a node that speaks Messages: the stream (translation.md 4.1 and 4.4).

A Messages answer is a row of blocks; a chat answer has one text, one reasoning and a list of tool
calls. Blocks come one after the other, and so do the calls made of them: the SDKs cannot parse
calls whose pieces are mixed (translation.md 1.5.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from cortexd import sse
from cortexd.dialects.nodes.chat_stream import DONE_EVENT, Identity, InPieces
from cortexd.dialects.nodes.messages_stream import (
    Block,
    MessagesReader,
    disconnected,
)
from cortexd.dialects.wire.anthropic_events import (
    BLOCK_DELTA,
    BLOCK_START,
    BLOCK_STOP,
    MESSAGE_DELTA,
    MESSAGE_START,
)
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.token_counts import TokenCounts
from cortexd.errors import BadGateway
from cortexd.sse import ServerSentEvent

FINISH_REASONS: Final = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Why an answer ended, in the words of a chat; all else, ``pause_turn`` too, is ``stop``."""

_DROPPED: Final = frozenset({"redacted_thinking"})
"""Blocks that a chat has no place for and nobody misses."""


class Piece(NamedTuple):
    """What one event brings to a chat answer; the last has why the answer ended."""

    delta: JsonObject
    finish_reason: str | None = None


def as_chat_usage(counts: TokenCounts) -> JsonObject:
    """Return the ``usage`` of a chat, which counts a cached token among those of the prompt too."""
    usage: JsonObject = {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.output,
        "total_tokens": counts.prompt + counts.output,
        "prompt_tokens_details": {"cached_tokens": counts.cache_read},
    }
    if counts.thinking is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": counts.thinking}
    return usage


class ChatReader(MessagesReader):
    """Reads a node's message as the pieces of a chat answer.

    ``names`` has the client's name of a tool by the upstream's, where they differ.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self._names = names
        self._calls = 0
        self._characters = 0
        self._block_began_at = 0
        self._citations: list[object] = []
        self._annotations: list[JsonObject] = []
        self._unsupported: str | None = None
        self._has_ended = False

    @property
    def chat_usage(self) -> JsonObject | None:
        """The tokens as a chat counts them, ``None`` where the node has not counted any."""
        return None if self.usage is None else as_chat_usage(self.counts())

    def read(self, event: ServerSentEvent) -> list[Piece]:
        """Return what an event brings, in order. Raises CortexError."""
        data = self.take_event(event)
        if data is None:
            return []
        kind = data["type"]
        if kind == BLOCK_DELTA:
            return self._read_delta(self.block, data["delta"])
        if kind == MESSAGE_START:
            return [Piece({"role": "assistant", "content": ""})]
        if kind == BLOCK_START:
            return self._read_start(self.block)
        if kind == BLOCK_STOP:
            return self._read_stop(self.block)
        if kind == MESSAGE_DELTA:
            return self._read_ending()
        return []

    def _read_start(self, block: Block) -> list[Piece]:
        if block.kind == "text":
            self._block_began_at = self._characters
            given = block.start.get("citations")
            self._citations = given if isinstance(given, list) else []
            return self._say(block.start["text"])
        if block.kind == "thinking":
            return _think(block.start["thinking"])
        if block.kind == "tool_use":
            name = block.start["name"]
            function = {"name": self._names.get(name, name), "arguments": ""}
            call = {"id": block.start["id"], "type": "function", "function": function}
            self._calls += 1
            return [self._of_call(call)]
        if block.kind not in _DROPPED:
            self._unsupported = block.kind
        return []

    def _read_delta(self, block: Block, delta: JsonObject) -> list[Piece]:
        kind = delta["type"]
        if block.kind == "text":
            if kind == "text_delta":
                return self._say(delta["text"])
            if kind == "citations_delta":
                self._citations.append(delta.get("citation"))
        elif kind == "thinking_delta" and block.kind == "thinking":
            return _think(delta["thinking"])
        elif kind == "input_json_delta" and block.kind == "tool_use" and delta["partial_json"]:
            return [self._of_call({"function": {"arguments": delta["partial_json"]}})]
        return []

    def _read_stop(self, block: Block) -> list[Piece]:
        if block.kind == "text":
            self._annotations += self._annotations_of_block()
        if block.kind != "tool_use" or block.has_arguments:
            return []
        arguments = block.arguments_at_start.decode() or "{}"
        return [self._of_call({"function": {"arguments": arguments}})]

    def _read_ending(self) -> list[Piece]:
        if self.stop_reason is None or self._has_ended:
            return []
        if self._unsupported is not None and not (self._characters or self._calls):
            raise BadGateway(
                f"unsupported upstream block {self._unsupported!r}, and nothing besides it: "
                "a chat cannot have it; ask by POST /v1/messages"
            )
        self._has_ended = True
        # In one piece: the OpenAI SDK cannot put a list together that has no indexes.
        delta: JsonObject = {"annotations": self._annotations} if self._annotations else {}
        return [Piece(delta, FINISH_REASONS.get(self.stop_reason, "stop"))]

    def _say(self, text: str) -> list[Piece]:
        self._characters += len(text)
        return [Piece({"content": text})] if text else []

    def _of_call(self, call: JsonObject) -> Piece:
        """Return a piece of the last call; the index counts calls and not blocks."""
        return Piece({"tool_calls": [{"index": self._calls - 1, **call}]})

    def _annotations_of_block(self) -> list[JsonObject]:
        """Return the citations of the text block that has ended, of those that name a URL."""
        found: list[JsonObject] = []
        for citation in self._citations:
            url = citation.get("url") if isinstance(citation, dict) else None
            if isinstance(citation, dict) and isinstance(url, str):
                title = citation.get("title")
                cited = {
                    "start_index": self._block_began_at,
                    "end_index": self._characters,
                    "title": title if isinstance(title, str) else "",
                    "url": url,
                }
                found.append({"type": "url_citation", "url_citation": cited})
        return found


def _think(text: str) -> list[Piece]:
    return [Piece({"reasoning_content": text})] if text else []


class ChatOnMessagesStream(InPieces, ChatReader):
    """Makes the stream an OpenAI client expects of a node's message."""

    def __init__(
        self, identity: Identity, *, include_usage: bool, names: Mapping[str, str]
    ) -> None:
        super().__init__(names)
        self._identity = identity
        self._include_usage = include_usage

    def feed(self, event: ServerSentEvent) -> bytes:
        """Return the chunks that an event means, and at the last what ends the stream.

        A ``ping`` of the node means none: the relay gives its own signs of life, and until the
        message begins another node may still be asked. See Responder.
        """
        if self.done:
            return b""
        pieces = self.read(event)
        out = b"".join([self._chunk(piece) for piece in pieces])
        return out + self._ending() if self.done else out

    def finish(self) -> bytes:
        """Return nothing: ``message_stop`` has brought the end, or there is none. See Responder."""
        if not self.done:
            raise disconnected()
        return b""

    def _chunk(self, piece: Piece) -> bytes:
        choice = {
            "index": 0,
            "delta": piece.delta,
            "logprobs": None,
            "finish_reason": piece.finish_reason,
        }
        return self._signed([choice], None)

    def _ending(self) -> bytes:
        usage = self.chat_usage
        if usage is None or not self._include_usage:
            return DONE_EVENT
        return self._signed([], usage) + DONE_EVENT

    def _signed(self, choices: list[JsonObject], usage: JsonObject | None) -> bytes:
        chunk: JsonObject = {"object": "chat.completion.chunk", "choices": choices}
        self._identity.sign(chunk)
        if self._include_usage:
            chunk["usage"] = usage
        return sse.encode(encode(chunk))
