"""The state that nodes store, in the requests of clients, and requests for it by id.

A chat and a response's request name a session in ``session_id``, and a file in a content part. A
chat's own ``files`` are not ids, but files that the model shall make. A node that stores state
answers a question by id at the path that the client used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from cortexd.dialects.nodes.answers import BadAnswer, answer_object
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.errors import StateNotFound
from cortexd.fleet.affinity import Kept, Reference, StateKind

FILES: Final = "/v1/files"

_ROUTES = {
    StateKind.RESPONSE: "/v1/responses",
    StateKind.SESSION: "/v1/sessions",
    StateKind.FILE: FILES,
    StateKind.CONTAINER: "/v1/containers",
    StateKind.APPROVAL: "/v1/agent/approvals",
}

_GONE_WORDS = {
    StateKind.RESPONSE: "it was never stored, was deleted, has expired, or was lost with its node",
    StateKind.SESSION: "no answer has named it, or it was lost: nodes store a session for 30 "
    "minutes after its last use, and lose it when its model is unloaded",
    StateKind.FILE: "it was not uploaded or made here, or was lost: nodes store a file for 30 "
    "minutes, and lose it when its model is unloaded",
    StateKind.CONTAINER: "no answer has named it, or it was lost: nodes store files for 30 "
    "minutes, and lose them when their model is unloaded",
    StateKind.APPROVAL: "no open stream waits for it: it was decided, or 5 minutes have passed",
}


@dataclass(frozen=True, slots=True)
class Question:
    """A client's request about state that a node stores.

    ``path`` is the node's, ``route`` our label. ``is_of_part`` means that a 404 may refer to a part
    of the state.
    """

    kept: Kept
    path: str
    route: str
    is_of_part: bool = False

    @property
    def is_of_content(self) -> bool:
        """Whether it requests the content of a file, not its description."""
        return self.path.endswith("/content")


def question_about(ids: Mapping[str, str], action: str = "") -> Question:
    """Return the question about the state of ``ids``, which has one or two ids by their kinds.

    For a container and a file, the question is about the file: nodes use only its id. ``action``
    follows the ids in the path. Raises StateNotFound for an id that a path cannot contain.
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
    if not kept.id.strip("."):  # "." and ".." would lead to another route
        raise not_found(kept)
    return quote(kept.id, safe="")


def not_found(kept: Kept, param: str | None = None, *, node: str | None = None) -> StateNotFound:
    """Return the error for state that no node stores, or that its ``node`` has lost.

    ``param`` is the path of the field that names it.
    """
    kind = kept.kind
    where = "on no node" if kind is not StateKind.RESPONSE else "in no store and on no node"
    if node is not None:
        where = f"no longer on node {node}"
    code = f"{kind.value}_not_found"
    if kind is StateKind.RESPONSE and param is not None:
        code = "previous_response_not_found"
    return StateNotFound(
        f"{kind.value} {kept.id!r} is {where}: {_GONE_WORDS[kind]}", param=param, code=code
    )


# State in requests.


def named_by_chat(fields: JsonObject) -> tuple[Reference, ...]:
    """Return the state that a chat names: its session, and files in the messages of users."""
    return (*_named_session(fields), *_named_files(fields, "messages", "file"))


def named_by_response(fields: JsonObject) -> tuple[Reference, ...]:
    """Return the state that a response's request names: previous response, session and files."""
    param = "previous_response_id"
    before = [Reference(kept, param) for kept in _named(StateKind.RESPONSE, fields.get(param))]
    return (*before, *_named_session(fields), *_named_files(fields, "input", "input_file"))


def session_in(fields: JsonObject) -> str | None:
    """Return the session that a request names, ``None`` without one."""
    return next((kept.id for kept in _named(StateKind.SESSION, fields.get("session_id"))), None)


def in_session(fields: JsonObject, session: str) -> JsonObject:
    """Return the fields of a request with another name of its session."""
    return {**fields, "session_id": session}


def _named_session(fields: JsonObject) -> Iterator[Reference]:
    for kept in _named(StateKind.SESSION, fields.get("session_id")):
        yield Reference(kept, "session_id")


def _named_files(fields: JsonObject, within: str, kind: str) -> Iterator[Reference]:
    """Yield the files in content parts of a ``kind``, in a list of messages or items."""
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


def _named(kind: StateKind, name: object) -> Iterator[Kept]:
    if isinstance(name, str) and name:
        yield Kept(kind, name)


def _field(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


# The list of files.


def read_file_list(body: bytes) -> list[JsonObject]:
    """Return the files in a node's list. Raises BadAnswer."""
    files = answer_object(body).get("data")
    if not isinstance(files, list) or not all(
        isinstance(file, dict) and isinstance(file.get("id"), str) for file in files
    ):
        raise BadAnswer("the list of files has no 'data' array of files with ids")
    return files


def file_list_body(files: Iterable[JsonObject]) -> bytes:
    """Return the list of several nodes' files, the newest first, in a single page.

    Without ``has_more``, the OpenAI SDK would request the next page, and get the same list again.
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
