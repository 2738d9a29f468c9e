"""OpenAI responses as streams: a node's events in OpenAI's format, and keep-alives.

Codex aborts a stream after 300 s without an event, and comments do not count. OpenAI's SDK requires
one ``response.created`` first, and the same id in all later events. So there are two keep-alives:

- After the node has begun its response: ``response.in_progress`` with the node's id.
- Before that: a ``response.created`` of our own, then ``response.in_progress``, with an id of our
  own, which the response keeps; the node's own beginning is then not passed on. We do this only for
  a response that is not stored, which is true of all of Codex's. A stored response is later
  requested by the node's id, which is not known yet; so its client gets comments.

A request may have several attempts, each with a responder of its own, and another one in the queue;
those of one request share an Opening, as in ``dialects.wire.asked``.

A node's events lack fields that clients need: we add ``item_id`` and ``logprobs``. A node sends a
tool call in one event; we let the call begin without its arguments, which follow in deltas.
"""

from __future__ import annotations

from cortexd import sse
from cortexd.dialects.nodes.answers import (
    DONE,
    as_it_came,
    broken_off,
    read_event,
    read_id,
    read_name,
    unknown_shape,
)
from cortexd.dialects.nodes.chat_stream import KEEP_ALIVE, InPieces
from cortexd.dialects.nodes.errors import error_words, read_stream_error
from cortexd.dialects.openai.responses_tools import ToolNames
from cortexd.dialects.wire.exchange import Usage
from cortexd.dialects.wire.json_values import NOT_JSON, JsonObject, decode, encode, integer
from cortexd.dialects.wire.token_counts import cached_tokens
from cortexd.errors import BadRequest, CortexError, NodeError
from cortexd.sse import ServerSentEvent

_CREATED = "response.created"
_IN_PROGRESS = "response.in_progress"
_LAST = frozenset({"response.completed", "response.failed", "response.incomplete"})
_LIFECYCLE = _LAST | {_CREATED, _IN_PROGRESS, "response.queued"}
_ITEM_ADDED = "response.output_item.added"
_ITEM_DONE = "response.output_item.done"
_IN_AN_ITEM = (
    "response.content_part.",
    "response.output_text.",
    "response.refusal.",
    "response.function_call_arguments.",
)
_CODES_OF_REQUESTS = ("validation_error", "invalid_request")
"""The codes or types with which nodes report a fault of the request (nodes.md 6.10)."""
_NAMELESS_CALL = (
    "the node called a tool without naming it, as older versions of mistral.rs do in streamed "
    "responses; update mistral.rs on the node, or request the response without 'stream'"
)


class Opening:
    """The beginning of a stream that keep-alives have sent before the node.

    ``response_id`` is the id of the response if we have begun it, which needs ``may_begin``.
    """

    def __init__(self, response_id: str, *, may_begin: bool) -> None:
        self.response_id = response_id
        self.may_begin = may_begin
        self.has_begun = False
        self.events = 0


class ResponseStream(InPieces):
    """Passes on a node's events, each with its name, until the one that ends the response.

    ``model`` and ``created_at``, in unix seconds, are for our events before the first one of the
    node. A failed response has ended: if the connection broke after it, Codex would report that
    instead of the failure.
    """

    fails_in_order = True

    def __init__(self, model: str, created_at: int, opening: Opening, names: ToolNames) -> None:
        self.done = False
        self.content_chunks = 0
        self.usage: Usage | None = None
        self.upstream_id: str | None = None
        self._opening = opening
        self._names = names
        self._node_has_begun = False
        self._has_begun = False
        self._events = 0
        self._items: dict[object, JsonObject] = {}
        self._response: JsonObject = {
            "id": opening.response_id,
            "object": "response",
            "created_at": created_at,
            "model": model,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }

    def feed(self, event: ServerSentEvent) -> bytes:
        """Return the event in OpenAI's format, often unchanged; see Responder."""
        if self.done:
            return b""
        if event.data == DONE:
            raise broken_off()
        kind = _kind_of(event)
        if kind == "error":
            raise _error_in(event.data)
        if not kind.startswith("response."):
            return as_it_came(event)
        self._catch_up()
        data = read_event(event)
        is_changed = self._take(kind, data)
        if kind == _CREATED and self._has_begun:
            return b""  # the client has already got one
        self._has_begun = True
        number, self._events = self._events, self._events + 1
        if data.get("sequence_number", number) != number:
            data["sequence_number"] = number
            is_changed = True
        return _encoded(encode(data) if is_changed else event.data, event.name)

    def finish(self) -> bytes:
        """Raise BadGateway for a stream that ended without its last event; see Responder."""
        if not self.done:
            raise broken_off()
        return b""

    def fail(self, error: CortexError) -> bytes:
        """Return the event of a failed response; see Responder."""
        if self.done:
            return b""
        self._catch_up()
        response = {
            **self._response,
            "status": "failed",
            "error": {"code": error.code or _code_of(error), "message": error.message},
        }
        return self._tell("response.failed", response)

    def waiting(self, elapsed: float, words: str = "") -> bytes:
        """Return an event without effect, or a comment if no event can be sent yet."""
        if self.done:
            return b""
        self._catch_up()
        if not (self._has_begun or self._opening.may_begin):
            return KEEP_ALIVE
        kind = _IN_PROGRESS if self._has_begun else _CREATED
        self._has_begun = True
        # Without the fields that the node repeats from the request, which may be long.
        about = {key: self._response.get(key) for key in ("id", "object", "created_at", "model")}
        response: JsonObject = {**about, "status": "in_progress", "output": [], "tools": []}
        sign = self._tell(kind, response)
        if kind == _CREATED:
            self._opening.has_begun = True
        self._opening.events = self._events
        return sign

    def _catch_up(self) -> None:
        """Learn the output of the request's other responders, before the node's first event."""
        if not self._node_has_begun:
            self._has_begun = self._opening.has_begun
            self._events = self._opening.events

    def _take(self, kind: str, data: JsonObject) -> bool:
        """Learn from an event, make the necessary changes, and return whether there were any."""
        self._node_has_begun = True
        if kind in _LIFECYCLE:
            return self._take_response(kind, _response_in(data))
        if kind in (_ITEM_ADDED, _ITEM_DONE):
            return self._take_item(kind, data)
        if kind.endswith(".delta"):
            self.content_chunks += 1
        return kind.startswith(_IN_AN_ITEM) and self._amend_inner(kind, data)

    def _take_response(self, kind: str, response: JsonObject) -> bool:
        self.upstream_id = self.upstream_id or read_id(response)
        is_changed = self._names.restore_response(response)
        if self._opening.has_begun:
            is_changed |= response.get("id") != self._opening.response_id
            response["id"] = self._opening.response_id
        if kind == _CREATED:
            self._response = response
        elif kind == "response.failed" and isinstance(response.get("error"), dict):
            # The node's error has no code, which clients require.
            raise _error_in(encode(response))
        elif kind in _LAST:
            self.usage = read_usage(response)
            self.done = True
        return is_changed

    def _take_item(self, kind: str, data: JsonObject) -> bool:
        item = data.get("item")
        if not isinstance(item, dict):
            raise unknown_shape("item")
        is_changed = self._names.restore_call(item)
        if kind == _ITEM_ADDED:
            self._items[_index_of(data)] = item
            if item.get("type") == "function_call" and item.get("arguments"):
                item["arguments"], item["status"] = "", "in_progress"
                is_changed = True
        return is_changed

    def _amend_inner(self, kind: str, data: JsonObject) -> bool:
        """Add the missing fields of an event inside an item."""
        item = self._items.get(_index_of(data))
        is_of_call = kind.startswith("response.function_call_arguments.")
        if is_of_call and (item is None or item.get("type") != "function_call"):
            raise BadRequest(_NAMELESS_CALL, elsewhere=True)
        if item is None:
            return False
        lacking = {"item_id": item.get("id")}
        if kind.startswith("response.output_text."):
            lacking["logprobs"] = []
        elif is_of_call and kind.endswith(".done"):
            lacking["name"] = item.get("name")
        lacking = {key: value for key, value in lacking.items() if key not in data}
        data.update(lacking)
        return bool(lacking)

    def _tell(self, kind: str, response: JsonObject) -> bytes:
        """Return an event of our own."""
        number, self._events = self._events, self._events + 1
        event = {"type": kind, "sequence_number": number, "response": response}
        return sse.encode(encode(event), kind.encode())


def read_usage(response: JsonObject) -> Usage | None:
    """Return the token counts of a response, if it has them yet."""
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return None
    return Usage(
        integer(usage.get("input_tokens")),
        integer(usage.get("output_tokens")),
        cached_tokens=cached_tokens(usage, "input_tokens_details"),
    )


def _error_in(data: bytes) -> CortexError:
    """Return the error for a node's error event: a BadRequest, if its code says so."""
    meant = read_stream_error(error_words(data))
    if type(meant) is NodeError and _code_in(data) in _CODES_OF_REQUESTS:
        return BadRequest(meant.message)
    return meant


def _code_in(data: bytes) -> object:
    try:
        fields = decode(data)
    except NOT_JSON:
        return None
    if not isinstance(fields, dict):
        return None
    error = fields.get("error")
    told = error if isinstance(error, dict) else fields
    return told.get("code") or told.get("type")


def _code_of(error: CortexError) -> str:
    """Return a code for an error without one; Codex retries after most codes."""
    return "invalid_prompt" if error.status < 500 else error.openai_type


def _encoded(data: bytes, name: bytes) -> bytes:
    return sse.encode(data, name if name != b"message" else None)


def _kind_of(event: ServerSentEvent) -> str:
    """Return the type of an event: its name, or the type in its data."""
    if event.name != b"message":
        return read_name(event)
    data = read_event(event)
    kind = data.get("type")
    if isinstance(kind, str):
        return kind
    if data.get("error") is not None:
        return "error"
    raise unknown_shape("type")


def _response_in(data: JsonObject) -> JsonObject:
    response = data.get("response")
    if not isinstance(response, dict):
        raise unknown_shape("response")
    return response


def _index_of(data: JsonObject) -> object:
    """Return the index of an event's item; an invalid index matches no item."""
    index = data.get("output_index")
    return index if isinstance(index, int) else None
