"""Clients in memory for simulated nodes that speak the Messages API, and the SDK as a reader."""

import json
from typing import Any

import httpx2
from anthropic import Anthropic
from anthropic.types import Message

from cortexd.sse import SseDecoder
from cortexd.testing import SimulatedNode
from tests.doubles.messages_api.node import SimulatedMessagesNode
from tests.doubles.native_node import SimulatedNativeNode
from tests.testing.client import JSON_HEADERS, Bench, Exchange

MESSAGES = "/v1/messages"
HEADERS = {**JSON_HEADERS, "anthropic-version": "2023-06-01"}
CLOCK_TOOL = {"name": "clock", "input_schema": {"type": "object"}}
SAY_TOOL = {
    "name": "say",
    "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}},
}
ASKED: dict[str, Any] = {
    "model": "acme/chat",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hi"}],
}


class MessagesBench(Bench):
    """A mistral.rs node on a Clock of its own, and a client of its Messages API."""

    kind: type[SimulatedNode] = SimulatedNativeNode

    def ask(
        self,
        content: object = "hi",
        *,
        path: str = MESSAGES,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> Exchange:
        """POST a message of one user turn, by default to the model acme/chat."""
        turns = [{"role": "user", "content": content}]
        body = {"model": "acme/chat", "max_tokens": 100, "messages": turns, **fields}
        return self.send("POST", path, json.dumps(body).encode(), HEADERS | (headers or {}))

    def go_on(self, *turns: tuple[str, object], **fields: Any) -> Exchange:
        """POST a message of several turns, each a role and its content."""
        messages = [{"role": role, "content": content} for role, content in turns]
        return self.ask(**{"messages": messages, **fields})

    def count(self, content: object = "hi", **fields: Any) -> Exchange:
        """POST one user turn for a count of its tokens."""
        return self.ask(content, path=f"{MESSAGES}/count_tokens", **fields)


class FullBench(MessagesBench):
    """A Messages-only node on a Clock of its own, and a client of it."""

    kind = SimulatedMessagesNode


def events_of(exchange: Exchange) -> list[Any]:
    """Return the events so far, decoded; each is named after its type."""
    events = SseDecoder().feed(exchange.body)
    decoded = [json.loads(event.data) for event in events]
    assert [event.name.decode() for event in events] == [each["type"] for each in decoded]
    return decoded


def text_of(exchange: Exchange) -> str:
    """Return the text streamed so far, or the text of a whole message."""
    if exchange.headers["content-type"] == "text/event-stream":
        deltas = [each["delta"] for each in events_of(exchange) if "delta" in each]
        return "".join(delta.get("text", "") for delta in deltas)
    return "".join(block.get("text", "") for block in exchange.json()["content"])


def error_of(exchange: Exchange) -> tuple[int | None, str, str]:
    """Return status, type and message of an error in the API's envelope."""
    body = exchange.json()
    assert "error" == body["type"]
    return exchange.status, body["error"]["type"], body["error"]["message"]


def client_that_reads(exchange: Exchange) -> Anthropic:
    """Return an SDK client whose server sends this answer."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": exchange.headers["content-type"]}
        return httpx2.Response(exchange.status or 0, headers=headers, content=exchange.body)

    transport = httpx2.MockTransport(answer)
    return Anthropic(api_key="none", max_retries=0, http_client=httpx2.Client(transport=transport))


def read_by_sdk(exchange: Exchange) -> Message:
    """Return the message that the SDK parses from an answer, streamed or whole."""
    client = client_that_reads(exchange)
    if exchange.headers["content-type"] == "text/event-stream":
        with client.messages.stream(**ASKED) as stream:
            return stream.get_final_message()
    message = client.messages.create(**ASKED)
    assert isinstance(message, Message)
    return message
