"""Helpers for answers in the OpenAI dialect: reading a node's stream, and both ways to answer.

A node's stream is complete after a chunk with a ``finish_reason``. A stream that ends without one
is broken, even with ``[DONE]``: a killed engine ends its streams properly (nodes.md 2.5.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from cortexd import sse
from cortexd.dialects.nodes.answers import (
    DONE,
    broken_off,
    read_event,
    read_id,
    read_whole,
    unknown_shape,
)
from cortexd.dialects.nodes.errors import read_stream_error
from cortexd.dialects.wire.exchange import EVENT_STREAM, JSON, Usage
from cortexd.dialects.wire.frames import Mould, learn
from cortexd.dialects.wire.json_values import JsonObject, encode, integer
from cortexd.dialects.wire.openai_errors import error_event
from cortexd.dialects.wire.token_counts import cached_tokens
from cortexd.errors import BadGateway, CortexError
from cortexd.sse import ServerSentEvent

DONE_EVENT = sse.encode(DONE)
KEEP_ALIVE = sse.comment(b"keep-alive")

_NO_ANSWER = frozenset({"canceled", "error"})
"""A node's finish reasons for an aborted answer, unknown to clients (nodes.md 4.2.5)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of our answer: our id, the time in unix seconds, the catalogue's model."""

    id: str
    created: int
    model: str

    def sign(self, answer: JsonObject) -> None:
        """Replace the node's identity by ours."""
        answer["id"] = self.id
        answer["created"] = self.created
        answer["model"] = self.model

    def sign_whole(self, answer: JsonObject) -> None:
        """Sign a node's whole answer. Raises BadGateway if it has no choices."""
        if answer.get("choices") is None:
            raise unknown_shape("choices")
        self.sign(answer)


def read_chunk(event: ServerSentEvent) -> JsonObject:
    """Return the chunk in a node's event. Raises CortexError for an error event."""
    chunk = read_event(event)
    error = chunk.get("error")
    if error is not None:
        raise read_stream_error(error)
    return chunk


def read_usage(usage: object) -> Usage | None:
    """Return the token counts of a node's ``usage``, if it is an object."""
    if not isinstance(usage, dict):
        return None
    return Usage(
        integer(usage.get("prompt_tokens")),
        integer(usage.get("completion_tokens")),
        cached_tokens=cached_tokens(usage, "prompt_tokens_details"),
    )


def read_choices(answer: JsonObject) -> list[JsonObject]:
    """Return the choices of a chunk or an answer, possibly none. Raises BadGateway."""
    choices = answer.get("choices")
    if choices is None:
        return []
    if not isinstance(choices, list):
        raise unknown_shape("choices")
    for choice in choices:  # a loop, because it is faster than a generator and runs for each token
        if not isinstance(choice, dict):
            raise unknown_shape("choices")
    return choices


def read_finish_reason(choice: JsonObject) -> str | None:
    """Return the finish reason of a choice, ``None`` if it has not ended.

    Raises BadGateway if the node aborted the answer, or if the reason is not a string.
    """
    reason = choice.get("finish_reason")
    if reason is None or reason == "":
        return None
    if not isinstance(reason, str):
        raise unknown_shape("finish_reason")
    if reason in _NO_ANSWER:
        raise BadGateway(f"the node aborted the answer ({reason})", elsewhere=True)
    return reason


def words_chunk(identity: Identity, words: str, *, include_usage: bool) -> bytes:
    """Return a chunk of a chat with words that a client shows as thinking."""
    delta = {"reasoning_content": words}
    choice: JsonObject = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    chunk: JsonObject = {"object": "chat.completion.chunk", "choices": [choice]}
    identity.sign(chunk)
    if include_usage:
        chunk["usage"] = None
    return sse.encode(encode(chunk))


class InPieces:
    """The base of a responder whose client gets a stream of events."""

    content_type = EVENT_STREAM
    streams = True
    cut_short = False
    fails_in_order = False
    finished = False
    mould: Mould | None = None

    def take_body(self, body: bytes) -> bytes:
        """Raise BadGateway: the node must stream, because the request asked for it."""
        raise BadGateway("the node did not stream", elsewhere=True)

    def fail(self, error: CortexError) -> bytes:
        """Return the error as an event; see Responder."""
        return error_event(error)

    def waiting(self, elapsed: float, words: str = "") -> bytes:
        """Return a comment, which clients ignore."""
        return KEEP_ALIVE


class InOnePiece:
    """The base of a responder whose client gets the whole answer at the end."""

    content_type = JSON
    streams = False
    cut_short = False
    fails_in_order = False
    finished = False
    mould: Mould | None = None

    def take_body(self, body: bytes) -> bytes:
        """Raise BadGateway: the node must stream, because the request asked for it."""
        raise BadGateway("the node did not stream", elsewhere=True)

    def fail(self, error: CortexError) -> bytes:
        """Return no bytes: no byte of the answer was sent before its end."""
        return b""

    def waiting(self, elapsed: float, words: str = "") -> bytes:
        """Return no bytes, as ``fail`` does."""
        return b""


class Unstreamed(InOnePiece):
    """The base of a responder for a request without a stream: the node sends one body."""

    def __init__(self) -> None:
        self.done = False
        self.content_chunks = 0
        self.usage: Usage | None = None
        self.upstream_id: str | None = None

    def feed(self, event: ServerSentEvent) -> bytes:
        """Raise BadGateway: the node must not stream, because the request did not ask for it."""
        raise BadGateway("the node sent a stream that was not requested", elsewhere=True)

    def finish(self) -> bytes:
        """Raise BadGateway, as ``feed`` does."""
        raise BadGateway("the node sent a stream that was not requested", elsewhere=True)


class WholeAnswer(Unstreamed):
    """Passes on a node's whole answer; ``amend`` makes the necessary changes."""

    def __init__(self, amend: Callable[[JsonObject], None]) -> None:
        super().__init__()
        self._amend = amend

    def take_body(self, body: bytes) -> bytes:
        """Return the amended answer; see Responder."""
        answer = read_whole(body)
        for choice in read_choices(answer):
            read_finish_reason(choice)
        self.upstream_id = read_id(answer)
        self.usage = read_usage(answer.get("usage"))
        self._amend(answer)
        self.content_chunks = 1
        self.done = True
        return encode(answer)


class NodeStream:
    """Reads a node's stream of chunks, and has the attributes of a responder.

    ``brings_content`` returns whether a choice of a chunk has content, and raises BadGateway if the
    choice does not have the expected format.
    """

    def __init__(self, brings_content: Callable[[JsonObject], bool]) -> None:
        self._brings_content = brings_content
        self.done = False
        self.content_chunks = 0
        self.finished = False
        self.usage: Usage | None = None
        self.node_usage: JsonObject | None = None
        self.upstream_id: str | None = None

    def take_chunk(self, event: ServerSentEvent) -> JsonObject | None:
        """Return the chunk of an event, or ``None`` if the event is not a chunk for the client."""
        if event.name != b"message" or self.done:
            return None
        if event.data == DONE:
            if not self.finished:
                raise broken_off()
            self.done = True
            return None
        chunk = read_chunk(event)
        if self.upstream_id is None:
            self.upstream_id = read_id(chunk)
        usage = chunk.pop("usage", None)
        if isinstance(usage, dict):
            self.node_usage = usage
            self.usage = read_usage(usage)
        chunk["choices"] = read_choices(chunk)
        for choice in chunk["choices"]:
            if self._brings_content(choice):
                self.content_chunks += 1
            if read_finish_reason(choice) is not None:
                self.finished = True
        return chunk


class StreamedAnswer(InPieces, NodeStream):
    """Passes on a node's stream, chunk by chunk, with our identity.

    A separate last chunk has the node's usage, if the client asked for it. ``kind`` is the
    ``object`` of the dialect's chunks, and ``text_key`` the beginning of the JSON of a text in
    them.
    """

    kind: ClassVar[str]
    text_key: ClassVar[bytes]

    def __init__(
        self,
        identity: Identity,
        brings_content: Callable[[JsonObject], bool],
        *,
        include_usage: bool,
    ) -> None:
        super().__init__(brings_content)
        self._identity = identity
        self._include_usage = include_usage
        self.mould = None

    def feed(self, event: ServerSentEvent) -> bytes:
        """Return our chunk, or the end of the stream; see Responder."""
        if self.done:
            return b""
        mould = self.mould
        if mould is not None and event.name == b"message":
            cast = mould.cast(sse.encode(event.data))
            if cast is not None:
                self.content_chunks += 1
                return cast
        chunk = self.take_chunk(event)
        if chunk is None:
            return self._ending() if self.done else self.aside(event)
        if not chunk["choices"]:
            return b""  # a chunk with usage only: ours comes at the end
        # If the last frame fitted no other chunk, learning the next one would be useless too.
        if mould is None or mould.has_fitted:
            text = self.text_alone(chunk)
            if text:
                self.mould = learn(event.data, self.text_key, text, self._rendered)
        self.amend(chunk)
        return b"".join([self._signed(piece, None) for piece in self.pieces(chunk)])

    def aside(self, event: ServerSentEvent) -> bytes:
        """Return the bytes for an event that is not a chunk; none by default."""
        return b""

    def _rendered(self, chunk: JsonObject) -> bytes:
        chunk.pop("usage", None)
        self.amend(chunk)
        return self._signed(chunk, None)

    def text_alone(self, chunk: JsonObject) -> str | None:
        """Return the text of a chunk that has no other content, and that similar chunks follow."""
        if len(chunk["choices"]) != 1 or self.node_usage is not None or self.finished:
            return None
        return self.text_of(chunk["choices"][0])

    def text_of(self, choice: JsonObject) -> str | None:
        """Return the text of a choice without other content; by default no choice has one."""
        return None

    def finish(self) -> bytes:
        """Return the end of the stream, unless ``[DONE]`` has already caused it."""
        if self.done:
            return b""
        if not self.finished:
            raise broken_off()
        self.done = True
        return self._ending()

    def amend(self, chunk: JsonObject) -> None:
        """Convert a chunk from the node's format to the dialect's; no change by default."""

    def pieces(self, chunk: JsonObject) -> tuple[JsonObject, ...]:
        """Return the chunks for the client that an amended chunk becomes; by default itself."""
        return (chunk,)

    def final_usage(self) -> JsonObject | None:
        """Return the usage of the whole answer; by default the node's counts."""
        return self.node_usage

    def _ending(self) -> bytes:
        usage = self.final_usage()
        if usage is None or not self._include_usage:
            return DONE_EVENT
        return self._signed({"object": self.kind, "choices": []}, usage) + DONE_EVENT

    def _signed(self, chunk: JsonObject, usage: JsonObject | None) -> bytes:
        self._identity.sign(chunk)
        if self._include_usage:
            chunk["usage"] = usage
        return b"data: " + encode(chunk) + b"\n\n"
