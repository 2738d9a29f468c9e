"""How clients name state that nodes keep, and ask for it by id."""

import json
from typing import Any
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.dialects.routes.kept import (
    file_list_body,
    named_by_chat,
    named_by_response,
    not_found,
    question_about,
    read_file_list,
)
from cortexd.errors import StateNotFound
from cortexd.fleet.affinity import Kept, Reference, StateKind

SESSION, FILE = Kept(StateKind.SESSION, "s"), Kept(StateKind.FILE, "f")
NAMES = st.sampled_from(
    [
        "session_id",
        "files",
        "file",
        "id",
        "content",
        "file_id",
        "messages",
        "input",
        "type",
        "previous_response_id",
    ]
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


class QuestionTests(SynchronousTestCase):
    def test_paths(self) -> None:
        """Each thing has its route at the node, and one label for all ids."""
        cases: list[tuple[dict[str, str], str, str]] = [
            ({"response": "x"}, "", "/v1/responses/x"),
            ({"response": "x"}, "cancel", "/v1/responses/x/cancel"),
            ({"session": "x"}, "", "/v1/sessions/x"),
            ({"file": "x"}, "content", "/v1/files/x/content"),
            ({"container": "x"}, "files", "/v1/containers/x/files"),
            ({"file": "y", "container": "x"}, "content", "/v1/containers/x/files/y/content"),
            ({"approval": "x"}, "", "/v1/agent/approvals/x"),
        ]
        for ids, action, path in cases:
            asked = question_about(ids, action)
            label = path.replace("/x", "/{id}").replace("/y", "/{id}")
            assert (path, label) == (asked.path, asked.route)

    def test_a_containers_file(self) -> None:
        """It is the file that is asked about: nodes look at nothing else."""
        assert FILE == question_about({"container": "c", "file": "f"}).kept

    @given(st.text(min_size=1))
    def test_any_id(self, name: str) -> None:
        """An id stays one segment of the path, or is none that a node could have given."""
        try:
            asked = question_about({"session": name})
        except StateNotFound:
            assert not name.strip(".")
            return
        segment = asked.path.removeprefix("/v1/sessions/")
        assert name == unquote(segment)
        assert not set("/?#") & set(segment)
        assert segment not in (".", "..")

    def test_not_found(self) -> None:
        """The words name the thing, who lost it and how; the code its kind, or the field's own."""
        for kind in StateKind:
            error = not_found(Kept(kind, "x"))
            assert f"{kind.value}_not_found" == error.code
            where = "in no store and on no node" if kind is StateKind.RESPONSE else "on no node"
            assert error.message.startswith(f"{kind.value} 'x' is {where}: ")
        lost = not_found(Kept(StateKind.RESPONSE, "x"), "previous_response_id", node="ada")
        assert ("previous_response_not_found", "previous_response_id") == (lost.code, lost.param)
        assert "no longer on node ada" in lost.message


class NamedTests(SynchronousTestCase):
    def test_a_chat(self) -> None:
        """A session, and files in content parts; its own list of files is what to make."""
        parts = [{"type": "text", "text": "hi"}, {"type": "file", "file": {"file_id": "f"}}]
        fields = {
            "session_id": "s",
            "files": [{"name": "out.csv"}],
            "messages": [{"role": "user", "content": "x"}, {"role": "user", "content": parts}],
        }
        assert (
            Reference(SESSION, "session_id"),
            Reference(FILE, "messages[1].content[1].file.file_id"),
        ) == named_by_chat(fields)

    def test_a_request_for_a_response(self) -> None:
        """The response before it, a session, and files in its items."""
        fields = {
            "previous_response_id": "r",
            "session_id": "s",
            "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}],
        }
        assert (
            Reference(Kept(StateKind.RESPONSE, "r"), "previous_response_id"),
            Reference(SESSION, "session_id"),
            Reference(FILE, "input[0].content[0].file_id"),
        ) == named_by_response(fields)

    def test_nothing(self) -> None:
        """Files that come along, and what is not of its type, bind a request to no node."""
        data = {"type": "file", "file": {"filename": "a", "file_data": "aGk="}}
        for fields in (
            {},
            {"session_id": "", "messages": "hi", "input": "hi"},
            {"session_id": 7, "messages": [7, {"content": [7, data]}], "input": [None]},
            {"messages": [{"content": [{"type": "file", "file": "f"}]}]},
        ):
            assert () == named_by_chat(fields) == named_by_response(fields)

    @given(JSON_VALUES)
    def test_any_shape(self, value: Any) -> None:
        """No shape of a request is a mistake of ours."""
        fields = value if isinstance(value, dict) else {"messages": value, "input": value}
        for reference in (*named_by_chat(fields), *named_by_response(fields)):
            assert reference.kept.id


class FileListTests(SynchronousTestCase):
    def test_read(self) -> None:
        """A list of files with ids is read; any other shape is a bad answer."""
        assert [{"id": "f"}] == read_file_list(b'{"data": [{"id": "f"}]}')
        for body in (b"{}", b'{"data": {}}', b'{"data": [7]}', b'{"data": [{"id": 7}]}', b"[]"):
            with self.assertRaises(BadAnswer):
                read_file_list(body)

    def test_one_page(self) -> None:
        """All files, the newest first, on a page that says that there is no other."""
        files = [{"id": name, "created_at": at} for name, at in (("b", 1), ("a", 1), ("c", 2))]
        listed = json.loads(file_list_body([*files, {"id": "d"}]))

        assert ["c", "a", "b", "d"] == [file["id"] for file in listed["data"]]
        assert ("list", False, "c", "d") == (
            listed["object"],
            listed["has_more"],
            listed["first_id"],
            listed["last_id"],
        )
        assert (None, []) == tuple(
            json.loads(file_list_body([]))[name] for name in ("first_id", "data")
        )
