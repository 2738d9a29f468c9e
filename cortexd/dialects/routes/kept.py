"""State that nodes keep, as clients name it in requests and ask for it by id.

A chat and a request for a response name a session by ``session_id``, and a file in a content part;
a chat's own ``files`` are no ids, but files that the model shall make. A node that keeps state
takes a question by id at the path that the client used.
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
    """A client's question about state that a node keeps.

    ``path`` is the node's, ``route`` our label. ``is_of_part`` says that a 404 may mean that only a
    part of the state is missing.
    """

    kept: Kept
    path: str
    route: str
    is_of_part: bool = False

    @property
    def is_of_content(self) -> bool:
        """Whether it asks for a file itself, and not for its description."""
        return self.path.endswith("/content")


def question_about(ids: Mapping[str, str], action: str = "") -> Question:
    """Return the question about the state that ``ids`` name: one or two ids, each by its kind.

    A container and a file together mean the file, since nodes look at its id alone. ``action``
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
    """Return the error for state that no node keeps, or that the ``node`` which kept it has lost.

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


# State that requests name.


def named_by_chat(fields: JsonObject) -> tuple[Reference, ...]:
    """Return the state that a chat names: its session, and files in the messages of users."""
    return (*_named_session(fields), *_named_files(fields, "messages", "file"))


def named_by_response(fields: JsonObject) -> tuple[Reference, ...]:
    """Return the state that a request for a response names: a response, a session, and files."""
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


def _named(kind: StateKind, name: object) -> Iterator[Kept]:
    if isinstance(name, str) and name:
        yield Kept(kind, name)


def _field(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


# The list of files.


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
