"""What one key has stored is not there for another: responses, and the state of nodes."""

import json
import re
from collections.abc import Mapping
from typing import Any

from cortexd.access.keys import Scope
from cortexd.store.responses import FLUSH_SECONDS
from tests.access.making import Given, given, rotated
from tests.support.conversations import RESPONSES, ConversationTestCase, events_of
from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.keeping import StateTestCase
from tests.testing.client import CHAT
from tests.testing.kept_client import MULTIPART, multipart, named_events

ALICE, BOB = given("alice"), given("bob")
OPERATOR = given("ops", scopes=frozenset((Scope.INFER, Scope.CONTROL)))
KEYS = [each.key for each in (ALICE, BOB, OPERATOR)]


def ask(
    fleet: InMemoryFleet, key: Given, method: str, path: str, json: object = None, **more: Any
) -> Client:
    return fleet.request(method, path, json=json, headers=key.bearer, **more)


def respond(fleet: InMemoryFleet, key: Given, text: str = "hi", **fields: object) -> Client:
    body = {"model": MODEL, "input": text, **fields}
    client = ask(fleet, key, "POST", RESPONSES, body)
    fleet.advance(1)
    return client


def stored(fleet: InMemoryFleet, key: Given, text: str = "hi", **fields: object) -> str:
    client = respond(fleet, key, text, **fields)
    assert 200 == client.status, client.body
    name: str = client.json()["id"]
    return name


def said(client: Client, name: str) -> tuple[int | None, str]:
    """Return an answer without its own id and without the ``name`` that was asked for."""
    return client.status, re.sub(r"req_\w+", "ID", client.body.decode().replace(name, "NAME"))


class ResponseTests(ConversationTestCase):
    def asked(self, fleet: InMemoryFleet, key: Given, name: str) -> list[Any]:
        """Return what a key gets of a response on all routes that may name one."""
        path = f"{RESPONSES}/{name}"
        clients = [
            ask(fleet, key, "GET", path),
            ask(fleet, key, "GET", f"{path}/input_items"),
            ask(fleet, key, "GET", f"{path}?stream=true"),
            ask(fleet, key, "POST", f"{path}/cancel"),
            ask(fleet, key, "DELETE", path),
            respond(fleet, key, "on", previous_response_id=name),
            respond(fleet, key, "on", previous_response_id=name, stream=True),
            respond(fleet, key, "x" * 400_000, previous_response_id=name),
            ask(
                fleet,
                key,
                "POST",
                f"{RESPONSES}/input_tokens",
                {"model": MODEL, "input": "on", "previous_response_id": name},
            ),
        ]
        return [said(client, name) for client in clients]

    def test_another_key_s_response_is_unknown(self) -> None:
        """Whatever asks for it or continues it, in memory and on disk, finds what is nowhere."""
        fleet = self.stored(self.node(), keys=KEYS)
        name = stored(fleet, ALICE, "a secret")
        item = ask(fleet, ALICE, "GET", f"{RESPONSES}/{name}").json()["output"][0]["id"]
        for key in (BOB, OPERATOR):
            for _ in ("in memory", "on disk"):
                unknown = self.asked(fleet, key, "resp_" + "0" * 32)
                assert {404} == {status for status, _ in unknown}
                assert unknown == self.asked(fleet, key, name)
                fleet.advance(FLUSH_SECONDS)
        assert [["a secret"]] == self.prompts(fleet, "a")
        reference = {"type": "item_reference", "id": item}
        turn = {"role": "user", "content": "on"}
        for key in (BOB, ALICE):
            body = {"model": MODEL, "input": [reference, turn]}
            ask(fleet, key, "POST", RESPONSES, body)
        told = ["You said: a secret" in prompt for prompt in self.prompts(fleet, "a")[1:]]
        assert [False, True] == told

    def test_its_own(self) -> None:
        """A key goes on from its response, also after a rotation and after a restart."""
        fleet = self.stored(self.node(), keys=KEYS)
        name = stored(fleet, ALICE)
        second = stored(fleet, ALICE, "on", previous_response_id=name)
        again = rotated(ALICE)
        fleet.parts.ring.take([again.key])
        third = stored(fleet, again, "and on", previous_response_id=second)
        fleet.advance(FLUSH_SECONDS)

        fleet = self.restarted(keys=KEYS)
        fourth = stored(fleet, ALICE, "still", previous_response_id=third)
        assert 200 == ask(fleet, ALICE, "GET", f"{RESPONSES}/{fourth}").status
        assert 404 == ask(fleet, BOB, "GET", f"{RESPONSES}/{third}").status
        assert 200 == ask(fleet, ALICE, "DELETE", f"{RESPONSES}/{name}").status

    def test_in_the_background(self) -> None:
        """While it is made, another key can neither see, follow, cancel nor delete it."""
        fleet = self.stored(self.node("a", token_seconds=1.0), keys=KEYS)
        name = stored(fleet, ALICE, "a b c", background=True, stream=False)
        streamed = respond(fleet, ALICE, "d e f", background=True, stream=True)
        other: str = events_of(streamed)[0]["response"]["id"]
        for each in (name, other):
            path = f"{RESPONSES}/{each}"
            for method, rest in (
                ("GET", ""),
                ("GET", "?stream=true"),
                ("POST", "/cancel"),
                ("DELETE", ""),
            ):
                assert 404 == ask(fleet, BOB, method, path + rest).status
            assert 200 == ask(fleet, ALICE, "GET", path).status
        fleet.advance(20)
        shown = ask(fleet, ALICE, "GET", f"{RESPONSES}/{name}").json()
        assert "completed" == shown["status"]

    def test_from_before_there_were_keys(self) -> None:
        """What was stored without keys is there for keys with the scope control, and no others."""
        fleet = self.stored(self.node())
        without = Given(ALICE.key, "")
        name = stored(fleet, without)
        fleet.parts.ring.take(KEYS)
        assert [404, 404, 200] == [
            ask(fleet, key, "GET", f"{RESPONSES}/{name}").status for key in (ALICE, BOB, OPERATOR)
        ]
        second = stored(fleet, OPERATOR, "on", previous_response_id=name)
        assert 404 == ask(fleet, BOB, "GET", f"{RESPONSES}/{second}").status
        fleet.parts.ring.take(None)
        assert [200, 404] == [
            ask(fleet, without, "GET", f"{RESPONSES}/{each}").status for each in (name, second)
        ]


class NativeTests(ConversationTestCase):
    template = None

    def test_at_a_node_that_stores_them(self) -> None:
        """A node's own response is there for the key that got it, and so is a file beside ours."""
        fleet = self.stored(self.node(), keys=KEYS)
        mine = stored(fleet, BOB)
        fleet.advance(FLUSH_SECONDS)
        fleet = self.restarted(keys=KEYS, node_keys={"b": {"responses": "native"}})
        name = stored(fleet, ALICE)
        for key, status in ((BOB, 404), (ALICE, 200)):
            assert status == respond(fleet, key, previous_response_id=name).status
            assert status == ask(fleet, key, "GET", f"{RESPONSES}/{name}").status

        for owner, status in ((ALICE, 404), (BOB, 200)):
            file = uploaded_by(fleet, owner)
            content = [{"type": "input_file", "file_id": file}]
            turn = [{"type": "message", "role": "user", "content": content}]
            body = {"model": MODEL, "input": turn, "previous_response_id": mine}
            client = ask(fleet, BOB, "POST", RESPONSES, body)
            assert status == client.status, client.body


def uploaded_by(fleet: InMemoryFleet, key: Given) -> str:
    client = fleet.request(
        "POST", "/v1/files", body=multipart(purpose="user_data"), headers=MULTIPART | key.bearer
    )
    assert 200 == client.status, client.body
    name: str = client.json()["id"]
    return name


class NodeStateTests(StateTestCase):
    template = None

    def sessions_sent(self, nodes: Mapping[str, Any]) -> list[Any]:
        """Return the session that each chat named at its node."""
        return [
            entry.detail["body"].get("session_id")
            for node in nodes.values()
            for entry in node.journal.requests(CHAT)
        ]

    def chat(self, fleet: InMemoryFleet, key: Given, content: object = "hi", **more: Any) -> Client:
        body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **more}
        client = ask(fleet, key, "POST", CHAT, body)
        fleet.advance(1)
        return client

    def test_files(self) -> None:
        """Another key does not find, list, delete or use a file."""
        fleet, _ = self.two_nodes(keys=KEYS)
        name = uploaded_by(fleet, ALICE)
        mine = uploaded_by(fleet, BOB)
        content = [
            {"type": "text", "text": "read"},
            {"type": "file", "file": {"file_id": name}},
        ]
        for key, expected, own in ((BOB, 404, mine), (ALICE, 200, name)):
            listed = ask(fleet, key, "GET", "/v1/files").json()["data"]
            assert [own] == [file["id"] for file in listed]
            assert expected == self.chat(fleet, key, content).status
            for path in (f"/v1/files/{name}", f"/v1/files/{name}/content"):
                assert expected == ask(fleet, key, "GET", path).status
            assert expected == ask(fleet, key, "DELETE", f"/v1/files/{name}").status
        assert [] == ask(fleet, ALICE, "GET", "/v1/files").json()["data"]

    def test_the_files_of_a_container(self) -> None:
        """A node lists the files of all clients as those of any container; a key gets its own."""
        node = self.scripted("a", MODEL)
        fleet = self.fleet(node, keys=KEYS, node_keys={"a": {"responses": "native"}})
        for key, number in ((ALICE, "1"), (BOB, "2")):
            file = {"container_id": f"c{number}", "file_id": f"f{number}"}
            message = {"content": [{"type": "output_text", "annotations": [file]}]}
            response = {"id": f"resp_{number}", "object": "response", "output": [message]}
            ask(fleet, key, "POST", RESPONSES, {"model": MODEL, "input": "hi"})
            node.answer(200, json.dumps(response).encode())
            fleet.flush()
        files = [{"id": f"f{number}", "object": "container.file"} for number in (1, 2, 3)]
        path = "/v1/containers/c1/files"
        node.pages[path] = json.dumps({"object": "list", "data": files}).encode()

        assert {"object": "list", "data": files[:1]} == ask(fleet, ALICE, "GET", path).json()
        assert 404 == ask(fleet, BOB, "GET", path).status
        node.pages[path] = b'{"data":"f2"}'
        assert 502 == ask(fleet, ALICE, "GET", path).status

    def test_files_that_came_past_us(self) -> None:
        """No key owns them, so that no list has them."""
        fleet, nodes = self.two_nodes(keys=KEYS)
        uploaded_by(fleet, ALICE)
        for name in nodes:
            body = multipart(purpose="user_data")
            past = fleet.request(
                "POST", "/v1/files", body=body, headers=MULTIPART, port=fleet.ports[name]
            )
            assert 200 == past.status
        assert 1 == len(ask(fleet, ALICE, "GET", "/v1/files").json()["data"])

    def test_sessions_of_one_name(self) -> None:
        """Two keys that choose the same name have two sessions, also after we forgot both."""
        fleet, nodes = self.two_nodes(keys=KEYS)
        for key in (ALICE, BOB):
            words = f"the words of {key.key.name}"
            client = self.chat(fleet, key, words, session_id="main", enable_code_execution=True)
            assert 200 == client.status, client.body
        shown = {key.key.name: ask(fleet, key, "GET", "/v1/sessions/main") for key in (ALICE, BOB)}
        assert "words of alice" in shown["alice"].body.decode()
        assert "words of alice" not in shown["bob"].body.decode()
        assert 404 == ask(fleet, OPERATOR, "GET", "/v1/sessions/main").status
        named = self.chat(fleet, ALICE, session_id="main").json()["session_id"]
        for other in (named, "k0-main", "main"):
            client = ask(fleet, OPERATOR, "GET", f"/v1/sessions/{other}")
            assert (404, "session_not_found") == (client.status, client.error["code"])
        again = self.chat(fleet, ALICE, session_id=named).json()["session_id"]
        assert named == again
        sent = self.sessions_sent(nodes)
        assert 2 == len(set(sent))

    def test_a_session_that_a_node_named(self) -> None:
        """Its key goes on with it under that name; for another key it is a new one of its own."""
        fleet, nodes = self.two_nodes(keys=KEYS)
        name = self.chat(fleet, ALICE, enable_shell=True).json()["session_id"]
        for key in (ALICE, BOB):
            self.chat(fleet, key, session_id=name)
        sent = self.sessions_sent(nodes)
        assert {None, name} < set(sent)
        assert 3 == len(set(sent))

    def test_a_large_request(self) -> None:
        """The session of a request that another process reads has its owner's name, too."""
        fleet, nodes = self.two_nodes(keys=KEYS)
        self.chat(fleet, ALICE, "x " * 300_000, session_id="main")
        (sent,) = self.sessions_sent(nodes)
        assert sent.endswith("-main")

    def test_imports(self) -> None:
        """An import leaves the session of another key under the same name alone."""
        fleet, _ = self.two_nodes(keys=KEYS)
        for key, text in ((ALICE, "one"), (BOB, "two")):
            body = {"messages": [{"role": "user", "content": text}]}
            assert 200 == ask(fleet, key, "PUT", "/v1/sessions/s", body).status
        for key, text in ((ALICE, "one"), (BOB, "two")):
            assert text in ask(fleet, key, "GET", "/v1/sessions/s").body.decode()
        assert 200 == ask(fleet, BOB, "DELETE", "/v1/sessions/s").status
        assert 200 == ask(fleet, ALICE, "GET", "/v1/sessions/s").status

    def test_approvals(self) -> None:
        """Only the key whose stream asks for an approval can give it."""
        fleet, _ = self.two_nodes(keys=KEYS)
        body = {"stream": True, "agent_permission": "ask", "files": [{"name": "out.csv"}]}
        client = self.chat(fleet, ALICE, **body)
        ((_, told),) = named_events(client)
        path, decision = f"/v1/agent/approvals/{told['approval_id']}", {"decision": "approve"}
        assert 404 == ask(fleet, BOB, "POST", path, decision).status
        assert 200 == ask(fleet, ALICE, "POST", path, decision).status
