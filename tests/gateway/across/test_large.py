"""Large requests on every route: they are translated elsewhere, and answered like any other."""

import gc
import json
from typing import Any

from twisted.internet.defer import Deferred

from cortexd.dialects.wire.scan import LIGHT_BYTES, MAX_VALUES
from cortexd.testing import SimulatedNode
from tests.support.conversations import ConversationTestCase, respond, said
from tests.support.fleets import MODEL, InMemoryFleet
from tests.support.keeping import upload
from tests.support.relays import RelayTestCase
from tests.testing.client import CHAT

LARGE = "a" * LIGHT_BYTES
MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
TURNS = [{"role": "user", "content": LARGE}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": TURNS},
    MESSAGES: {"messages": TURNS, "max_tokens": 9},
    COUNT: {"messages": TURNS},
    "/v1/responses": {"input": LARGE, "store": False},
    "/v1/responses/input_tokens": {"input": LARGE},
    "/v1/completions": {"prompt": LARGE},
    "/v1/embeddings": {"input": [LARGE]},
    "/v1/images/generations": {"prompt": LARGE},
    "/v1/audio/speech": {"input": LARGE},
}


def texts_held() -> int:
    """Return how many large texts objects hold that the garbage collector knows."""
    held = (gc.get_referents(each) for each in gc.get_objects())
    return sum(type(one) is bytes and len(one) > LIGHT_BYTES for each in held for one in each)


class RouteTests(RelayTestCase):
    def test_the_bodies_of_every_route_are_read_elsewhere(self) -> None:
        """The reactor neither decodes nor translates them; the node has the last word as ever."""
        fleet = self.fleet(self.node())
        for path, body in BODIES.items():
            fleet.helper.jobs.clear()
            client = fleet.request("POST", path, json={"model": MODEL, **body})
            fleet.advance(30)

            assert client.status in (200, 400), (path, client.text())
            assert fleet.helper.jobs[0].startswith("read"), path
            assert fleet.helper.jobs[-1] in ("exchange", "estimate"), path

    def test_a_body_that_only_a_node_reads_goes_as_it_is(self) -> None:
        """An upload is no JSON, whatever its size."""
        fleet = self.fleet(self.node())
        client = upload(fleet, content=LARGE)
        fleet.advance(1)

        assert (200, []) == (client.status, fleet.helper.jobs)

    def test_small_requests_are_not_sent_elsewhere(self) -> None:
        """They would wait behind large ones."""
        fleet = self.fleet(self.node())
        fleet.chat()
        fleet.advance(30)

        assert [] == fleet.helper.jobs

    def test_a_node_that_speaks_messages_counts_large_requests(self) -> None:
        """The question for it is made elsewhere too."""
        fleet = self.fleet(self.messages_node())
        client = fleet.request("POST", COUNT, json={"model": MODEL, "messages": TURNS})
        fleet.advance(1)

        assert (200, "a") == (client.status, client.headers["x-cortex-node"])
        assert ["read_count", "ask_count", "estimate"] == fleet.helper.jobs

    def test_refusals_are_in_the_envelope_of_the_route(self) -> None:
        """With the limit in their words."""
        fleet = self.fleet(self.node())
        many = b"[" + b"1," * MAX_VALUES + b"1]"
        for path, shape in ((CHAT, "error"), (MESSAGES, "type"), ("/v1/embeddings", "error")):
            client = fleet.request("POST", path, body=b'{"x":' + many + b"}")
            assert 413 == client.status
            assert shape in client.json()
            assert str(MAX_VALUES) in client.text()
        deep = b'{"x":' + b"[" * 300 + b"]" * 300 + b"}"
        assert 400 == fleet.request("POST", CHAT, body=deep).status

    def test_nothing_keeps_a_body_after_its_answer(self) -> None:
        """Neither an error's frames nor a cycle: the garbage collector may run much later."""
        fleet = self.fleet(self.node())
        client = fleet.connect()
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        before = texts_held()
        for fields in ({}, {"stream": True}, {"model": "unknown"}, {"messages": 1}, {"n": -1}):
            body = json.dumps({"model": MODEL, **BODIES[CHAT], **fields}).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
            fleet.send(client, head.encode() + body)
            fleet.advance(30)
            assert client.received.startswith(b"HTTP/1.1 ")
            client.received, body = b"", b""

        assert before == texts_held()


class ConversationTests(ConversationTestCase):
    def test_a_light_request_with_a_large_conversation_is_large(self) -> None:
        """And what it continues is the conversation."""
        fleet = self.stored(self.node())
        first = respond(fleet, LARGE)
        fleet.advance(30)
        fleet.helper.jobs.clear()
        second = respond(fleet, "and", previous_response_id=first.json()["id"])
        fleet.advance(30)

        assert 200 == second.status, second.text()
        assert ["read", "extend", "exchange"] == fleet.helper.jobs
        pages = fleet.get(f"/v1/responses/{first.json()['id']}/input_items")
        fleet.advance(1)
        assert LARGE == pages.json()["data"][0]["content"][0]["text"]

    def test_large_work_in_the_background(self) -> None:
        """Its input is stored as it was."""
        fleet = self.stored(self.node())
        client = respond(fleet, LARGE, background=True)
        fleet.advance(30)
        shown = fleet.get(f"/v1/responses/{client.json()['id']}").json()

        assert "completed" == shown["status"]
        assert said(shown)


class QueueTests(RelayTestCase):
    def test_others_are_served_while_a_large_body_is_translated(self) -> None:
        """Health checks, and small requests with their streams."""
        fleet = self.fleet(self.node())
        fleet.worker.is_held = True
        large = fleet.request("POST", CHAT, json={"model": MODEL, **BODIES[CHAT]})
        health, small = fleet.get("/health"), fleet.stream()
        fleet.advance(30)
        assert (200, 200) == (health.status, small.status)
        assert large.status is None
        fleet.worker.release()
        fleet.advance(30)

        assert 200 == large.status

    def test_a_client_that_leaves_meanwhile_reaches_no_node(self) -> None:
        """And the next large request is served."""
        fleet = self.fleet(self.node())
        fleet.worker.is_held = True
        fleet.leave(fleet.request("POST", CHAT, json={"model": MODEL, **BODIES[CHAT]}))
        fleet.worker.release()
        client = fleet.request("POST", CHAT, json={"model": MODEL, **BODIES[CHAT]})
        fleet.advance(30)

        assert 200 == client.status
        node = fleet.nodes["a"]
        assert isinstance(node, SimulatedNode)
        assert 1 == len(node.journal.requests(CHAT))


class StopTests(RelayTestCase):
    def test_a_stop_cuts_requests_that_wait_to_be_translated(self) -> None:
        """After the grace time, like all others."""
        fleet: InMemoryFleet = self.fleet(self.node())
        fleet.worker.is_held = True
        client = fleet.request("POST", CHAT, json={"model": MODEL, **BODIES[CHAT]})
        drained = Deferred.fromCoroutine(fleet.answers.drain(5.0))
        fleet.advance(5)
        assert 503 == client.status
        self.successResultOf(drained)
        fleet.worker.release()
        fleet.flush()

        assert "stopping" in json.loads(client.text())["error"]["message"]
