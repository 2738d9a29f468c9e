"""State that a mistral.rs node keeps, as its answers name it."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.errors import read_error
from cortexd.dialects.nodes.mistralrs_state import kept_by_body, kept_by_event
from cortexd.dialects.wire.json_values import encode
from cortexd.fleet.affinity import Kept, StateKind
from cortexd.sse import ServerSentEvent

SESSION, FILE = Kept(StateKind.SESSION, "s"), Kept(StateKind.FILE, "f")
CONTAINER, APPROVAL = Kept(StateKind.CONTAINER, "c"), Kept(StateKind.APPROVAL, "a")
CITATION = {"type": "container_file_citation", "container_id": "c", "file_id": "f"}
NAMES = st.sampled_from(
    [
        "session_id",
        "files",
        "file",
        "id",
        "object",
        "output",
        "content",
        "annotations",
        "container_id",
        "file_id",
        "response",
        "type",
        "approval_id",
    ]
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def by_event(event: str, **data: object) -> list[Kept]:
    return list(kept_by_event(ServerSentEvent(encode(data), event.encode())))


class EventTests(SynchronousTestCase):
    def test_chunks(self) -> None:
        """The last chunk of a stream names the session; text that looks like it names none."""
        assert [SESSION] == by_event("message", choices=[], session_id="s")
        assert [] == by_event("message", choices=[{"delta": {"content": '"session_id":"s"'}}])
        assert [] == by_event("message", choices=[], session_id=None)

    def test_named_events(self) -> None:
        """A file that was made, and an approval that is waited for, in its session."""
        assert [FILE] == by_event("file_produced", id="f", name="a.csv")
        assert [APPROVAL, SESSION] == by_event(
            "agentic_tool_approval_required", approval_id="a", session_id="s"
        )
        assert [] == by_event("agentic_tool_call_progress", id="f", session_id="s")

    def test_responses(self) -> None:
        """The response within an event is read as a whole one is."""
        response = {"session_id": "s", "output": [{"content": [{"annotations": [CITATION]}]}]}
        for name in ("response.completed", "response.incomplete", "response.failed"):
            assert [SESSION, CONTAINER, FILE] == by_event(name, type=name, response=response)
        assert [] == by_event("response.output_text.delta", delta="x", response=response)

    def test_broken(self) -> None:
        """What is no JSON tells nothing: whoever relays it will say so."""
        for data in (b"[DONE]", b'{"session_id"', b'["session_id"]', b"null"):
            for name in (b"message", b"file_produced", b"response.completed"):
                assert [] == list(kept_by_event(ServerSentEvent(data, name)))

    @given(NAMES, JSON_VALUES)
    def test_any_shape(self, name: str, value: Any) -> None:
        """No shape of an event or a body is a mistake of ours."""
        data = encode(value if isinstance(value, dict) else {name: value})
        for event in ("message", "file_produced", "response.completed"):
            for kept in kept_by_event(ServerSentEvent(data, event.encode())):
                assert kept.id
        for kept in kept_by_body(data):
            assert kept.id


class BodyTests(SynchronousTestCase):
    def test_chats(self) -> None:
        """Session and files of a whole answer."""
        body = {"object": "chat.completion", "session_id": "s", "files": [{"id": "f"}, 7, {}]}
        assert [SESSION, FILE] == list(kept_by_body(encode(body)))

    def test_uploads(self) -> None:
        """The file that was taken, however the node writes its JSON."""
        for separators in ((",", ":"), (", ", ": ")):
            text = json.dumps({"id": "f", "object": "file"}, separators=separators)
            assert [FILE] == list(kept_by_body(text.encode()))

    def test_responses(self) -> None:
        """Containers of calls, and what text cites of one."""
        output = [
            {"type": "code_interpreter_call", "container_id": "c"},
            {"type": "message", "content": [{"annotations": [CITATION, {"file_id": "f"}]}]},
        ]
        assert [CONTAINER, CONTAINER, FILE] == list(kept_by_body(encode({"output": output})))

    def test_only_at_known_places(self) -> None:
        """What a client may have put anywhere is taken for nothing of the node's."""
        for body in (
            {"object": "response", "metadata": {"session_id": "s", "container_id": "c"}},
            {"object": "list", "data": [{"object": "file", "id": "f"}]},
            {"output": [{"content": [{"annotations": [{"type": "file_path", "file_id": "f"}]}]}]},
        ):
            assert [] == list(kept_by_body(encode(body)))

    def test_a_lost_file(self) -> None:
        """A node's words for a file that it has not are a 404, though it calls it its own fault."""
        error = read_error(500, encode({"message": "Input file `file-1` was not found."}))

        assert (404, "file_not_found", False) == (error.status, error.code, error.elsewhere)
        assert "`file-1`" in error.message
