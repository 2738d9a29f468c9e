"""What is a fault of a node is one on every route, and never the client's."""

import json
from collections.abc import Callable
from typing import Any

from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.relays import RelayTestCase, failures_counted
from tests.support.scripted import ScriptedNode
from tests.testing.client import CHAT


def bodies(text: str = "hi") -> dict[str, dict[str, Any]]:
    """Return the fields of a request for each route, each with this text."""
    turns = [{"role": "user", "content": text}]
    return {
        CHAT: {"messages": turns},
        "/v1/messages": {"messages": turns, "max_tokens": 9},
        "/v1/responses": {"input": text, "store": False},
        "/v1/completions": {"prompt": text},
        "/v1/embeddings": {"input": text},
        "/v1/images/generations": {"prompt": text},
        "/v1/audio/speech": {"input": text},
    }


ROUTES = tuple(bodies())
PAGE = b"<html><head><title>Log in</title></head></html>"
POISONED = b'{"message":"DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \\"an illegal memory access\\")"}'
REFUSED = b'{"message":"no such field"}'
FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'


def answers(status: int, body: bytes, kind: str = "text/html") -> Callable[[ScriptedNode], None]:
    return lambda node: node.answer(status, body, kind)


def moved(node: ScriptedNode) -> None:
    node.requests[-1].setHeader("Location", "https://login.example/")
    node.answer(302, PAGE, "text/html")


def empty(node: ScriptedNode) -> None:
    node.requests[-1].setResponseCode(204)
    node.requests[-1].finish()


FAULTS: dict[str, Callable[[ScriptedNode], None]] = {
    "a redirection": moved,
    "no content": empty,
    "an acceptance": answers(202, b"{}", "application/json"),
    "a page": answers(200, PAGE),
    "a page of a proxy": answers(502, PAGE),
    "a page with status 500": answers(500, PAGE),
    "a dead engine": answers(500, POISONED, "application/json"),
    "cuBLAS": answers(500, b'{"message":"CublasError(CUBLAS_STATUS_INTERNAL_ERROR)"}'),
    "a reset": lambda node: node.reset(),
}


class NodeFaultTests(RelayTestCase):
    sent = 0

    def post(self, fleet: InMemoryFleet, path: str) -> Client:
        """Send a request that no node has had before."""
        self.sent += 1
        return fleet.request("POST", path, json={"model": MODEL, **bodies(str(self.sent))[path]})

    def test_another_node_is_asked(self) -> None:
        """On each route, whatever shape the fault has; the client gets the other node's answer."""
        first, second = self.scripted("a"), self.scripted("b")
        fleet = self.fleet(first, second, eject_after=0)
        for path in ROUTES:
            for fault, cause in FAULTS.items():
                asked = {node.name: len(node.requests) for node in (first, second)}
                client = self.post(fleet, path)
                bad = first if len(first.requests) > asked["a"] else second
                good = second if bad is first else first
                cause(bad)
                fleet.flush()
                assert len(good.requests) == asked[good.name] + 1, (path, fault)
                good.answer(422, REFUSED)
                fleet.flush()
                assert (400, "no such field") == (client.status, client.json()["error"]["message"])
                self.assert_at_rest(fleet)

    def test_the_client_is_not_blamed(self) -> None:
        """Without another node each fault is a status above 499 in the envelope of the route."""
        fleet, node = self.alone()
        for path in ROUTES:
            for fault, cause in FAULTS.items():
                client = self.post(fleet, path)
                cause(node)
                fleet.flush()
                assert client.status in (500, 502), (path, fault)
                assert "application/json" == client.headers["content-type"]
                assert "<html" not in client.json()["error"]["message"]
        counted = [
            failures_counted(fleet, "bad", code) or 0 for code in ("bad_gateway", "node_error")
        ]
        assert len(ROUTES) * len(FAULTS) == sum(counted)

    def test_streams(self) -> None:
        """A page in place of a stream is one too, for a client that streams."""
        fleet, node = self.alone()
        for path in (CHAT, "/v1/messages", "/v1/responses"):
            fields = {"model": MODEL, "stream": True, **bodies()[path]}
            client = fleet.request("POST", path, json=fields)
            node.answer(200, PAGE, "text/html")
            fleet.flush()
            assert 502 == client.status
            assert "text/html instead of an event stream" in client.json()["error"]["message"]

    def test_uploads(self) -> None:
        """A fault of an upload is one, too, but no other node gets a file that may be stored."""
        first, second = self.scripted("a"), self.scripted("b")
        fleet = self.fleet(first, second)
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        for fault, cause in FAULTS.items():
            before = len(first.requests) + len(second.requests)
            form = FORM.replace(b"x", fault.encode())
            client = fleet.request("POST", "/v1/files", body=form, headers=headers)
            cause(first if first.requests and not first.requests[-1].finished else second)
            fleet.flush()
            assert client.status in (500, 502), fault
            assert before + 1 == len(first.requests) + len(second.requests), fault
            self.assert_at_rest(fleet)

    def test_questions_by_id(self) -> None:
        """What a node stores is asked for once, and a page is no answer to that."""
        fleet, node = self.alone()
        client = fleet.chat(session_id="s")
        answer = {"id": "1", "choices": [{"index": 0, "message": {"content": "x"}}]}
        node.answer(200, json.dumps({**answer, "session_id": "s"}).encode())
        fleet.flush()
        assert 200 == client.status, client.text()
        node.pages["/v1/sessions/s"] = PAGE
        node.page_type = "text/html"
        asked = fleet.get("/v1/sessions/s")
        assert (502, True) == (asked.status, "<html" not in asked.text())
