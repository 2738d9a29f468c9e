"""What Codex sends and how it must be answered, through the whole gateway."""

from typing import Any

import httpx2
from openai import OpenAI
from openai.types.responses import Response

from cortexd.testing import SimulatedModel, SimulatedNode
from tests.covers import covers
from tests.dialects.response_events import read
from tests.gateway.test_responses import RESPONSES, last_event
from tests.support.fleets import MODEL, Client, FleetTestCase, InMemoryFleet

EXEC: dict[str, Any] = {
    "type": "function",
    "name": "exec_command",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"cmd": {"type": "string"}},
        "required": ["cmd"],
    },
}
CLOSE: dict[str, Any] = {
    "type": "function",
    "name": "close_agent",
    "parameters": {"type": "object"},
}
TOOLS: list[dict[str, Any]] = [
    EXEC,
    {"type": "namespace", "name": "multi_agent_v1", "description": "", "tools": [CLOSE]},
    {"type": "web_search", "external_web_access": False},
]
INSTRUCTIONS = {
    "type": "message",
    "role": "developer",
    "content": [{"type": "input_text", "text": text} for text in ("Be kind.", "Be brief.")],
}


def say(text: str) -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "role": "user", "content": content}


def ask(fleet: InMemoryFleet, *items: dict[str, Any], **fields: object) -> Client:
    """POST what Codex does, with these items after its instructions."""
    body = {
        "model": MODEL,
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "prompt_cache_key": "01a2",
        "client_metadata": {"turn_id": "01a3"},
        "tools": TOOLS,
        "input": [INSTRUCTIONS, *items],
    }
    return fleet.request("POST", RESPONSES, json={**body, **fields})


def items_done(client: Client) -> list[dict[str, Any]]:
    """Return the items of a response as Codex gathers them."""
    events = read(client.body)
    return [event["item"] for event in events if event["type"] == "response.output_item.done"]


def of_sdk(client: Client) -> Response:
    """Return what the stream helper of OpenAI's SDK makes of an answer."""
    answer = httpx2.Response(
        200, headers={"content-type": client.headers["content-type"]}, content=client.body
    )
    transport = httpx2.MockTransport(lambda _: answer)
    sdk = OpenAI(api_key="none", max_retries=0, http_client=httpx2.Client(transport=transport))
    with sdk.responses.stream(model=MODEL, input="hi") as stream:
        return stream.get_final_response()


class ToolTests(FleetTestCase):
    def test_a_conversation_with_calls(self) -> None:
        """A function's call and one of a namespace's, and the answers that go on from them."""
        fleet = self.fleet(self.node())
        items = [say("call:exec_command echo 42")]
        for name, namespace, question in (
            ("exec_command", None, "call:multi_agent_v1__close_agent nobody"),
            ("close_agent", "multi_agent_v1", "and now"),
        ):
            (call,) = items_done(ask(fleet, *items))
            assert (name, namespace) == (call["name"], call.get("namespace"))
            items += [
                call,
                {"type": "function_call_output", "call_id": call["call_id"], "output": "42"},
            ]
            answered = ask(fleet, *items)
            (message,) = items_done(answered)
            assert "The tool said: 42" == message["content"][0]["text"]
            assert "The tool said: 42" == of_sdk(answered).output_text
            items += [message, say(question)]
        (message,) = items_done(ask(fleet, *items))

        assert "You said: and now" == message["content"][0]["text"]

    def test_calls_as_the_sdk_reads_them(self) -> None:
        """Several in one answer have each their arguments, once."""
        client = ask(self.fleet(self.node()), say("call:exec_command call:exec_command ls"))
        first, second = of_sdk(client).output

        assert first.type == second.type == "function_call"
        assert '{"cmd":"ls"}' == first.arguments == second.arguments
        assert first.call_id != second.call_id
        spelled = [event["delta"] for event in read(client.body) if "delta" in event]
        assert ['{"cmd":"ls"}'] * 2 == spelled

    @covers("T50")
    def test_a_node_that_does_not_know_its_tools(self) -> None:
        """It is sent what it knows, the client is told what is missing, and the stream ends."""
        # A native node gives the template the roles of Codex as they are.
        self.template = None
        node = self.node()
        fleet = self.fleet(node, node_keys={"a": {"responses": "native"}})
        node.older_responses = True
        client = ask(fleet, say("hello"))

        assert ("response.completed", "clean") == (last_event(client)["type"], client.ended)
        assert "approx=tools.namespace,tools.web_search" == client.headers["x-cortex-translation"]
        (entry,) = node.journal.requests(RESPONSES)
        body: Any = entry.detail["body"]
        names = [(tool["type"], tool["name"]) for tool in body["tools"]]
        assert [
            ("function", "exec_command"),
            ("function", "multi_agent_v1.close_agent"),
        ] == names
        assert TOOLS == read(client.body)[0]["response"]["tools"]

        client = ask(fleet, say("call:exec_command ls"))
        told = last_event(client)
        assert ("response.failed", "clean") == (told["type"], client.ended)
        assert "older version" in told["response"]["error"]["message"]

    @covers("T50")
    def test_every_stream_ends_as_codex_needs_it(self) -> None:
        """With a completed response or a failed one, whatever the node does."""
        node = self.node()
        fleet = self.fleet(node, eject_after=0)
        for fault in ("error_after_chunks", "eof_after_chunks", "reset_after_chunks"):
            for chunks in range(1, 3):
                setattr(node.faults, fault, chunks)
                told = last_event(ask(fleet, say("one two three")))
                setattr(node.faults, fault, None)
                assert "response.failed" == told["type"], (fault, chunks)
                assert told["response"]["error"]["message"]
        assert "response.completed" == last_event(ask(fleet, say("hi")))["type"]


class SilenceTests(FleetTestCase):
    def slow_node(self) -> SimulatedNode:
        model = SimulatedModel(id=MODEL, loaded=False, load_seconds=50)
        return self.node("a", model, prompt_seconds=50, keepalive_seconds=1000)

    def test_a_model_is_loaded_and_then_thinks(self) -> None:
        """There is an event each ten seconds, and to the SDK it is one response from the start."""
        fleet = self.fleet(self.slow_node(), hold_seconds=5, keepalive_seconds=10)
        client = ask(fleet, say("hello"))
        seen = []
        for _ in range(9):
            fleet.advance(10)
            seen.append(len(read(client.body)))
        fleet.advance(30)

        assert sorted(set(seen)) == seen, "each ten seconds brought an event"
        told = read(client.body)
        assert list(range(len(told))) == [event["sequence_number"] for event in told]
        assert ("response.created", "response.completed") == (told[0]["type"], told[-1]["type"])
        assert 1 == len({event["response"]["id"] for event in told if "response" in event})
        assert "You said: hello" == of_sdk(client).output_text
        assert 1 == len(fleet.events("request"))

    def test_a_response_that_a_node_keeps(self) -> None:
        """It has the node's id, so that its client hears comments until the node has begun it."""
        # A native node gives the template the roles of Codex as they are.
        self.template = None
        fleet = self.fleet(
            self.slow_node(),
            node_keys={"a": {"responses": "native"}},
            hold_seconds=5,
            keepalive_seconds=10,
        )
        client = ask(fleet, say("hello"), store=True)
        fleet.advance(45)
        assert [] == read(client.body)
        assert client.body.startswith(b":")
        for _ in range(12):
            fleet.advance(10)
        told = read(client.body)

        assert told[0]["type"] == "response.created"
        assert told[1]["type"] == told[2]["type"] == "response.in_progress"
        response = of_sdk(client)
        assert "You said: hello" == response.output_text

    def test_a_wait_that_comes_to_nothing(self) -> None:
        """What was begun fails, under the same id."""
        node = self.slow_node()
        node.faults.fail_load[MODEL] = "no such file"
        fleet = self.fleet(node, hold_seconds=5, keepalive_seconds=10)
        client = ask(fleet, say("hello"))
        for _ in range(200):
            fleet.advance(10)
            if client.ended:
                break
        told = read(client.body)

        assert ("response.created", "response.failed") == (told[0]["type"], told[-1]["type"])
        assert 1 == len({event["response"]["id"] for event in told})
        assert list(range(len(told))) == [event["sequence_number"] for event in told]
