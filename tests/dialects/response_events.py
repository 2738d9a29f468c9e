"""A request for a response that a node answers itself, and what it streams for it."""

import json
from dataclasses import replace
from typing import Any

from cortexd import sse
from cortexd.dialects.routes.responses import read_request
from cortexd.dialects.wire.exchange import Exchange, Responder
from cortexd.dialects.wire.json_values import decode, encode
from cortexd.dialects.wire.profile import MISTRALRS
from cortexd.sse import SseDecoder

NATIVE = replace(MISTRALRS, native_responses=True)


def exchange(**fields: object) -> Exchange:
    body = json.dumps({"model": "alias", "input": "hi", "stream": True} | fields).encode()
    return read_request(body).exchange("org/target", [NATIVE], random_id="x", now=7.5)


def responder(**fields: object) -> Responder:
    return exchange(**fields).first.make_responder()


def event(kind: str, **fields: object) -> bytes:
    """Return a node's event as bytes."""
    return sse.encode(encode({"type": kind, **fields}), kind.encode())


def response(status: str, **fields: object) -> dict[str, object]:
    return {"id": "resp_1", "object": "response", "model": "org/target", "status": status, **fields}


CREATED = event("response.created", response=response("in_progress", instructions="be kind"))
DELTA = event("response.output_text.delta", delta="hé\u2028 llo")
COMPLETED = event(
    "response.completed",
    response=response("completed", usage={"input_tokens": 3, "output_tokens": 2}),
)
WHOLE = CREATED + DELTA + DELTA + COMPLETED


def read(told: bytes) -> list[dict[str, Any]]:
    """Return the data of events, each of which says the same by its name and its type."""
    events = SseDecoder().feed(told)
    data: list[dict[str, Any]] = [decode(each.data) for each in events]
    assert [each.name.decode() for each in events] == [each["type"] for each in data]
    return data
