"""Messages on a simulated mistral.rs node, with all omissions of the real one."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedModel
from tests.doubles.messages_api.client import (
    CLOCK_TOOL,
    HEADERS,
    MESSAGES,
    SAY_TOOL,
    MessagesBench,
    error_of,
    events_of,
    read_by_sdk,
    text_of,
)
from tests.testing.client import JSON_HEADERS, Exchange

CHAT = SimulatedModel(id="acme/chat")
OTHER = SimulatedModel(id="acme/other", tokens_per_word=2)
THINKER = SimulatedModel(id="acme/chat", thinks=True)
IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
}


def told(content: object, **fields: object) -> dict[str, object]:
    return {"type": "tool_result", "tool_use_id": "call-1", "content": content, **fields}


class WholeTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """An answer has the small id of a chat's, the real model, and two counts."""
        assert {
            "id": "1",
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": "You said: hi"}],
            "model": "acme/chat",
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 3},
        } == MessagesBench(CHAT).ask(model="default").json()

    def test_without_a_limit(self) -> None:
        """Unlike the API it imitates, it needs no max_tokens and no version header."""
        bench = MessagesBench(CHAT)
        body = b'{"messages":[{"role":"user","content":"hi"}]}'
        assert 200 == bench.send("POST", MESSAGES, body, JSON_HEADERS).status

    def test_stop_reasons(self) -> None:
        """There are three, and a stop sequence is told as the end of the turn."""
        bench = MessagesBench(CHAT)
        stopped = bench.ask("one two", stop_sequences=[" two"]).json()

        assert ("end_turn", None) == (stopped["stop_reason"], stopped["stop_sequence"])
        assert "You said: one" == stopped["content"][0]["text"]
        assert "max_tokens" == bench.ask("one two", max_tokens=3).json()["stop_reason"]
        called = bench.ask("call:clock", tools=[CLOCK_TOOL]).json()
        assert "tool_use" == called["stop_reason"]

    def test_calls(self) -> None:
        """Calls are whole, their ids are those of chats, and the SDK reads them."""
        answer = MessagesBench(CHAT).ask("call:say hi call:clock", tools=[SAY_TOOL, CLOCK_TOOL])
        say, clock = answer.json()["content"]

        assert ("tool_use", "say", {"text": "hi"}) == (say["type"], say["name"], say["input"])
        assert say["id"].startswith("call-")
        assert say["id"] != clock["id"]
        assert answer.json() == read_by_sdk(answer).to_dict()

    def test_thinking(self) -> None:
        """It thinks unless told not to, and what it thought has no signature."""
        bench = MessagesBench(THINKER)
        thought = {"type": "thinking", "thinking": "The user said 1 words."}

        for thinking in (None, {"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1}):
            assert thought == bench.ask(thinking=thinking).json()["content"][0]
        silent = bench.ask(thinking={"type": "disabled"}).json()
        assert ["text"] == [block["type"] for block in silent["content"]]
        assert ["text"] == [
            block["type"] for block in bench.ask(reasoning_effort="none").json()["content"]
        ]


class GapTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.bench = MessagesBench(CHAT)

    def refused(self, content: object = "hi", **fields: Any) -> str:
        """Return the words of a 400."""
        status, kind, words = error_of(self.bench.ask(content, **fields))
        assert (400, "invalid_request_error") == (status, kind)
        return words

    def test_any_is_auto(self) -> None:
        """A demand for any tool is none; one for a tool by name is."""
        tools = [CLOCK_TOOL]
        free = self.bench.ask("hi", tools=tools, tool_choice={"type": "any"})
        bound = self.bench.ask("hi", tools=tools, tool_choice={"type": "tool", "name": "clock"})
        barred = self.bench.ask("call:clock", tools=tools, tool_choice={"type": "none"})

        assert ["end_turn", "tool_use", "end_turn"] == [
            answer.json()["stop_reason"] for answer in (free, bound, barred)
        ]

    def test_result_of_a_tool(self) -> None:
        """Of an image in it there is a word left, and nothing says that the tool failed."""
        for content, heard in (
            ("42", "42"),
            ([{"type": "text", "text": "see"}, IMAGE], "see\n[image]"),
            (None, ""),
            ([{"type": "tool_reference"}, "plain"], '{"type":"tool_reference"}\n"plain"'),
            ({"n": 1}, '{"n":1}'),
        ):
            answer = self.bench.go_on(
                ("user", "call:clock"),
                ("assistant", [{"type": "tool_use", "id": "call-1", "name": "clock"}]),
                ("user", [told(content, is_error=True)]),
            )
            assert f"The tool said: {heard}" == text_of(answer)

    def test_turns(self) -> None:
        """Thoughts of the history are dropped, text around results is a turn of its own."""
        thinking = {"type": "thinking", "thinking": "much ado", "signature": "forged"}
        said = {"type": "text", "text": "well"}
        answer = self.bench.go_on(
            ("user", "hi"),
            ("assistant", [thinking, said]),
            ("user", [{"type": "text", "text": "a"}, told("b"), {"type": "text", "text": "c"}]),
            system=[{"type": "text", "text": "be"}, {"type": "text", "text": "kind"}],
        ).json()

        assert "You said: c" == answer["content"][0]["text"]
        assert 2 + 1 + 1 + 3 == answer["usage"]["input_tokens"]

    def test_a_turn_of_thoughts(self) -> None:
        """Of a turn that was thoughts alone nothing is left, and that is refused."""
        words = self.refused(
            messages=[
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]},
                {"role": "user", "content": "and?"},
            ]
        )
        assert "expected tool calls to be provided" in words

    def test_images(self) -> None:
        """A user's image is taken, wherever in the turn it is, and nobody else's."""
        assert "You said: see" == text_of(self.bench.ask([IMAGE, {"type": "text", "text": "see"}]))
        linked = {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}}
        assert "failed to lookup address" in self.refused([linked])
        assert "only supported for user" in self.refused(
            messages=[{"role": "system", "content": [IMAGE]}]
        )
        parts = [{"type": "text", "text": "see"}, IMAGE, {"type": "text", "text": "this"}]
        assert "You said: see\nthis" == text_of(self.bench.ask(parts))

    def test_a_later_system_turn(self) -> None:
        """It goes to the model as it is."""
        answer = self.bench.go_on(("user", "hi"), ("system", "be kind"))
        assert "You said: hi" == text_of(answer)
        assert 3 == answer.json()["usage"]["input_tokens"]

    def test_blocks_refused(self) -> None:
        """A document, and every other block that it does not know, is 400."""
        for block in ({"type": "document"}, {"type": "tool_use"}, {"type": "search_result"}):
            assert block["type"] in self.refused([block])
        assert "requires `text`" in self.refused([{"type": "text"}])
        assert "requires `source`" in self.refused([{"type": "image"}])
        assert "source type `file`" in self.refused([{"type": "image", "source": {"type": "file"}}])
        assert "`document`" in self.refused(
            messages=[{"role": "assistant", "content": [{"type": "document"}]}]
        )
        assert "only support `text`" in self.refused(system=[IMAGE])

    def test_tools_refused(self) -> None:
        """Of the server's tools only two are known; a choice must be of a tool that is there."""
        for name in ("web_search_20250305", "code_execution_20250825"):
            assert 200 == self.bench.ask(tools=[{"type": name, "name": "x"}]).status
        assert "requires a `name`" in self.refused(tools=[{"input_schema": {}}])
        assert "bash" in self.refused(tools=[{"type": "bash_20250124", "name": "bash"}])
        assert "`ghost`" in self.refused(
            tools=[CLOCK_TOOL], tool_choice={"type": "tool", "name": "ghost"}
        )
        assert "`maybe`" in self.refused(tool_choice={"type": "maybe"})

    def test_thinking_refused(self) -> None:
        """Kinds of thinking that there are not, and contradictions, are 400."""
        assert "`rarely`" in self.refused(thinking={"type": "rarely"})
        assert "conflicts" in self.refused(thinking={"type": "disabled"}, enable_thinking=True)
        assert "reasoning effort" in self.refused(reasoning_effort="minimal")

    def test_other_refusals(self) -> None:
        """What a chat refuses in whatever words, and an unknown model, is 400."""
        assert "max_tokens" in self.refused(max_tokens=0)
        assert "'ghost' is not available" in self.refused(model="ghost")
        assert "greater than 4096" in self.refused("word " * 4097)

    def test_no_adapters(self) -> None:
        """An adapter's id is that of an unknown model."""
        assert "is not available" in self.refused(model="acme/chat::code")

    def test_body_refused(self) -> None:
        """What does not parse is refused by the web framework, in plain text."""
        for body, status in ((b"{", 400), (b'{"messages":"hi"}', 422), (b"{}", 422)):
            refused = self.bench.send("POST", MESSAGES, body, HEADERS)
            assert status == refused.status
            assert "text/plain; charset=utf-8" == refused.headers["content-type"]
        assert 415 == self.bench.send("POST", MESSAGES, b"{}", {}).status


class FailureTests(SynchronousTestCase):
    def test_loads(self) -> None:
        """An unloaded model is loaded first; a second request meanwhile is an `api_error`."""
        model = SimulatedModel(id="acme/chat", loaded=False, load_seconds=3)
        bench = MessagesBench(model, OTHER)
        first = bench.ask()
        status, kind, words = error_of(bench.ask())
        bench.advance(3)

        assert (500, "api_error", "model `acme/chat` is being reloaded") == (status, kind, words)
        assert 200 == first.status

    def test_told_to_fail(self) -> None:
        """An error that a test tells it is an `api_error`, whatever the request."""
        bench = MessagesBench(CHAT)
        bench.node.faults.error_responses = 1
        assert (500, "api_error", "simulated engine failure") == error_of(bench.ask())
        assert 200 == bench.ask().status

    def test_unload_kills_it(self) -> None:
        """An unload ends an answer that does not stream with 500."""
        bench = MessagesBench(CHAT, token_seconds=1)
        answer = bench.ask()
        bench.operate("unload", "acme/chat")
        bench.advance(0)
        assert (500, "api_error", "No response received from the model.") == error_of(answer)

    def test_older_versions(self) -> None:
        """Before v0.8.4 there are no such routes."""
        for version, status in (("0.8.2", 404), ("0.8.4", 200)):
            bench = MessagesBench(CHAT, version=version)
            asked, counted = bench.ask(), bench.count()
            assert (status, status) == (asked.status, counted.status)
            assert (status == 404) is (asked.body == b"")


class StreamTests(SynchronousTestCase):
    def stream(self, bench: MessagesBench, content: str = "hi", **fields: Any) -> Exchange:
        return bench.ask(content, stream=True, **fields)

    def test_events(self) -> None:
        """Its start says nothing of the prompt, and neither does its end."""
        events = events_of(self.stream(MessagesBench(CHAT)))

        assert [
            "message_start",
            "content_block_start",
            *["content_block_delta"] * 3,
            "content_block_stop",
            "message_delta",
            "message_stop",
        ] == [event["type"] for event in events]
        start, end = events[0]["message"], events[-2]
        assert {"input_tokens": 0, "output_tokens": 0} == start["usage"]
        assert ("1", "acme/chat", []) == (start["id"], start["model"], start["content"])
        assert {"output_tokens": 3} == end["usage"]
        assert {"stop_reason": "end_turn", "stop_sequence": None} == end["delta"]

    def test_as_the_whole(self) -> None:
        """The SDK reads the same of a stream as of a whole answer, but for the prompt's tokens."""
        cases: list[tuple[str, dict[str, Any]]] = [
            ("one two", {}),
            ("one two three", {"max_tokens": 6}),
            ("call:say hi there call:clock", {"tools": [SAY_TOOL, CLOCK_TOOL]}),
            ("grüße 👋", {"stop_sequences": [" 👋"]}),
        ]
        for content, fields in cases:
            streamed = read_by_sdk(self.stream(MessagesBench(THINKER), content, **fields))
            whole = read_by_sdk(MessagesBench(THINKER).ask(content, **fields))
            for message in (streamed, whole):
                # Made by the SDK itself, or of the prompt's tokens.
                message.usage.input_tokens = 0
            assert whole.stop_reason == streamed.stop_reason
            assert whole.usage.output_tokens == streamed.usage.output_tokens
            assert [block.to_dict(exclude_none=True) for block in whole.content] == [
                block.to_dict(exclude_none=True) for block in streamed.content
            ]

    def test_call_in_one_delta(self) -> None:
        """A call is withheld until it is whole, and then comes in one delta."""
        bench = MessagesBench(CHAT, token_seconds=1)
        stream = self.stream(bench, "call:say one two three", tools=[SAY_TOOL])
        for _ in range(2):
            bench.advance(1)
            assert b"" == stream.body
        bench.advance(1)
        deltas = [event["delta"] for event in events_of(stream) if "delta" in event]

        assert [
            {"type": "input_json_delta", "partial_json": '{"text":"one two three"}'},
            {"stop_reason": "tool_use", "stop_sequence": None},
        ] == deltas

    def test_pings(self) -> None:
        """Headers go out at once, and pings fill the silence, before the message's start too."""
        bench = MessagesBench(CHAT, prompt_seconds=25, keepalive_seconds=10)
        stream = self.stream(bench)
        assert (200, b"") == (stream.status, stream.body)
        bench.advance(10)
        bench.advance(10)
        bench.advance(5)
        kinds = [event["type"] for event in events_of(stream)]

        assert ["ping", "ping", "message_start"] == kinds[:3]
        assert 2 == kinds.count("ping")

    def test_killed_engine(self) -> None:
        """The stream of an engine that was dropped ends as if in order, without its last event."""
        bench = MessagesBench(CHAT, token_seconds=1)
        stream = self.stream(bench)
        bench.operate("unload", "acme/chat")
        bench.advance(0)

        assert "clean" == stream.ended
        assert "content_block_delta" == events_of(stream)[-1]["type"]

    def test_errors_inside(self) -> None:
        """An engine's failure is an event, and so is a prompt too long; nothing follows it."""
        bench = MessagesBench(CHAT)
        bench.node.faults.error_after_chunks = 2
        failed = self.stream(bench)
        bench.node.faults.error_after_chunks = None
        too_long = self.stream(bench, "word " * 4097)

        error = {"type": "api_error", "message": "simulated engine failure"}
        assert {"type": "error", "error": error} == events_of(failed)[-1]
        (only,) = events_of(too_long)
        assert "invalid_request_error" == only["error"]["type"]
        assert ("clean", "clean") == (failed.ended, too_long.ended)

    def test_faults(self) -> None:
        """A stream can be told to end early, in order or not, and is journalled as any other."""
        for fault, ending in (("eof_after_chunks", "clean"), ("reset_after_chunks", "broken")):
            bench = MessagesBench(CHAT)
            setattr(bench.node.faults, fault, 2)
            stream = self.stream(bench)

            assert ending == stream.ended
            assert "You said:" == text_of(stream)
            (ended,) = bench.node.journal.of("stream_ended")
            assert (MESSAGES, "fault", 2) == (
                ended.detail["path"],
                ended.detail["reason"],
                ended.detail["chunks"],
            )

    def test_metrics(self) -> None:
        """The route is counted under its model."""
        bench = MessagesBench(CHAT)
        self.stream(bench)
        bench.count()
        for path in (MESSAGES, f"{MESSAGES}/count_tokens"):
            labels = f'method="POST",path="{path}",model="acme/chat",status="200"'
            assert f"http_requests_total{{{labels}}} 1" in bench.get("/metrics").text()


class CountTests(SynchronousTestCase):
    def test_counts(self) -> None:
        """Words of the turns and of the tools count, images do not, and no limit is needed."""
        bench = MessagesBench(CHAT)
        tool = CLOCK_TOOL | {"description": "tells the time"}

        assert {"input_tokens": 2} == bench.count([{"type": "text", "text": "a b"}, IMAGE]).json()
        assert {"input_tokens": 2 + 3} == bench.count("a b", tools=[tool]).json()
        assert 5 == bench.ask("a b", tools=[tool]).json()["usage"]["input_tokens"]
        assert 400 == bench.count([{"type": "document"}]).status

    def test_always_the_default_model(self) -> None:
        """Whichever model it is asked of, the default one's tokenizer counts."""
        bench = MessagesBench(CHAT, OTHER)

        assert [1, 1] == [
            bench.count(model=model).json()["input_tokens"] for model in ("acme/other", "ghost")
        ]
        assert 2 == bench.ask(model="acme/other").json()["usage"]["input_tokens"]
        bench.operate("unload", "acme/chat")
        assert {"input_tokens": 2} == bench.count(model="acme/chat").json()

    def test_without_a_default(self) -> None:
        """With no model loaded it is an `api_error`, and nothing is loaded for it."""
        bench = MessagesBench(CHAT)
        bench.operate("unload", "acme/chat")

        assert (500, "api_error", "engine state lock is poisoned") == error_of(bench.count())
        assert [] == bench.node.journal.of("reload")
