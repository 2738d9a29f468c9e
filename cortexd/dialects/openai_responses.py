"""OpenAI responses, passed through: the node speaks the dialect itself, and keeps what it answers.

A response is complete at ``response.completed``, ``response.failed`` or ``response.incomplete``; a
stream that ends without one of them is broken. Failures in a stream are told as
``response.failed``: Codex ignores ``error`` events (dialect notes 1.4).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cortexd import sse
from cortexd.dialects.exchange import ONLY_MISTRALRS, Exchange, Responder, Usage, translate_by_model
from cortexd.dialects.json_values import (
    NOT_JSON,
    JsonObject,
    decode,
    encode,
    integer,
    read_flag,
    read_model,
    read_object,
    type_name,
)
from cortexd.dialects.mistralrs import error_words, read_stream_error
from cortexd.dialects.openai_answer import InOnePiece, InPieces, broken_off, read_id, unknown_shape
from cortexd.dialects.profile import Profile
from cortexd.errors import BadGateway, BadRequest, CortexError
from cortexd.sse import ServerSentEvent

ROUTE = "/v1/responses"

_CREATED = "response.created"
_LAST = frozenset({"response.completed", "response.failed", "response.incomplete"})


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """A request for a response; ``body`` is what the client sent, which goes up as it is.

    ``follows`` is the id of the response that it goes on from; ``is_kept`` says that the node keeps
    the response under its id.
    """

    model: str
    streams: bool
    follows: str | None
    is_kept: bool
    body: JsonObject

    def exchange(
        self,
        model: str,
        profiles: Iterable[Profile] = ONLY_MISTRALRS,
        *,
        random_id: str,
        now: float,
        request_id: str | None = None,
    ) -> Exchange:
        """Return the exchange with the catalogue's ``model``.

        The answer has the node's own id, by which the client may ask for it again; those are
        random, and collide with none of another node (upstream notes part 6).
        """

        def make_responder() -> Responder:
            return ResponseStream(model, int(now)) if streams else WholeResponse()

        streams = self.streams
        return Exchange(
            route=ROUTE,
            model=model,
            streams=streams,
            follows=self.follows,
            is_kept=self.is_kept,
            translations=translate_by_model(
                profiles,
                ROUTE,
                encode({**self.body, "model": model}),
                make_responder,
                streams=streams,
            ),
        )


def read_request(body: bytes) -> ResponsesRequest:
    """Return the request in ``body``. Raises BadRequest naming the field at fault."""
    fields = read_object(body)
    model = read_model(fields)
    follows = fields.get("previous_response_id")
    if not (follows is None or (isinstance(follows, str) and follows)):
        raise BadRequest(
            "'previous_response_id' must be the id of a response; found "
            + ("an empty string" if follows == "" else type_name(follows)),
            param="previous_response_id",
        )
    is_kept = fields.get("store") is None or read_flag(fields, "store")
    # A task in the background is asked for by its id and by nothing else, and is never streamed.
    in_background = read_flag(fields, "background")
    streams = read_flag(fields, "stream")
    if in_background and streams:
        raise BadRequest(
            "'stream' must be false where 'background' is true: no node streams those",
            param="stream",
        )
    return ResponsesRequest(model, streams, follows, is_kept or in_background, fields)


def read_usage(response: JsonObject) -> Usage | None:
    """Return the token counts of a response, if it has them yet."""
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return None
    return Usage(integer(usage.get("input_tokens")), integer(usage.get("output_tokens")))


class WholeResponse(InOnePiece):
    """Passes on a response that the node gave whole, byte by byte."""

    def __init__(self) -> None:
        self.done = False
        self.content_chunks = 0
        self.usage: Usage | None = None
        self.upstream_id: str | None = None

    def take_body(self, body: bytes) -> bytes:
        """Return the node's answer as it is; see Responder."""
        try:
            response = decode(body)
        except NOT_JSON:
            raise BadGateway("the node's answer is not valid JSON", elsewhere=True) from None
        if not isinstance(response, dict):
            raise BadGateway("the node's answer is not a JSON object", elsewhere=True)
        self.upstream_id = read_id(response)
        self.usage = read_usage(response)
        self.content_chunks = 1
        self.done = True
        return body

    def feed(self, event: ServerSentEvent) -> bytes:
        """Refuse: a node that was not asked to stream must not."""
        raise BadGateway("the node streamed though not asked to", elsewhere=True)

    def finish(self) -> bytes:
        """Refuse, as ``feed`` does."""
        raise BadGateway("the node streamed though not asked to", elsewhere=True)


class ResponseStream(InPieces):
    """Passes a node's events on, each under its name, until the one that ends the response.

    ``model`` and ``created_at``, in unix seconds, are for a failure before the node said any.
    """

    def __init__(self, model: str, created_at: int) -> None:
        self.done = False
        self.content_chunks = 0
        self.usage: Usage | None = None
        self.upstream_id: str | None = None
        self._events = 0
        self._response: JsonObject = {
            "id": "",
            "object": "response",
            "created_at": created_at,
            "model": model,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }

    def feed(self, event: ServerSentEvent) -> bytes:
        """Return the event as it came; see Responder."""
        if self.done:
            return b""
        if event.data == b"[DONE]":
            raise broken_off()
        kind = self._kind(event)
        if kind == "error":
            raise read_stream_error(error_words(event.data))
        if kind == _CREATED:
            self._response = _response_in(event)
            self.upstream_id = read_id(self._response)
        elif kind in _LAST:
            last = _response_in(event)
            self.upstream_id = self.upstream_id or read_id(last)
            self.usage = read_usage(last)
            self.done = True
        elif kind.endswith(".delta"):
            self.content_chunks += 1
        self._events += 1
        return sse.encode(event.data, event.name if event.name != b"message" else None)

    def _kind(self, event: ServerSentEvent) -> str:
        """Return what an event is: its name, or what its data say where it has none."""
        if event.name != b"message":
            return event.name.decode("utf-8", "replace")
        data = _object_in(event)
        kind = data.get("type")
        if isinstance(kind, str):
            return kind
        if data.get("error") is not None:
            return "error"
        raise unknown_shape("type")

    def finish(self) -> bytes:
        """Refuse a stream that ended without its last event; see Responder."""
        if not self.done:
            raise broken_off()
        return b""

    def fail(self, error: CortexError) -> bytes:
        """Return the failure as the event by which a response fails; see Responder."""
        response = {
            **self._response,
            "status": "failed",
            "error": {"code": error.code or error.openai_type, "message": error.message},
        }
        event = {
            "type": "response.failed",
            "sequence_number": self._events,
            "response": response,
        }
        return sse.encode(encode(event), b"response.failed")


def _object_in(event: ServerSentEvent) -> JsonObject:
    try:
        data = decode(event.data)
    except NOT_JSON:
        # Nodes up to v0.9.2 send errors as a line of plain text (upstream notes 4.3).
        raise read_stream_error(event.data.decode("utf-8", "replace")) from None
    if not isinstance(data, dict):
        raise BadGateway("the node sent an event that is not an object", elsewhere=True)
    return data


def _response_in(event: ServerSentEvent) -> JsonObject:
    response = _object_in(event).get("response")
    if not isinstance(response, dict):
        raise unknown_shape("response")
    return response
