"""What clients are told of waits: the status of a model's load, and the events of ``/api/events``.

The events are unnamed, with all that they say in their JSON, as those of llama-swap's
``/api/events`` and of llama.cpp's ``/models/sse`` are: a page that listens to ``message`` gets all
of them. ``status`` and ``progress.value`` have the words and the scale of the latter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from cortexd import sse
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.fleet.learning.load_times import LoadEstimate

ROUTE: Final = "/api/models/{id}/load-status"
EVENTS_ROUTE: Final = "/api/events"
HEARTBEAT: Final = sse.comment(b"heartbeat")

RETRY_MILLISECONDS: Final = 2_000


def beginning() -> bytes:
    """Return the first bytes of the stream: after how long a client comes back when it ends."""
    return b"retry: %d\n\n" % RETRY_MILLISECONDS


def expectation(phase: str, place: int, seconds: float, *, is_measured: bool) -> JsonObject:
    """Return what a request may expect, for the objects below; ``seconds`` from now on."""
    return {
        "phase": phase,
        "place": place,
        "expected_seconds": round(seconds, 3),
        "is_measured": is_measured,
    }


def load_status_body(
    model: str,
    state: str,
    queued: int,
    expected: JsonObject | None,
    nodes: Iterable[JsonObject],
) -> bytes:
    """Return the answer to ``GET /api/models/{id}/load-status``.

    ``queued`` is how many requests wait for the model, and ``expected`` what one more may expect.
    """
    about = {} if expected is None else dict(expected)
    about.pop("place", None)
    return encode({"model": model, "state": state, "queued": queued, **about, "nodes": list(nodes)})


def node_status(
    node: str,
    state: str,
    usual: LoadEstimate,
    progress: JsonObject | None,
    failure: str,
) -> JsonObject:
    """Return one node of that answer: what a load there usually takes, and how far one is now."""
    status: JsonObject = {
        "node": node,
        "state": state,
        "load_seconds": round(usual.seconds, 3),
        "load_deviation_seconds": round(usual.deviation, 3),
        "is_warm": usual.is_warm,
        "is_measured": usual.is_measured,
    }
    if progress is not None:
        status["progress"] = progress
    if failure:
        status["failure"] = failure
    return status


def load_progress(elapsed: float, rest: float, share: float) -> JsonObject:
    """Return how far a load is: ``value`` from 0 to 1, the rest in seconds."""
    return {
        "value": round(share, 3),
        "elapsed_seconds": round(elapsed, 3),
        "expected_seconds": round(rest, 3),
    }


def model_event(
    model: str, node: str, status: str, progress: JsonObject | None = None, failure: str = ""
) -> bytes:
    """Return the event of a model that is in another state on a node, or further in its load."""
    event: JsonObject = {"type": "model_status", "model": model, "node": node, "status": status}
    if progress is not None:
        event["progress"] = progress
    if failure:
        event["failure"] = failure
    return sse.encode(encode(event))


def request_event(
    request_id: str, model: str, status: str, expected: JsonObject | None = None
) -> bytes:
    """Return the event of a request: it waits, has a replica or has left the queue."""
    event: JsonObject = {
        "type": "request_status",
        "request_id": request_id,
        "model": model,
        "status": status,
        **(expected or {}),
    }
    return sse.encode(encode(event))


REQUEST_STATES: Final[Sequence[str]] = ("waiting", "granted", "left")
"""The states of a request in its events."""
