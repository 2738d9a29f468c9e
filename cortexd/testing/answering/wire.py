"""The JSON and the server-sent events of a node's answers."""

import base64
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from cortexd.testing.answering.answers import Answer, Token, embed
from cortexd.testing.answering.prompt import tokens_of
from cortexd.testing.answering.requests import EmbeddingRequest

Json = dict[str, Any]
Version = tuple[int, ...]
Cause = Literal["validation", "internal", "model"]
"""The cause of an error inside a stream: the request, the engine before it generates, or after."""

# Up to and including this version, an error inside a stream is plain text.
LAST_WITH_PLAIN_STREAM_ERRORS = (0, 9, 2)
# The first version known to send `prompt_tokens_details`; null unless a cache was hit.
FIRST_WITH_PROMPT_DETAILS = (0, 9, 5)

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b":\n\n"


@dataclass(frozen=True, kw_only=True)
class Timings:
    """The times of a generation, in seconds."""

    prompt_seconds: float
    completion_seconds: float


@dataclass(frozen=True, kw_only=True)
class Heading:
    """The common fields of every object of an answer; `model` is the real id."""

    id: str
    created: int
    model: str
    version: Version


def event(data: Json | str, name: str | None = None) -> bytes:
    """Return one server-sent event: an object as one line of JSON, a text line by line.

    Without a `name`, an object with a type becomes an event of that name.
    """
    if isinstance(data, str):
        return b"".join(b"data: %s\n" % line.encode() for line in data.split("\n")) + b"\n"
    name = name or data.get("type")
    heading = b"event: %s\n" % name.encode() if name else b""
    return b"%sdata: %s\n\n" % (heading, msgspec.json.encode(data))


class Shape(ABC):
    """The wire format of one route's answers: whole, or as events.

    `keep_alive` is sent while a stream is silent, and `end` after its last event. With
    `spells_calls`, the arguments of tool calls are streamed token by token, like text.
    """

    keep_alive = KEEP_ALIVE
    end = DONE
    spells_calls = False

    def __init__(self, heading: Heading) -> None:
        self._heading = heading

    @property
    def model(self) -> str:
        """The real id of the model that answers."""
        return self._heading.model

    @abstractmethod
    def whole(self, answers: Sequence[Answer], timings: Timings) -> Json:
        """Return the answer to a request that does not stream."""

    def opening(self) -> list[Json]:
        """Return the events before the first token."""
        return []

    @abstractmethod
    def chunk(self, index: int, token: Token) -> Json | list[Json]:
        """Return the events of one token in the middle of a stream."""

    @abstractmethod
    def last_chunk(
        self, index: int, answer: Answer, token: Token | None, timings: Timings
    ) -> Json | list[Json]:
        """Return the events that end a choice, with the last token if it was not sent yet."""

    @abstractmethod
    def failure(self, message: str, cause: Cause) -> Json | str:
        """Return the event of an error inside a stream."""


class ChoicesShape(Shape):
    """Chat completions and completions, which have the same errors inside a stream."""

    def failure(self, message: str, cause: Cause) -> Json | str:
        """Return JSON after v0.9.2, and plain text up to it."""
        if self._heading.version <= LAST_WITH_PLAIN_STREAM_ERRORS:
            return message
        return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}


def usage(answers: Sequence[Answer], timings: Timings, version: Version) -> Json:
    """Return the tokens and speeds of an answer; the speed is 0 if no time has passed."""
    prompt_tokens = answers[0].prompt.tokens
    completion_tokens = sum(len(answer.tokens) for answer in answers)
    prompt_seconds = round(timings.prompt_seconds, 3)
    completion_seconds = round(timings.completion_seconds, 3)
    seconds = round(prompt_seconds + completion_seconds, 3)
    figures: Json = {
        "completion_tokens": completion_tokens,
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "avg_tok_per_sec": _speed(prompt_tokens + completion_tokens, seconds),
        "avg_prompt_tok_per_sec": _speed(prompt_tokens, prompt_seconds),
        "avg_compl_tok_per_sec": _speed(completion_tokens, completion_seconds),
        "total_time_sec": seconds,
        "total_prompt_time_sec": prompt_seconds,
        "total_completion_time_sec": completion_seconds,
    }
    if version >= FIRST_WITH_PROMPT_DETAILS:
        cached = answers[0].cached_tokens
        figures["prompt_tokens_details"] = {"cached_tokens": cached} if cached else None
    return figures


def _speed(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0


class ChatShape(ChoicesShape):
    """Chat completions: whole, or a chunk at a time.

    `call_ids` has as many ids as an answer may have tool calls; `top_logprobs` is None if no log
    probabilities were requested.
    """

    def __init__(
        self, heading: Heading, call_ids: Sequence[str], top_logprobs: int | None = None
    ) -> None:
        super().__init__(heading)
        self._call_ids = call_ids
        self._top_logprobs = top_logprobs

    def whole(self, answers: Sequence[Answer], timings: Timings) -> Json:
        """Return the answer to a request that does not stream."""
        return {
            **self._head("chat.completion"),
            "choices": [self._choice(index, answer) for index, answer in enumerate(answers)],
            "usage": usage(answers, timings, self._heading.version),
        }

    def chunk(self, index: int, token: Token) -> Json:
        """Return one chunk in the middle of a stream."""
        return self._chunk(index, token=token, finish_reason=None, tool_calls=None, figures=None)

    def last_chunk(self, index: int, answer: Answer, token: Token | None, timings: Timings) -> Json:
        """Return the last chunk of a choice: finish reason, usage, tool calls, perhaps text."""
        return self._chunk(
            index,
            token=token,
            finish_reason=answer.finish_reason,
            tool_calls=self._tool_calls(answer),
            figures=usage([answer], timings, self._heading.version),
        )

    def _head(self, kind: str) -> Json:
        return {
            "id": self._heading.id,
            "object": kind,
            "created": self._heading.created,
            "model": self._heading.model,
            "system_fingerprint": "local",
        }

    def _choice(self, index: int, answer: Answer) -> Json:
        calls = self._tool_calls(answer)
        message: Json = {
            "role": "assistant",
            "content": None if calls else answer.content,
            "tool_calls": calls,
        }
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        return {
            "index": index,
            "finish_reason": answer.finish_reason,
            "logprobs": None
            if self._top_logprobs is None
            else {
                "content": [
                    _token_logprobs(position, token, self._top_logprobs)
                    for position, token in enumerate(answer.tokens)
                ]
            },
            "message": message,
        }

    def _chunk(
        self,
        index: int,
        *,
        token: Token | None,
        finish_reason: str | None,
        tool_calls: list[Json] | None,
        figures: Json | None,
    ) -> Json:
        text = token.text if token is not None else ""
        reasoning = token is not None and token.reasoning
        delta: Json = {
            "role": "assistant",
            "content": None if reasoning or tool_calls else text,
            "tool_calls": tool_calls,
        }
        if reasoning:
            delta["reasoning_content"] = text
        # A plain object; OpenAI's API has {"content": [...]} here.
        logprobs = (
            None
            if self._top_logprobs is None or token is None
            else _token_logprobs(0, token, self._top_logprobs)
        )
        return {
            **self._head("chat.completion.chunk"),
            "usage": figures,
            "choices": [
                {
                    "index": index,
                    "finish_reason": finish_reason,
                    "logprobs": logprobs,
                    "delta": delta,
                }
            ],
        }

    def _tool_calls(self, answer: Answer) -> list[Json] | None:
        if not answer.tool_calls:
            return None
        return [
            {
                "index": index,
                "id": call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for index, (call, call_id) in enumerate(
                zip(answer.tool_calls, self._call_ids, strict=False)
            )
        ]


class CompletionShape(ChoicesShape):
    """Completions: whole, or a chunk at a time; no chunk contains usage."""

    def __init__(self, heading: Heading, logprobs: int | None = None) -> None:
        super().__init__(heading)
        self._logprobs = logprobs

    def whole(self, answers: Sequence[Answer], timings: Timings) -> Json:
        """Return the answer to a request that does not stream."""
        return {
            **self._head(
                [
                    {
                        "finish_reason": answer.finish_reason,
                        "index": index,
                        "text": answer.content,
                        "logprobs": None
                        if self._logprobs is None
                        else {
                            "content": [
                                _token_logprobs(position, token, self._logprobs)
                                for position, token in enumerate(answer.tokens)
                            ]
                        },
                    }
                    for index, answer in enumerate(answers)
                ]
            ),
            "usage": usage(answers, timings, self._heading.version),
        }

    def chunk(self, index: int, token: Token) -> Json:
        """Return one chunk in the middle of a stream."""
        return self._chunk(index, token.text, None)

    def last_chunk(self, index: int, answer: Answer, token: Token | None, timings: Timings) -> Json:
        """Return the last chunk of a choice: finish reason, perhaps text."""
        return self._chunk(index, token.text if token is not None else "", answer.finish_reason)

    def _chunk(self, index: int, text: str, finish_reason: str | None) -> Json:
        return self._head(
            [{"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}]
        )

    def _head(self, choices: list[Json]) -> Json:
        return {
            "id": self._heading.id,
            "choices": choices,
            "created": self._heading.created,
            "model": self._heading.model,
            "system_fingerprint": "local",
            "object": "text_completion",
        }


def _token_logprobs(position: int, token: Token, top: int) -> Json:
    """Return invented log probabilities: the chosen token first, then `top` less likely ones."""
    logprob = -0.125 * (position % 8 + 1)
    return {
        "token": token.text,
        "logprob": logprob,
        "bytes": list(token.text.encode()),
        "top_logprobs": [
            {"token": rank, "logprob": logprob - rank, "bytes": f" alternative{rank}"}
            if rank
            else {"token": 0, "logprob": logprob, "bytes": token.text}
            for rank in range(top)
        ],
    }


def embeddings(request: EmbeddingRequest) -> Json:
    """Return the answer to an embedding request: numbers, or little-endian f32 in base64.

    `model` is that of the request.
    """
    texts = request.texts()
    tokens = sum(max(1, len(tokens_of(text))) for text in texts)
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "embedding": _vector(text, request.encoding_format or "float"),
                "index": index,
            }
            for index, text in enumerate(texts)
        ],
        "model": request.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _vector(text: str, encoding_format: Literal["float", "base64"]) -> list[float] | str:
    numbers = embed(text)
    if encoding_format == "float":
        return numbers
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
