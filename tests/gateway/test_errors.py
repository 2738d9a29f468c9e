"""Each cause of an error, and what a client of either dialect is told of it: translation.md 5."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from cortexd.gateway.routes import Gateway
from tests.covers import covers
from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.relays import RelayTestCase
from tests.support.scripted import ScriptedNode
from tests.testing.client import CHAT

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
COLD = "acme/cold"
ONE_SLOT = {MODEL: {"max_concurrency": 1}}
HELLO = [{"role": "user", "content": "hi"}]

Act = Callable[[InMemoryFleet, ScriptedNode], None]


class Told(NamedTuple):
    """What a client is told: ``code`` is only a chat client's, and empty where it gets none."""

    status: int
    type: str
    code: str | None = None


def answers(status: int, body: bytes, **headers: str) -> Act:
    def act(fleet: InMemoryFleet, node: ScriptedNode) -> None:
        for name, value in headers.items():
            node.requests[-1].setHeader(name.replace("_", "-"), value)
        node.answer(status, body)
        fleet.flush()

    return act


def streams(data: bytes) -> Act:
    def act(fleet: InMemoryFleet, node: ScriptedNode) -> None:
        node.stream(data, end=True)
        fleet.flush()

    return act


class ErrorTestCase(RelayTestCase):
    def post(self, fleet: InMemoryFleet, path: str, **fields: object) -> Client:
        body = {"model": MODEL, "max_tokens": 9, "messages": HELLO, **fields}
        return fleet.request("POST", path, json=body)

    def check(self, client: Client, told: Told) -> str:
        """See that a client is told so in its own envelope; return the words."""
        assert (told.status, "application/json") == (client.status, client.headers["content-type"])
        body = client.json()
        error: dict[str, Any] = body["error"]
        if told.code is None:
            assert {"type": "error", "error": error, "request_id": body["request_id"]} == body
            assert {"type", "message"} == error.keys()
            assert body["request_id"] == client.headers["request-id"]
        else:
            assert {"error": error} == body
            assert {"message", "type", "param", "code"} == error.keys()
            assert client.headers["x-request-id"]
            assert (told.code or None) == error["code"]
        assert told.type == error["type"]
        words: str = error["message"]
        assert words
        return words

    def both(
        self,
        act: Act,
        messages: Told,
        chat: Told,
        fleet: InMemoryFleet | None = None,
        node: ScriptedNode | None = None,
    ) -> list[Client]:
        """See what either client is told when its node acts so; return them."""
        if fleet is None or node is None:
            fleet, node = self.alone(upstream_timeout=60)
        clients = []
        for path, told in ((MESSAGES, messages), (CHAT, chat)):
            client = self.post(fleet, path)
            act(fleet, node)
            self.check(client, told)
            clients.append(client)
        return clients


def paths_with_a_body() -> list[str]:
    """Return a path of every route that takes a POST or a PUT, less those that unload models."""
    rules = Gateway.app.url_map.iter_rules()
    taking = {rule.rule for rule in rules if {"POST", "PUT"} & (rule.methods or set())}
    known = {path for path in taking if "unload" not in path}
    return [
        path.replace("<any(cancel):action>", "cancel").replace("<", "").replace(">", "")
        for path in sorted(known)
    ]


class RequestTests(ErrorTestCase):
    """The request is at fault, or what it asks for."""

    @covers("5 malformed", "T41")
    def test_malformed(self) -> None:
        """400, with the path of the field in the words, and in param for a chat."""
        fleet, _ = self.alone()
        theirs, ours = Told(400, "invalid_request_error"), Told(400, "invalid_request_error", "")
        for path, told in ((MESSAGES, theirs), (COUNT_TOKENS, theirs), (CHAT, ours)):
            for body in (b"{", b"", b"[]", b'{"model":"acme/chat"}', b"\xff"):
                self.check(fleet.request("POST", path, body=body), told)
        wrong = self.post(fleet, MESSAGES, messages=[{"role": "wizard", "content": "hi"}])
        assert "messages[0].role" in self.check(wrong, theirs)
        chat = self.post(fleet, CHAT, n=2, stream=True)
        self.check(chat, ours._replace(code="unsupported_value"))
        assert "n" == chat.json()["error"]["param"]

    @covers("5 unknown model or route", "T41")
    def test_unknown(self) -> None:
        """404 for a model that nobody has, and for a path that nobody serves."""
        fleet, _ = self.alone()
        theirs, ours = Told(404, "not_found_error"), Told(404, "invalid_request_error", "")
        words = self.check(self.post(fleet, MESSAGES, model="nope"), theirs)
        assert "nope" in words
        self.check(self.post(fleet, CHAT, model="nope"), ours._replace(code="model_not_found"))
        self.check(fleet.request("POST", f"{MESSAGES}/batches"), theirs)
        self.check(fleet.request("POST", f"{CHAT}/x"), ours._replace(code="unknown_url"))

    @covers("5 method", "T41")
    def test_method(self) -> None:
        """405, with the methods that the path takes."""
        fleet, _ = self.alone()
        for path, told in (
            (MESSAGES, Told(405, "invalid_request_error")),
            (COUNT_TOKENS, Told(405, "invalid_request_error")),
            (CHAT, Told(405, "invalid_request_error", "method_not_allowed")),
        ):
            client = fleet.request("GET", path)
            self.check(client, told)
            assert "POST" == client.headers["allow"]

    @covers("5 too large", "T41")
    def test_too_large(self) -> None:
        """413, whether we or the node find the body too large."""
        theirs = Told(413, "request_too_large")
        ours = Told(413, "invalid_request_error", "request_too_large")
        fleet, node = self.alone(max_body_mb=1)
        for path, told in ((MESSAGES, theirs), (CHAT, ours)):
            large = fleet.request("POST", path, body=b"x" * (1024 * 1024 + 1))
            self.check(large, told)
            client = self.post(fleet, path)
            node.answer(413, b"length limit exceeded", "text/plain")
            fleet.flush()
            self.check(client, told)

    def test_compressed(self) -> None:
        """415 on every route that reads a body, with the encoding and what to send instead."""
        fleet, node = self.alone()
        for path in paths_with_a_body():
            theirs = path.startswith(MESSAGES)
            code = None if theirs else "unsupported_encoding"
            for encoding in ("gzip", "zstd", "br, gzip"):
                client = fleet.request(
                    "PUT" if path.startswith("/v1/sessions") else "POST",
                    path,
                    body=b"\x28\xb5\x2f\xfd",
                    headers={"Content-Encoding": encoding},
                )
                words = self.check(client, Told(415, "invalid_request_error", code))
                assert f"'{encoding}'" in words
                assert "uncompressed" in words
                assert "identity" == client.headers["accept-encoding"]
                assert 415 == fleet.events("request")[-1]["status"]
        assert [] == node.requests

    def test_not_compressed(self) -> None:
        """Whoever says so is served, and so is who has nothing to send."""
        fleet, node = self.alone()
        for encoding in ("identity", "Identity", ""):
            turns = [{"role": "user", "content": f"in {encoding}"}]
            body = json.dumps({"model": MODEL, "messages": turns}).encode()
            fleet.request("POST", CHAT, body=body, headers={"Content-Encoding": encoding})
            node.reset()
            fleet.flush()
        assert 3 == len(node.requests)
        health = fleet.get("/v1/models", **{"Content-Encoding": "gzip"})
        assert 200 == health.status

    @covers("5 node 422")
    def test_node_422(self) -> None:
        """A node's 422 is the client's mistake, in the node's words, of whatever shape."""
        theirs, ours = Told(400, "invalid_request_error"), Told(400, "invalid_request_error", "")
        fleet, node = self.alone()
        for said in (b'{"message":"missing field x"}', b"missing field x"):
            for client in self.both(answers(422, said), theirs, ours, fleet, node):
                assert "missing field x" == client.json()["error"]["message"]


class UpstreamTests(ErrorTestCase):
    """The server behind us refuses, fails, or cannot be reached."""

    @covers("5 bad key")
    def test_bad_key(self) -> None:
        """401: the server behind us wants another key."""
        self.both(
            answers(401, b'{"error":{"message":"no such key"}}'),
            Told(401, "authentication_error"),
            Told(401, "invalid_request_error", "invalid_api_key"),
        )

    @covers("5 budget")
    def test_budget(self) -> None:
        """402, which a chat client knows as 429: what may be spent is spent."""
        self.both(
            answers(402, b'{"error":{"message":"no credit left"}}'),
            Told(402, "billing_error"),
            Told(429, "insufficient_quota", "insufficient_quota"),
        )

    @covers("5 not allowed")
    def test_not_allowed(self) -> None:
        """403."""
        self.both(
            answers(403, b'{"error":{"message":"not for you"}}'),
            Told(403, "permission_error"),
            Told(403, "permission_error", ""),
        )

    @covers("5 policy rate limit")
    def test_rate_limit(self) -> None:
        """429 with the time to come back that the server behind us tells, or our own."""
        for client in self.both(
            answers(429, b"slowly", Retry_After="17"),
            Told(429, "rate_limit_error"),
            Told(429, "rate_limit_error", "rate_limit_exceeded"),
        ):
            assert ("17", "slowly") == (
                client.headers["retry-after"],
                client.json()["error"]["message"],
            )

    @covers("5 policy rate limit")
    def test_rate_limit_without_a_time(self) -> None:
        """A header that is no number of seconds is as good as none."""
        for client in self.both(
            answers(429, b"slowly", Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"),
            Told(429, "rate_limit_error"),
            Told(429, "rate_limit_error", "rate_limit_exceeded"),
        ):
            assert "1" == client.headers["retry-after"]

    @covers("5 node 500")
    def test_node_500(self) -> None:
        """500, in the node's words."""
        for client in self.both(
            answers(500, b'{"message":"the engine fell over"}'),
            Told(500, "api_error"),
            Told(500, "server_error", "node_error"),
        ):
            assert "the engine fell over" == client.json()["error"]["message"]

    @covers("5 node unreachable")
    def test_reset(self) -> None:
        """502 where the connection breaks before an answer."""

        def reset(fleet: InMemoryFleet, node: ScriptedNode) -> None:
            node.reset()
            fleet.flush()

        self.both(reset, Told(502, "api_error"), Told(502, "server_error", "bad_gateway"))

    @covers("5 node unreachable")
    def test_nobody_listens(self) -> None:
        """502 where the node cannot even be connected to."""
        fleet, node = self.alone()
        fleet.pool.closeCachedConnections()
        Deferred.fromCoroutine(node.close())
        fleet.flush()
        for path, told in (
            (MESSAGES, Told(502, "api_error")),
            (CHAT, Told(502, "server_error", "bad_gateway")),
        ):
            client = self.post(fleet, path)
            fleet.advance(5)
            assert "node bad: " in self.check(client, told)
        assert [] == node.requests

    @covers("5 node unreachable")
    def test_bad_body(self) -> None:
        """502 where the answer is none."""
        self.both(
            streams(b"data: [1]\n\n"),
            Told(502, "api_error"),
            Told(502, "server_error", "bad_gateway"),
        )

    @covers("5 upstream timeout")
    def test_silence(self) -> None:
        """504 where the node says nothing for too long."""

        def wait(fleet: InMemoryFleet, node: ScriptedNode) -> None:
            fleet.advance(60)

        self.both(
            wait,
            Told(504, "timeout_error"),
            Told(504, "server_error", "timeout"),
        )

    @covers("5 upstream timeout")
    def test_a_timeout_of_the_nodes_own(self) -> None:
        """504 where a server before the node waits no longer."""
        self.both(
            answers(504, b"too slow"),
            Told(504, "timeout_error"),
            Told(504, "server_error", "timeout"),
        )


class CapacityTests(ErrorTestCase):
    """Nobody can serve the request, for now or ever."""

    def check_overload(self, client: Client, path: str, code: str) -> None:
        theirs, ours = Told(529, "overloaded_error"), Told(503, "server_error", code)
        self.check(client, theirs if path == MESSAGES else ours)
        assert int(client.headers["retry-after"]) >= 1

    @covers("5 no node ready")
    def test_no_node_is_up(self) -> None:
        """529, or 503 for a chat, with a time to come back."""
        node = self.node("deaf")
        node.faults.hang = True
        fleet = self.fleet(node)
        for path in (MESSAGES, CHAT):
            self.check_overload(self.post(fleet, path), path, "overloaded")

    @covers("5 no node ready")
    def test_the_queue_is_full(self) -> None:
        """The same, by a code of its own."""
        fleet, _ = self.alone(models=ONE_SLOT, max_queue=1)
        for _ in range(2):
            self.post(fleet, CHAT)
        for path in (MESSAGES, CHAT):
            self.check_overload(self.post(fleet, path), path, "queue_full")

    @covers("5 no node ready")
    def test_the_wait_is_over(self) -> None:
        """The same for a request that has waited for a slot in vain."""
        fleet, _ = self.alone(models=ONE_SLOT, queue_timeout=20)
        self.post(fleet, CHAT)
        waiting = {path: self.post(fleet, path) for path in (MESSAGES, CHAT)}
        fleet.advance(20)
        for path, client in waiting.items():
            self.check_overload(client, path, "queue_timeout")

    @covers("5 no node ready")
    def test_nothing_is_loaded(self) -> None:
        """The same for a default that no model can stand in for yet."""
        node = self.scripted("a", COLD)
        node.listed = [(COLD, "unloaded")]
        fleet = self.fleet(node)
        for path in (MESSAGES, CHAT):
            client = self.post(fleet, path, model="default")
            self.check_overload(client, path, "model_not_loaded")

    @covers("5 no node ready")
    def test_the_node_loads(self) -> None:
        """The same where the only node says that it has the model no more, but loads it."""
        fleet, node = self.alone()
        for path in (MESSAGES, CHAT):
            client = self.post(fleet, path)
            node.answer(500, b'{"message":"model `x` is being reloaded"}')
            fleet.flush()
            self.check_overload(client, path, "model_not_loaded")

    @covers("5 permanent")
    def test_what_no_node_can_ever_hold(self) -> None:
        """404, and that trying again is in vain."""
        node = self.scripted("a", MODEL, COLD)
        node.listed = [(MODEL, "loaded"), (COLD, "unloaded")]
        fleet = self.fleet(node, models={COLD: {"vram_mb": 50_000}, MODEL: {"vram_mb": 1_000}})
        for path, told in (
            (MESSAGES, Told(404, "not_found_error")),
            (CHAT, Told(404, "invalid_request_error", "model_not_found")),
        ):
            client = self.post(fleet, path, model=COLD)
            assert "50000 MiB" in self.check(client, told)
            assert "false" == client.headers["x-should-retry"]
            assert "retry-after" not in client.headers
