"""Responses of nodes that answer them: passed on, kept at a node, and found there again."""

import json
import wave
from io import BytesIO
from typing import Any

from cortexd.sse import ServerSentEvent, SseDecoder
from cortexd.testing import SimulatedModel
from tests.doubles.native_node import SimulatedNativeNode
from tests.support.fleets import MODEL, Client, FleetTestCase, InMemoryFleet, Node

RESPONSES = "/v1/responses"


def respond(fleet: InMemoryFleet, text: str = "hi", **fields: object) -> Client:
    """POST a request for a response."""
    return fleet.request("POST", RESPONSES, json={"model": MODEL, "input": text, **fields})


def events(client: Client) -> list[ServerSentEvent]:
    return SseDecoder().feed(client.body)


def last_event(client: Client) -> dict[str, Any]:
    """Return the last event that a client got, which says the same by its name and its type."""
    event = events(client)[-1]
    data: dict[str, Any] = json.loads(event.data)
    assert event.name.decode() == data["type"]
    return data


def said(response: dict[str, Any]) -> str:
    text: str = response["output"][0]["content"][0]["text"]
    return text


class NativeTestCase(FleetTestCase):
    def fleet(self, *nodes: Node, **settings: Any) -> InMemoryFleet:
        """Make a fleet whose nodes get requests for responses as the client sent them."""
        node_keys = {node.name: {"responses": "native"} for node in nodes}
        return super().fleet(*nodes, node_keys=node_keys, **settings)


class PassedOnTests(NativeTestCase):
    def test_whole(self) -> None:
        """The node's answer as it is, under the node's own id, with our headers."""
        fleet = self.fleet(self.node())
        client = respond(fleet, "hello there")

        response = client.json()
        assert (200, "application/json", "a") == (
            client.status,
            client.headers["content-type"],
            client.headers["x-cortex-node"],
        )
        assert ("completed", "You said: hello there") == (response["status"], said(response))
        assert response["id"].startswith("resp_")
        (line,) = fleet.events("request")
        assert (2, 4, response["id"]) == (
            line["prompt_tokens"],
            line["completion_tokens"],
            line["upstream_id"],
        )

    def test_streamed(self) -> None:
        """Event by event under their names, up to the one that completes it, in good order."""
        client = respond(self.fleet(self.node()), "hello", stream=True)

        names = [event.name.decode() for event in events(client)]
        assert ["response.created", "response.in_progress"] == names[:2]
        # Three words, and the empty text beside the finish reason.
        assert 4 == names.count("response.output_text.delta")
        assert ["response.output_item.done", "response.completed"] == names[-2:]
        assert "You said: hello" == said(last_event(client)["response"])
        assert ("clean", "text/event-stream") == (client.ended, client.headers["content-type"])

    def test_a_model_that_is_not_loaded(self) -> None:
        """It is loaded, and the client hears comments meanwhile."""
        node = self.node("a", SimulatedModel(id=MODEL, loaded=False, load_seconds=20))
        fleet = self.fleet(node, hold_seconds=5)
        client = respond(fleet, stream=True)
        fleet.advance(6)
        assert b": keep-alive\n\n" == client.body
        fleet.advance(15)

        assert "response.completed" == last_event(client)["type"]

    def test_failures_in_the_middle(self) -> None:
        """They are told as a failed response with code and words, and the connection breaks."""
        node = self.node()
        fleet = self.fleet(node)
        for fault, code in (
            ("error_after_chunks", "node_error"),
            ("eof_after_chunks", "bad_gateway"),
        ):
            setattr(node.faults, fault, 1)
            client = respond(fleet, "one two three", stream=True)
            setattr(node.faults, fault, None)

            told = last_event(client)
            assert ("response.failed", "failed", code) == (
                told["type"],
                told["response"]["status"],
                told["response"]["error"]["code"],
            )
            first = json.loads(events(client)[0].data)
            assert first["response"]["id"] == told["response"]["id"]
            assert len(events(client)) - 1 == told["sequence_number"]
            assert "clean" == client.ended

    def test_mistakes(self) -> None:
        """They are told in OpenAI's envelope, the node's too."""
        fleet = self.fleet(self.node())
        for body, param in ((b"{", None), (b'{"model": "acme/chat", "stream": 1}', "stream")):
            client = fleet.request("POST", RESPONSES, body=body)
            assert (400, param) == (client.status, client.error["param"])
        assert "model_not_found" == respond(fleet, model="acme/none").error["code"]
        refused = fleet.request("POST", RESPONSES, json={"model": MODEL})
        assert 400 == refused.status
        assert "input" in refused.error["message"]


class KeptTests(NativeTestCase):
    def two_nodes(self, **settings: Any) -> tuple[InMemoryFleet, dict[str, SimulatedNativeNode]]:
        nodes = {name: self.node(name) for name in "ab"}
        return self.fleet(*nodes.values(), **settings), nodes

    def test_a_conversation_stays_at_its_node(self) -> None:
        """The next turn goes to the node that has the one before, which remembers it."""
        fleet, nodes = self.two_nodes()
        for stream in (False, True):
            fleet.advance(1)
            first = respond(fleet, "one", stream=stream)
            keeper = first.headers["x-cortex-node"]
            response = last_event(first)["response"] if stream else first.json()
            for text in ("two", "three"):
                client = respond(fleet, text, previous_response_id=response["id"])
                assert (200, keeper) == (client.status, client.headers["x-cortex-node"])
                before, response = response, client.json()
                assert response["usage"]["input_tokens"] > before["usage"]["input_tokens"], (
                    "the conversation is longer than its last turn"
                )
        assert {"a", "b"} == {
            name for name, node in nodes.items() if node.journal.requests(RESPONSES)
        }

    def test_it_is_shown_and_deleted_by_its_id(self) -> None:
        """At its node, and after that it is not there."""
        fleet, _ = self.two_nodes()
        made = respond(fleet, "hello")
        response = made.json()
        path = f"{RESPONSES}/{response['id']}"

        shown = fleet.get(path)
        assert (200, response, made.headers["x-cortex-node"]) == (
            shown.status,
            shown.json(),
            shown.headers["x-cortex-node"],
        )
        deleted = fleet.request("DELETE", path)
        assert {"id": response["id"], "object": "response.deleted", "deleted": True} == (
            deleted.json()
        )
        for method in ("GET", "DELETE"):
            gone = fleet.request(method, path)
            assert (404, "response_not_found") == (gone.status, gone.error["code"])
            assert response["id"] in gone.error["message"]

    def test_a_streamed_one_is_not_shown(self) -> None:
        """The node shows no streamed response, so that its 404 is ours."""
        fleet = self.fleet(self.node())
        response = last_event(respond(fleet, "hello", stream=True))["response"]
        shown = fleet.get(f"{RESPONSES}/{response['id']}")

        assert (404, "response_not_found") == (shown.status, shown.error["code"])

    def test_background(self) -> None:
        """A response made in the background is found and cancelled by its id, even mid-way."""
        fleet = self.fleet(self.node("a", token_seconds=1.0), self.node("b", token_seconds=1.0))
        queued = respond(fleet, "a b c d", background=True).json()
        path = f"{RESPONSES}/{queued['id']}"
        assert ("queued", "in_progress") == (queued["status"], fleet.get(path).json()["status"])

        assert "cancelled" == fleet.request("POST", f"{path}/cancel").json()["status"]
        fleet.advance(10)
        assert "completed" == fleet.get(path).json()["status"], "no node stops what it has begun"

    def test_what_is_not_in_the_background_cannot_be_cancelled(self) -> None:
        """The node's 404 is ours, with the reason, in our envelope."""
        fleet = self.fleet(self.node())
        name = respond(fleet).json()["id"]
        client = fleet.request("POST", f"{RESPONSES}/{name}/cancel")

        assert (404, "response_not_found") == (client.status, client.error["code"])
        assert "cancel" in client.error["message"]
        assert 200 == fleet.get(f"{RESPONSES}/{name}").status

    def test_what_no_node_keeps(self) -> None:
        """Ids that were never given, or not kept, are 404, and no node is asked."""
        fleet, nodes = self.two_nodes()
        unkept = respond(fleet, store=False).json()["id"]
        asked = [len(node.journal.requests()) for node in nodes.values()]
        for name in (unkept, "resp_never", "..", "%2E%2E%2Fmodels", "x" * 500):
            for method, action in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
                client = fleet.request(method, f"{RESPONSES}/{name}{action}")
                assert 404 == client.status
                assert "invalid_request_error" == client.error["type"]
            client = respond(fleet, previous_response_id=name)
            error = client.error
            assert (404, "previous_response_not_found", "previous_response_id") == (
                client.status,
                error["code"],
                error["param"],
            )
        assert asked == [len(node.journal.requests()) for node in nodes.values()]

    def test_a_node_that_restarted(self) -> None:
        """What it kept is lost, whether a poll has seen the restart yet or not."""
        node = self.node()
        fleet = self.fleet(node)
        for is_seen in (False, True):
            name = respond(fleet).json()["id"]
            fleet.close_idle()
            node.restart()
            fleet.flush()
            if is_seen:
                fleet.poll()
                assert 1 == fleet.fleet.nodes["a"].restarts
            asked = len(node.journal.requests())
            shown = fleet.get(f"{RESPONSES}/{name}")
            assert (0 if is_seen else 1) == len(node.journal.requests()) - asked
            assert (404, "response_not_found") == (shown.status, shown.error["code"])
            client = respond(fleet, previous_response_id=name)
            assert (404, "previous_response_not_found") == (client.status, client.error["code"])

    def test_a_node_that_restarts_while_its_model_is_waited_for(self) -> None:
        """The node is asked last of all, since it would answer without the conversation."""
        node = self.node("a", SimulatedModel(id=MODEL, load_seconds=20))
        fleet = self.fleet(node, hold_seconds=5)
        name = respond(fleet).json()["id"]
        node.running_process.unload(MODEL)
        fleet.poll()
        client = respond(fleet, stream=True, previous_response_id=name)
        fleet.advance(10)
        assert b": keep-alive\n\n" == client.body
        node.restart()
        for _ in range(20):
            fleet.advance(2)
            fleet.poll()

        told = last_event(client)
        assert "previous_response_not_found" == told["response"]["error"]["code"]
        assert "clean" == client.ended

    def test_after_a_day(self) -> None:
        """An id is forgotten in the end."""
        fleet = self.fleet(self.node())
        name = respond(fleet).json()["id"]
        assert 200 == fleet.get(f"{RESPONSES}/{name}").status
        fleet.advance(24 * 3600)

        assert 404 == fleet.get(f"{RESPONSES}/{name}").status

    def test_its_model_was_given_up_meanwhile(self) -> None:
        """The conversation is still there: the model is loaded there again, not elsewhere."""
        fleet, nodes = self.two_nodes()
        first = respond(fleet)
        keeper = first.headers["x-cortex-node"]
        nodes[keeper].running_process.unload(MODEL)
        fleet.poll()
        client = respond(fleet, "two", previous_response_id=first.json()["id"])

        assert (200, keeper, "loaded") == (
            client.status,
            client.headers["x-cortex-node"],
            client.headers["x-cortex-decision"],
        )

    def test_a_node_that_does_not_answer(self) -> None:
        """A question by id has its limit, and the error names the node."""
        node = self.node()
        fleet = self.fleet(node)
        name = respond(fleet).json()["id"]
        node.faults.hang = True
        shown = fleet.get(f"{RESPONSES}/{name}")
        follow = respond(fleet, previous_response_id=name)
        fleet.advance(9)
        assert (None, None) == (shown.status, follow.status)
        fleet.advance(2)

        for client in (shown, follow):
            assert (504, "timeout") == (client.status, client.error["code"])
            assert "node a" in client.error["message"]

    def test_a_client_that_leaves(self) -> None:
        """Its question to the node goes with it."""
        node = self.node()
        fleet = self.fleet(node)
        name = respond(fleet).json()["id"]
        node.faults.hang = True
        client = fleet.get(f"{RESPONSES}/{name}")
        fleet.leave(client)

        assert "client_gone" == fleet.events("request")[-1]["outcome"]
        assert [] == fleet.node_ends("a")


class MediaTests(FleetTestCase):
    def media(self) -> InMemoryFleet:
        return self.fleet(
            self.node("a"),
            self.node(
                "b",
                SimulatedModel(id="acme/paint", kind="image", loaded=False),
                SimulatedModel(id="acme/voice", kind="speech"),
            ),
        )

    def test_images(self) -> None:
        """They come from the model's node, loaded for it, in the form that was asked for."""
        fleet = self.media()
        body: dict[str, object] = {"model": "acme/paint", "prompt": "a cat", "n": 2}
        bare = fleet.request("POST", "/v1/images/generations", json=body)
        linked = fleet.request(
            "POST", "/v1/images/generations", json=body | {"response_format": "url"}
        )

        assert (200, "b") == (bare.status, bare.headers["x-cortex-node"])
        images = [image["b64_json"] for image in bare.json()["data"]]
        assert 2 == len(images)
        assert [{"url": f"data:image/png;base64,{image}"} for image in images] == (
            linked.json()["data"]
        )

    def test_speech(self) -> None:
        """The sound of the model's node, under the type that the node gives it, rate and all."""
        fleet = self.media()
        body: dict[str, object] = {"model": "acme/voice", "input": "hello", "voice": "alloy"}
        client = fleet.request("POST", "/v1/audio/speech", json=body)
        with wave.open(BytesIO(client.body)) as sound:
            frames, rate = sound.readframes(99), sound.getframerate()
        raw = fleet.request("POST", "/v1/audio/speech", json=body | {"response_format": "pcm"})

        assert (200, "b") == (client.status, client.headers["x-cortex-node"])
        assert f"audio/wav; rate={rate}; channels=1" == client.headers["content-type"]
        assert frames == raw.body
        assert f"rate={rate}" in raw.headers["content-type"]

    def test_mistakes(self) -> None:
        """A format that no node makes, and a model of another kind, are told in the envelope."""
        fleet = self.media()
        body: dict[str, object] = {"model": "acme/voice", "input": "hi", "response_format": "mp3"}
        client = fleet.request("POST", "/v1/audio/speech", json=body)
        assert (400, "response_format") == (client.status, client.error["param"])
        client = fleet.request(
            "POST", "/v1/images/generations", json={"model": MODEL, "prompt": "a cat"}
        )
        assert 400 == client.status
        assert "incompatible for this model's category" in client.error["message"]
