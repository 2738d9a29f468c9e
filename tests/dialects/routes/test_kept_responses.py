"""Stored responses: the conversation that they make, and pages of their input."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.responses_to_chat import objects
from cortexd.dialects.routes import kept_responses
from cortexd.errors import BadRequest, StateNotFound


def message(name: str, role: str = "user") -> dict[str, Any]:
    return {"type": "message", "id": name, "role": role, "content": []}


def response(name: str, *output: dict[str, Any], **fields: Any) -> dict[str, Any]:
    begun = objects.begun(fields, name, 1_790_000_000, "acme/chat")
    return objects.completed(begun, output, {})


def page(packed: bytes, **query: str) -> Any:
    return json.loads(kept_responses.input_page(packed, query))


class ConversationTests(SynchronousTestCase):
    def test_input_then_output_of_each(self) -> None:
        """In the order of the turns; instructions stay behind."""
        stored = [
            (
                json.dumps(
                    response(f"resp_{turn}", message(f"a{turn}"), instructions="x")
                ).encode(),
                kept_responses.pack_items([message(f"u{turn}"), message(f"v{turn}")]),
            )
            for turn in range(2)
        ]
        items = kept_responses.conversation(stored)

        assert ["u0", "v0", "a0", "u1", "v1", "a1"] == [item["id"] for item in items]
        assert "instructions" not in json.dumps(items)

    def test_items_are_found_by_their_ids(self) -> None:
        """Those of the output, whose ids no other response has."""
        made = response("resp_1", message("a"), message("b"))

        assert ("a", "b") == kept_responses.item_ids(made)
        assert {"a", "b"} == kept_responses.items_by_id([json.dumps(made).encode()]).keys()

    def test_bytes_that_the_disk_has_changed(self) -> None:
        """The client hears of the store, not of a body that it never sent."""
        for response_bytes, items in ((b"{", kept_responses.pack_items([])), (b"{}", b"\xff")):
            raised = self.assertRaises(
                StateNotFound, kept_responses.conversation, [(response_bytes, items)]
            )
            assert "damaged" in raised.message

    def test_what_cannot_be_continued(self) -> None:
        """A gap is 404 and names both ends, an open end is 400; each names the field."""
        fits = {"size": 5, "most": 5}
        for error, given_gap in ((StateNotFound, "resp_0"), (BadRequest, None)):
            raised = self.assertRaises(
                error,
                kept_responses.check_continued,
                "resp_1",
                is_unfinished=True,
                gap=given_gap,
                **fits,
            )
            assert "previous_response_id" == raised.param
            assert "resp_1" in raised.message
            assert (given_gap or "resp_1") in raised.message
        kept_responses.check_continued("resp_1", is_unfinished=False, gap=None, **fits)


class StateTests(SynchronousTestCase):
    def test_work_that_a_restart_has_cut(self) -> None:
        """The object fails with words that say so; what is no object is given up."""
        begun = objects.begun({"background": True}, "resp_1", 1_790_000_000, "acme/chat")
        waiting = kept_responses.unfinished(begun, has_begun=False)
        cut = json.loads(kept_responses.cut_by_restart(waiting) or b"")

        assert ("queued", "failed") == (json.loads(waiting)["status"], cut["status"])
        assert "server_error" == cut["error"]["code"]
        assert "restarted" in cut["error"]["message"]
        for damaged in (b"", b"{", b"[]", b"\xff"):
            assert None is kept_responses.cut_by_restart(damaged)

    def test_only_background_work_is_cancelled(self) -> None:
        """Another response is refused."""
        for is_in_background in (True, False):
            made = json.dumps(response("resp_1", background=is_in_background)).encode()
            if is_in_background:
                kept_responses.check_cancellable(made)
            else:
                self.assertRaises(BadRequest, kept_responses.check_cancellable, made)


class PageTests(SynchronousTestCase):
    @settings(max_examples=50)
    @given(st.integers(0, 40), st.integers(1, 100), st.sampled_from(["asc", "desc"]))
    def test_all_pages_together_are_the_input(self, count: int, limit: int, order: str) -> None:
        """A client that follows ``last_id`` while there is more gets each item once, in order."""
        names = [f"msg_{number}" for number in range(count)]
        packed = kept_responses.pack_items([message(name) for name in names])
        seen: list[str] = []
        query = {"limit": str(limit), "order": order}
        while True:
            got = page(packed, **query)
            assert limit >= len(got["data"])
            seen += [item["id"] for item in got["data"]]
            if not got["has_more"]:
                break
            assert got["last_id"] == seen[-1]
            query["after"] = got["last_id"]

        assert seen == (names if order == "asc" else names[::-1])

    def test_repeated_ids(self) -> None:
        """Items that a client has sent under one id are told apart: their pages have an end too."""
        packed = kept_responses.pack_items(
            [message(name) for name in ("msg_a", "msg_b", "msg_a", "msg_a", "msg_a_2")]
        )
        for order in ("asc", "desc"):
            query = {"limit": "1", "order": order}
            seen: list[str] = []
            while len(seen) < 9:
                got = page(packed, **query)
                seen.append(got["last_id"])
                if not got["has_more"]:
                    break
                query["after"] = got["last_id"]

            found = seen if order == "asc" else seen[::-1]
            assert ["msg_a", "msg_b"] == found[:2]
            assert 5 == len(set(found)) == len(found)
            assert "msg_a_2" == found[4]
