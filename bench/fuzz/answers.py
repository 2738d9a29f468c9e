"""A simulated node's answers to a chat: good streams and whole answers, and failures."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from bench.fuzz.bodies import TEXTS, Grammar, Json
from bench.fuzz.mutations import damage, encode, mutate
from bench.simulator.fleets import seeded

EVENT_STREAM = "text/event-stream"
JSON = "application/json"
GOOD, BAD = 1_000, 2_000
"""How many answers of each kind are made; requests draw from them."""

ERRORS = (
    (400, JSON, b'{"message":"no such option"}'),
    (404, "text/plain", b"nothing here"),
    (413, "text/plain", b"length limit exceeded"),
    (422, "text/plain", b"Failed to deserialize the JSON body into the target type"),
    (429, JSON, b'{"error":{"message":"later"}}'),
    (500, JSON, b'{"message":"prompt is longer than max_seq_len 4096 tokens"}'),
    (500, JSON, b'{"message":""}'),
    (500, JSON, b'{"error":{"message":"CUDA out of memory"}}'),
    (500, JSON, b"[" * 100_000),
    (502, "text/html", b"<html>\xff</html>"),
    (503, JSON, b""),
    (504, JSON, b"null"),
    (200, JSON, b'{"message":"not a stream"}'),
)


class Said(NamedTuple):
    """The model's output in an answer: each tool call has its id, name and input as JSON."""

    text: str = ""
    thinking: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """One answer of a node. With ``is_fault`` it may be the cause of a 5xx.

    ``pieces`` are the reads from the socket; with ``breaks_off`` the connection is lost after them.
    With ``is_broken`` no client may accept it as complete. ``said`` is its content, where that must
    reach the client unchanged.
    """

    status: int
    content_type: str
    pieces: tuple[bytes, ...]
    is_fault: bool
    breaks_off: bool = False
    is_broken: bool = False
    said: Said | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers that a run draws from on one of a node's routes."""

    streams: tuple[NodeAnswer, ...]
    bad_streams: tuple[NodeAnswer, ...]
    bodies: tuple[NodeAnswer, ...]
    bad_bodies: tuple[NodeAnswer, ...]

    @classmethod
    def of(cls, writer: AnswerWriter) -> Answers:
        """Return the answers that a writer writes."""
        return cls(
            tuple(writer.stream() for _ in range(GOOD)),
            tuple(writer.bad_stream() for _ in range(BAD)),
            tuple(writer.body() for _ in range(GOOD)),
            tuple(writer.bad_body() for _ in range(BAD)),
        )

    def draw(self, chance: Random, *, streams: bool, fails: bool) -> NodeAnswer:
        """Return one of the answers to a request for a stream, or for a whole answer."""
        if streams:
            options = self.bad_streams if fails else self.streams
        else:
            options = self.bad_bodies if fails else self.bodies
        return options[int(chance.random() * len(options))]


class AnswerWriter(Grammar, ABC):
    """Writes answers as a node's route sends them, and some that it would never send."""

    @abstractmethod
    def stream(self) -> NodeAnswer:
        """Return a good stream, read in pieces that may end anywhere."""

    @abstractmethod
    def body(self) -> NodeAnswer:
        """Return a good whole answer."""

    @abstractmethod
    def bad_stream(self) -> NodeAnswer:
        """Return an answer to a request for a stream that is wrong in some way."""

    @abstractmethod
    def bad_body(self) -> NodeAnswer:
        """Return an answer to a request for a whole one that is wrong in some way."""

    def cut(self, written: bytes) -> tuple[bytes, ...]:
        """Return bytes in the pieces in which they may be read."""
        places = sorted(int(self._chance.random() * len(written)) for _ in range(self.count(8)))
        ends = [*places, len(written)]
        starts = [0, *places]
        return tuple(
            written[start:end] for start, end in zip(starts, ends, strict=True) if start < end
        )

    def spoilt_body(self, answer: Json) -> NodeAnswer:
        """Return a whole answer with faults in its tree or its bytes."""
        body = encode(mutate(answer, self._chance), self._chance)
        if self.likely(0.3):
            body = damage(body, self._chance)
        return NodeAnswer(200, JSON, (body,), True, self.likely(0.2))

    def error(self) -> NodeAnswer:
        """Return an error that a node or a proxy before it may send."""
        status, content_type, body = self.pick(ERRORS)
        return NodeAnswer(status, content_type, (body,), is_fault=True)


def chat_answers(seed: int) -> Answers:
    """Return a mistral.rs node's answers to chats."""
    return Answers.of(_ChatWriter(seeded("answers", seed)))


class _ChatWriter(AnswerWriter):
    def stream(self) -> NodeAnswer:
        written = b"".join(_event(chunk) for chunk in self._chunks()) + b"data: [DONE]\n\n"
        return NodeAnswer(200, EVENT_STREAM, self.cut(written), is_fault=False)

    def body(self) -> NodeAnswer:
        body = json.dumps(self._answer()).encode()
        return NodeAnswer(200, JSON, (body,), is_fault=False)

    def bad_stream(self) -> NodeAnswer:
        if self.likely(0.1):
            return self.error()
        chance, chunks = self._chance, self._chunks()
        place = int(chance.random() * len(chunks))
        frames = [_event(chunk) for chunk in chunks]
        end = [b"data: [DONE]\n\n"]
        is_broken = True
        match int(chance.random() * 6):
            case 0:
                frames[place:] = []
            case 1 | 2:
                is_broken = False
                changed = encode(mutate(chunks[place], chance), chance)
                frames[place] = b"data: " + changed.replace(b"\n", b" ") + b"\n\n"
            case 3:
                words = (b"No response received from the model.", b'{"error":"OOM"}', b"[]", b"5")
                frames[place] = b"data: " + chance.choice(words) + b"\n\n"
            case 4:
                chunks[-1]["choices"][0]["finish_reason"] = chance.choice(("canceled", "error", 5))
                frames[-1] = _event(chunks[-1])
            case _:
                is_broken = False
                frames = [damage(b"".join(frames), chance)]
        written = b"".join(frames + (end if self.likely(0.6) else []))
        breaks_off = self.likely(0.4)
        return NodeAnswer(200, EVENT_STREAM, self.cut(written), True, breaks_off, is_broken)

    def bad_body(self) -> NodeAnswer:
        return self.error() if self.likely(0.3) else self.spoilt_body(self._answer())

    def _chunks(self) -> list[Json]:
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        if self.likely(0.4):
            deltas += [{"reasoning_content": self.text()} for _ in range(1 + self.count(3))]
        if self.likely(0.8):
            deltas += [{"role": "assistant", "content": self.text()} for _ in range(self.count(6))]
        reason = "stop"
        if self.likely(0.4):
            reason = "tool_calls"
            deltas += [
                {"tool_calls": [self._call(index)], "content": None}
                for index in range(1 + self.count(2))
            ]
        elif self.likely(0.2):
            reason = "length"
        chunks = [_chunk(delta) for delta in deltas]
        last = _chunk({"role": "assistant", "content": ""}, reason)
        if self.likely(0.8):
            last["usage"] = _USAGE
        return [*chunks, last]

    def _call(self, index: int) -> Json:
        function = {"name": "weather", "arguments": self.pick(('{"city":"Rome"}', "{}", ""))}
        return {"index": index, "id": self.call_id(), "type": "function", "function": function}

    def _answer(self) -> Json:
        message: Json = {"role": "assistant", "content": self.pick((*TEXTS, None))}
        if self.likely(0.3):
            message["tool_calls"] = [self._call(0)]
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}


_HEAD = {"id": "7", "created": 1_790_000_000, "model": "acme/chat", "system_fingerprint": "local"}
_USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "avg_tok_per_sec": 12.5,
    "prompt_tokens_details": {"cached_tokens": 4},
}


def _chunk(delta: Json, reason: str | None = None) -> Json:
    choice: Json = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
    return {**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}


def _event(chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"
