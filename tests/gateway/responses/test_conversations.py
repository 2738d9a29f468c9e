"""Conversations that the gateway itself stores: continued anywhere, shown, and deleted."""

from __future__ import annotations

from typing import Any

from cortexd.store.responses import FLUSH_SECONDS
from cortexd.testing import SimulatedModel
from tests.support.conversations import (
    RESPONSES,
    ConversationTestCase,
    cancel,
    events_of,
    last_response,
    respond,
    said,
    shown,
)
from tests.support.fleets import MODEL


class ContinuedTests(ConversationTestCase):
    def test_any_node_continues_a_conversation(self) -> None:
        """Each turn has all turns before it, at whichever node, streamed or not."""
        fleet = self.stored(self.node("a"), self.node("b"))
        first = respond(fleet, "one", instructions="Be brief.").json()
        fleet.nodes["a"].restart()  # type: ignore[attr-defined] # a SimulatedNode
        fleet.poll()
        second = last_response(respond(fleet, "two", previous_response_id=first["id"], stream=True))
        third = respond(fleet, "three", previous_response_id=second["id"])

        assert (200, "You said: three") == (third.status, said(third.json()))
        assert second["id"] == third.json()["previous_response_id"]
        answers = ["You said: one", "You said: two"]
        assert ["one", answers[0], "two", answers[1], "three"] in [
            *self.prompts(fleet, "a"),
            *self.prompts(fleet, "b"),
        ], "without the instructions of the first turn"

    def test_it_goes_on_at_another_node_after_a_restart_of_the_daemon(self) -> None:
        """The store has all of it, also after a kill."""
        fleet = self.stored(self.node("a"))
        first = respond(fleet, "one").json()
        fleet.advance(FLUSH_SECONDS)
        lost = respond(fleet, "lost").json()
        again = self.restarted()
        second = respond(again, "two", previous_response_id=first["id"])
        assert (200, "b") == (second.status, second.headers["x-cortex-node"])
        assert [["one", "You said: one", "two"]] == self.prompts(again, "b")
        assert first == shown(again, first["id"]).json()
        assert 404 == shown(again, lost["id"]).status, "less than a flush old"

    def test_it_goes_on_at_a_node_that_makes_responses_itself(self) -> None:
        """The node gets the whole conversation, and stores what follows."""
        fleet = self.stored(self.node("a"))
        first = respond(fleet, "one").json()
        fleet.advance(FLUSH_SECONDS)
        again = self.restarted(node_keys={"b": {"responses": "native"}})
        second = respond(again, "two", previous_response_id=first["id"]).json()
        third = respond(again, "three", previous_response_id=second["id"])

        assert (200, "b") == (third.status, third.headers["x-cortex-node"])
        assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
        assert second == shown(again, second["id"]).json()
        assert [] == self.prompts(again, "b")

    def test_a_conversation_larger_than_a_request_is_not_continued(self) -> None:
        """One small request cannot bring a whole store into memory."""
        fleet = self.stored(self.node("a"), max_body_mb=1)
        large = "w" * 600_000
        first = respond(fleet, large).json()["id"]
        second = respond(fleet, "two", previous_response_id=first)

        error = second.json()["error"]
        assert (400, "previous_response_id") == (second.status, error["param"])
        assert "more than the 1048576 of a request" in error["message"]

    def test_two_branches_of_one_conversation(self) -> None:
        """A response may be continued more than once."""
        fleet = self.stored(self.node("a"))
        first = respond(fleet, "one").json()["id"]
        for text in ("left", "right"):
            assert 200 == respond(fleet, text, previous_response_id=first).status

        assert [["one", "You said: one", text] for text in ("left", "right")] == self.prompts(
            fleet, "a"
        )[1:]

    def test_items_may_be_named_by_their_ids(self) -> None:
        """A client that sends references to earlier output gets the items in their place."""
        fleet = self.stored(self.node("a"))
        first = respond(fleet, "one").json()
        fleet.advance(FLUSH_SECONDS)
        second = respond(fleet, "two", previous_response_id=first["id"]).json()
        turns: list[dict[str, Any]] = []
        for text, response in (("one", first), ("two", second)):
            turns += [
                {"role": "user", "content": text},
                {"type": "item_reference", "id": response["output"][-1]["id"]},
            ]
        last = {"role": "user", "content": "go on"}
        third = fleet.request("POST", RESPONSES, json={"model": MODEL, "input": [*turns, last]})

        assert 200 == third.status
        assert ["one", "You said: one", "two", "You said: two", "go on"] == (
            self.prompts(fleet, "a")[-1]
        )

    def test_an_item_that_is_named_stays_in_the_conversation(self) -> None:
        """Once, however often it is named, and also after its own response was deleted."""
        fleet = self.stored(self.node("a"))
        first = respond(fleet, "one").json()
        named = {"type": "item_reference", "id": first["output"][-1]["id"]}
        turns = [named, named, {"role": "user", "content": "two"}]
        second = fleet.request("POST", RESPONSES, json={"model": MODEL, "input": turns}).json()
        fleet.request("DELETE", f"{RESPONSES}/{first['id']}")
        answer = {"type": "item_reference", "id": second["output"][-1]["id"]}
        turns = [answer, {"role": "user", "content": "three"}]
        fields = {"previous_response_id": second["id"], "input": turns}
        fleet.request("POST", RESPONSES, json={"model": MODEL, **fields})

        assert ["You said: one", "two", "You said: two", "three"] == self.prompts(fleet, "a")[-1][
            1:
        ]

    def test_a_previous_response_that_is_nowhere(self) -> None:
        """It is 404 with its field, and no node gets the request."""
        fleet = self.stored(self.node("a"))
        first = respond(fleet, "one").json()["id"]
        second = respond(fleet, "two", previous_response_id=first).json()["id"]
        fleet.request("DELETE", f"{RESPONSES}/{first}")
        seen = len(self.prompts(fleet, "a"))
        for name in ("resp_unknown", first, second):
            error = respond(fleet, "x", previous_response_id=name).error
            assert ("previous_response_not_found", "previous_response_id") == (
                error["code"],
                error["param"],
            )
            assert name in error["message"]

        assert first in error["message"], "the one that is missing in the middle"
        assert seen == len(self.prompts(fleet, "a"))


class LimitTests(ConversationTestCase):
    def test_age(self) -> None:
        """A conversation that is neither made nor continued for ``max_age`` is gone, as a whole."""
        fleet = self.stored(self.node("a"), max_age=100)
        idle, first = (respond(fleet, text).json()["id"] for text in ("idle", "one"))
        fleet.advance(60)
        second = respond(fleet, "two", previous_response_id=first).json()["id"]
        fleet.advance(60)

        assert [404, 200] == [
            respond(fleet, "three", previous_response_id=name).status for name in (idle, second)
        ]
        assert 404 == shown(fleet, idle).status

    def test_size(self) -> None:
        """The response that was unused for the longest time makes room for the next."""
        fleet = self.stored(self.node("a"), max_mb=1)
        names = []
        for letter in "abc":
            names.append(respond(fleet, letter * 200_000).json()["id"])
            fleet.advance(FLUSH_SECONDS)

        assert [404, 200, 200] == [shown(fleet, name).status for name in names]


class StoredTests(ConversationTestCase):
    def test_a_response_is_shown_as_its_client_got_it(self) -> None:
        """Whole, streamed, ended by its length, or failed in its middle."""
        node = self.node("a", SimulatedModel(id=MODEL))
        fleet = self.stored(node)
        whole = respond(fleet, "one").json()
        streamed = last_response(respond(fleet, "two", stream=True))
        short = respond(fleet, "a b c d e f", max_output_tokens=2).json()
        node.faults.error_after_chunks = 1
        failed = last_response(respond(fleet, "one two three", stream=True))

        assert ["completed", "completed", "incomplete", "failed"] == [
            response["status"] for response in (whole, streamed, short, failed)
        ]
        for response in (whole, streamed, short, failed):
            assert response == shown(fleet, response["id"]).json()
            fleet.advance(FLUSH_SECONDS)
            assert response == shown(fleet, response["id"]).json(), "from the file"

    def test_store_false_leaves_nothing(self) -> None:
        """Such a response can neither be shown nor continued, and is in no file."""
        fleet = self.stored(self.node("a"))
        name = respond(fleet, "a secret word", store=False).json()["id"]
        fleet.advance(FLUSH_SECONDS)

        assert "response_not_found" == shown(fleet, name).error["code"]
        assert 404 == respond(fleet, previous_response_id=name).status
        fleet.responses.stopService()
        files = list(self.state_dir.iterdir())
        assert files
        assert all(b"secret" not in file.read_bytes() for file in files)

    def test_a_client_that_leaves_ends_its_response(self) -> None:
        """The work stops, and nothing is stored that no client has got."""
        node = self.node("a", token_seconds=1.0)
        fleet = self.stored(node)
        for stream in (False, True):
            client = respond(fleet, "a b c d e f g", stream=stream)
            fleet.advance(3)
            fleet.leave(client)
        assert ["client_gone"] * 2 == [line["outcome"] for line in fleet.events("request")]
        fleet.advance(60)
        fleet.responses.stopService()

        assert b"a b c" not in (self.state_dir / "responses.sqlite3").read_bytes()

    def test_deleted(self) -> None:
        """A deleted response is gone, also after a restart; the SDK's answer says so."""
        fleet = self.stored(self.node("a"))
        name = respond(fleet, "one").json()["id"]
        path = f"{RESPONSES}/{name}"
        fleet.advance(FLUSH_SECONDS)

        assert {"id": name, "object": "response", "deleted": True} == (
            fleet.request("DELETE", path).json()
        )
        for client in (fleet.get(path), fleet.request("DELETE", path), cancel(fleet, name)):
            assert (404, "response_not_found") == (client.status, client.error["code"])
        fleet.responses.stopService()
        assert 404 == shown(self.restarted(), name).status

    def test_what_is_not_in_the_background_cannot_be_cancelled(self) -> None:
        """That is 400, with the way to stop such a response."""
        fleet = self.stored(self.node("a"))
        client = cancel(fleet, respond(fleet).json()["id"])

        assert 400 == client.status
        assert "close its connection" in client.error["message"]

    def test_its_events_are_not_stored(self) -> None:
        """Whoever wants the stream again gets the last event, with the whole response."""
        fleet = self.stored(self.node("a"))
        response = respond(fleet).json()
        (event,) = events_of(shown(fleet, response["id"], "?stream=true"))

        assert ("response.completed", response) == (event["type"], event["response"])

    def test_prompts_reach_no_log(self) -> None:
        """Neither when they are stored, nor when they are read, nor when the disk fails."""
        fleet = self.stored(self.node("a"))
        first = respond(fleet, "a secret word").json()["id"]
        (self.state_dir / "responses.sqlite3").unlink()
        fleet.advance(FLUSH_SECONDS)
        respond(fleet, "more", previous_response_id=first)

        assert fleet.events("responses_failed")
        assert "secret" not in str(fleet.log_events)


class InputItemsTests(ConversationTestCase):
    def items(self, fleet: Any, name: str, query: str = "") -> Any:
        return shown(fleet, name, f"/input_items{query}").json()

    def test_pages(self) -> None:
        """The newest item first unless asked otherwise, a page at a time, each after an item."""
        fleet = self.stored(self.node("a"))
        texts = [str(number) for number in range(25)]
        inputs = [{"role": "user", "content": text} for text in texts]
        name = fleet.request("POST", RESPONSES, json={"model": MODEL, "input": inputs}).json()["id"]

        def texts_of(page: Any) -> list[str]:
            return [item["content"][0]["text"] for item in page["data"]]

        first = self.items(fleet, name)
        assert (texts[:4:-1], True) == (texts_of(first), first["has_more"])
        second = self.items(fleet, name, f"?after={first['last_id']}")
        assert (texts[4::-1], False) == (texts_of(second), second["has_more"])
        assert texts[:3] == texts_of(self.items(fleet, name, "?order=asc&limit=3"))
        for query, param in (
            ("?limit=0", "limit"),
            ("?limit=101", "limit"),
            ("?order=up", "order"),
            ("?after=msg_none", "after"),
        ):
            client = shown(fleet, name, f"/input_items{query}")
            assert (400, param) == (client.status, client.error["param"])

    def test_own_input_only(self) -> None:
        """The items of earlier turns are those of earlier responses."""
        fleet = self.stored(self.node("a"))
        first = respond(fleet, "one").json()["id"]
        second = respond(fleet, "two", previous_response_id=first).json()["id"]

        assert 1 == len(self.items(fleet, second)["data"])
        assert 404 == shown(fleet, "resp_none", "/input_items").status


class CountTests(ConversationTestCase):
    def count(self, fleet: Any, **fields: object) -> Any:
        return fleet.request("POST", f"{RESPONSES}/input_tokens", json={"model": MODEL, **fields})

    def test_the_estimate_grows_with_the_conversation(self) -> None:
        """It counts the stored turns too, and asks no node."""
        fleet = self.stored(self.node("a"))
        first = respond(fleet, "hello " * 100).json()["id"]
        seen = len(self.prompts(fleet, "a"))
        alone = self.count(fleet, input="hi")
        continued = self.count(fleet, input="hi", previous_response_id=first)

        assert "response.input_tokens" == alone.json()["object"]
        assert 0 < alone.json()["input_tokens"] < 100 < continued.json()["input_tokens"]
        assert "estimate" == alone.headers["x-cortex-token-count"]
        assert seen == len(self.prompts(fleet, "a"))
        unknown = self.count(fleet, input="hi", previous_response_id="resp_none")
        assert "previous_response_not_found" == unknown.error["code"]
