"""The wire format of answers in the Messages API: mistral.rs's version, and the full one."""

import base64
import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec

from cortexd.testing.answering.answers import Answer, Token
from cortexd.testing.answering.wire import Cause, Heading, Json, Shape, Timings, event
from tests.doubles.messages_api.requests import envelope

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

TEXT, THOUGHT = ("text", 0, ""), ("thinking", 0, "")

Part = tuple[str, int, str]
"""What a token belongs to: the type of a block, and number and name of the tool call."""


def signature_of(thinking: str) -> str:
    """Return the signature by which the full API recognises its own thinking block."""
    return base64.b64encode(hashlib.sha512(f"signed: {thinking}".encode()).digest()).decode()


def _part_of(token: Token) -> Part:
    if token.call is not None:
        return "tool_use", token.call.number, token.call.name
    return THOUGHT if token.reasoning else TEXT


class MessagesShape(Shape):
    """The common base of both formats: a stream has one open block at a time."""

    keep_alive = event({"type": "ping"})
    end = b""

    def __init__(self, heading: Heading) -> None:
        super().__init__(heading)
        self._open: Part | None = None
        self._blocks_begun = 0

    def failure(self, message: str, cause: Cause) -> Json:
        """Return an error in the same envelope as outside a stream."""
        return envelope(400 if cause == "validation" else 500, message)

    @abstractmethod
    def _empty_block(self, part: Part) -> Json:
        """Give a block as it opens."""

    def _closing(self) -> list[Json]:
        """Give the events that close the open block, if one is."""
        if self._open is None:
            return []
        self._open = None
        return [{"type": "content_block_stop", "index": self._blocks_begun - 1}]

    def _opening_of(self, part: Part) -> list[Json]:
        """Give the events that open a block, unless it is the open one."""
        if part == self._open:
            return []
        closing = self._closing()
        self._open = part
        self._blocks_begun += 1
        index = self._blocks_begun - 1
        block = self._empty_block(part)
        return [
            *closing,
            {"type": "content_block_start", "index": index, "content_block": block},
        ]

    def _delta(self, kind: str, **fields: str) -> Json:
        return {
            "type": "content_block_delta",
            "index": self._blocks_begun - 1,
            "delta": {"type": kind, **fields},
        }

    def _text(self, token: Token) -> list[Json]:
        """Give the events of a token of text or thought."""
        part = THOUGHT if token.reasoning else TEXT
        opening = self._opening_of(part)
        return [*opening, self._delta(f"{part[0]}_delta", **{part[0]: token.text})]


class MistralrsMessagesShape(MessagesShape):
    """mistral.rs's Messages: no signatures, no prompt tokens in a stream, whole calls."""

    def __init__(self, heading: Heading, call_ids: Sequence[str]) -> None:
        super().__init__(heading)
        self._call_ids = call_ids
        self._has_begun = False

    def whole(self, answers: Sequence[Answer], timings: Timings) -> Json:
        """Return the answer to a request that does not stream."""
        answer = answers[0]
        content: list[Json] = []
        if answer.reasoning:
            content.append({"type": "thinking", "thinking": answer.reasoning})
        if answer.content:
            content.append({"type": "text", "text": answer.content})
        for number, call in enumerate(answer.tool_calls):
            arguments = msgspec.json.decode(call.arguments)
            block = self._empty_block(("tool_use", number, call.name))
            content.append({**block, "input": arguments})
        return {
            **self._head(content),
            "stop_reason": STOP_REASONS[answer.finish_reason],
            "usage": {"input_tokens": answer.prompt.tokens, "output_tokens": len(answer.tokens)},
        }

    def chunk(self, index: int, token: Token) -> list[Json]:
        """Return the events of one token; the first token also starts the message."""
        return [*self._beginning(), *self._text(token)]

    def last_chunk(
        self, index: int, answer: Answer, token: Token | None, timings: Timings
    ) -> list[Json]:
        """Return the events that end the message: tool calls, each with one delta."""
        events = self._beginning()
        if token is not None and token.text:
            events += self._text(token)
        for number, call in enumerate(answer.tool_calls):
            events += self._opening_of(("tool_use", number, call.name))
            events.append(self._delta("input_json_delta", partial_json=call.arguments))
        return [
            *events,
            *self._closing(),
            {
                "type": "message_delta",
                "delta": {
                    "stop_reason": STOP_REASONS[answer.finish_reason],
                    "stop_sequence": None,
                },
                "usage": {"output_tokens": len(answer.tokens)},
            },
            {"type": "message_stop"},
        ]

    def _beginning(self) -> list[Json]:
        if self._has_begun:
            return []
        self._has_begun = True
        usage = {"input_tokens": 0, "output_tokens": 0}
        return [{"type": "message_start", "message": {**self._head([]), "usage": usage}}]

    def _head(self, content: list[Json]) -> Json:
        return {
            "id": self._heading.id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self._heading.model,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _empty_block(self, part: Part) -> Json:
        kind, number, name = part
        if kind == "tool_use":
            return {"type": kind, "id": self._call_ids[number], "name": name, "input": {}}
        return {"type": kind, kind: ""}


@dataclass(frozen=True, kw_only=True)
class MessageTerms:
    """The properties of a request that determine its message.

    `model` is the client's spelling, `prompt_tokens` the size of the prompt. `call_ids` has an id
    for each call that an answer may contain. `stop_reason` applies to an answer that ends by
    itself, and `error_status` determines the type of an error inside the stream.
    """

    id: str
    model: str
    prompt_tokens: int
    context_tokens: int
    call_ids: Sequence[str]
    stop_reason: str = "end_turn"
    error_status: int = 500


class FullMessagesShape(MessagesShape):
    """Full Messages: calls token by token, signatures, all counts, every stop reason."""

    spells_calls = True

    def __init__(self, heading: Heading, terms: MessageTerms) -> None:
        super().__init__(heading)
        self._terms = terms
        self._thought = ""

    def whole(self, answers: Sequence[Answer], timings: Timings) -> Json:
        """Return the answer to a request that does not stream; a truncated call has no input."""
        answer = answers[0]
        return {
            **self._head(self._content(answer)),
            **self._ending(answer),
            "usage": self._usage(answer.tokens),
        }

    def opening(self) -> list[Json]:
        """Return the start of the message, with the prompt's tokens, and a ping."""
        usage = self._usage([Token("")])
        start = {"type": "message_start", "message": {**self._head([]), "usage": usage}}
        return [start, {"type": "ping"}]

    def chunk(self, index: int, token: Token) -> list[Json]:
        """Return the events of one token."""
        if token.call is None:
            self._thought += token.text if token.reasoning else ""
            return self._text(token)
        events = self._opening_of(_part_of(token))
        if events:
            events.append(self._delta("input_json_delta", partial_json=""))
        # Of a call without arguments there is nothing but the empty beginning.
        if token.call.arguments not in ("", "{}"):
            events.append(self._delta("input_json_delta", partial_json=token.call.arguments))
        return events

    def last_chunk(
        self, index: int, answer: Answer, token: Token | None, timings: Timings
    ) -> list[Json]:
        """Return the events that end the message, with the counts of the whole message."""
        shown = token is not None and (token.text or token.call is not None)
        return [
            *(self.chunk(index, token) if token is not None and shown else []),
            *self._closing(),
            {
                "type": "message_delta",
                "delta": self._ending(answer),
                "usage": self._usage(answer.tokens),
            },
            {"type": "message_stop"},
        ]

    def failure(self, message: str, cause: Cause) -> Json:
        """Return an error of the type that a test chose; a refused request never gets here."""
        return envelope(self._terms.error_status, message)

    def _closing(self) -> list[Json]:
        if self._open != THOUGHT:
            return super()._closing()
        signed = self._delta("signature_delta", signature=signature_of(self._thought))
        return [signed, *super()._closing()]

    def _head(self, content: list[Json]) -> Json:
        return {
            "id": self._terms.id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self._terms.model,
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "container": None,
        }

    def _content(self, answer: Answer) -> list[Json]:
        blocks = []
        for part, tokens in groupby(answer.tokens, _part_of):
            block = self._empty_block(part)
            if part[0] == "tool_use":
                spelt = "".join(token.call.arguments for token in tokens if token.call is not None)
                block["input"] = _whole_or_empty(spelt)
            else:
                block[part[0]] = "".join(token.text for token in tokens)
            if part[0] == "thinking":
                block["signature"] = signature_of(block["thinking"])
            if block.get("text") != "":
                blocks.append(block)
        return blocks

    def _empty_block(self, part: Part) -> Json:
        kind, number, name = part
        if kind == "tool_use":
            call_id = self._terms.call_ids[number]
            return {"type": kind, "id": call_id, "name": name, "input": {}}
        return {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})}

    def _ending(self, answer: Answer) -> Json:
        reason = STOP_REASONS[answer.finish_reason]
        total_tokens = answer.prompt.tokens + len(answer.tokens)
        if reason == "max_tokens" and total_tokens >= self._terms.context_tokens:
            reason = "model_context_window_exceeded"
        elif reason == "end_turn":
            reason = "stop_sequence" if answer.stop_sequence else self._terms.stop_reason
        details = {"type": "refusal", "category": None, "explanation": None}
        return {
            "stop_reason": reason,
            "stop_sequence": answer.stop_sequence,
            "stop_details": details if reason == "refusal" else None,
        }

    def _usage(self, tokens: Sequence[Token]) -> Json:
        thought = sum(token.reasoning for token in tokens)
        return {
            "input_tokens": self._terms.prompt_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": len(tokens),
            **({"output_tokens_details": {"thinking_tokens": thought}} if thought else {}),
        }


def _whole_or_empty(arguments: str) -> object:
    try:
        return msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return {}
