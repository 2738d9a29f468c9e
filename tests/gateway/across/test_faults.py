"""Who is at fault: what a node says of the request is the client's mistake on every route."""

import json
from typing import Any

from tests.covers import covers
from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.relays import RelayTestCase, chunk
from tests.support.scripted import ScriptedNode
from tests.testing.client import CHAT

MESSAGES = "/v1/messages"
HELLO = [{"role": "user", "content": "hi"}]
ROUTES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO},
    MESSAGES: {"messages": HELLO, "max_tokens": 9},
    "/v1/responses": {"input": "hi", "store": False},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
}
FAULT = "invalid operation: roles must alternate (in chat_template:12)"
TOLD = f"{FAULT}\n\nStack backtrace:\n   0: anyhow"
IMAGE = "Failed to parse image resource: data:image/png;base64,AAAA"


class FaultTests(RelayTestCase):
    def post(self, fleet: InMemoryFleet, path: str, **fields: object) -> Client:
        return fleet.request("POST", path, json={"model": MODEL, **ROUTES[path], **fields})

    def answer(self, fleet: InMemoryFleet, node: ScriptedNode, words: str) -> None:
        """Let the node tell its words as it does for this request: in a stream if it streams."""
        if node.newest_body.get("stream"):
            error = {"message": words, "type": "server_error", "param": None, "code": None}
            node.stream(b"data: " + json.dumps({"error": error}).encode() + b"\n\n", end=True)
        else:
            node.answer(500, json.dumps({"message": words}).encode())
        fleet.flush()

    @covers("5 node says of the request")
    def test_fault_of_the_request(self) -> None:
        """400 in the client's envelope and the node's first line; no other node is asked."""
        first, second = self.scripted("a"), self.scripted("b")
        fleet = self.fleet(first, second)
        for path in ROUTES:
            for streams in (False, True):
                asks = {} if path == "/v1/embeddings" else {"stream": streams}
                before = len(first.requests) + len(second.requests)
                client = self.post(fleet, path, **asks)
                node = first if first.requests and not first.requests[-1].finished else second
                self.answer(fleet, node, TOLD)
                error = client.json()["error"]
                assert (400, FAULT) == (client.status, error["message"]), path
                assert "invalid_request_error" == error["type"]
                assert before + 1 == len(first.requests) + len(second.requests)

    @covers("5 image not had")
    def test_fault_of_an_image(self) -> None:
        """The words that Claude Code acts on, without the data of the image."""
        fleet, node = self.alone()
        for path in ROUTES:
            client = self.post(fleet, path)
            self.answer(fleet, node, IMAGE)
            words = client.json()["error"]["message"]
            assert 400 == client.status
            assert words.startswith("Could not process image: ")
            assert "AAAA" not in client.text()

    @covers("5 node says of the request")
    def test_after_the_first_byte(self) -> None:
        """The same within a stream that has begun, in the event of the dialect."""
        fleet, node = self.alone()
        for path in (CHAT, MESSAGES):
            client = self.post(fleet, path, stream=True)
            node.stream(chunk("begun"))
            fleet.flush()
            self.answer(fleet, node, TOLD)
            last = client.text().rstrip().rpartition("data: ")[2]
            error = json.loads(last)["error"]
            assert ("invalid_request_error", FAULT) == (error["type"], error["message"])

    @covers("5 node 500 each time")
    def test_lasting_fault(self) -> None:
        """A fault that each node would repeat says so, and is tried nowhere else."""
        first, second = self.scripted("a"), self.scripted("b")
        fleet = self.fleet(first, second)
        for path in ROUTES:
            client = self.post(fleet, path)
            self.answer(fleet, first, "shape mismatch in matmul, lhs: [1, 8], rhs: [9, 8]")
            assert (500, "false") == (client.status, client.headers["x-should-retry"]), path
        assert [] == second.requests

    @covers("5 node busy")
    def test_busy_node(self) -> None:
        """A node that refuses work for now is passed over; without another one the client waits."""
        fleet, node = self.alone()
        for path in ROUTES:
            client = self.post(fleet, path)
            node.answer(503, b'{"error":{"message":"full","code":"service_unavailable"}}')
            fleet.flush()
            assert (529 if path == MESSAGES else 503) == client.status
            assert "1" == client.headers["retry-after"]
            assert "x-should-retry" not in client.headers
