"""Files and containers through the gateway, found again at their nodes."""

import json

from twisted.internet.defer import Deferred

from cortexd.testing import SimulatedModel
from tests.support.fleets import MODEL
from tests.support.keeping import (
    FILES,
    OF_A,
    OF_B,
    StateTestCase,
    ask_of_files,
    delete,
    node_of,
    upload,
    uploaded,
)
from tests.testing.kept_client import MULTIPART, multipart, named_events


class FileTests(StateTestCase):
    # A file makes a list of a message's content, which the strict template does not take.
    template = None

    def test_uploaded_and_found(self) -> None:
        """A file is shown, given back and deleted at the node that took it, by its id alone."""
        fleet, _ = self.two_nodes()
        for model, node in ((OF_A, "a"), (OF_B, "b")):
            client = upload(fleet, model)
            described = client.json()
            path = f"{FILES}/{described['id']}"
            assert (200, node, "notes.txt") == (
                client.status,
                node_of(client),
                described["filename"],
            )
            shown, content = fleet.get(path), fleet.get(f"{path}/content")
            assert (described, node) == (shown.json(), node_of(shown))
            assert (b"the notes", "text/plain", node) == (
                content.body,
                content.headers["content-type"],
                node_of(content),
            )
            assert 'filename="notes.txt"' in content.headers["content-disposition"]
            deleted = delete(fleet, path)
            assert {"id": described["id"], "object": "file", "deleted": True} == deleted.json()
            for gone in (fleet.get(path), fleet.get(f"{path}/content"), delete(fleet, path)):
                assert (404, "file_not_found") == (gone.status, gone.error["code"])

    def test_where_an_upload_goes(self) -> None:
        """To a node of the model that the query names, by an alias too, else of the default one."""
        fleet = self.fleet(
            self.node("a", MODEL, OF_A),
            self.node("b", OF_B),
            models={OF_A: {}, OF_B: {"aliases": ["ours"]}},
        )
        assert ["b", "b", "a", "a"] == [
            node_of(upload(fleet, model)) for model in (OF_B, "ours", OF_A, "")
        ]
        unknown = upload(fleet, "acme/none")
        assert (404, "model_not_found") == (unknown.status, unknown.error["code"])

    def test_a_model_that_is_not_loaded(self) -> None:
        """It is loaded for a file that is meant for it."""
        cold = SimulatedModel(id=MODEL, loaded=False, load_seconds=20)
        fleet = self.fleet(self.node("a", OF_A, cold))
        client = upload(fleet, MODEL)
        assert client.status is None
        fleet.advance(25)

        assert "a" == node_of(client)

    def test_nothing_is_loaded(self) -> None:
        """A file that is meant for no model in particular has none loaded for it."""
        fleet = self.fleet(self.node("a", SimulatedModel(id=MODEL, loaded=False)))
        refused = upload(fleet)

        assert (503, "model_not_loaded") == (refused.status, refused.error["code"])

    def test_the_default_is_of_a_node_that_keeps_nothing(self) -> None:
        """What is meant for no model in particular goes to any node that can keep it."""
        far, cold = "acme/a-far", SimulatedModel(id="acme/a-far", loaded=False)
        fleet = self.fleet(
            self.messages_node("m", far), self.node("k", cold, OF_A), models={far: {}}
        )
        session = fleet.request("PUT", "/v1/sessions/s", json={"messages": []})
        clients = [upload(fleet), upload(fleet, "default"), session]

        assert far == fleet.parts.catalogue.resolve("default")
        assert [("k", OF_A)] * 3 == [
            (node_of(client), client.headers["x-cortex-model"]) for client in clients
        ]

    def test_nothing_is_loaded_where_files_are_kept(self) -> None:
        """Nor is anything loaded there for a file that is meant for no model in particular."""
        cold = SimulatedModel(id=OF_A, loaded=False)
        refused = upload(self.fleet(self.messages_node("m"), self.node("k", cold)))

        assert (503, "model_not_loaded") == (refused.status, refused.error["code"])

    def test_no_node_keeps_anything(self) -> None:
        """An upload is a mistake where all nodes speak Messages alone."""
        refused = upload(self.fleet(self.messages_node("m")))

        assert 400 == refused.status
        assert "its node stores no files" in refused.error["message"]

    def test_a_node_without_a_default_model(self) -> None:
        """It takes no uploads any more, and another that has the model is asked instead."""
        fleet, nodes = self.two_nodes()
        self.unload(fleet, nodes["a"], MODEL, OF_A)
        nodes["a"].running_process.reload(MODEL)
        fleet.poll()
        assert ["b"] * 4 == [node_of(upload(fleet, MODEL)) for _ in range(4)]
        self.unload(fleet, nodes["b"], MODEL)
        refused = upload(fleet, MODEL)

        assert (502, "bad_gateway") == (refused.status, refused.error["code"])

    def test_bad_uploads(self) -> None:
        """Ours and the node's refusals are 400 in OpenAI's envelope."""
        fleet, nodes = self.two_nodes()
        asked = self.asked(nodes)
        no_form = fleet.request("POST", FILES, json={"purpose": "x"})
        assert (400, asked) == (no_form.status, self.asked(nodes))
        assert "multipart/form-data" in no_form.error["message"]
        no_purpose = fleet.request("POST", FILES, body=multipart(), headers=MULTIPART)
        assert 400 == no_purpose.status
        assert "`purpose`" in no_purpose.error["message"]

    def test_an_upload_too_large(self) -> None:
        """The limit of bodies is one for all routes."""
        fleet = self.fleet(self.node(), max_body_mb=1)
        client = upload(fleet, content="x" * (1024 * 1024))

        assert (413, "request_too_large") == (client.status, client.error["code"])

    def test_a_chat_that_names_a_file(self) -> None:
        """It goes to the file's node, however busy that is, and the model reads the file."""
        fleet, _ = self.two_nodes()
        for model, node in ((OF_B, "b"), (OF_A, "a")):
            name = uploaded(fleet, model)
            for stream in (False, True, False):
                client = ask_of_files(fleet, name, stream=stream)
                assert node == node_of(client)
                text = client.body.decode().replace("\\n", "")
                assert "[notes.txt:" in text

    def test_files_of_two_nodes(self) -> None:
        """No node has both: the client is told which is where, and no node is asked."""
        fleet, nodes = self.two_nodes()
        first, second = uploaded(fleet, OF_A), uploaded(fleet, OF_B)
        asked = self.asked(nodes)
        client = ask_of_files(fleet, first, second)

        param = "messages[0].content[2].file.file_id"
        assert (400, param) == (client.status, client.error["param"])
        words = client.error["message"]
        assert ("node a" in words, "node b" in words) == (True, True)
        assert asked == self.asked(nodes)

    def test_a_file_where_the_model_is_not(self) -> None:
        """The client is told that the file's node does not have the model."""
        fleet, _ = self.two_nodes()
        client = ask_of_files(fleet, uploaded(fleet, OF_B), model=OF_A)

        assert (400, "messages[0].content[1].file.file_id") == (
            client.status,
            client.error["param"],
        )
        assert "node b, which does not have model 'acme/of-a'" in client.error["message"]

    def test_unknown(self) -> None:
        """What nobody has is 404 everywhere, and no node is asked."""
        fleet, nodes = self.two_nodes()
        asked = self.asked(nodes)
        for name in ("file-never", "..", "%2E%2E%2Fmodels", "x" * 500):
            for path in (f"{FILES}/{name}", f"{FILES}/{name}/content"):
                client = fleet.get(path)
                assert (404, "invalid_request_error") == (client.status, client.error["type"])
            client = ask_of_files(fleet, name)
            assert (404, "file_not_found") == (client.status, client.error["code"])
            assert "messages[0].content[1].file.file_id" == client.error["param"]
        assert asked == self.asked(nodes)

    def test_lost_at_the_node(self) -> None:
        """A file that the node itself has dropped is 404, asked for or named, and forgotten."""
        fleet, nodes = self.two_nodes()
        named, shown = uploaded(fleet, OF_A), uploaded(fleet, OF_A)
        for name in (named, shown):
            nodes["a"].running_process.memories.delete_file(name)
        client = ask_of_files(fleet, named)
        assert (404, "file_not_found") == (client.status, client.error["code"])
        assert 404 == fleet.get(f"{FILES}/{shown}").status
        asked = self.asked(nodes)

        assert 404 == fleet.get(f"{FILES}/{shown}").status
        assert asked == self.asked(nodes)

    def test_restarted(self) -> None:
        """With the node's process all its files are lost, and those of others are not."""
        fleet, nodes = self.two_nodes()
        lost, left = uploaded(fleet, OF_A), uploaded(fleet, OF_B)
        nodes["a"].restart()
        fleet.flush()
        fleet.poll()
        asked = self.asked(nodes)

        assert [404, 404] == [fleet.get(f"{FILES}/{lost}").status, ask_of_files(fleet, lost).status]
        assert asked == self.asked(nodes)
        assert "b" == node_of(ask_of_files(fleet, left))

    def test_after_their_lifetime(self) -> None:
        """The node has the last word while we know the id; afterwards nobody is asked."""
        fleet, nodes = self.two_nodes()
        name = uploaded(fleet, OF_A)
        fleet.advance(1799)
        assert 200 == fleet.get(f"{FILES}/{name}").status
        fleet.advance(1801)
        asked = self.asked(nodes)

        assert 404 == fleet.get(f"{FILES}/{name}").status
        assert asked == self.asked(nodes)

    def test_listed(self) -> None:
        """The files of all nodes that have any are one list, which is one page."""
        fleet, nodes = self.two_nodes()
        asked = self.asked(nodes)
        assert {"object": "list", "data": [], "first_id": None, "last_id": None} == {
            key: value for key, value in fleet.get(FILES).json().items() if key != "has_more"
        }
        assert asked == self.asked(nodes)
        names = []
        for model in (OF_A, OF_B, OF_A):
            names.append(uploaded(fleet, model))
            fleet.advance(1)
        listed = fleet.get(FILES)

        assert (200, False) == (listed.status, listed.json()["has_more"])
        assert names[::-1] == [file["id"] for file in listed.json()["data"]]

    def test_files_that_came_past_us(self) -> None:
        """What a node lists is found from then on."""
        fleet, _ = self.two_nodes()
        uploaded(fleet, OF_A)
        body = multipart(purpose="user_data")
        direct = fleet.request(
            "POST", FILES, body=body, headers=MULTIPART, port=fleet.ports["a"]
        ).json()
        assert 404 == fleet.get(f"{FILES}/{direct['id']}").status
        assert direct in fleet.get(FILES).json()["data"]

        assert "a" == node_of(fleet.get(f"{FILES}/{direct['id']}"))

    def test_a_node_that_lists_nothing(self) -> None:
        """It is named as missing beside the others' files, and is the error where it is alone."""
        fleet, nodes = self.two_nodes()
        name = uploaded(fleet, OF_A)
        nodes["a"].faults.hang = True
        alone = fleet.get(FILES)
        fleet.advance(11)
        assert (504, "timeout") == (alone.status, alone.error["code"])
        other = uploaded(fleet, OF_B)
        listed = fleet.get(FILES)
        fleet.advance(11)

        assert ([other], "a") == (
            [file["id"] for file in listed.json()["data"]],
            listed.headers["x-cortex-missing"],
        )
        nodes["a"].faults.hang = False
        assert {name, other} == {file["id"] for file in fleet.get(FILES).json()["data"]}

    def test_a_client_that_leaves(self) -> None:
        """Its questions to the nodes go with it, be they one or several."""
        fleet, nodes = self.two_nodes()
        name = uploaded(fleet, OF_A)
        uploaded(fleet, OF_B)
        for node in nodes.values():
            node.faults.hang = True
        for path in (FILES, f"{FILES}/{name}/content"):
            client = fleet.get(path)
            fleet.leave(client)
            assert "client_gone" == fleet.events("request")[-1]["outcome"]
            assert [[], []] == [fleet.node_ends(node) for node in nodes]
        assert [] == fleet.events("request_crashed")

    def test_the_gateway_stops(self) -> None:
        """Who still waits for a node's word after the grace is told to come back, and when."""
        fleet, nodes = self.two_nodes()
        name = uploaded(fleet, OF_A)
        uploaded(fleet, OF_B)
        for node in nodes.values():
            node.faults.hang = True
        clients = [fleet.get(path) for path in (FILES, f"{FILES}/{name}/content")]
        drained = Deferred.fromCoroutine(fleet.answers.drain(5))
        fleet.advance(5)

        self.successResultOf(drained)
        assert [(503, "5")] * 2 == [
            (client.status, client.headers["retry-after"]) for client in clients
        ]
        assert [[], []] == [fleet.node_ends(node) for node in nodes]

    def test_what_is_no_list(self) -> None:
        """A node that answers something else is a bad gateway, in words that name it."""
        node = self.scripted("a", MODEL)
        fleet = self.fleet(node)
        sent = upload(fleet)
        node.answer(200, b'{"object":"file","id":"f"}')
        fleet.flush()
        assert "a" == node_of(sent)
        node.pages[FILES] = b"{}"
        client = fleet.get(FILES)

        assert (502, "bad_gateway") == (client.status, client.error["code"])
        assert "node a" in client.error["message"]


class ContainerTests(StateTestCase):
    def test_a_containers_file(self) -> None:
        """It is found by its own id: nodes do not look at the container's."""
        fleet, _ = self.two_nodes()
        name = uploaded(fleet, OF_B)
        path = f"/v1/containers/any/files/{name}"
        shown, content = fleet.get(path), fleet.get(f"{path}/content")

        assert ("container.file", "any", "b") == (
            shown.json()["object"],
            shown.json()["container_id"],
            node_of(shown),
        )
        assert b"the notes" == content.body
        missing = fleet.get("/v1/containers/any/files/none/content")
        assert (404, "file_not_found") == (missing.status, missing.error["code"])

    def test_the_files_of_a_container(self) -> None:
        """A container is known once a response has named it, and its node lists its files."""
        node = self.scripted("a", MODEL)
        fleet = self.fleet(node, node_keys={"a": {"responses": "native"}})
        path = "/v1/containers/c1/files"
        unknown = fleet.get(path)
        assert (404, "container_not_found") == (unknown.status, unknown.error["code"])
        call = {"type": "code_interpreter_call", "container_id": "c1"}
        response = {"id": "resp_1", "object": "response", "output": [call]}
        fleet.request("POST", "/v1/responses", json={"model": MODEL, "input": "hi"})
        node.answer(200, json.dumps(response).encode())
        fleet.flush()
        node.pages[path] = b'{"object":"list","data":[]}'
        listed = fleet.get(path)

        assert ({"object": "list", "data": []}, "a") == (listed.json(), node_of(listed))


class MadeFileTests(StateTestCase):
    def test_whole_and_streamed(self) -> None:
        """Files that an answer made are told of, and found at its node."""
        fleet, _ = self.two_nodes()
        for stream in (False, True):
            fleet.advance(1)
            client = fleet.chat("hi", files=[{"name": "out.csv"}], stream=stream)
            if stream:
                told = [data for name, data in named_events(client) if name == "file_produced"]
            else:
                told = client.json()["files"]
                assert [told[0]["id"]] == client.json()["agentic_tool_calls"][0]["file_ids"]
            (file,) = told
            content = fleet.get(f"{FILES}/{file['id']}/content")
            assert (b"out.csv", "text/csv", node_of(client)) == (
                content.body,
                content.headers["content-type"],
                node_of(content),
            )

    def test_lost_with_their_model(self) -> None:
        """What an engine made goes with it; what was uploaded is asked for all the same."""
        fleet, nodes = self.two_nodes()
        made = fleet.chat("hi", model=OF_A, files=[{"name": "out.csv"}]).json()["files"][0]["id"]
        name = uploaded(fleet, OF_A)
        self.unload(fleet, nodes["a"], OF_A)
        asked = self.asked(nodes)

        assert 404 == fleet.get(f"{FILES}/{made}").status
        assert asked == self.asked(nodes)
        assert 200 == fleet.get(f"{FILES}/{name}").status, "the default model's engine has it"

    def test_clients_that_did_not_ask(self) -> None:
        """The node's events do not reach who has not asked for its work, in its own words."""
        node = self.scripted("a", MODEL)
        fleet = self.fleet(node)
        produced = b'event: file_produced\ndata: {"id":"f","name":"a"}\n\n'
        finish = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        plain = fleet.stream("hi", web_search_options={})
        node.stream(produced, finish, b"data: [DONE]\n\n", end=True)
        fleet.flush()
        assert ("clean", []) == (plain.ended, named_events(plain))
        node.pages[f"{FILES}/f"] = b'{"id":"f"}'

        assert "a" == node_of(fleet.get(f"{FILES}/f")), "it can be asked for all the same"


class EnvelopeTests(StateTestCase):
    def test_methods(self) -> None:
        """A path takes the methods it has, and HEAD where it takes GET."""
        fleet, _ = self.two_nodes()
        name = uploaded(fleet, OF_A)
        head = fleet.request("HEAD", f"{FILES}/{name}")
        assert (200, b"") == (head.status, head.body)
        for method, path in (
            ("PUT", FILES),
            ("POST", f"{FILES}/{name}"),
            ("POST", "/v1/sessions/s"),
            ("GET", "/v1/agent/approvals/a"),
            ("DELETE", "/v1/containers/c/files/f"),
        ):
            client = fleet.request(method, path, body=b"")
            assert (405, "method_not_allowed") == (client.status, client.error["code"])
        client = fleet.get(f"{FILES}/{name}/contents")
        assert (404, "unknown_url") == (client.status, client.error["code"])

    def test_one_line_each(self) -> None:
        """A request has its line under the route's label, never with the id in it."""
        fleet, _ = self.two_nodes()
        name = uploaded(fleet, OF_A)
        for path in (
            f"{FILES}/{name}",
            f"{FILES}/{name}/content",
            f"/v1/containers/c/files/{name}",
            "/v1/sessions/s",
            FILES,
        ):
            fleet.get(path)
        assert [
            "/v1/files",
            "/v1/files/{id}",
            "/v1/files/{id}/content",
            "/v1/containers/{id}/files/{id}",
            "/v1/sessions/{id}",
            "/v1/files",
        ] == [event["route"] for event in fleet.events("request")]
