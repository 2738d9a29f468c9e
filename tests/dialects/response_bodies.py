"""Requests for responses that become chats, and what a client gets for a node's chat answer."""

import json
from collections import Counter
from typing import Any, get_args

import httpx2
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent

from cortexd.dialects.routes.responses import read_request
from cortexd.dialects.wire.exchange import Exchange, Responder
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.profile import MISTRALRS, Profile
from tests.dialects.bodies import refusal
from tests.dialects.node_answers import relay, stream
from tests.dialects.response_events import read

_EVENTS = {
    literal: model
    for model in get_args(get_args(ResponseStreamEvent)[0])
    for literal in get_args(model.model_fields["type"].annotation)
}
"""The SDK's model of each event, by its type; to try the whole union takes 50 times as long."""

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "search", "parameters": {"type": "object", "properties": {}}},
    {"type": "function", "name": "read"},
    {"type": "custom", "name": "patch", "description": "Patches."},
    {"type": "namespace", "name": "files", "tools": [{"type": "function", "name": "list"}]},
]


def exchange(profile: Profile = MISTRALRS, /, **fields: object) -> Exchange:
    """Return the exchange of a request with these fields."""
    body = json.dumps({"model": "alias", "input": "hi"} | fields).encode()
    return read_request(body).exchange("org/target", [profile], random_id="x", now=7.5)


def sent(profile: Profile = MISTRALRS, /, **fields: object) -> dict[str, Any]:
    """Return what a node of this profile is sent for these fields."""
    body: dict[str, Any] = decode(exchange(profile, **fields).first.body)
    return body


def noted(profile: Profile = MISTRALRS, /, **fields: object) -> list[str]:
    """Return the approximations of a request with these fields."""
    return list(exchange(profile, **fields).first.approximations)


def messages(*items: object, profile: Profile = MISTRALRS, **fields: object) -> list[Any]:
    """Return the chat messages for these items."""
    found: list[Any] = sent(profile, input=list(items), **fields)["messages"]
    return found


def refused(profile: Profile = MISTRALRS, /, **fields: object) -> str | None:
    """Return the path of the field for which a request is refused."""
    return refusal(read_request, profile, **{"input": "hi", **fields}).param


def responder(**fields: object) -> Responder:
    """Return the responder of a streamed request, unless the fields say otherwise."""
    return exchange(**{"stream": True, "tools": TOOLS, **fields}).first.make_responder()


def streamed(*chunks: object, **fields: object) -> list[dict[str, Any]]:
    """Return the events for a node's chunks, each checked, and all of them together."""
    events = read(relay(responder(**fields), stream(*chunks)))
    check(events)
    return events


def whole(*chunks: object, **fields: object) -> dict[str, Any]:
    """Return the whole response for a node's chunks, checked."""
    found: dict[str, Any] = decode(relay(responder(stream=False, **fields), stream(*chunks)))
    validate(found)
    return found


def validate(response: dict[str, Any]) -> None:
    """Assert that a response is one of the SDK, field by field."""
    Response.model_validate(response)


def check(events: list[dict[str, Any]]) -> None:
    """Assert that events are those of one response, in the order that clients rely on."""
    for event in events:
        _EVENTS[event["type"]].model_validate(event)
    assert list(range(len(events))) == [event["sequence_number"] for event in events]
    kinds = [event["type"] for event in events]
    assert ["response.created", "response.in_progress"] == kinds[:2]
    assert 1 == kinds.count("response.created")
    last = events[-1]
    assert last["type"] == f"response.{last['response']['status']}"
    assert 1 == len({event["response"]["id"] for event in events if "response" in event})
    opened: list[str] = []  # what is added and not yet done, the outermost first
    done: list[Any] = []
    texts: Counter[str] = Counter()
    spelled: dict[str, str] = {}
    for event in events:
        kind = event["type"].removeprefix("response.")
        name, _, step = kind.rpartition(".")
        if "output_index" in event:
            assert event["output_index"] == len(done), "one item at a time"
        if step == "added":
            opened.append(name)
        elif step == "delta":
            assert opened
            spelled[event["item_id"]] = spelled.get(event["item_id"], "") + event["delta"]
        elif kind == "output_item.done":
            assert ["output_item"] == opened
            opened.clear()
            done.append(event["item"])
        elif step == "done" and name in opened:
            assert name == opened.pop()
        elif step == "done":
            texts[name] += 1
            text = next(event[each] for each in ("text", "arguments", "input") if each in event)
            assert spelled.get(event["item_id"], "") == text
    if last["type"] != "response.failed":
        assert [] == opened
    assert done == last["response"]["output"]


def of_sdk(answer: bytes) -> Response:
    """Return what the stream helper of OpenAI's SDK makes of a streamed answer."""
    given = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=answer)
    transport = httpx2.MockTransport(lambda _: given)
    sdk = OpenAI(api_key="none", max_retries=0, http_client=httpx2.Client(transport=transport))
    with sdk.responses.stream(model="m", input="hi") as events:
        return events.get_final_response()
