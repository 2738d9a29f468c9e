"""OpenAI chat completions from a node that speaks Messages: streams (translation.md 4.1 and 4.4).

A Messages answer is a sequence of blocks; a chat answer has one text, one reasoning and a list of
tool calls. Blocks come one after the other, and so do the calls made from them: the SDKs cannot
parse interleaved calls (translation.md 1.5.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from cortexd import sse
from cortexd.dialects.nodes.chat_stream import DONE_EVENT, Identity, InPieces, words_chunk
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
"""The finish reasons of a chat; all other stop reasons, also ``pause_turn``, become ``stop``."""

_DROPPED: Final = frozenset({"redacted_thinking"})
"""Blocks that a chat cannot contain, and that clients do not need."""


class Piece(NamedTuple):
    """A delta of a chat answer from one event; the last one has the finish reason."""

    delta: JsonObject
    finish_reason: str | None = None


def as_chat_usage(counts: TokenCounts) -> JsonObject:
    """Return the ``usage`` of a chat, whose prompt tokens include the cached ones."""
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
    """Reads a node's message as the deltas of a chat answer.

    ``names`` maps the upstream's name of a tool to the client's, if they differ.
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
        """The token counts in a chat's format, ``None`` if the node has counted none."""
        return None if self.usage is None else as_chat_usage(self.counts())

    def read(self, event: ServerSentEvent) -> list[Piece]:
        """Return the deltas of an event, in order. Raises CortexError."""
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
                f"the answer has only an unsupported upstream block {self._unsupported!r}, "
                "which a chat cannot contain; use POST /v1/messages"
            )
        self._has_ended = True
        # In one delta, because the OpenAI SDK cannot merge a list without indexes.
        delta: JsonObject = {"annotations": self._annotations} if self._annotations else {}
        return [Piece(delta, FINISH_REASONS.get(self.stop_reason, "stop"))]

    def _say(self, text: str) -> list[Piece]:
        self._characters += len(text)
        return [Piece({"content": text})] if text else []

    def _of_call(self, call: JsonObject) -> Piece:
        """Return a delta of the last call; the index counts calls, not blocks."""
        return Piece({"tool_calls": [{"index": self._calls - 1, **call}]})

    def _annotations_of_block(self) -> list[JsonObject]:
        """Return the citations of the ended text block that have a URL."""
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
    """Makes a stream for OpenAI clients from a node's message."""

    def __init__(
        self, identity: Identity, *, include_usage: bool, names: Mapping[str, str]
    ) -> None:
        super().__init__(names)
        self._identity = identity
        self._include_usage = include_usage

    def feed(self, event: ServerSentEvent) -> bytes:
        """Return the chunks for an event, with the end of the stream after the last one.

        A ``ping`` of the node has no chunk: the relay sends its own keep-alives, and may retry on
        another node until the message begins. See Responder.
        """
        if self.done:
            return b""
        pieces = self.read(event)
        out = b"".join([self._chunk(piece) for piece in pieces])
        return out + self._ending() if self.done else out

    def waiting(self, elapsed: float, words: str = "") -> bytes:
        """Return words about the wait as thinking, without any a comment; see Responder."""
        if not words or self.content_chunks:
            return super().waiting(elapsed)
        return words_chunk(self._identity, words, include_usage=self._include_usage)

    def finish(self) -> bytes:
        """Return no bytes: the end comes with ``message_stop``. See Responder."""
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
