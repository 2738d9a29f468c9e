"""The state that a mistral.rs node stores for clients, in its answers.

The facts are from nodes.md 4 and 6, for mistral.rs v0.9.2. A whole answer, and the last chunk of a
stream, name a session in ``session_id``. A file that an answer made comes in ``files`` or as an
event ``file_produced``. An event ``agentic_tool_approval_required`` asks for an approval. A
container is any id that a response calls one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cortexd.dialects.wire.json_values import NOT_JSON, JsonObject, decode
from cortexd.fleet.affinity import Kept, StateKind
from cortexd.sse import ServerSentEvent

_APPROVAL_EVENT = b"agentic_tool_approval_required"
_FILE_EVENT = b"file_produced"
_TELLING_EVENTS = frozenset(
    {
        _APPROVAL_EVENT,
        _FILE_EVENT,
        b"response.created",
        b"response.completed",
        b"response.incomplete",
        b"response.failed",
    }
)
# In JSON, a string cannot contain a name between unescaped quotes.
_SESSION_MARK = b'"session_id"'
_MARKS = (_SESSION_MARK, b'"files"', b'"file"', b'"container_id"')


def kept_by_event(event: ServerSentEvent) -> Sequence[Kept]:
    """Return the stored state that a stream's event names; most events name none."""
    if event.name == b"message":
        if _SESSION_MARK not in event.data:
            return ()
    elif event.name not in _TELLING_EVENTS:
        return ()
    fields = _read(event.data)
    if event.name == _FILE_EVENT:
        return tuple(_named(StateKind.FILE, fields.get("id")))
    if event.name == _APPROVAL_EVENT:
        session = _named(StateKind.SESSION, fields.get("session_id"))
        return (*_named(StateKind.APPROVAL, fields.get("approval_id")), *session)
    response = fields.get("response")
    return tuple(_kept(response if isinstance(response, dict) else fields))


def kept_by_body(body: bytes) -> Sequence[Kept]:
    """Return the stored state that a whole answer to a chat, a response or an upload names."""
    if not any(mark in body for mark in _MARKS):
        return ()
    fields = _read(body)
    if fields.get("object") == "file":
        return tuple(_named(StateKind.FILE, fields.get("id")))
    return tuple(_kept(fields))


def _read(data: bytes) -> JsonObject:
    try:
        fields = decode(data)
    except NOT_JSON:
        return {}
    return fields if isinstance(fields, dict) else {}


def _named(kind: StateKind, name: object) -> Iterator[Kept]:
    if isinstance(name, str) and name:
        yield Kept(kind, name)


def _kept(fields: JsonObject) -> Iterator[Kept]:
    """Yield the state in its known fields; other fields may contain data of clients."""
    yield from _named(StateKind.SESSION, fields.get("session_id"))
    for file in _objects(fields.get("files")):
        yield from _named(StateKind.FILE, file.get("id"))
    for item in _objects(fields.get("output")):
        yield from _named(StateKind.CONTAINER, item.get("container_id"))
        for part in _objects(item.get("content")):
            for annotation in _objects(part.get("annotations")):
                if "container_id" in annotation:
                    yield from _named(StateKind.CONTAINER, annotation["container_id"])
                    yield from _named(StateKind.FILE, annotation.get("file_id"))


def _objects(values: object) -> Iterator[JsonObject]:
    for value in values if isinstance(values, list) else ():
        if isinstance(value, dict):
            yield value
