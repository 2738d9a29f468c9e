import json
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from cortexd.errors import BadGateway, NodeTimeout
from cortexd.fleet.outcomes import LifecycleStatus, Outcome
from cortexd.testing import SimulatedModel, SimulatedNode
from cortexd.upstream.client import NodeClient
from tests.upstream.test_client import CLOSED, PORT, UpstreamTestCase, response

CHAT_BODY = {"model": "a/b", "messages": "hi", "stream": True}
LOADED = Outcome(LifecycleStatus.LOADED)
UNLOADED = Outcome(LifecycleStatus.UNLOADED)
RELOADING = Outcome(LifecycleStatus.RELOADING)
NOT_FOUND = Outcome(LifecycleStatus.NOT_FOUND)

CALLS: tuple[tuple[str, Callable[[NodeClient], Any]], ...] = (
    ("POST /v1/models/status", lambda client: client.status("a/b", 2)),
    ("POST /v1/models/reload", lambda client: client.load("a/b", 2)),
    ("POST /v1/models/unload", lambda client: client.unload("a/b", 2)),
    ("GET /metrics", lambda client: client.requests_in_flight(2)),
)


class LifecycleTestCase(UpstreamTestCase):
    def node(self, **options: Any) -> SimulatedNode:
        node = SimulatedNode(
            self.clock,
            models=[
                SimulatedModel(id="a/b", size_mb=1_000),
                SimulatedModel(id="c", size_mb=2_000, load_seconds=60, loaded=False),
            ],
            **options,
        )
        self.successResultOf(Deferred.fromCoroutine(node.listen(self.network, PORT)))

        def close() -> None:
            self.successResultOf(Deferred.fromCoroutine(node.close()))

        self.addCleanup(close)
        return node

    def outcome(self, operation: str, model: str) -> Outcome:
        """Return what an operation answers at once."""
        asked = self.start(getattr(self.client, operation)(model, 10))
        outcome = self.successResultOf(asked)
        assert isinstance(outcome, Outcome)
        return outcome


class OperationTests(LifecycleTestCase):
    def test_status(self) -> None:
        """A model is loaded, unloaded, or not known."""
        self.node()
        assert [LOADED, UNLOADED, NOT_FOUND] == [
            self.outcome("status", model) for model in ("a/b", "c", "default")
        ]

    def test_unload(self) -> None:
        """An unload is answered at once, a second one alike."""
        node = self.node()
        assert [UNLOADED, UNLOADED] == [self.outcome("unload", "a/b") for _ in range(2)]
        assert () == node.loaded_models

    def test_load(self) -> None:
        """A load is answered when the model is loaded, and others say reloading until then."""
        node = self.node()
        load = self.start(self.client.load("c", 1_800))
        self.network.advance(59)
        self.assertNoResult(load)
        assert [RELOADING, RELOADING] == [self.outcome(ask, "c") for ask in ("status", "load")]
        self.network.advance(1)
        assert LOADED == self.successResultOf(load)
        assert ("a/b", "c") == node.loaded_models

    def test_a_load_that_does_not_fit(self) -> None:
        """It is an outcome in the node's words, known to be for want of memory."""
        self.node(memory_mb=2_500)
        load = self.start(self.client.load("c", 1_800))
        self.network.advance(60)
        assert Outcome(
            LifecycleStatus.INTERNAL_ERROR,
            'failed to load model: DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")',
            out_of_memory=True,
        ) == self.successResultOf(load)

    def test_a_load_that_fails(self) -> None:
        """It is an outcome too, for another reason."""
        self.node().faults.fail_load["c"] = "no such file\n   0: backtrace"
        load = self.start(self.client.load("c", 1_800))
        self.network.advance(60)
        assert Outcome(
            LifecycleStatus.INTERNAL_ERROR, "failed to load model: no such file"
        ) == self.successResultOf(load)

    def test_a_load_that_panics(self) -> None:
        """No answer comes, and the connection breaks."""
        self.node().faults.panic_load.add("c")
        load = self.start(self.client.load("c", 1_800))
        self.network.advance(60)
        failure = self.failureResultOf(load)
        failure.trap(BadGateway)
        assert CLOSED == failure.getErrorMessage()

    def test_a_load_outlives_who_asked_for_it(self) -> None:
        """When the limit has passed the connection closes, and the node goes on."""
        node = self.node()
        load = self.start(self.client.load("c", 30))
        self.network.advance(30)
        failure = self.failureResultOf(load)
        failure.trap(NodeTimeout)
        assert "no answer within 30 s" == failure.getErrorMessage()
        assert [] == self.network.open_ends(PORT)
        self.network.advance(30)
        assert LOADED == self.outcome("status", "c")
        assert {"c": 1} == node.journal.report().loads

    def test_the_request(self) -> None:
        """It is JSON with the model's id, which may hold anything."""
        model = '/srv/ü"{}\n'
        self.listen(response(json.dumps({"model_id": model, "status": "loaded"}).encode()))
        assert LOADED == self.outcome("load", model)
        head, _, body = self.speakers[-1].heard.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v1/models/reload HTTP/1.1\r\n")
        assert b"Content-Type: application/json" in head
        assert {"model_id": model} == json.loads(body)


class InFlightTests(LifecycleTestCase):
    def in_flight(self) -> Mapping[str, int] | None:
        asked = self.start(self.client.requests_in_flight(2))
        counted: Mapping[str, int] | None = self.successResultOf(asked)
        return counted

    def test_counts(self) -> None:
        """Streams count until their end, loads do not, and neither does this very question."""
        self.node(token_seconds=1)
        streams = [
            self.client.open("/v1/chat/completions", json.dumps(CHAT_BODY).encode(), {})
            for _ in range(2)
        ]
        self.network.flush()
        self.start(self.client.load("c", 1_800)).addErrback(lambda _: None)
        assert {"a/b": 2} == self.in_flight()
        for stream in streams:
            self.successResultOf(stream)
        self.network.advance(10)
        assert {"a/b": 0} == self.in_flight()
        self.network.advance(60)

    def test_idle(self) -> None:
        """A node that has been asked for nothing but its models has no request in flight."""
        self.node()
        self.successResultOf(self.start(self.client.listing(2)))
        assert {} == self.in_flight()

    def test_not_counted(self) -> None:
        """A node without that gauge, without metrics, or with metrics off, says nothing."""
        for words in (
            response(b"", "404 Not Found"),
            response(b"metrics disabled", "503 Service Unavailable"),
            response(b""),
            response(b"# TYPE mistralrs_sequences_running gauge\nmistralrs_sequences_running 1\n"),
            response(b"http_requests_in_flight 3\n"),
            response(b'http_requests_in_flight_total{model="a"} 3\n'),
            response(b"<html>"),
        ):
            self.pool.closeCachedConnections()
            self.listen(words)
            assert self.in_flight() is None, words

    def test_only_its_own_lines_are_read(self) -> None:
        """What else is among the metrics does not matter, however odd."""
        self.listen(
            response(
                b"# HELP http_requests_in_flight requests\n# TYPE http_requests_in_flight gauge\n"
                b'http_requests_in_flight{method="POST",path="/v1/responses",model="a\\"\\\\b"} 2\n'
                b'http_requests_in_flight{method="POST",path="/v1/messages",model="a\\"\\\\b"} 1\n'
                b"\nhttp_request_duration_seconds_bucket{le=\xff nonsense\n"
            )
        )
        assert {'a"\\b': 3} == self.in_flight()

    def test_nonsense(self) -> None:
        """Of its own lines every one must be right."""
        for lines in (
            b'http_requests_in_flight{model="a"} many',
            b'http_requests_in_flight{model="a"} NaN',
            b'http_requests_in_flight{model="a',
        ):
            self.pool.closeCachedConnections()
            self.listen(response(lines + b"\n"))
            failure = self.failureResultOf(self.start(self.client.requests_in_flight(2)))
            failure.trap(BadGateway)
            assert failure.getErrorMessage().startswith("GET /metrics: http_requests_in_flight")

    @settings(max_examples=60)
    @given(st.text('abmodel="{},\\ 0123456789.e+-NaInf#\tü', max_size=40), st.booleans())
    def test_any_text(self, line: str, labelled: bool) -> None:
        """Whatever stands there is counts, nothing, or a failure in words."""
        self.pool.closeCachedConnections()
        self.network.flush()
        words = f"http_requests_in_flight{'{' if labelled else ' '}{line}\n".encode()
        self.listen(response(words))
        ended: list[Any] = []
        self.start(self.client.requests_in_flight(2)).addBoth(ended.append)
        (result,) = ended
        if not (result is None or isinstance(result, dict)):
            result.trap(BadGateway)


class FailureTests(LifecycleTestCase):
    def failure(self, call: Callable[[NodeClient], Any], seconds: float = 0) -> Any:
        """Return how a call fails once that much time has passed."""
        asked = self.start(call(self.client))
        self.network.advance(seconds)
        return self.failureResultOf(asked)

    def test_cancelling_closes_the_connection(self) -> None:
        """It fails with CancelledError, before the head as well as after it."""
        for _, call in CALLS:
            for words in (b"", response(b"{", length=100)):
                self.listen(words)
                asked = self.start(call(self.client))
                asked.cancel()
                self.network.flush()
                failure = self.failureResultOf(asked)
                assert CancelledError is failure.type, failure
                assert self.speakers[-1].closed

    def test_cancelling_a_connect(self) -> None:
        """Before anybody has answered the connect, it ends that."""
        self.network.black_holes.add(PORT)
        for _, call in CALLS:
            asked = self.start(call(self.client))
            asked.cancel()
            self.network.flush()
            assert CancelledError is self.failureResultOf(asked).type
            assert [] == self.clock.getDelayedCalls()

    def test_silence_has_a_limit(self) -> None:
        """And then the connection closes."""
        for _, call in CALLS:
            self.listen(b"")
            failure = self.failure(call, 2)
            failure.trap(NodeTimeout)
            assert "no answer within 2 s" == failure.getErrorMessage()
            assert self.speakers[-1].closed

    def test_a_broken_connection(self) -> None:
        """It is told in words, as is one that is refused."""
        for _, call in CALLS:
            self.network.ports.pop(PORT, None)
            refused = self.failure(call, 1)
            refused.trap(BadGateway)
            assert "connection refused" == refused.getErrorMessage()
            self.listen(b"", lambda transport: transport.abortConnection())
            reset = self.failure(call)
            reset.trap(BadGateway)
            assert CLOSED == reset.getErrorMessage()

    def test_another_status(self) -> None:
        """It is told with the path, and in the node's words where it has some."""
        for path, call in CALLS:
            self.pool.closeCachedConnections()
            words = b"missing field `model_id`\nat line 1"
            self.listen(response(words, "422 Unprocessable Entity"))
            failure = self.failure(call)
            failure.trap(BadGateway)
            told = f"{path} answered with status 422"
            if path.startswith("POST"):
                told += ": missing field `model_id`"
            assert told == failure.getErrorMessage()

    def test_a_bad_answer(self) -> None:
        """A 200 that says nothing known is a failure in words."""
        for body, words in (
            (b"<html>", "the answer is not valid JSON"),
            (b"[]", "the answer is not a JSON object"),
            (b'{"model_id":"a"}', "the status is None, which is not known"),
            (b'{"status":"pending"}', "the status is 'pending', which is not known"),
        ):
            for path, call in CALLS[:3]:
                self.pool.closeCachedConnections()
                self.listen(response(body))
                failure = self.failure(call)
                failure.trap(BadGateway)
                assert f"{path}: {words}" == failure.getErrorMessage()
