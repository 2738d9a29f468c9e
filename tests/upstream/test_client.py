from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet import error as network_errors
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import (
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)

from cortexd.engines.messages import MessagesServer
from cortexd.engines.mistralrs import MistralRs
from cortexd.errors import BadGateway, NodeTimeout
from cortexd.fleet.states import ReplicaState, SystemInfo
from cortexd.testing import SimulatedModel, SimulatedNode
from cortexd.upstream.advice import MAYBE_TLS
from cortexd.upstream.client import MAX_ANSWER_BYTES, MAX_URLS, NodeClient, collect, describe
from cortexd.upstream.connection import UnfitAnswer
from cortexd.upstream.connections import make_http_client
from tests.support.network import Network

PORT = 9001
CLOSED = "the connection was closed before the answer was complete"
EMPTY_LIST = b'{"object":"list","data":[]}'

T = TypeVar("T")


def response(body: bytes, head: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {head}\r\nContent-Length: {size}\r\n\r\n".encode() + body


class Speaker(Protocol):
    """A server that says ``words`` to the first bytes it hears, then does ``after``."""

    def __init__(self, words: bytes, after: Callable[[Any], None] | None) -> None:
        self.heard = b""
        self.closed = False
        self._words = words
        self._after = after

    def dataReceived(self, data: bytes) -> None:
        first, self.heard = not self.heard, self.heard + data
        if first:
            transport: Any = self.transport
            transport.write(self._words)
            if self._after is not None:
                self._after(transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True


class UpstreamTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.network = Network(self.clock)
        self.http, self.pool = make_http_client(self.network, connect_timeout=5)
        self.client = NodeClient(
            "a", f"http://127.0.0.1:{PORT}", self.http, self.clock, MistralRs()
        )
        self.speakers: list[Speaker] = []
        self.addCleanup(self.leave_nothing)

    def leave_nothing(self) -> None:
        self.pool.closeCachedConnections()
        self.network.flush()
        assert [] == self.clock.getDelayedCalls()

    def listen(self, words: bytes, after: Callable[[Any], None] | None = None) -> None:
        """Answer every connection with these bytes from now on."""

        def make() -> Speaker:
            self.speakers.append(Speaker(words, after))
            return self.speakers[-1]

        factory = Factory()
        factory.protocol = make
        self.network.ports.pop(PORT, None)
        self.network.listenTCP(PORT, factory)

    def start(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        started = Deferred.fromCoroutine(coroutine)
        self.network.flush()
        return started

    def refusal(self, kind: type[BadGateway] | type[NodeTimeout], seconds: float = 0) -> str:
        """Return how a listing fails with this error once that much time has passed."""
        listing = self.start(self.client.listing(2))
        if seconds:
            self.network.advance(seconds)
        failure = self.failureResultOf(listing)
        assert kind is failure.type, failure
        error: Any = failure.value
        assert isinstance(error.message, str)
        return error.message


class MessagesNodeTests(UpstreamTestCase):
    def test_listing(self) -> None:
        """A node that speaks Messages alone is asked in its dialect, for all on one page."""
        self.listen(response(b'{"data":[{"type":"model","id":"m"}],"has_more":false}'))
        client = NodeClient(
            "a", f"http://127.0.0.1:{PORT}", self.http, self.clock, MessagesServer()
        )

        seen = self.successResultOf(self.start(client.listing(2)))

        assert {"m": ReplicaState.LOADED} == seen.replicas
        heard = self.speakers[-1].heard
        assert heard.startswith(b"GET /v1/models?limit=1000 HTTP/1.1\r\n")
        assert b"\r\nanthropic-version: 2023-06-01\r\n" in heard.lower()


class CredentialsTests(UpstreamTestCase):
    def test_every_request_has_the_key(self) -> None:
        """The node's key goes with polls, questions and requests alike."""
        self.listen(response(EMPTY_LIST))
        client = NodeClient(
            "a",
            f"http://127.0.0.1:{PORT}",
            self.http,
            self.clock,
            MistralRs(),
            credentials={"X-Api-Key": "sk-1"},
        )

        asks: tuple[Deferred[Any], ...] = (
            Deferred.fromCoroutine(client.listing(2)),
            Deferred.fromCoroutine(client.forward("GET", "/x", {}, 2)),
            client.open("/v1/messages", b"{}", {}),
        )
        for asked in asks:
            self.network.flush()
            self.successResultOf(asked)
            assert b"\r\nx-api-key: sk-1\r\n" in self.speakers[-1].heard.lower()
            self.pool.closeCachedConnections()
            self.network.flush()


class ForwardTests(UpstreamTestCase):
    def test_as_it_is(self) -> None:
        """Method, path and headers go out as given; status and body come back, of errors too."""
        for method in ("GET", "DELETE", "POST"):
            self.listen(response(b'{"message":"no"}', "404 Not Found"))
            asked = self.client.forward(method, "/v1/x/a%2Fb", {"X-Request-ID": "r1"}, 2)

            answer = self.successResultOf(self.start(asked))
            assert (404, b'{"message":"no"}') == (answer.status, answer.body)
            assert (None, {}) == (answer.content_type, answer.disposition)
            assert self.speakers[-1].heard.startswith(f"{method} /v1/x/a%2Fb HTTP/1.1\r\n".encode())
            assert b"\r\nx-request-id: r1\r\n" in self.speakers[-1].heard.lower()
            self.pool.closeCachedConnections()
            self.network.flush()

    def test_with_a_body(self) -> None:
        """JSON goes out by any method, and back come the headers that say what came."""
        said = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/csv\r\n"
        self.listen(said + b"Content-Disposition: inline\r\n\r\n1,")
        asked = self.client.forward("PUT", "/v1/x", {}, 2, b'{"a":1}')

        answer = self.successResultOf(self.start(asked))
        assert (b"1,", "text/csv", {"Content-Disposition": "inline"}) == (
            answer.body,
            answer.content_type,
            answer.disposition,
        )
        heard = self.speakers[-1].heard
        assert heard.startswith(b"PUT /v1/x HTTP/1.1\r\n")
        assert heard.endswith(b'{"a":1}')
        assert b"\r\ncontent-type: application/json\r\n" in heard.lower()

    def test_many_paths(self) -> None:
        """Paths with ids in them are as many as there are ids, and none is kept."""
        self.listen(response(b""))
        for number in range(MAX_URLS + 10):
            asked = self.client.forward("PUT", f"/v1/x/{number}", {}, 2, b"{}")
            assert 200 == self.successResultOf(self.start(asked)).status
            assert self.speakers[-1].heard.startswith(f"PUT /v1/x/{number} ".encode())
            self.pool.closeCachedConnections()
            self.network.flush()
        assert MAX_URLS == len(self.client._urls)

    def test_a_limit(self) -> None:
        """A node that says nothing has its time, and then the connection is closed."""
        self.listen(b"")
        asked = self.start(self.client.forward("GET", "/v1/x", {}, 2))
        self.assertNoResult(asked)
        self.network.advance(2)

        assert "no answer within 2 s" == self.failureResultOf(asked, NodeTimeout).value.message
        self.network.flush()
        assert self.speakers[-1].closed

    def test_nobody_there(self) -> None:
        """A node that refuses is a bad gateway, in words."""
        asked = self.start(self.client.forward("GET", "/v1/x", {}, 2))

        assert "connection refused" == self.failureResultOf(asked, BadGateway).value.message


class ReadingTests(UpstreamTestCase):
    def node(self) -> SimulatedNode:
        node = SimulatedNode(
            self.clock,
            memory_mb=24_576,
            models=[SimulatedModel(id="a/b", size_mb=1000), SimulatedModel(id="c", loaded=False)],
        )
        self.successResultOf(Deferred.fromCoroutine(node.listen(self.network, PORT)))

        def close() -> None:
            self.successResultOf(Deferred.fromCoroutine(node.close()))

        self.addCleanup(close)
        return node

    def test_a_listing_is_an_observation(self) -> None:
        """The models with their states, less the pseudo-model, and the start of the process."""
        node = self.node()
        observation = self.successResultOf(self.start(self.client.listing(2)))

        assert {"a/b": ReplicaState.LOADED, "c": ReplicaState.UNLOADED} == observation.replicas
        assert node.unix_time() == observation.created

    def test_the_system_is_read_in_mebibytes(self) -> None:
        """Of the accelerators together, with the version."""
        self.node()
        system = self.successResultOf(self.start(self.client.system_info(15)))

        assert SystemInfo("0.9.2", 24_576, 23_576) == system

    def test_a_connection_serves_again(self) -> None:
        """One after another, requests take one connection."""
        self.listen(response(EMPTY_LIST))
        self.successResultOf(self.start(self.client.listing(2)))
        again = self.start(self.client.listing(2))
        (speaker,) = self.speakers
        assert 2 == speaker.heard.count(b"GET /v1/models HTTP/1.1\r\n")
        again.cancel()
        self.network.flush()
        self.failureResultOf(again)


class FailureTests(UpstreamTestCase):
    def test_silence_has_a_limit(self) -> None:
        """Whether nobody connects, nothing comes, or the body never ends: NodeTimeout, on time."""
        self.network.black_holes.add(PORT)
        assert "no answer within 2 s" == self.refusal(NodeTimeout, 2)
        self.network.black_holes.clear()
        for words in (b"", response(b"{", length=100)):
            self.listen(words)
            listing = self.start(self.client.listing(2))
            self.network.advance(1.9)
            self.assertNoResult(listing)
            self.network.advance(0.1)
            failure = self.failureResultOf(listing)
            assert NodeTimeout is failure.type, failure
            assert "no answer within 2 s" == failure.getErrorMessage()
            assert self.speakers[-1].closed

    def test_cancelling_closes_the_connection(self) -> None:
        """And fails with CancelledError, before the head as well as after it."""
        for words in (b"", response(b"{", length=100)):
            self.listen(words)
            listing = self.start(self.client.listing(2))
            listing.cancel()
            self.network.flush()
            failure = self.failureResultOf(listing)
            assert CancelledError is failure.type, failure
            assert self.speakers[-1].closed

    def test_cancelling_an_opening_is_no_fault_of_the_node(self) -> None:
        """It fails with CancelledError, though Twisted's Agent has another name for it."""
        self.listen(b"")
        opening = self.client.open("/v1/chat/completions", b"{}", {})
        self.network.flush()
        opening.cancel()
        self.network.flush()
        failure = self.failureResultOf(opening)
        assert CancelledError is failure.type, failure
        assert self.speakers[-1].closed

    def test_a_bad_answer_is_told_in_words(self) -> None:
        """With the path, and what is wrong."""
        for words, reason in (
            (response(b"oh\n  at", "500 Oh"), "GET /v1/models answered with status 500: oh"),
            (response(b"", "302 Found"), "GET /v1/models answered with status 302: no message"),
            (response(b"<html>"), "GET /v1/models: the answer is not valid JSON"),
            (response(b"[]"), "GET /v1/models: the answer is not a JSON object"),
            (response(b"{}"), "GET /v1/models: the model list has no 'data' array"),
            (
                response(b'{"data":[{}]}'),
                "GET /v1/models: the model list has an entry without an id",
            ),
        ):
            self.pool.closeCachedConnections()
            self.listen(words)
            assert reason == self.refusal(BadGateway)

    def test_what_breaks_on_the_way_is_told_in_words(self) -> None:
        """Of our own: no exception's name, no module's."""
        assert "connection refused" == self.refusal(BadGateway, 1)

        def close(transport: Any) -> None:
            transport.loseConnection()

        def reset(transport: Any) -> None:
            transport.abortConnection()

        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        for words in (b"", b"HTTP/1.1 200 OK\r\n", response(b"{", length=9), chunked):
            for after in (close, reset):
                self.listen(words, after)
                expected = CLOSED if words else f"{CLOSED}; {MAYBE_TLS}"
                assert expected == self.refusal(BadGateway), (words, after)

    def test_what_is_no_http_cannot_be_understood(self) -> None:
        """A server of something else is told from one that broke off."""
        self.listen(b"220 mail.example ESMTP ready and waiting\r\n\r\n")
        assert self.refusal(BadGateway).endswith("the answer cannot be understood")


class CollectTests(UpstreamTestCase):
    def collecting(self, body: bytes, limit: int) -> Deferred[bytes]:
        self.listen(response(body))
        opening = self.client.open("/v1/embeddings", b"{}", {"X-Request-ID": "r"})
        self.network.flush()
        collecting = collect(self.successResultOf(opening), limit)
        self.network.flush()
        return collecting

    def test_a_body_up_to_the_limit_is_returned(self) -> None:
        """The limit itself included; the request went out as JSON under its id."""
        body = b"x" * 2**20
        assert body == self.successResultOf(self.collecting(body, 2**20))
        heard = self.speakers[-1].heard
        assert heard.startswith(b"POST /v1/embeddings HTTP/1.1\r\n")
        assert b"Content-Type: application/json\r\n" in heard
        assert b"X-Request-Id: r\r\n" in heard or b"X-Request-ID: r\r\n" in heard

    def test_a_longer_body_is_refused(self) -> None:
        """With the limit in words."""
        failure = self.failureResultOf(self.collecting(b"x" * (2**20 + 1), 2**20))
        failure.trap(UnfitAnswer)
        assert "the answer is larger than 1 MiB" == failure.getErrorMessage()

    def test_an_endless_body_is_cut_at_the_limit(self) -> None:
        """Without waiting for its end."""
        self.listen(response(b"x" * 3 * 2**20, length=MAX_ANSWER_BYTES * 2))
        opening = self.client.open("/v1/embeddings", b"{}", {})
        self.network.flush()
        collecting = collect(self.successResultOf(opening), 2 * 2**20)
        self.network.flush()
        failure = self.failureResultOf(collecting)
        assert "the answer is larger than 2 MiB" == failure.getErrorMessage()
        assert self.speakers[-1].closed


class DescribeTests(SynchronousTestCase):
    def test_each_failure_has_its_words(self) -> None:
        """Those that Twisted wraps in another too."""
        lost, refused = network_errors.ConnectionLost(), network_errors.ConnectionRefusedError()
        for error, words in (
            (refused, "connection refused"),
            (network_errors.DNSLookupError("x"), "the host name cannot be resolved"),
            (network_errors.TimeoutError(), "the connection attempt timed out"),
            (network_errors.UserError(), "the connection attempt timed out"),
            (network_errors.ConnectError(string="No route to host."), "No route to host"),
            (network_errors.ConnectionDone(), CLOSED),
            (lost, CLOSED),
            (network_errors.ConnectionAborted(), CLOSED),
            (ResponseDone(), CLOSED),
            (ResponseNeverReceived([Failure(lost)]), CLOSED),
            (RequestTransmissionFailed([Failure(lost)]), CLOSED),
            (ResponseFailed([Failure(refused)]), "connection refused"),
            (ResponseFailed([]), "the connection broke off"),
            (RequestGenerationFailed([Failure(lost)]), "the request could not be sent"),
            (BadGateway("as it says"), "as it says"),
            (NodeTimeout("as it says"), "as it says"),
            (ValueError("secret"), "ValueError: the answer cannot be understood"),
        ):
            assert words in describe(error), error
            assert "secret" not in describe(error)
