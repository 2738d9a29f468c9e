"""The simulated node's responses, as a mistral.rs node has them."""

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.sse import SseDecoder
from cortexd.testing import SimulatedModel
from tests.doubles.native_node import SimulatedNativeNode
from tests.testing.client import Bench, Exchange

RESPONSES = "/v1/responses"


class NativeBench(Bench):
    """A node with Responses on a Clock of its own, and a client of it."""

    kind = SimulatedNativeNode
    node: SimulatedNativeNode


class ResponseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.bench = NativeBench(SimulatedModel(id="acme/chat"), token_seconds=1.0)

    def respond(self, text: object = "hi there", **fields: object) -> Exchange:
        return self.bench.post(RESPONSES, {"model": "acme/chat", "input": text, **fields})

    def finished(self, **fields: object) -> Any:
        """Return a whole response, once it is made."""
        exchange = self.respond(**fields)
        self.bench.advance(30)
        assert 200 == exchange.status
        return exchange.json()

    def show(self, name: str) -> Exchange:
        return self.bench.get(f"{RESPONSES}/{name}")

    def test_each_is_another(self) -> None:
        """Ids are random, and a response is complete with text and usage."""
        first, second = self.finished(), self.finished()

        assert first["id"] != second["id"]
        assert ("completed", "You said: hi there") == (
            first["status"],
            first["output"][0]["content"][0]["text"],
        )
        assert (2, 4) == (first["usage"]["input_tokens"], first["usage"]["output_tokens"])

    def test_a_stream_is_of_named_numbered_events(self) -> None:
        """It opens at once, has an event for each token, and ends with the response and [DONE]."""
        exchange = self.respond(stream=True)
        opened = [event.name for event in SseDecoder().feed(exchange.body)]
        self.bench.advance(30)
        events = SseDecoder().feed(exchange.body)
        data = [json.loads(event.data) for event in events[:-1]]

        assert b"response.created" == opened[0]
        assert [event.name.decode() for event in events[:-1]] == [each["type"] for each in data]
        assert list(range(len(data))) == [each["sequence_number"] for each in data]
        deltas = [each["delta"] for each in data if each["type"].endswith(".delta")]
        assert "You said: hi there" == "".join(deltas)
        assert ("response.completed", b"[DONE]") == (data[-1]["type"], events[-1].data)
        assert "output_text.done" not in str(data)
        assert 404 == self.show(data[0]["response"]["id"]).status

    def test_cut_short(self) -> None:
        """A response that the token limit ends is as complete as any."""
        exchange = self.respond(stream=True, max_output_tokens=2)
        self.bench.advance(30)
        last = json.loads(SseDecoder().feed(exchange.body)[-2].data)

        assert ("response.completed", "completed") == (last["type"], last["response"]["status"])

    def test_an_error_inside(self) -> None:
        """A failed forward pass fails the response, and [DONE] follows."""
        self.bench.node.faults.error_after_chunks = 1
        exchange = self.respond(stream=True)
        self.bench.advance(30)
        error, done = SseDecoder().feed(exchange.body)[-2:]

        assert (b"response.failed", b"[DONE]") == (error.name, done.data)
        failed = json.loads(error.data)["response"]
        assert ("failed", "simulated engine failure") == (
            failed["status"],
            failed["error"]["message"],
        )

    def test_it_goes_on(self) -> None:
        """A conversation is what was said before it too; of an unknown one nobody is told."""
        first = self.finished()
        again = self.finished(previous_response_id=first["id"])
        lost = self.finished(previous_response_id="resp_never")

        assert 2 + 4 + 2 == again["usage"]["input_tokens"]
        assert 2 == lost["usage"]["input_tokens"]

    def test_forms_of_input(self) -> None:
        """Text, messages of text, messages of parts, and instructions before them."""
        parts = [{"type": "input_text", "text": "hi"}, {"type": "input_text", "text": "there"}]
        for text, read in (
            ([{"role": "user", "content": "hi there"}], "hi there"),
            (
                [{"type": "message", "role": "user", "content": parts}, {"type": "reasoning"}],
                "hi\n\nthere",
            ),
        ):
            made = self.finished(text=text, instructions="be kind")
            assert f"You said: {read}" == made["output"][0]["content"][0]["text"]
            assert 4 == made["usage"]["input_tokens"]

    def test_what_is_not_kept(self) -> None:
        """Not stored, deleted, or of the process before: it is not found."""
        unkept = self.finished(store=False)["id"]
        deleted, lost = self.finished()["id"], self.finished()["id"]
        path = f"{RESPONSES}/{deleted}"
        assert {"id": deleted, "object": "response.deleted", "deleted": True} == (
            self.bench.send("DELETE", path).json()
        )
        self.bench.node.restart()

        for name in (unkept, deleted, lost):
            shown = self.show(name)
            assert (404, {"message": f"Response with ID '{name}' not found"}) == (
                shown.status,
                shown.json(),
            )
        assert 404 == self.bench.send("DELETE", path).status

    def test_background(self) -> None:
        """It is queued at once and completed later; only such a one is cancelled, and runs on."""
        queued = self.respond(background=True).json()
        assert "queued" == queued["status"]
        metrics = self.bench.get("/metrics").text()
        assert "mistralrs_sequences_running 0" in metrics
        assert 'path="/v1/responses",model="acme/chat"} 0' in metrics
        cancelled = self.bench.send("POST", f"{RESPONSES}/{queued['id']}/cancel")
        assert "cancelled" == cancelled.json()["status"]
        self.bench.advance(30)
        assert "completed" == self.show(queued["id"]).json()["status"]

        other = self.bench.send("POST", f"{RESPONSES}/{self.finished()['id']}/cancel")
        assert 404 == other.status
        assert other.json()["message"].endswith("not found or cannot be cancelled")

    def test_background_cut_off(self) -> None:
        """What an unload cuts has failed, in words of no help."""
        queued = self.respond(background=True).json()
        self.bench.operate("unload", "acme/chat")
        failed = self.show(queued["id"]).json()

        assert "failed" == failed["status"]
        assert {"type": "unknown_error", "message": "Unexpected response type"} == failed["error"]


class ShapeTests(SynchronousTestCase):
    """What a node's responses have, and above all what they lack (nodes.md 6)."""

    def setUp(self) -> None:
        self.bench = NativeBench(
            SimulatedModel(id="acme/chat", thinks=True),
            SimulatedModel(id="acme/embed", kind="embedding"),
            SimulatedModel(id="acme/paint", kind="image"),
        )

    def respond(self, text: object = "hi there", **fields: object) -> Exchange:
        return self.bench.post(RESPONSES, {"model": "acme/chat", "input": text, **fields})

    def streamed(self, text: object = "hi there", **fields: object) -> list[Any]:
        events = SseDecoder().feed(self.respond(text, stream=True, **fields).body)
        return [json.loads(event.data) for event in events if event.data != b"[DONE]"]

    def test_whole(self) -> None:
        """Reasoning is a string, texts have no annotations, and usage has no details."""
        made = self.respond(temperature=0.5, max_output_tokens=90).json()
        thoughts, message = made["output"]

        assert "The user said 2 words." == made["reasoning"]
        assert ("reasoning", [], [{"type": "reasoning_text", "text": made["reasoning"]}]) == (
            thoughts["type"],
            thoughts["summary"],
            thoughts["content"],
        )
        assert [{"type": "output_text", "text": made["output_text"]}] == message["content"]
        assert {"input_tokens", "output_tokens", "total_tokens"} == made["usage"].keys()
        assert (0.5, 90) == (made["temperature"], made["max_output_tokens"])
        assert not {"tools", "metadata", "instructions", "error", "incomplete_details"} & set(made)
        assert "default" == self.respond(model="default").json()["model"]

    def test_reasoning_streamed(self) -> None:
        """Its deltas have no part, and it is done before the message begins."""
        kinds = [event["type"].removeprefix("response.") for event in self.streamed("hi")]
        delta = "reasoning_text.delta"
        assert ["created", "in_progress", "output_item.added", *[delta] * 5] == kinds[:8]
        assert [
            "reasoning_text.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
        ] == kinds[8:12]
        assert ["content_part.done", "output_item.done", "completed"] == kinds[-3:]

    def test_calls_leave_room_for_a_message(self) -> None:
        """The index of a call counts a message that does not come, and no item has the index."""
        tools = [{"type": "function", "name": "clock"}]
        events = self.streamed("call:clock", tools=tools)
        added = [event for event in events if event["type"] == "response.output_item.added"]

        assert [("reasoning", 0), ("function_call", 2)] == [
            (event["item"]["type"], event["output_index"]) for event in added
        ]
        assert 2 == len(events[-1]["response"]["output"])

    def test_a_conversation(self) -> None:
        """It keeps the instructions of before, and of an answer the text without its calls."""
        tools = [{"type": "function", "name": "clock"}]
        first = self.streamed("call:clock", tools=tools, instructions="be kind")[-1]["response"]
        store = self.bench.node.responses.stored
        assert 404 == self.bench.get(f"{RESPONSES}/{first['id']}").status
        assert ["system", "user"] == [turn.role for turn in store.conversation(first["id"])]

        second = self.respond(
            "hi", previous_response_id=first["id"], instructions="be brief"
        ).json()
        turns = store.conversation(second["id"])
        assert ["system", "system", "user", "user", "assistant"] == [turn.role for turn in turns]
        assert second["reasoning"] == turns[-1].reasoning_content

    def test_mistakes_inside_a_stream(self) -> None:
        """An error has a type and no code, and does not name the response."""
        form = {"format": {"type": "json_schema", "name": "a", "schema": {"type": "wat"}}}
        (created, error) = self.streamed(model="acme/embed")
        assert "response.created" == created["type"]
        assert ("error", {"type", "message"}) == (error["type"], error["error"].keys())
        assert "validation_error" == error["error"]["type"]
        assert 422 == self.respond(model="acme/paint").status
        refused = self.bench.post(RESPONSES, {"model": "acme/chat", "input": "hi", "text": form})
        assert (422, "Invalid grammar. Invalid type: wat") == (
            refused.status,
            refused.json()["message"],
        )

    def test_items_that_are_refused(self) -> None:
        """One item or part of a wrong shape has the whole body refused, without its cause."""
        items: list[dict[str, Any]] = [
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": {}},
            {"type": "reasoning", "summary": [], "content": None},
            {"type": "message", "role": "user", "content": [{"type": "input_video"}]},
            {"type": "item_reference"},
            {"type": "compaction"},
        ]
        for item in items:
            refused = self.respond([item])
            assert (422, True) == (refused.status, "OpenResponsesInput" in refused.text()), item

    def test_background_mistakes(self) -> None:
        """They are in the failed response, each with the type of the step that failed."""
        far = {"type": "input_image", "image_url": "data:image/png;base64,aGk="}
        for fields, kind in (
            ({"model": "acme/none"}, "parse_error"),
            ({"text": [{"role": "user", "content": [far]}]}, "parse_error"),
            ({"model": "acme/embed"}, "validation_error"),
        ):
            queued = self.respond(**{"text": "hi", **fields}, background=True).json()
            failed = self.bench.get(f"{RESPONSES}/{queued['id']}").json()
            assert ("queued", "failed", kind) == (
                queued["status"],
                failed["status"],
                failed["error"]["type"],
            )

    def test_an_unload(self) -> None:
        """It gives a whole response words of its own; a stream just ends."""
        self.bench = NativeBench(SimulatedModel(id="acme/chat"), token_seconds=1)
        whole, stream = self.respond(), self.respond(stream=True)
        self.bench.operate("unload", "acme/chat")
        self.bench.advance(0)
        assert (500, {"message": "Unexpected response type"}) == (whole.status, whole.json())
        assert b"[DONE]" not in stream.body


ECHO = {
    "type": "function",
    "name": "echo",
    "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
}
NAMESPACE = {"type": "namespace", "name": "ns", "tools": [ECHO, {"type": "custom", "name": "c"}]}


class ToolTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.bench = NativeBench(SimulatedModel(id="acme/chat"))

    def respond(self, text: object, **fields: object) -> Exchange:
        body = {"model": "acme/chat", "input": text, "tools": [ECHO, NAMESPACE], **fields}
        return self.bench.post(RESPONSES, body)

    def streamed(self, text: str) -> list[Any]:
        events = SseDecoder().feed(self.respond(text, stream=True).body)
        return [json.loads(event.data) for event in events[:-1]]

    def test_calls(self) -> None:
        """Each is an item, a namespace's under both its names, with an id of its own."""
        made = self.respond("call:echo call:ns.echo hi").json()
        first, second = made["output"]

        assert ("completed", "function_call", "echo", '{"text":"hi"}') == (
            made["status"],
            first["type"],
            first["name"],
            first["arguments"],
        )
        assert ("echo", "ns") == (second["name"], second["namespace"])
        assert "namespace" not in first
        assert 4 == len({each[key] for each in (first, second) for key in ("id", "call_id")})

    def test_calls_streamed(self) -> None:
        """Each comes in one breath, whole from the start; there is no message beside them."""
        events = self.streamed("call:ns.echo hi")
        added, delta, done, item_done = events[2:6]

        assert [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ] == [event["type"] for event in events]
        (call,) = events[-1]["response"]["output"]
        assert call == added["item"] == item_done["item"]
        assert '{"text":"hi"}' == call["arguments"] == delta["delta"] == done["arguments"]
        assert call["call_id"] == delta["call_id"] == done["call_id"]

    def test_results(self) -> None:
        """What a tool gave is answered; the node remembers call and result, and goes on."""
        called = self.respond("call:ns.echo hi").json()
        (call,) = called["output"]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
        told = self.respond([result], previous_response_id=called["id"]).json()
        whole = self.respond([{"role": "user", "content": "x"}, call, result]).json()

        for made in (told, whole):
            assert "The tool said: 42" == made["output"][0]["content"][0]["text"]

    def test_choices(self) -> None:
        """A call is made where it is demanded, of the function that is named."""
        for choice, name in (
            ("required", "echo"),
            ({"type": "function", "name": "ns.echo"}, "echo"),
            ("none", None),
        ):
            (item,) = self.respond("call:echo", tool_choice=choice).json()["output"]
            assert name == item.get("name"), choice
        assert 422 == self.respond("hi", tool_choice="any").status

    def test_kinds(self) -> None:
        """Those of the node itself are taken; one unknown has the whole body refused."""
        taken = [{"type": "web_search"}, {"type": "code_interpreter"}, {"type": "shell"}]
        assert 200 == self.respond("hi", tools=taken).status
        for tool in (
            {"type": "custom", "name": "c"},
            {"type": "function"},
            {"type": "function", "function": 7},
            {"type": "namespace", "name": "ns", "tools": 7},
            {"type": "namespace", "tools": []},
            {"type": "namespace", "name": "ns", "tools": [{"type": "function"}]},
            {"name": "x"},
        ):
            refused = self.respond("hi", tools=[tool])
            assert 422 == refused.status
            assert b"untagged enum OpenAiTool" in refused.body
        refused = self.respond([{"type": "custom_tool_call_output", "output": "x"}])
        assert (422, True) == (refused.status, b"OpenResponsesInput" in refused.body)

    def test_an_older_node(self) -> None:
        """It knows fewer kinds, takes parts of text from users alone, and names no call."""
        self.bench.node.older_responses = True
        parts = [{"type": "input_text", "text": "a"}] * 2
        for tool in (NAMESPACE, {"type": "web_search"}):
            assert 422 == self.respond("hi", tools=[ECHO, tool]).status
        for role, status in (("user", 200), ("developer", 500)):
            item = {"role": role, "content": parts}
            assert status == self.respond([item], tools=[ECHO]).status
        assert 422 == self.respond([{"type": "reasoning"}], tools=[ECHO]).status

        body = self.respond("call:echo hi", tools=[ECHO], stream=True).body
        events = [json.loads(event.data) for event in SseDecoder().feed(body)[:-1]]
        assert [
            "response.created",
            "response.in_progress",
            "response.function_call_arguments.delta",
            "response.completed",
        ] == [event["type"] for event in events]
        assert [] == events[-1]["response"]["output"]
        assert "echo" == self.respond("call:echo", tools=[ECHO]).json()["output"][0]["name"]
