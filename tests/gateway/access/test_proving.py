"""Requests whose key comes for the first time: they wait for its comparison in a thread."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.access.making import Given, bearer, given
from tests.support.fleets import FleetTestCase, InMemoryFleet
from tests.testing.client import CHAT

LARGE = 200_000


def head(length: int | None, key: str | None, *more: str, path: str = CHAT) -> bytes:
    """Return the head of a POST with a body of this length, or a chunked one."""
    lines = [f"POST {path} HTTP/1.1", "Host: a", "Content-Type: application/json", *more]
    lines += [f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join([*lines, "", ""]).encode()


def chat(size: int) -> bytes:
    """Return the body of a chat, of so many bytes."""
    text = '{"model": "acme/chat", "messages": [{"role": "user", "content": "%s"}]}'
    return (text % ("x" * (size - len(text) + 2))).encode()


class ProvingTestCase(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = given("alice")

    def keyed(self) -> InMemoryFleet:
        """Return a fleet that requires keys, whose thread is held; each has its own clock."""
        self.clock = Clock()
        fleet = self.fleet(self.node(), keys=[self.alice.key])
        fleet.worker.is_held = True
        return fleet


def wrong(key: Given) -> str:
    """Return a key with the id of another and a wrong secret."""
    return key.text[:-1] + ("b" if key.text[-1] == "a" else "a")


class SmallBodyTests(ProvingTestCase):
    def test_the_request_waits(self) -> None:
        """It is answered, or refused, once its key was compared; requests after it at once."""
        fleet = self.keyed()
        right, bad = (
            fleet.chat(headers=self.alice.bearer),
            fleet.chat(headers=bearer(wrong(self.alice))),
        )
        assert not any(each.ended for each in (right, bad))
        assert 2 == fleet.answers.in_flight
        fleet.worker.release()
        fleet.flush()

        assert (200, 401) == (right.status, bad.status)
        fleet.worker.is_held = True
        assert 200 == fleet.chat(headers=self.alice.bearer).status
        assert 401 == fleet.chat(headers=bearer(wrong(self.alice))).status

    def test_a_client_that_leaves(self) -> None:
        """Nothing of its request is left, and its key need not be compared again."""
        fleet = self.keyed()
        client = fleet.chat(headers=self.alice.bearer)
        fleet.leave(client)
        assert 0 == fleet.answers.in_flight
        fleet.worker.release()
        fleet.worker.is_held = True

        assert 200 == fleet.chat(headers=self.alice.bearer).status
        assert [] == [each for each in fleet.log_events if "crashed" in each["event"]]

    def test_a_client_that_leaves_its_answer(self) -> None:
        """The stream for a key's first request ends at its node as any other does."""
        node = self.node(prompt_seconds=10, token_seconds=1)
        fleet = self.fleet(node, keys=[self.alice.key])
        fleet.worker.is_held = True
        client = fleet.stream(headers=self.alice.bearer)
        fleet.worker.release()
        fleet.flush()
        fleet.advance(11)
        assert 1 == len(fleet.fleet.leases)
        fleet.leave(client)

        assert "client_gone" == fleet.events("request")[-1]["outcome"]
        assert [] == fleet.node_ends("a")
        assert [] == list(fleet.fleet.leases)
        assert [] == [each for each in fleet.log_events if "crashed" in each["event"]]

    def test_public_routes(self) -> None:
        """They do not wait for the key, and an unknown route needs none."""
        fleet = self.keyed()
        for path, status in (("/health", 200), ("/", 200), ("/nowhere", 404), (CHAT, 405)):
            assert status == fleet.get(path, **self.alice.bearer).status
            assert status == fleet.get(path).status

    def test_requests_in_a_row(self) -> None:
        """The second on a connection is read after the first was answered."""
        fleet = self.keyed()
        client = fleet.connect()
        body = chat(100)
        fleet.send(client, 2 * (head(len(body), self.alice.text) + body))
        assert b"" == client.received
        fleet.worker.release()
        fleet.flush()
        assert 2 == client.received.count(b"HTTP/1.1 200")

    def test_a_gateway_that_stops(self) -> None:
        """It waits for the comparison, and refuses the request as any other new one."""
        fleet = self.keyed()
        client = fleet.chat(headers=self.alice.bearer)
        drained: list[object] = []
        self.defer(fleet.answers.drain(10.0), drained)
        assert [] == drained
        fleet.worker.release()
        fleet.flush()
        assert ([None], 503) == (drained, client.status)

    def test_one_that_is_cut(self) -> None:
        """When the time to stop is over, the request fails without its comparison."""
        fleet = self.keyed()
        client = fleet.chat(headers=self.alice.bearer)
        self.defer(fleet.answers.drain(10.0), [])
        fleet.advance(10.0)
        assert 503 == client.status
        fleet.worker.release()

    def defer(self, course: object, results: list[object]) -> None:
        """Run a coroutine, and collect its result."""
        Deferred.fromCoroutine(course).addCallback(results.append)  # type: ignore[arg-type] # it is one


class LargeBodyTests(ProvingTestCase):
    def test_it_is_not_read_before_the_key_is_valid(self) -> None:
        """The connection is not read on, and then goes on where it was."""
        fleet = self.keyed()
        client, body = fleet.connect(), chat(LARGE)
        fleet.send(client, head(len(body), self.alice.text))
        fleet.send(client, body[:100_000])
        fleet.send(client, body[100_000:])
        assert 0 == fleet.parts.site.body_memory.used
        transport: Any = client.transport
        assert transport.unread
        fleet.worker.release()
        fleet.flush()

        assert client.received.startswith(b"HTTP/1.1 200")

    def test_chunks(self) -> None:
        """Of a body without a length, no more than a small one is read."""
        fleet = self.keyed()
        client, body = fleet.connect(), chat(LARGE)
        pieces = [body[at : at + 50_000] for at in range(0, LARGE, 50_000)]
        fleet.send(client, head(None, self.alice.text))
        for piece in pieces:
            fleet.send(client, b"%x\r\n%b\r\n" % (len(piece), piece))
        fleet.send(client, b"0\r\n\r\n")
        assert fleet.parts.site.body_memory.used <= 65_536
        fleet.worker.release()
        fleet.flush()

        assert client.received.startswith(b"HTTP/1.1 200")

    def test_a_wrong_key(self) -> None:
        """It is refused in the envelope of the route, and the connection ends in order."""
        for path, expected in (
            (CHAT, b"invalid_api_key"),
            ("/v1/messages", b"authentication_error"),
        ):
            fleet = self.keyed()
            client, body = fleet.connect(), chat(LARGE)
            fleet.send(client, head(len(body), wrong(self.alice), path=path))
            fleet.send(client, body)
            fleet.worker.release()
            fleet.flush()

            assert client.received.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
            assert expected in client.received
            assert b'WWW-Authenticate: Bearer realm="cortex"' in client.received
            assert 1 == client.received.count(b"HTTP/1.1")
            assert "done" == client.closed
            assert 1 == len(fleet.events("request_refused"))

    def test_no_key(self) -> None:
        """A large body is refused as soon as its head is in, or as it turns out to be large."""
        fleet = self.keyed()
        stated, chunks = fleet.connect(), fleet.connect()
        fleet.send(stated, head(LARGE, None))
        fleet.send(chunks, head(None, None))
        assert b"" == chunks.received
        for _ in range(3):
            fleet.send(chunks, b"%x\r\n%b\r\n" % (30_000, b"x" * 30_000))
        for client in (stated, chunks):
            assert client.received.startswith(b"HTTP/1.1 401")
        assert 0 == fleet.parts.site.body_memory.used
        assert 2 == fleet.sample("cortex_requests_denied_total", reason="absent")

    def test_routes_that_need_no_key(self) -> None:
        """Strangers send no large body there either."""
        fleet = self.keyed()
        for path in ("/health", "/nowhere"):
            client = fleet.connect()
            fleet.send(client, head(LARGE, None, path=path))
            assert client.received.startswith(b"HTTP/1.1 413")
        client = fleet.connect()
        fleet.send(client, head(10, None, path="/nowhere") + b"x" * 10)
        assert client.received.startswith(b"HTTP/1.1 404")

    def test_expect(self) -> None:
        """The go-ahead comes after the comparison, and only for a valid key."""
        for key, first in ((self.alice.text, b"100 Continue"), (wrong(self.alice), b"401")):
            fleet = self.keyed()
            client, body = fleet.connect(), chat(LARGE)
            fleet.send(client, head(len(body), key, "Expect: 100-continue"))
            assert b"" == client.received
            fleet.worker.release()
            fleet.flush()
            assert client.received.startswith(b"HTTP/1.1 " + first)
            assert (b"100 Continue" in client.received) == (key == self.alice.text)
            if key == self.alice.text:
                fleet.send(client, body)
                assert b"HTTP/1.1 200" in client.received

    def test_a_wait_is_no_slowness(self) -> None:
        """The time while we do not read counts neither as a slow body nor as an idle connection."""
        fleet = self.keyed()
        client, body = fleet.connect(), chat(LARGE)
        fleet.send(client, head(len(body), self.alice.text))
        fleet.send(client, body)
        fleet.advance(200.0)
        assert (b"", "") == (client.received, client.closed)
        fleet.worker.release()
        fleet.flush()
        assert client.received.startswith(b"HTTP/1.1 200")

    def test_a_client_that_leaves(self) -> None:
        """Its connection ends, and nothing of the request is left."""
        fleet = self.keyed()
        client, body = fleet.connect(), chat(LARGE)
        fleet.send(client, head(len(body), self.alice.text))
        fleet.send(client, body[:1000])
        transport: Any = client.transport
        transport.abortConnection()
        fleet.flush()
        fleet.worker.release()
        fleet.flush()
        assert 0 == len(fleet.parts.site.connections)

    def test_too_many_wait(self) -> None:
        """The request gets 503, or 529 in Messages, with a time to retry."""
        fleet = self.keyed()
        others = [fleet.chat(headers=given().bearer) for _ in range(70)]
        assert {503} == {each.status for each in others if each.ended}
        for path, status in ((CHAT, b"503"), ("/v1/messages", b"529")):
            client = fleet.connect()
            fleet.send(client, head(LARGE, given().text, path=path))
            assert client.received.startswith(b"HTTP/1.1 " + status)
            assert b"Retry-After: 2" in client.received
        fleet.worker.release()
        fleet.flush()


class OldClientTests(ProvingTestCase):
    def test_http_1_0(self) -> None:
        """Its request is answered after the comparison, and the connection ends."""
        fleet = self.keyed()
        client, body = fleet.connect(), chat(100)
        fleet.send(client, head(100, self.alice.text).replace(b"HTTP/1.1", b"HTTP/1.0") + body)
        fleet.worker.release()
        fleet.flush()
        assert b" 200 " in client.received
        assert "done" == client.closed
