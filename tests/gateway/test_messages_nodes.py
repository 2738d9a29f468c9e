"""Nodes that take Messages themselves, behind the whole gateway: alone, and beside others."""

from collections.abc import Mapping
from typing import Any

from cortexd.sse import SseDecoder
from cortexd.testing import SimulatedModel, SimulatedNode
from tests.covers import covers
from tests.doubles.messages_api.client import SAY_TOOL, read_by_sdk
from tests.support.fleets import MODEL, Client, FleetTestCase, InMemoryFleet

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
NATIVE = {"a": {"anthropic": "native"}}
SAY = {
    "type": "function",
    "function": {
        "name": SAY_TOOL["name"],
        "parameters": SAY_TOOL["input_schema"],
    },
}


def ask(
    fleet: InMemoryFleet,
    text: str = "hi",
    headers: Mapping[str, str | list[str]] | None = None,
    **fields: Any,
) -> Client:
    """POST a message."""
    body = {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": text}],
        **fields,
    }
    return fleet.request("POST", MESSAGES, json=body, headers=headers)


class ChatOnMessagesTests(FleetTestCase):
    def test_catalogue(self) -> None:
        """Its models stand in the one catalogue, loaded, beside those of other nodes."""
        fleet = self.fleet(self.messages_node("m", "acme/far"), self.node("c"))
        listed = {model["id"]: model for model in fleet.get("/v1/models").json()["data"]}

        assert {MODEL, "acme/far"} == listed.keys()
        assert ("loaded", ["m"]) == (listed["acme/far"]["status"], listed["acme/far"]["nodes"])

    def test_whole_chat(self) -> None:
        """A chat client gets a chat's answer, with its tokens, and never knows."""
        fleet = self.fleet(self.messages_node("m"))
        client = fleet.chat("hello there", seed=1)

        answer = client.json()
        assert (200, "m") == (client.status, client.headers["x-cortex-node"])
        assert "approx=max_tokens,seed" == client.headers["x-cortex-translation"]
        assert "chat.completion" == answer["object"]
        assert "You said: hello there" == answer["choices"][0]["message"]["content"]
        assert "stop" == answer["choices"][0]["finish_reason"]
        assert answer["id"].startswith("chatcmpl-")
        (line,) = fleet.events("request")
        assert (2, 4) == (line["prompt_tokens"], line["completion_tokens"])
        assert {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}.items() <= (
            answer["usage"].items()
        )

    @covers("3 stream_options.include_usage")
    def test_streamed_chat(self) -> None:
        """Streamed it is chunks, usage where it was asked for, and the end of a stream."""
        fleet = self.fleet(self.messages_node("m"))
        client = fleet.stream("hello there", stream_options={"include_usage": True})
        fleet.advance(5)

        assert "You said: hello there" == client.content()
        assert ("clean", "[DONE]") == (client.ended, client.events()[-1])
        assert ([], 6) == (
            client.chunks()[-1]["choices"],
            client.chunks()[-1]["usage"]["total_tokens"],
        )
        unasked = fleet.stream("hello there")
        fleet.advance(5)
        assert all(chunk["choices"] and "usage" not in chunk for chunk in unasked.chunks())

    def test_tools(self) -> None:
        """A call comes as a call, and its result goes back as one."""
        fleet = self.fleet(self.messages_node("m"))
        answer = fleet.chat("call:say", tools=[SAY]).json()["choices"][0]
        (call,) = answer["message"]["tool_calls"]
        messages = [
            {"role": "user", "content": "call:say"},
            answer["message"],
            {"role": "tool", "tool_call_id": call["id"], "content": "it said so"},
        ]
        told = fleet.request(
            "POST",
            "/v1/chat/completions",
            json={"model": MODEL, "messages": messages, "tools": [SAY]},
        )

        assert ("tool_calls", "say") == (answer["finish_reason"], call["function"]["name"])
        assert 200 == told.status, told.text()
        assert "it said so" in told.json()["choices"][0]["message"]["content"]

    def test_what_only_the_other_dialect_has(self) -> None:
        """Routes without a translation, and what a chat alone can ask for, are refused at once."""
        node = self.messages_node("m")
        fleet = self.fleet(node)
        embeddings = fleet.request("POST", "/v1/embeddings", json={"model": MODEL, "input": "hi"})
        several = fleet.chat(n=2)

        assert (400, 400) == (embeddings.status, several.status)
        assert "speaks only Messages" in embeddings.json()["error"]["message"]
        assert "n" == several.json()["error"]["param"]
        assert [] == node.journal.requests(MESSAGES)

    def test_beside_a_node_that_chats(self) -> None:
        """What one kind of node cannot take goes to the other kind, whoever has fewer requests."""
        fleet = self.fleet(self.messages_node("m"), self.node("c"))

        nodes = [fleet.chat(n=2).headers["x-cortex-node"] for _ in range(4)]
        both = set()
        for _ in range(4):
            both.add(fleet.chat("hi").headers["x-cortex-node"])
            fleet.advance(1)

        assert ["c"] * 4 == nodes
        assert {"m", "c"} == both

    def test_what_only_nodes_that_chat_keep_and_run(self) -> None:
        """A session, and what a node is to run by itself, begin at a node that has such things."""
        fleet = self.fleet(self.messages_node("m"), self.node("c"))
        ways = ({"session_id": "s"}, {"enable_shell": True}, {"files": [{"name": "a.txt"}]})
        clients = [fleet.chat(**fields) for fields in ways for _ in range(3)]

        assert {"c"} == {client.headers["x-cortex-node"] for client in clients}

    def test_waiting_for_a_node_that_chats(self) -> None:
        """What one kind of node cannot take waits for the other kind, be it unloaded or full."""
        cold = SimulatedModel(id=MODEL, loaded=False, load_seconds=3)
        node = self.node("c", cold, prompt_seconds=2)
        fleet = self.fleet(self.messages_node("m"), node, models={MODEL: {"max_concurrency": 1}})
        clients = [fleet.chat(n=2), fleet.chat(n=2)]
        fleet.advance(10)

        assert [(200, "c")] * 2 == [
            (client.status, client.headers["x-cortex-node"]) for client in clients
        ]

    def test_waiting_for_a_node_that_chats_and_comes_back(self) -> None:
        """Who waits for the other kind is served by any node of it that has the model meanwhile."""
        slow = SimulatedModel(id=MODEL, loaded=False, load_seconds=300)
        away = self.node("d")
        fleet = self.fleet(self.messages_node("m"), self.node("c", slow), away, polled=False)
        away.faults.hang = True
        fleet.poller.startService()
        fleet.advance(2)
        client = fleet.chat(n=2)
        fleet.advance(1)
        assert not client.ended
        away.faults.hang = False
        fleet.advance(10)

        assert (200, "d") == (client.status, client.headers["x-cortex-node"])

    def test_no_node_that_chats(self) -> None:
        """Where the only node that could take it is down, the client is told at once."""
        node = self.node("c")
        fleet = self.fleet(self.messages_node("m"), node)
        node.faults.hang = True
        for _ in range(2):
            fleet.poll()
        client = fleet.chat(n=2)

        assert (503, "5") == (client.status, client.headers["retry-after"])
        assert "node c does not answer" in client.json()["error"]["message"]

    def test_a_failure_of_one_kind_is_tried_on_the_other(self) -> None:
        """Before the first byte another node is asked, whatever it speaks."""
        failing = self.messages_node("m")
        failing.faults.error_responses, failing.faults.error_status = 1, 529
        fleet = self.fleet(failing, self.node("c"))

        client = fleet.chat("hi")

        assert (200, "c") == (client.status, client.headers["x-cortex-node"])

    def test_broken_stream(self) -> None:
        """A stream that breaks off is never taken for whole by a chat client."""
        node = self.messages_node("m")
        node.faults.reset_after_chunks = 4
        fleet = self.fleet(node)
        client = fleet.stream("one two three four five")
        fleet.advance(5)

        assert "broken" == client.ended
        assert "[DONE]" not in client.events()
        assert "error" in client.chunks()[-1]

    def test_nothing_of_it_is_loaded_or_unloaded(self) -> None:
        """Its models are its own: nobody unloads them, neither for room nor when told to."""
        node = self.messages_node("m")
        fleet = self.fleet(node)
        for _ in range(5):
            fleet.advance(60)
            fleet.poll()

        assert {"/v1/models"} == {entry.detail["path"] for entry in node.journal.requests()}


class PassedOnTests(FleetTestCase):
    def assert_passed_on(self, node: SimulatedNode, **settings: Any) -> None:
        """See a message whole and streamed, read by the vendor's own SDK."""
        fleet = self.fleet(node, **settings)
        whole, streamed = ask(fleet, "hello there"), ask(fleet, "hello there", stream=True)
        fleet.advance(5)

        for client in (whole, streamed):
            message = read_by_sdk(client)
            assert ["You said: hello there"] == [
                getattr(block, "text", "") for block in message.content
            ]
            assert message.id.startswith("msg_")
            assert ("clean", MODEL, "end_turn") == (
                client.ended,
                message.model,
                message.stop_reason,
            )
            assert (4, True) == (message.usage.output_tokens, message.usage.input_tokens > 0)
        assert 2 == len(node.journal.requests(MESSAGES))

    def test_a_node_of_both_dialects(self) -> None:
        """Where the operator configured it, a mistral.rs node's own Messages route is used."""
        self.assert_passed_on(self.node("a"), node_keys=NATIVE)

    def test_a_node_of_messages_alone(self) -> None:
        """A node that speaks Messages alone gets a Messages request as it is."""
        self.assert_passed_on(self.messages_node("a"))

    def test_client_headers(self) -> None:
        """What the client tries of the dialect reaches a node that speaks it."""
        fleet = self.fleet(self.messages_node("a"))
        turns = [
            {"role": "user", "content": "hi"},
            {"role": "system", "content": "be brief"},
        ]
        beta = {"anthropic-beta": "mid-conversation-system-2026-04-07"}

        assert 400 == ask(fleet, messages=turns).status
        assert 200 == ask(fleet, messages=turns, headers=beta).status

    def test_several_headers_of_one_name(self) -> None:
        """They are one list, wherever the client put the commas (RFC 9110 5.3)."""
        node = self.messages_node("a")
        beta = {"anthropic-beta": ["a-2030-01-01,b-2030-01-01", "c-2030-01-01"]}

        assert 200 == ask(self.fleet(node), headers=beta).status
        (asked,) = node.journal.requests(MESSAGES)
        heard: Any = asked.detail["headers"]
        assert "a-2030-01-01,b-2030-01-01,c-2030-01-01" == heard["anthropic-beta"]

    def test_a_refusal(self) -> None:
        """What the node refuses is told in its words, in the client's envelope."""
        fleet = self.fleet(self.messages_node("a"))
        client = ask(fleet, messages=[{"role": "user", "content": [{"type": "text", "text": " "}]}])

        assert 400 == client.status
        assert ("error", "invalid_request_error") == (
            client.json()["type"],
            client.json()["error"]["type"],
        )
        assert "text" in client.json()["error"]["message"]

    def test_signs_of_life(self) -> None:
        """While the node is silent the client hears of us, and then one message, begun once."""
        fleet = self.fleet(self.messages_node("a", prompt_seconds=200))
        client = ask(fleet, stream=True, thinking={"type": "adaptive"})
        fleet.advance(6)
        begun = [event.name for event in SseDecoder().feed(client.body)]
        fleet.advance(300)

        names = [event.name for event in SseDecoder().feed(client.body)]
        assert [b"message_start"] == begun
        assert (1, 1) == (names.count(b"message_start"), names.count(b"message_stop"))
        assert ["thinking", "text"] == [block.type for block in read_by_sdk(client).content]


class CountTests(FleetTestCase):
    def count(self, fleet: InMemoryFleet, **fields: Any) -> Client:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "one two three"}]}
        return fleet.request("POST", COUNT, json=body | fields)

    def test_exact(self) -> None:
        """A node that speaks Messages alone counts for its models, and the count is not marked."""
        fleet = self.fleet(self.messages_node("m"))
        client = self.count(fleet)

        assert ({"input_tokens": 3}, "m") == (client.json(), client.headers["x-cortex-node"])
        assert "x-cortex-token-count" not in client.headers

    def test_a_node_that_counts_with_another_model(self) -> None:
        """A mistral.rs node is never asked, whatever it speaks: it counts for its default model."""
        node = self.node("a")
        client = self.count(self.fleet(node, node_keys=NATIVE))

        assert "estimate" == client.headers["x-cortex-token-count"]
        assert [] == node.journal.requests(COUNT)

    def test_a_node_that_cannot(self) -> None:
        """Where the node fails, is silent or is down, an estimate is better than an error."""
        node = self.messages_node("m")
        fleet = self.fleet(node)
        node.faults.hang_routes = {COUNT}
        silent = self.count(fleet)
        fleet.advance(5)
        refused = self.count(fleet, messages=[{"role": "robot", "content": "hi"}])
        fleet.advance(5)
        node.faults.hang = True
        for _ in range(2):
            fleet.advance(5)
            fleet.poll()
        down = self.count(fleet)

        for client in (silent, refused, down):
            assert (200, "estimate") == (client.status, client.headers["x-cortex-token-count"])
            assert ["input_tokens"] == list(client.json())

    def test_a_client_that_leaves(self) -> None:
        """Who leaves while the node counts leaves nothing behind."""
        node = self.messages_node("m")
        node.faults.hang_routes = {COUNT}
        fleet = self.fleet(node)
        client = self.count(fleet)
        fleet.leave(client)

        (line,) = fleet.events("request")
        assert "client_gone" == line["outcome"]
