"""Sessions and approvals through the gateway, at the nodes that have them."""

from collections.abc import Sequence
from typing import Any

from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.keeping import (
    OF_A,
    OF_B,
    StateTestCase,
    ask_of_files,
    delete,
    node_of,
    uploaded,
)
from tests.testing.client import CHAT
from tests.testing.kept_client import named_events


class SessionTests(StateTestCase):
    def test_it_stays_at_its_node(self) -> None:
        """Whoever names a session comes to its node, streamed or not; others go anywhere."""
        fleet, _ = self.two_nodes()
        nodes: list[set[str]] = []
        for session in ("one", "two"):
            found = set()
            for stream in (True, False, True, False):
                fleet.advance(1)
                client = fleet.chat("hi", session_id=session, stream=stream)
                found.add(node_of(client))
                assert f'"session_id":"{session}"'.encode() in client.body
            nodes.append(found)
        assert [1, 1] == [len(found) for found in nodes]
        assert {"a", "b"} == nodes[0] | nodes[1]

    def test_a_session_that_the_node_made(self) -> None:
        """The id that an answer brought leads back to its node."""
        fleet, _ = self.two_nodes()
        for stream in (True, False):
            client = fleet.chat("hi", enable_shell=True, stream=stream)
            last = client.chunks()[-1] if stream else client.json()
            fleet.advance(1)
            for _ in range(3):
                again = fleet.chat("hi", session_id=last["session_id"])
                assert node_of(client) == node_of(again)

    def test_of_two_models(self) -> None:
        """The same name at another model is another session, each at its node."""
        fleet, _ = self.two_nodes()
        for _ in range(2):
            for model, node in ((OF_A, "a"), (OF_B, "b")):
                assert node == node_of(fleet.chat("hi", model=model, session_id="s"))

    def test_what_the_client_does_not_send(self) -> None:
        """The tool's words are still in the conversation when its visible turns come again."""
        fleet, _ = self.two_nodes()
        first = fleet.chat("one", session_id="s", enable_code_execution=True).json()
        assert "execute_python" == first["agentic_tool_calls"][0]["name"]
        turns = [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": first["choices"][0]["message"]["content"]},
            {"role": "user", "content": "two"},
        ]

        def prompt_tokens(session: str) -> int:
            body = {"model": MODEL, "messages": turns, "session_id": session}
            fleet.advance(1)
            tokens: int = fleet.request("POST", CHAT, json=body).json()["usage"]["prompt_tokens"]
            return tokens

        assert prompt_tokens("s") > prompt_tokens("another")

    def test_by_its_id(self) -> None:
        """A session is exported, imported under another name and deleted at its node."""
        fleet, _ = self.two_nodes()
        keeper = node_of(fleet.chat("hi", session_id="s"))
        exported = fleet.get("/v1/sessions/s")
        assert (keeper, "application/json") == (
            node_of(exported),
            exported.headers["content-type"],
        )
        for model, node in ((OF_A, "a"), (OF_B, "b")):
            path = f"/v1/sessions/copy%20{node}"
            put = fleet.request(
                "PUT", f"{path}?model={model}", body=exported.body, headers={"x-a": "b"}
            )
            assert (node, b"") == (node_of(put), put.body)
            copied = fleet.get(path)
            assert (exported.json(), node) == (copied.json(), node_of(copied))
            deleted = delete(fleet, path)
            assert (node, b"") == (node_of(deleted), deleted.body)
            gone = fleet.get(path)
            assert (404, "session_not_found") == (gone.status, gone.error["code"])

    def test_imported_anew(self) -> None:
        """An import in place of a known session goes where that one is, whatever is named."""
        fleet, _ = self.two_nodes()
        keeper = node_of(fleet.chat("hi", session_id="s"))
        for model in (OF_A, OF_B):
            path = f"/v1/sessions/s?model={model}"
            assert keeper == node_of(fleet.request("PUT", path, json={"messages": []}))
        assert {"messages": [], "images": [], "videos": []} == fleet.get("/v1/sessions/s").json()

    def test_refused_imports(self) -> None:
        """What is no session is refused, by us or in the node's words."""
        fleet, nodes = self.two_nodes()
        asked = self.asked(nodes)
        broken = fleet.request("PUT", "/v1/sessions/s", body=b"{")
        assert (400, asked) == (broken.status, self.asked(nodes))
        wrong = fleet.request("PUT", "/v1/sessions/s", json={"turns": []})
        assert (400, "invalid_request_error") == (wrong.status, wrong.error["type"])
        assert 404 == fleet.get("/v1/sessions/s").status

    def test_unknown(self) -> None:
        """What nobody has named is 404, and no node is asked."""
        fleet, nodes = self.two_nodes()
        asked = self.asked(nodes)
        for client in (fleet.get("/v1/sessions/never"), delete(fleet, "/v1/sessions/never")):
            assert (404, "session_not_found") == (client.status, client.error["code"])
        assert asked == self.asked(nodes)

    def test_one_that_the_route_does_not_see(self) -> None:
        """A node shows those of its default model alone; the session goes on all the same."""
        fleet, _ = self.two_nodes()
        assert "a" == node_of(fleet.chat("hi", model=OF_A, session_id="s"))
        shown = fleet.get("/v1/sessions/s")

        assert (404, "session_not_found") == (shown.status, shown.error["code"])
        assert "node a" in shown.error["message"]
        assert "a" == node_of(fleet.chat("hi", model=OF_A, session_id="s"))

    def lost(self, fleet: InMemoryFleet, name: str, seen: Sequence[int], nodes: Any) -> None:
        """See that a session is nowhere, by what we know ourselves."""
        assert 404 == fleet.get(f"/v1/sessions/{name}").status
        assert list(seen) == self.asked(nodes)

    def test_its_model_was_unloaded(self) -> None:
        """It is lost with the engine: the next request goes to whoever has the model."""
        fleet, nodes = self.two_nodes()
        keeper = node_of(fleet.chat("hi", session_id="s"))
        self.unload(fleet, nodes[keeper], MODEL)
        self.lost(fleet, "s", self.asked(nodes), nodes)

        client = fleet.chat("hi", session_id="s")
        assert ({"a", "b"} - {keeper}) == {node_of(client)}

    def test_its_node_restarted(self) -> None:
        """It is lost with the process."""
        fleet, nodes = self.two_nodes()
        keeper = node_of(fleet.chat("hi", session_id="s"))
        nodes[keeper].restart()
        fleet.flush()
        fleet.poll()
        self.lost(fleet, "s", self.asked(nodes), nodes)

    def test_two_ids_of_two_nodes(self) -> None:
        """A session here and a file there cannot come together."""
        fleet, _ = self.two_nodes()
        keeper = node_of(fleet.chat("hi", session_id="s"))
        name = uploaded(fleet, OF_B if keeper == "a" else OF_A)
        client = ask_of_files(fleet, name, session_id="s")

        assert 400 == client.status
        assert "session_id is on node" in client.error["message"]


class ApprovalTests(StateTestCase):
    def ask(self, fleet: InMemoryFleet) -> tuple[Client, dict[str, Any]]:
        """Begin a stream whose node waits for an approval."""
        client = fleet.stream("hi", agent_permission="ask", files=[{"name": "out.csv"}])
        ((name, told),) = named_events(client)
        assert "agentic_tool_approval_required" == name
        return client, told

    def decide(self, fleet: InMemoryFleet, name: str, decision: str = "approve") -> Client:
        return fleet.request("POST", f"/v1/agent/approvals/{name}", json={"decision": decision})

    def test_approved(self) -> None:
        """The word goes to the node of the open stream, which then goes on."""
        fleet, _ = self.two_nodes()
        for _ in range(2):
            client, told = self.ask(fleet)
            fleet.advance(1)
            decided = self.decide(fleet, told["approval_id"])
            assert ({"status": "resolved"}, node_of(client)) == (decided.json(), node_of(decided))
            assert "clean" == client.ended
            assert ["agentic_tool_approval_required", "agentic_tool_call_progress"] == [
                name for name, _ in named_events(client)
            ][:2]
            assert "You said: hi" == client.content()
            fleet.advance(1)

    def test_only_once(self) -> None:
        """What was given, or was never asked for, is 404 in our envelope."""
        fleet, nodes = self.two_nodes()
        _, told = self.ask(fleet)
        assert 200 == self.decide(fleet, told["approval_id"], "deny").status
        again = self.decide(fleet, told["approval_id"])
        assert (404, "approval_not_found") == (again.status, again.error["code"])
        asked = self.asked(nodes)
        for name in (told["approval_id"], "never"):
            assert 404 == self.decide(fleet, name).status
        assert asked == self.asked(nodes)

    def test_bad_words(self) -> None:
        """The node's refusal of a word is a 400, and the word can still be given."""
        fleet, _ = self.two_nodes()
        client, told = self.ask(fleet)
        refused = self.decide(fleet, told["approval_id"], "perhaps")
        assert (400, "invalid_request_error") == (refused.status, refused.error["type"])

        assert 200 == self.decide(fleet, told["approval_id"]).status
        assert "clean" == client.ended

    def test_only_streams_can_ask(self) -> None:
        """The node's refusal of a whole answer that would have to ask is a 400."""
        fleet, _ = self.two_nodes()
        client = fleet.chat("hi", agent_permission="ask", enable_shell=True)

        assert 400 == client.status
        assert "stream=true" in client.error["message"]

    def test_too_late(self) -> None:
        """After five minutes the node goes on without, and the word is 404."""
        fleet, _ = self.two_nodes()
        client, told = self.ask(fleet)
        fleet.advance(301)

        assert ("clean", 404) == (client.ended, self.decide(fleet, told["approval_id"]).status)
        assert 1 == len(named_events(client))

    def test_the_client_leaves(self) -> None:
        """Its node waits no more."""
        fleet, nodes = self.two_nodes()
        client, told = self.ask(fleet)
        node = nodes[node_of(client)]
        fleet.leave(client)

        assert 0 == node.open_streams
        assert 404 == self.decide(fleet, told["approval_id"]).status
