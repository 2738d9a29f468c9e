"""Messages answers of a node that speaks Messages itself: they are passed on.

The events are the node's, with these changes:

- the id of the message is ours, and the model has the name that the client used;
- the four token counts are always present; the prompt's count is our estimate if the node does not
  count it, as in all native streams of mistral.rs (nodes.md 5.5);
- the end of the answer is held back until the node has sent all of it, and then sent once;
- arguments in the start of a call become a delta, where clients expect them;
- keep-alives are ours: those of the node would prevent the relay from sending any, and pings alone
  do not reset the timeout of Claude Code (translation.md 1.6.3);
- events that the dialect does not have are dropped.

All responders of one request share an Opening: see ``dialects.wire.asked``. If a keep-alive has
begun the message, the node's own start is left out. If a keep-alive has opened a thinking block,
the node's thinking continues in it; any other block ends it first, and all later indexes are one
higher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from cortexd.dialects.messages_to_chat.answer import read_input
from cortexd.dialects.nodes.chat_stream import InOnePiece, InPieces
from cortexd.dialects.nodes.messages_stream import (
    TEXTS_OF_DELTAS,
    Block,
    MessagesReader,
    Phase,
    disconnected,
)
from cortexd.dialects.wire.anthropic_errors import error_event
from cortexd.dialects.wire.anthropic_events import (
    BLOCK_DELTA,
    BLOCK_START,
    BLOCK_STOP,
    DELTAS,
    MESSAGE_START,
    MESSAGE_STOP,
    MESSAGE_STOPPED,
    PING,
    PINGS_SUFFICE_SECONDS,
    block_delta,
    encode_event,
    thinking_started,
    thinking_stopped,
)
from cortexd.dialects.wire.asked import Asked
from cortexd.dialects.wire.exchange import Responder, Usage
from cortexd.dialects.wire.json_values import JsonObject, rendered
from cortexd.dialects.wire.profile import ThinkingWish
from cortexd.dialects.wire.token_counts import TokenCounts
from cortexd.errors import CortexError
from cortexd.sse import ServerSentEvent


def passed_factory(asked: Asked, *, thinking: ThinkingWish) -> Callable[[], Responder]:
    """Return the factory of the responders of one request to nodes that speak Messages.

    ``thinking`` is how much thinking the client wants: without any, keep-alives open no thinking
    block. The upstream request must always ask for a stream.
    """
    if not asked.streams:
        return partial(PassedAggregate, asked)
    return partial(PassedStream, asked, thinking=thinking)


class PassedReader(MessagesReader):
    """Reads a node's message, and passes it on as ours."""

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self.asked = asked

    def final_counts(self) -> TokenCounts:
        """Return the tokens of the whole answer, and set ``usage``."""
        counts = self.counts_or(self.asked.prompt_estimate)
        estimated = counts != self.counts()
        if "output_tokens" not in self.node_usage:
            counts, estimated = replace(counts, output=self.content_chunks), True
        cached = None if estimated or self.usage is None else self.usage.cached_tokens
        self.usage = Usage(counts.prompt, counts.output, estimated, cached)
        return counts

    def final_delta(self) -> JsonObject:
        """Return the end of the answer, always with both fields."""
        ending = self.ending["delta"]
        return {"stop_sequence": None, **ending, "stop_reason": self.stop_reason}


class PassedStream(InPieces, PassedReader):
    """Passes on a node's events, for one attempt."""

    def __init__(self, asked: Asked, *, thinking: ThinkingWish) -> None:
        super().__init__(asked)
        self._opening = asked.opening
        self._thinking = thinking
        self._has_begun = False
        self._keeps_company = False
        self._blocks_of_ours = 0
        self._has_failed = False

    def feed(self, event: ServerSentEvent) -> bytes:
        """Return the events for a node's event; see Responder."""
        if self.done or self._has_failed:
            return b""
        data = self.take_event(event)
        if data is None:
            return b""
        kind = data["type"]
        if kind == BLOCK_DELTA:
            return self._pass_on(data)
        if kind == MESSAGE_START:
            return self._begin(data["message"])
        if kind == BLOCK_START:
            return self._start(data, self.block)
        if kind == BLOCK_STOP:
            return self._stop(data, self.block)
        if kind == MESSAGE_STOP:
            return self._end()
        return b""

    def finish(self) -> bytes:
        """Return no bytes: the end comes with ``message_stop``. See Responder."""
        if not self.done and not self._has_failed:
            raise disconnected()
        return b""

    def fail(self, error: CortexError) -> bytes:
        """Return the error as an event, unless the message has ended; see Responder."""
        if self.done or self._has_failed:
            return b""
        self._has_failed = True
        return error_event(error, self.asked.request_id)

    def waiting(self, elapsed: float, words: str = "") -> bytes:
        """Return a keep-alive, after the beginning of the message; see Responder."""
        if self.done or self._has_failed:
            return b""
        begun = self._begin({})
        self._opening.has_begun = True
        return begun + (self._keep_alive() if elapsed >= PINGS_SUFFICE_SECONDS else PING)

    def _keep_alive(self) -> bytes:
        """Return a keep-alive for a client whose timeout is not reset by pings; see Blocks."""
        if self._keeps_company:
            return block_delta(0, "thinking", "")
        block = self.block
        if self.phase is Phase.IN_BLOCK and block.kind in DELTAS:
            return block_delta(block.index + self._blocks_of_ours, block.kind, "")
        is_empty = self.phase in (Phase.WAITING, Phase.BETWEEN) and block.index < 0
        if not is_empty or self._thinking is ThinkingWish.NONE:
            return PING
        self._keeps_company = self._opening.thinking_is_open = True
        return thinking_started(0) + block_delta(0, "thinking", "")

    def _begin(self, message: JsonObject) -> bytes:
        """Return the beginning of the message, if it was not sent yet."""
        if self._has_begun:
            return b""
        self._has_begun = True
        self._keeps_company = self._opening.thinking_is_open
        if self._opening.has_begun:
            return b""
        counts = self.counts_or(self.asked.prompt_estimate)
        begun = {
            **message,
            **self.asked.head,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"service_tier": "standard", **self.node_usage, **counts.rendered()},
        }
        return encode_event({"type": MESSAGE_START, "message": begun})

    def _start(self, data: JsonObject, block: Block) -> bytes:
        out = b""
        if self._keeps_company:
            self._keeps_company = False
            if block.kind == "thinking":
                text = block.start["thinking"]
                return block_delta(0, "thinking", text) if text else b""
            out = self._stop_company()
        if block.kind == "tool_use":
            data["content_block"] = {**block.start, "input": {}}
        return out + self._pass_on(data)

    def _stop_company(self) -> bytes:
        """Return the end of our own thinking block, which comes before any other block."""
        self._blocks_of_ours = 1
        return thinking_stopped(0)

    def _stop(self, data: JsonObject, block: Block) -> bytes:
        arguments = block.arguments_at_start if block.kind == "tool_use" else b""
        stopped = self._pass_on(data)
        if not arguments:
            return stopped
        return block_delta(data["index"], "tool_use", arguments.decode()) + stopped

    def _end(self) -> bytes:
        out = self._stop_company() if self._keeps_company else b""
        ending = {
            **self.asked.edits,
            **self.ending,
            "delta": self.final_delta(),
            "usage": {**self.ending["usage"], **self.final_counts().rendered()},
        }
        return out + encode_event(ending) + MESSAGE_STOPPED

    def _pass_on(self, data: JsonObject) -> bytes:
        data["index"] += self._blocks_of_ours
        return encode_event(data)


class PassedAggregate(InOnePiece, PassedReader):
    """Collects a node's events into the whole message for a client without a stream."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._content: list[JsonObject] = []
        self._texts: dict[str, list[str]] = {}
        self._whole = b""

    def feed(self, event: ServerSentEvent) -> bytes:
        """Collect one event; no bytes go downstream yet."""
        data = self.take_event(event)
        if data is None:
            return b""
        kind = data["type"]
        if kind == BLOCK_START:
            self._content.append(data["content_block"])
        elif kind == BLOCK_DELTA:
            self._gather(self._content[-1], data["delta"])
        elif kind == BLOCK_STOP:
            self._close(self._content[-1])
        elif kind == MESSAGE_STOP:
            self._whole = self._message()  # if this fails, the node is at fault
        return b""

    def finish(self) -> bytes:
        """Return the whole message; see Responder."""
        if not self.done:
            raise disconnected()
        return self._whole

    def _gather(self, block: JsonObject, delta: JsonObject) -> None:
        """Append a delta to its block; for an unknown delta, append each field."""
        _, field = TEXTS_OF_DELTAS.get(delta["type"], ("", ""))
        if field:
            self._texts.setdefault(field, []).append(delta[field])
        elif delta["type"] == "citations_delta":
            if not isinstance(block.get("citations"), list):
                block["citations"] = []
            block["citations"].append(delta.get("citation"))
        else:
            for key, value in delta.items():
                if key == "type":
                    continue
                if isinstance(value, str):
                    self._texts.setdefault(key, []).append(value)
                else:
                    block[key] = value

    def _close(self, block: JsonObject) -> None:
        texts, self._texts = self._texts, {}
        arguments = "".join(texts.pop("partial_json", ()))
        if arguments:
            block["input"] = read_input(arguments)
        for field, pieces in texts.items():
            given = block.get(field)
            block[field] = (given if isinstance(given, str) else "") + "".join(pieces)
        if block["type"] == "thinking":
            block.setdefault("signature", "")  # mistral.rs has none, but the SDKs require one
        elif block["type"] == "tool_use" and block.get("input") is None:
            block["input"] = {}

    def _message(self) -> bytes:
        ending = {key: value for key, value in self.ending.items() if key not in _OF_AN_EVENT}
        usage = {"service_tier": "standard", **self.node_usage, **self.final_counts().rendered()}
        message = {
            **self.asked.edits,
            **self.message,
            **ending,
            **self.asked.head,
            "content": self._content,
            **self.final_delta(),
            "usage": usage,
        }
        return rendered(message)


_OF_AN_EVENT = frozenset({"type", "delta", "usage"})
"""The fields of a ``message_delta`` that are not fields of the message."""
