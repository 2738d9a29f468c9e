"""Failures of an answer between a node and a client, and the nodes that cause them."""

import json
from collections.abc import Callable
from typing import Any

from cortexd.sse import MAX_EVENT_BYTES
from tests.support.fleets import MODEL, Client, FleetTestCase, InMemoryFleet
from tests.support.scripted import ScriptedNode

DONE = b"data: [DONE]\n\n"
NODE_COMMENT = b":\n\n"
OUR_COMMENT = ": keep-alive\n\n"
OUT_OF_MEMORY = b'{"error":{"message":"CUDA out of memory"}}'
CLOSED = "the connection was closed before the answer was complete"
BROKEN_OFF = "the node broke off before the answer was complete"


def chunk(text: str, finish_reason: str | None = None) -> bytes:
    choice = {
        "index": 0,
        "delta": {"role": "assistant", "content": text},
        "finish_reason": finish_reason,
    }
    body = {"id": "7", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def reset(node: ScriptedNode) -> None:
    node.reset()


def reset_after_headers(node: ScriptedNode) -> None:
    node.stream(b"")
    reset(node)


def end(node: ScriptedNode) -> None:
    node.stream(b"", end=True)


def end_after_a_comment(node: ScriptedNode) -> None:
    node.stream(NODE_COMMENT, end=True)


def done_without_a_finish(node: ScriptedNode) -> None:
    node.stream(DONE, end=True)


def error_inside(node: ScriptedNode) -> None:
    node.stream(b"data: " + OUT_OF_MEMORY + b"\n\n", DONE, end=True)


def plain_text_inside(node: ScriptedNode) -> None:
    node.stream(b"data: No response received from the model.\n\n", DONE, end=True)


def given_up(node: ScriptedNode) -> None:
    node.stream(chunk("", "error"), DONE, end=True)


def no_chunk(node: ScriptedNode) -> None:
    node.stream(b"data: [1]\n\n")


def endless_event(node: ScriptedNode) -> None:
    node.stream(b"data: " + b"x" * MAX_EVENT_BYTES)


def answers(status: int, body: bytes) -> Callable[[ScriptedNode], None]:
    def answer(node: ScriptedNode) -> None:
        node.answer(status, body)

    return answer


FAULTS_IN_A_STREAM: tuple[tuple[Callable[[ScriptedNode], None], str, str], ...] = (
    (reset, "bad_gateway", f"node bad: {CLOSED}"),
    (end, "bad_gateway", BROKEN_OFF),
    (end_after_a_comment, "bad_gateway", BROKEN_OFF),
    (done_without_a_finish, "bad_gateway", BROKEN_OFF),
    (error_inside, "node_error", "CUDA out of memory"),
    (plain_text_inside, "bad_gateway", "No response received from the model."),
    (given_up, "bad_gateway", "the node aborted the answer (error)"),
    (no_chunk, "bad_gateway", "the node sent an event that is not an object"),
    (endless_event, "bad_gateway", f"node bad: an event is larger than {MAX_EVENT_BYTES} bytes"),
)

FAULTS_INSTEAD: tuple[tuple[Callable[[ScriptedNode], None], int, str], ...] = (
    (reset_after_headers, 502, "bad_gateway"),
    (answers(404, b"nothing here"), 502, "bad_gateway"),
    (answers(429, b"later"), 429, "rate_limit_exceeded"),
    (answers(502, b"a proxy's words"), 502, "bad_gateway"),
    (answers(503, b""), 502, "bad_gateway"),
    (answers(504, b"too slow"), 504, "timeout"),
    (answers(500, OUT_OF_MEMORY), 500, "node_error"),
    (answers(500, b'{"message":"the engine state lock is poisoned"}'), 502, "bad_gateway"),
    (answers(422, b'{"message":"Model `x` is being reloaded"}'), 503, "model_not_loaded"),
    (answers(500, b'{"message":"failed to reload model"}'), 503, "model_not_loaded"),
    (
        answers(404, b'{"message":"x is not available. Available models: y"}'),
        404,
        "model_not_found",
    ),
)

REFUSALS: tuple[tuple[int, bytes, int, str | None], ...] = (
    (400, b'{"message":"no such option"}', 400, None),
    (415, b'{"message":"no such media"}', 400, None),
    (422, b'{"message":"missing field"}', 400, None),
    (413, b"length limit exceeded", 413, "request_too_large"),
    (500, b'{"message":"The prompt is too long for us"}', 400, "context_length_exceeded"),
    (500, b'{"message":"the engine fell over"}', 500, "node_error"),
)


def error_in(client: Client) -> Any:
    """Return the error in the stream's last event."""
    last = json.loads(client.events()[-1])
    assert {"error"} == last.keys()
    return last["error"]


def refusal_of(client: Client) -> Any:
    assert "application/json" == client.headers["content-type"]
    return client.json()["error"]


def failures_counted(fleet: InMemoryFleet, node: str, code: str) -> float | None:
    return fleet.sample("cortex_upstream_errors_total", node=node, code=code)


class RelayTestCase(FleetTestCase):
    def bad_and_good(self, **settings: Any) -> tuple[InMemoryFleet, ScriptedNode]:
        """Return a fleet whose first choice is the scripted node "bad"; the node "good" works.

        However often a node fails, it is not ejected.
        """
        bad = self.scripted("bad")
        return self.fleet(bad, self.node("good"), **{"eject_after": 0, **settings}), bad

    def alone(self, **settings: Any) -> tuple[InMemoryFleet, ScriptedNode]:
        """Return a fleet with only the scripted node "bad", which is never ejected."""
        bad = self.scripted("bad")
        return self.fleet(bad, **{"eject_after": 0, **settings}), bad

    def assert_waiting(self, client: Client) -> None:
        """Assert that the client has received no byte yet."""
        assert client.status is None

    def assert_at_rest(self, fleet: InMemoryFleet) -> None:
        """Assert that no request holds a lease or a resource."""
        assert () == fleet.fleet.leases
        for node in fleet.nodes:
            assert fleet.sample("cortex_requests_in_flight", model=MODEL, node=node) in (0, None)
            assert 0 == fleet.fleet.nodes[node].leases
