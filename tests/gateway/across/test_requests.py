"""What clients leave out or write as other servers have it, on each route alike."""

import json
from typing import Any

from tests.covers import covers
from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.relays import DONE, RelayTestCase
from tests.support.scripted import ScriptedNode
from tests.testing.client import CHAT

MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
HELLO = [{"role": "user", "content": "hi"}]
PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}
FORCED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO, "tools": [FUNCTION], "tool_choice": "required"},
    MESSAGES: {
        "messages": HELLO,
        "max_tokens": 9,
        "tools": [{"name": "f", "input_schema": PARAMETERS}],
        "tool_choice": {"type": "any"},
    },
    RESPONSES: {
        "input": "hi",
        "store": False,
        "tools": [{"type": "function", "name": "f", "parameters": PARAMETERS}],
        "tool_choice": "required",
    },
}
CALL = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
WHOLE = {
    "id": "7",
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
NO_CALL = {"message": "Tool choice was required but no tools were called.", "type": "server_error"}


class DefaultTests(RelayTestCase):
    def test_absent_model(self) -> None:
        """A request without a model is for the default one, on every route."""
        fleet, node = self.alone()
        for path, body in (
            (CHAT, {"messages": HELLO}),
            (MESSAGES, {"messages": HELLO, "max_tokens": 9}),
            ("/v1/responses", {"input": "hi", "store": False}),
            ("/v1/completions", {"prompt": "hi"}),
            ("/v1/embeddings", {"input": "hi"}),
            ("/v1/images/generations", {"prompt": "hi"}),
            ("/v1/audio/speech", {"input": "hi"}),
        ):
            for absent in ({}, {"model": None}):
                fleet.request("POST", path, json={**body, **absent})
                assert MODEL == node.newest_body["model"], path
                node.answer(422, b"no")
                fleet.flush()
        count = fleet.request(
            "POST", "/v1/messages/count_tokens", json={"messages": HELLO, "max_tokens": 9}
        )
        assert 200 == count.status

    @covers("3 C->C no limits")
    def test_no_limits(self) -> None:
        """A limit below 0 means none, in chats and in completions."""
        fleet, node = self.alone()
        none = {"max_tokens": -1, "max_completion_tokens": -1, "top_k": -1}
        for path, body in ((CHAT, {"messages": HELLO}), ("/v1/completions", {"prompt": "hi"})):
            fleet.request("POST", path, json={"model": MODEL, **body, **none})
            assert not none.keys() & node.newest_body.keys()
            node.answer(422, b"no")
            fleet.flush()


class ForcedCallTests(RelayTestCase):
    def post(self, fleet: InMemoryFleet, path: str, *, streams: bool) -> Client:
        body = {"model": MODEL, "stream": streams, **FORCED[path]}
        return fleet.request("POST", path, json=body)

    def fail_to_call(self, fleet: InMemoryFleet, node: ScriptedNode) -> None:
        node.stream(b"data: " + json.dumps({"error": NO_CALL}).encode() + b"\n\n", DONE, end=True)
        fleet.flush()

    def answer(self, fleet: InMemoryFleet, node: ScriptedNode) -> None:
        node.answer(200, json.dumps(WHOLE).encode())
        fleet.flush()

    @covers("3 C->C forced call")
    def test_chat(self) -> None:
        """Where the stream fails the answer is asked whole, from then on at once."""
        self.asked_whole(CHAT)

    def test_messages(self) -> None:
        """The same for a client of the other dialect."""
        self.asked_whole(MESSAGES)

    def test_responses(self) -> None:
        """The same for a client of responses."""
        self.asked_whole(RESPONSES)

    def asked_whole(self, path: str) -> None:
        fleet, node = self.alone()
        for streams in (True, False, True):
            is_first = not node.requests
            client = self.post(fleet, path, streams=streams)
            assert is_first is bool(node.newest_body.get("stream"))
            if is_first:
                self.fail_to_call(fleet, node)
            self.assert_waiting(client)
            assert not {"stream", "stream_options"} & node.newest_body.keys()
            self.answer(fleet, node)
            assert (200, "clean") == (client.status, client.ended)
            kind = "text/event-stream" if streams else "application/json"
            assert client.headers["content-type"].startswith(kind)
            assert '"name":"f"' in client.text()
            if path == CHAT:
                assert '"arguments":""' not in client.text()
        assert 4 == len(node.requests)
        self.assert_at_rest(fleet)

    def test_after_a_sign_of_life(self) -> None:
        """A client that has got keep-alives gets the answer in the same stream."""
        fleet, node = self.alone()
        client = self.post(fleet, CHAT, streams=True)
        fleet.advance(6)
        assert 200 == client.status
        self.fail_to_call(fleet, node)
        fleet.advance(11)
        self.answer(fleet, node)
        assert "clean" == client.ended
        assert "[DONE]" == client.events()[-1]
        assert "tool_calls" == client.choices()[-1]["finish_reason"]

    def test_no_call_at_all(self) -> None:
        """A model that does not call whole either is told of in the node's words."""
        fleet, node = self.alone()
        client = self.post(fleet, CHAT, streams=True)
        self.fail_to_call(fleet, node)
        node.answer(500, json.dumps(NO_CALL).encode())
        fleet.flush()
        assert (500, NO_CALL["message"]) == (client.status, client.error["message"])
        assert 2 == len(node.requests)

    def test_choice_of_its_own(self) -> None:
        """A model that may choose keeps its stream."""
        fleet, node = self.alone()
        self.post(fleet, CHAT, streams=True)
        self.fail_to_call(fleet, node)
        node.answer(422, b"no")
        fleet.flush()
        fleet.stream(tools=[FUNCTION])
        assert node.newest_body["stream"]
