"""What nodes keep for clients, as requests name it and answers tell of it.

Facts are from nodes.md 4 and 6, of mistral.rs v0.9.2: a session is named by ``session_id``, in a
whole answer and in the last chunk of a stream; a file that an answer made comes in ``files`` or as
an event ``file_produced``; an approval is asked for by an event ``agentic_tool_approval_required``.
A request names a file in a content part; its own ``files`` are not ids, but what the model is to
make. A container is whatever a response calls one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from cortexd.dialects.nodes.mistralrs import BadAnswer, answer_object
from cortexd.dialects.wire.json_values import NOT_JSON, JsonObject, decode, encode
from cortexd.errors import StateNotFound
from cortexd.fleet.affinity import Kept, Reference, StateKind
from cortexd.sse import ServerSentEvent

FILES: Final = "/v1/files"

_ROUTES = {
    StateKind.RESPONSE: "/v1/responses",
    StateKind.SESSION: "/v1/sessions",
    StateKind.FILE: FILES,
    StateKind.CONTAINER: "/v1/containers",
    StateKind.APPROVAL: "/v1/agent/approvals",
}

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
# In JSON text no string's own content holds a name between bare quotes.
_SESSION_MARK = b'"session_id"'
_MARKS = (_SESSION_MARK, b'"files"', b'"file"', b'"container_id"')

_GONE_WORDS = {
    StateKind.RESPONSE: "it was never stored, or is lost since its node restarted",
    StateKind.SESSION: "no answer has named it, or it is lost: nodes keep a session for 30 minutes "
    "after its last use, and lose it with its model",
    StateKind.FILE: "it was not uploaded or made here, or is lost: nodes keep a file for 30 "
    "minutes, and lose it with its model",
    StateKind.CONTAINER: "no answer has named it, or it is lost: nodes keep files for 30 minutes, "
    "and lose them with their model",
    StateKind.APPROVAL: "no open stream waits for it; it was given before, or waited for 5 minutes",
}


@dataclass(frozen=True, slots=True)
class Question:
    """What a client asks about something that a node keeps: the node's path, and our label of it.

    ``is_of_part`` says that a 404 may mean that something of it is not there.
    """

    kept: Kept
    path: str
    route: str
    is_of_part: bool = False

    @property
    def is_of_content(self) -> bool:
        """Whether it asks for a file itself, and not for what is known of it."""
        return self.path.endswith("/content")


def question_about(ids: Mapping[str, str], action: str = "") -> Question:
    """Return the question about what is named by ``ids``: each id by its kind, one or two of them.

    Of a container and a file the file is meant: nodes look at its id alone. ``action`` is what
    follows the ids in the path. Raises StateNotFound for an id that no path can hold.
    """
    named = [Kept(StateKind(kind), name) for kind, name in sorted(ids.items())]
    segments, labels = [_ROUTES[named[0].kind]], [_ROUTES[named[0].kind]]
    for number, kept in enumerate(named):
        segments += [*(["files"] if number else []), _segment(kept)]
        labels += [*(["files"] if number else []), "{id}"]
    end = [action] if action else []
    is_of_part = named[-1].kind is StateKind.RESPONSE and bool(action)
    return Question(named[-1], "/".join(segments + end), "/".join(labels + end), is_of_part)


def _segment(kept: Kept) -> str:
    if not kept.id.strip("."):  # a step in the path, which would lead to another route
        raise not_found(kept)
    return quote(kept.id, safe="")


def not_found(kept: Kept, param: str | None = None, *, node: str | None = None) -> StateNotFound:
    """Return the error for what no node keeps, or for what the ``node`` that kept it has lost.

    ``param`` is the path of the field that names it.
    """
    kind = kept.kind
    where = "on no node" if node is None else f"no more on node {node}"
    code = f"{kind.value}_not_found"
    if kind is StateKind.RESPONSE and param is not None:
        code = "previous_response_not_found"
    return StateNotFound(
        f"{kind.value} {kept.id!r} is {where}: {_GONE_WORDS[kind]}", param=param, code=code
    )


# What requests name.


def named_by_chat(fields: JsonObject) -> tuple[Reference, ...]:
    """Return what a chat names: its session, and files in the messages of users."""
    return (*_named_session(fields), *_named_files(fields, "messages", "file"))


def named_by_response(fields: JsonObject) -> tuple[Reference, ...]:
    """Return what a request for a response names: the one before, its session, and files."""
    param = "previous_response_id"
    before = [Reference(kept, param) for kept in _named(StateKind.RESPONSE, fields.get(param))]
    return (*before, *_named_session(fields), *_named_files(fields, "input", "input_file"))


def _named_session(fields: JsonObject) -> Iterator[Reference]:
    for kept in _named(StateKind.SESSION, fields.get("session_id")):
        yield Reference(kept, "session_id")


def _named_files(fields: JsonObject, within: str, kind: str) -> Iterator[Reference]:
    """Yield the files that content parts of a ``kind`` name, in a list of messages or items."""
    items = fields.get(within)
    for number, item in enumerate(items if isinstance(items, list) else ()):
        content = _field(item, "content")
        for index, part in enumerate(content if isinstance(content, list) else ()):
            if not isinstance(part, dict) or part.get("type") != kind:
                continue
            is_within = kind == "file"
            path = f"{within}[{number}].content[{index}]{'.file' if is_within else ''}.file_id"
            file = part.get("file") if is_within else part
            for kept in _named(StateKind.FILE, _field(file, "file_id")):
                yield Reference(kept, path)


def _field(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


# What answers tell.


def kept_by_event(event: ServerSentEvent) -> Sequence[Kept]:
    """Return what an event of a stream says that the node keeps; of most events, nothing."""
    if event.name == b"message":
        if _SESSION_MARK not in event.data:
            return ()
    elif event.name not in _TELLING_EVENTS:
        return ()
    told = _read(event.data)
    if event.name == _FILE_EVENT:
        return tuple(_named(StateKind.FILE, told.get("id")))
    if event.name == _APPROVAL_EVENT:
        session = _named(StateKind.SESSION, told.get("session_id"))
        return (*_named(StateKind.APPROVAL, told.get("approval_id")), *session)
    response = told.get("response")
    return tuple(_kept(response if isinstance(response, dict) else told))


def kept_by_body(body: bytes) -> Sequence[Kept]:
    """Return what a whole answer says that the node keeps: to a chat, a response or an upload."""
    if not any(mark in body for mark in _MARKS):
        return ()
    told = _read(body)
    if told.get("object") == "file":
        return tuple(_named(StateKind.FILE, told.get("id")))
    return tuple(_kept(told))


def _read(data: bytes) -> JsonObject:
    try:
        told = decode(data)
    except NOT_JSON:
        return {}
    return told if isinstance(told, dict) else {}


def _named(kind: StateKind, name: object) -> Iterator[Kept]:
    if isinstance(name, str) and name:
        yield Kept(kind, name)


def _kept(told: JsonObject) -> Iterator[Kept]:
    """Yield what is at its known places: clients may have put anything at others."""
    yield from _named(StateKind.SESSION, told.get("session_id"))
    for file in _objects(told.get("files")):
        yield from _named(StateKind.FILE, file.get("id"))
    for item in _objects(told.get("output")):
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


def read_file_list(body: bytes) -> list[JsonObject]:
    """Return the files in a node's list of them. Raises BadAnswer."""
    files = answer_object(body).get("data")
    if not isinstance(files, list) or not all(
        isinstance(file, dict) and isinstance(file.get("id"), str) for file in files
    ):
        raise BadAnswer("the list of files has no 'data' array of files with ids")
    return files


def file_list_body(files: Iterable[JsonObject]) -> bytes:
    """Return the list of several nodes' files, the newest first, which is a single page.

    Without ``has_more`` the OpenAI SDK would ask for the page after it, and get the same again.
    """

    def age(file: JsonObject) -> tuple[float, str]:
        created = file.get("created_at")
        return (-created if isinstance(created, (int, float)) else 0.0, file["id"])

    data = sorted(files, key=age)
    return encode(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": False,
        }
    )
