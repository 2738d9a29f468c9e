"""A simulated Messages-only server, on the wire."""

from typing import Any

from anthropic import APIStatusError
from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedModel
from tests.doubles.messages_api.client import (
    ASKED,
    CLOCK_TOOL,
    HEADERS,
    MESSAGES,
    SAY_TOOL,
    FullBench,
    client_that_reads,
    error_of,
    events_of,
    read_by_sdk,
    text_of,
)

CHAT = SimulatedModel(id="acme/chat")
THINKER = SimulatedModel(id="acme/chat", thinks=True)
ADAPTIVE = {"type": "adaptive"}
NO_CACHE = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


def call(*names: str) -> list[dict[str, Any]]:
    return [{"type": "tool_use", "id": name, "name": "clock", "input": {}} for name in names]


class ListingTests(SynchronousTestCase):
    def listed(self, bench: FullBench, query: str = "") -> Any:
        return bench.send("GET", f"/v1/models{query}", headers=HEADERS).json()

    def test_listing(self) -> None:
        """A model has an id, a name and a date that says nothing of the server's start."""
        bench = FullBench(CHAT)
        before = self.listed(bench)
        bench.node.restart()

        assert before == self.listed(bench)
        assert {
            "data": [
                {
                    "type": "model",
                    "id": "acme/chat",
                    "display_name": "chat",
                    "created_at": "2026-01-15T00:00:00Z",
                }
            ],
            "has_more": False,
            "first_id": "acme/chat",
            "last_id": "acme/chat",
        } == before

    def test_pages(self) -> None:
        """A listing is followed by its last id, 20 at a time unless told otherwise."""
        models = [SimulatedModel(id=f"acme/{number:02}") for number in range(23)]
        bench = FullBench(*models)

        def following(query: str) -> tuple[int, bool, str, str]:
            page = self.listed(bench, query)
            return len(page["data"]), page["has_more"], page["first_id"], page["last_id"]

        assert (20, True, "acme/00", "acme/19") == following("")
        assert (3, False, "acme/20", "acme/22") == following("?after_id=acme%2F19")
        assert (2, True, "acme/05", "acme/06") == following("?after_id=acme/04&limit=2")
        end = self.listed(bench, "?after_id=acme/22")
        assert ([], False, None, None) == tuple(end.values())

    def test_wrong_pages(self) -> None:
        """An id that is not there and a limit that is no such number are refused."""
        for query in ("after_id=ghost", "limit=0", "limit=1001", "limit=many"):
            refused = FullBench(CHAT).send("GET", f"/v1/models?{query}", headers=HEADERS)
            status, kind, words = error_of(refused)
            assert (400, "invalid_request_error") == (status, kind)
            assert words.startswith(query.partition("=")[0])

    def test_what_is_loaded(self) -> None:
        """What is not loaded or does not chat is neither listed nor found; nobody can load it."""
        cold = SimulatedModel(id="acme/cold", loaded=False)
        bench = FullBench(CHAT, cold, SimulatedModel(id="acme/embed", kind="embedding"))

        assert ["acme/chat"] == [model["id"] for model in self.listed(bench)["data"]]
        for model in ("acme/cold", "acme/embed", "ghost", "default"):
            assert (404, "not_found_error", f"model: {model}") == error_of(bench.ask(model=model))
        assert [] == bench.node.journal.of("reload")

    def test_nothing_else(self) -> None:
        """Every other route of a mistral.rs node is missing, in the API's envelope."""
        bench = FullBench(CHAT)
        for method, path in (
            ("GET", "/health"),
            ("GET", "/metrics"),
            ("GET", "/v1/system/info"),
            ("GET", "/v1/models/acme%2Fchat"),
            ("POST", "/v1/models/unload"),
            ("POST", "/v1/models/reload"),
            ("POST", "/v1/chat/completions"),
            ("POST", "/v1/responses"),
        ):
            missing = bench.send(method, path, b"{}", HEADERS)
            assert (404, "not_found_error", "Not found") == error_of(missing)
        wrong = bench.send("GET", MESSAGES, headers=HEADERS)
        assert (405, "invalid_request_error", "Method Not Allowed") == error_of(wrong)

    def test_version(self) -> None:
        """Without the header that names the API's version nothing is answered."""
        bench = FullBench(CHAT)
        for method, path in (
            ("GET", "/v1/models"),
            ("POST", MESSAGES),
            ("POST", f"{MESSAGES}/count_tokens"),
        ):
            refused = bench.send(method, path, b"{}", {"content-type": "application/json"})
            assert (400, "invalid_request_error", "anthropic-version: header is required") == (
                error_of(refused)
            )


class MessageTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """It is called as the client called the model, and has all four counts."""
        answer = FullBench(CHAT).ask("hi there")
        body = answer.json()
        assert body.pop("id").startswith("msg_")
        assert answer.headers["request-id"].startswith("req_")

        assert {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": "You said: hi there"}],
            "model": "acme/chat",
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "stop_details": None,
            "container": None,
            "usage": {"input_tokens": 2, "output_tokens": 4, **NO_CACHE},
        } == body

    def test_events(self) -> None:
        """A stream begins with the prompt's tokens and a ping, and ends with all counts."""
        events = events_of(FullBench(CHAT).ask("hi there", stream=True))

        assert [
            "message_start",
            "ping",
            "content_block_start",
            *["content_block_delta"] * 4,
            "content_block_stop",
            "message_delta",
            "message_stop",
        ] == [event["type"] for event in events]
        assert {"input_tokens": 2, "output_tokens": 1, **NO_CACHE} == events[0]["message"]["usage"]
        assert {"input_tokens": 2, "output_tokens": 4, **NO_CACHE} == events[-2]["usage"]

    def test_as_the_whole(self) -> None:
        """The SDK reads the same of a stream as of a whole answer."""
        tools = {"tools": [SAY_TOOL, CLOCK_TOOL]}
        cases: list[tuple[str, dict[str, Any]]] = [
            ("one two", {}),
            ("", {"messages": [{"role": "user", "content": "grüße 👋"}]}),
            ("one two three", {"thinking": ADAPTIVE, "max_tokens": 8}),
            ("one two three", {"thinking": ADAPTIVE, "max_tokens": 3}),
            ("call:say grüße an alle call:clock", {**tools, "thinking": ADAPTIVE}),
            ("call:say one two three", {**tools, "max_tokens": 3}),
            ("one two", {"stop_sequences": ["three", " two"]}),
            ("stop:refusal", {}),
        ]
        for content, fields in cases:
            whole = read_by_sdk(FullBench(THINKER).ask(content, **fields))
            streamed = read_by_sdk(FullBench(THINKER).ask(content, stream=True, **fields))
            if whole.stop_reason != "max_tokens":
                assert whole.to_dict() == streamed.to_dict()
            # A call that was cut is read in part where it was streamed.
            assert whole.usage == streamed.usage
            assert whole.stop_reason == streamed.stop_reason

    def test_thinking(self) -> None:
        """It thinks only if asked to, signs what it thought, and tells how many tokens that was."""
        bench = FullBench(THINKER)
        assert ["text"] == [block["type"] for block in bench.ask().json()["content"]]
        disabled = bench.ask(thinking={"type": "disabled"}).json()
        assert ["text"] == [block["type"] for block in disabled["content"]]

        for thinking in (ADAPTIVE, {"type": "enabled", "budget_tokens": 1024}):
            message = read_by_sdk(
                bench.ask(thinking=thinking, max_tokens=2000, stream=True)
            ).to_dict()
            content: Any = message["content"]
            thought, text = content
            assert ("The user said 1 words.", "You said: hi") == (thought["thinking"], text["text"])
            usage: Any = message["usage"]
            assert {"thinking_tokens": 5} == usage["output_tokens_details"]
            again = bench.go_on(("user", "hi"), ("assistant", content), ("user", "and?"))
            assert "You said: and?" == text_of(again)
            forged = [thought | {"signature": "cortex"}, text]
            status, _, words = error_of(
                bench.go_on(("user", "hi"), ("assistant", forged), ("user", "and?"))
            )
            assert (400, True) == (status, "signature" in words)

    def test_calls_in_pieces(self) -> None:
        """Arguments are streamed as they are made, after an empty piece; calls follow calls."""
        bench = FullBench(CHAT, token_seconds=1)
        stream = bench.ask("call:say one two call:clock", tools=[SAY_TOOL, CLOCK_TOOL], stream=True)
        assert "tool_use" == events_of(stream)[-2]["content_block"]["type"]
        for _ in range(8):
            bench.advance(1)
        pieces = [
            (event["index"], event["delta"]["partial_json"])
            for event in events_of(stream)
            if event["type"] == "content_block_delta"
        ]

        assert [(0, ""), (0, '{"text":"one'), (0, ' two"}'), (1, "")] == pieces
        content: Any = read_by_sdk(stream).to_dict()["content"]
        say, clock = content
        assert [{"text": "one two"}, {}] == [say["input"], clock["input"]]
        assert say["id"].startswith("toolu_")
        assert say["id"] != clock["id"]

    def test_one_call_at_a_time(self) -> None:
        """Parallel calls can be forbidden."""
        answer = FullBench(CHAT).ask(
            "call:clock call:clock",
            tools=[CLOCK_TOOL],
            tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        )
        assert ["tool_use"] == [block["type"] for block in answer.json()["content"]]

    def test_any_tool(self) -> None:
        """A demand for any tool is heard."""
        answer = FullBench(CHAT).ask(tools=[CLOCK_TOOL], tool_choice={"type": "any"}).json()
        assert ("tool_use", "clock") == (answer["stop_reason"], answer["content"][0]["name"])

    def test_results(self) -> None:
        """The last tool's result is answered; one that failed is told from one that did not."""
        bench = FullBench(CHAT)
        for fields, heard in (({}, "boom"), ({"is_error": True}, "Error: boom")):
            results = [
                {"type": "tool_result", "tool_use_id": "a", "content": "42"},
                {"type": "tool_result", "tool_use_id": "b", "content": "boom", **fields},
            ]
            turns = ("user", "call:clock"), ("assistant", call("a", "b")), ("user", results)
            assert f"The tool said: {heard}" == text_of(bench.go_on(*turns))

    def test_documents(self) -> None:
        """A document of text is read, and of any other there is a word."""
        text = {"type": "text", "media_type": "text/plain", "data": "once upon"}
        pdf = {"type": "base64", "media_type": "application/pdf", "data": "aGk="}
        parts = [{"type": "document", "source": source} for source in (text, pdf)]
        found = {"type": "search_result", "content": [{"type": "text", "text": "found"}]}

        assert "You said: once upon\n[document]\nfound" == text_of(
            FullBench(CHAT).ask([*parts, found])
        )

    def test_turns_without_text(self) -> None:
        """A turn of thoughts alone is taken, and so is an answer that has yet to begin."""
        bench = FullBench(THINKER)
        (thought, _) = bench.ask(thinking=ADAPTIVE).json()["content"]
        hidden = {"type": "redacted_thinking", "data": "aGk="}
        for content in ([thought], [hidden], [thought, {"type": "text", "text": "well"}]):
            answer = bench.go_on(("user", "hi"), ("assistant", content), ("user", "and?"))
            assert "You said: and?" == text_of(answer)
        assert "You said: hi" == text_of(bench.go_on(("user", "hi"), ("assistant", [])))

    def test_merged_turns(self) -> None:
        """Turns of one role in a row are one."""
        answer = FullBench(CHAT).go_on(("user", "hi"), ("user", "there"))
        assert "You said: hi\nthere" == text_of(answer)

    def test_later_system(self) -> None:
        """A turn of the system's is refused, unless the client names a beta that has it."""
        bench = FullBench(CHAT)
        turns = [{"role": "user", "content": "hi"}, {"role": "system", "content": "be kind"}]
        assert 400 == bench.ask(messages=turns).status
        for beta in ("system-2026-04-07", "tool-changes-2026-07-01"):
            betas = {"anthropic-beta": f"other,mid-conversation-{beta}"}
            assert "You said: hi" == text_of(bench.ask(messages=turns, headers=betas))

    def test_schema(self) -> None:
        """A schema for the answer is followed."""
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        format_ = {"type": "json_schema", "schema": schema}
        assert '{"a":1}' == text_of(FullBench(CHAT).ask(output_config={"format": format_}))


class StopTests(SynchronousTestCase):
    def reason(self, content: str = "one two three", **fields: Any) -> tuple[str, str | None]:
        """Return reason and sequence with which an answer ends, whole as streamed."""
        model = SimulatedModel(id="acme/chat", context_tokens=8)
        whole, streamed = (
            read_by_sdk(FullBench(model).ask(content, stream=stream, **fields))
            for stream in (False, True)
        )
        assert whole.stop_reason == streamed.stop_reason
        assert whole.stop_sequence == streamed.stop_sequence
        return str(whole.stop_reason), whole.stop_sequence

    def test_reasons(self) -> None:
        """Each reason of the API can be had."""
        tools = [CLOCK_TOOL]
        for reason, content, fields in (
            ("end_turn", "hi", {}),
            ("end_turn", "hi", {"stop_sequences": ["never"]}),
            ("max_tokens", "one two", {"max_tokens": 2}),
            ("model_context_window_exceeded", "1 2 3 4", {"max_tokens": 50}),
            ("tool_use", "call:clock", {"tools": tools}),
            ("refusal", "stop:refusal", {}),
            ("pause_turn", "stop:pause_turn", {}),
        ):
            assert (reason, None) == self.reason(content, **{"max_tokens": 5, **fields})

    def test_stop_sequence(self) -> None:
        """Of several the first that was met is told."""
        for stops in (["two", " one"], [" one", "two"]):
            assert ("stop_sequence", " one") == self.reason("one two", stop_sequences=stops)

    def test_a_pause_goes_on(self) -> None:
        """An answer that paused is handed back and comes to its end."""
        bench = FullBench(CHAT)
        paused = bench.ask("stop:pause_turn").json()
        resumed = bench.go_on(("user", "stop:pause_turn"), ("assistant", paused["content"])).json()
        assert ["pause_turn", "end_turn"] == [paused["stop_reason"], resumed["stop_reason"]]


class CountTests(SynchronousTestCase):
    def test_exact(self) -> None:
        """It counts what the answer's usage tells, with the model's own tokenizer."""
        other = SimulatedModel(id="acme/other", tokens_per_word=3)
        bench = FullBench(CHAT, other)
        fields: dict[str, Any] = {"system": "be kind", "tools": [SAY_TOOL]}

        for model, expected in (("acme/chat", 5), ("acme/other", 15)):
            answer = bench.ask("hi there", model=model, **fields).json()
            counted = bench.count("hi there", model=model, max_tokens=None, **fields).json()
            assert {"input_tokens": expected} == counted
            assert expected == answer["usage"]["input_tokens"]

    def test_refusals(self) -> None:
        """What an answer would be refused for is refused here too."""
        bench = FullBench(CHAT)
        assert 400 == error_of(bench.count([{"type": "text", "text": ""}]))[0]
        assert 404 == error_of(bench.count(model="ghost"))[0]
        assert 200 == bench.count("word " * 5000).status


class FailureTests(SynchronousTestCase):
    def test_prompt_too_long(self) -> None:
        """It is 400, before the headers of a stream, with the words that clients look for."""
        words = "prompt is too long: 5000 tokens > 4096 maximum"
        for stream in (False, True):
            refused = FullBench(CHAT).ask("word " * 4999 + "word", stream=stream)
            assert (400, "invalid_request_error", words) == error_of(refused)

    def test_bodies(self) -> None:
        """A body that does not parse, or is not said to be JSON, is 400 in the envelope."""
        bench = FullBench(CHAT)
        for body in (b"{", b'{"messages":"hi"}', b"{}"):
            assert 400 == error_of(bench.send("POST", MESSAGES, body, HEADERS))[0]
        headers = {"anthropic-version": "2023-06-01"}
        assert 400 == error_of(bench.send("POST", MESSAGES, b"{}", headers))[0]

    def test_told_errors(self) -> None:
        """A test chooses the status, which brings its type and makes the SDK raise."""
        bench = FullBench(CHAT)
        for status, kind in (
            (529, "overloaded_error"),
            (429, "rate_limit_error"),
            (401, "authentication_error"),
            (500, "api_error"),
            (503, "api_error"),
        ):
            bench.node.faults.error_status = status
            bench.node.faults.error_responses = 1
            failed = bench.ask(stream=True)
            assert (status, kind, "simulated engine failure") == error_of(failed)
            assert failed.json()["request_id"] == failed.headers["request-id"]
            with self.assertRaises(APIStatusError) as caught:
                client_that_reads(failed).messages.create(**ASKED)
            assert status == caught.exception.status_code
        assert 200 == bench.ask().status

    def test_errors_inside(self) -> None:
        """An error in the middle is the last event, and makes the SDK raise."""
        bench = FullBench(CHAT)
        bench.node.faults.error_after_chunks = 2
        failed = bench.ask(stream=True)
        error = {"type": "api_error", "message": "simulated engine failure"}

        assert {"type": "error", "error": error} == events_of(failed)[-1]
        with self.assertRaises(APIStatusError):
            read_by_sdk(failed)
        bench.node.faults.error_status = 529
        assert "overloaded_error" == events_of(bench.ask(stream=True))[-1]["error"]["type"]

    def test_broken_streams(self) -> None:
        """A stream can end early, in order or not: in the middle of a call too."""
        for fault, ending in (("eof_after_chunks", "clean"), ("reset_after_chunks", "broken")):
            bench = FullBench(CHAT)
            setattr(bench.node.faults, fault, 2)
            stream = bench.ask("call:say one two three", tools=[SAY_TOOL], stream=True)

            assert ending == stream.ended
            assert {"type": "input_json_delta", "partial_json": '{"text":"one'} == (
                events_of(stream)[-1]["delta"]
            )

    def test_pace(self) -> None:
        """The start comes at once, pings fill the wait, and tokens come at their pace."""
        bench = FullBench(CHAT, prompt_seconds=25, token_seconds=1, keepalive_seconds=10)
        stream = bench.ask(stream=True)
        assert ["message_start", "ping"] == [event["type"] for event in events_of(stream)]
        bench.advance(10)
        bench.advance(10)
        assert ["ping"] * 2 == [event["type"] for event in events_of(stream)][2:]
        bench.advance(5)
        assert "You" == text_of(stream)
        bench.advance(1)
        assert "You said:" == text_of(stream)

    def test_hangs_and_leaves(self) -> None:
        """The knobs of every node work here, and a client that leaves ends its generation."""
        bench = FullBench(CHAT, token_seconds=1)
        stream = bench.ask(stream=True)
        bench.leave(stream)
        bench.advance(1)
        (ended,) = bench.node.journal.of("generation_ended")
        assert "canceled" == ended.detail["reason"]
        bench.node.faults.hang_routes = {MESSAGES}
        assert None is bench.ask().status

    def test_journal(self) -> None:
        """What came is there to read: path, headers and body."""
        bench = FullBench(CHAT)
        bench.ask()
        (entry,) = bench.node.journal.requests(MESSAGES)
        body: Any = entry.detail["body"]
        headers: Any = entry.detail["headers"]

        assert ("acme/chat", 100) == (entry.model, body["max_tokens"])
        assert "2023-06-01" == headers["anthropic-version"]
