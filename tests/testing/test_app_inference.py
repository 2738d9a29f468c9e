import base64
import json
import struct
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedModel
from tests.testing.client import CHAT, JSON_HEADERS, Bench

A = SimulatedModel(id="acme/chat", size_mb=6_000)
B = SimulatedModel(id="acme/other", size_mb=3_000)
EMBED = SimulatedModel(id="acme/embed", size_mb=100, kind="embedding")
THINKER = SimulatedModel(id="acme/thinker", thinks=True)
CLOCK_TOOL = {"type": "function", "function": {"name": "clock"}}


class ChatTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """An answer that does not stream has the full usage, in tokens, seconds and speeds."""
        bench = Bench(A, prompt_seconds=2, token_seconds=0.5)
        chat = bench.chat("one two three")
        bench.advance(2)
        for _ in range(4):
            self.assertIsNone(chat.status)
            bench.advance(0.5)
        self.assertEqual(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1_790_000_000,
                "model": "acme/chat",
                "system_fingerprint": "local",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "logprobs": None,
                        "message": {
                            "role": "assistant",
                            "content": "You said: one two three",
                            "tool_calls": None,
                        },
                    }
                ],
                "usage": {
                    "completion_tokens": 5,
                    "prompt_tokens": 3,
                    "total_tokens": 8,
                    "avg_tok_per_sec": 2.0,
                    "avg_prompt_tok_per_sec": 1.5,
                    "avg_compl_tok_per_sec": 2.5,
                    "total_time_sec": 4.0,
                    "total_prompt_time_sec": 2.0,
                    "total_completion_time_sec": 2.0,
                },
            },
            chat.json(),
        )

    def test_ids_are_small_counters(self) -> None:
        """Answers are numbered from 1 on each node, so that their ids collide."""
        one, other = Bench(A), Bench(A)
        self.assertEqual(["1", "2"], [one.chat().json()["id"], one.chat().json()["id"]])
        self.assertEqual("1", other.chat().json()["id"])

    def test_runs_on_without_its_client(self) -> None:
        """A generation that does not stream runs to its end though the client left."""
        bench = Bench(A, token_seconds=1)
        bench.leave(bench.chat("one two"))
        self.assertEqual(1, bench.node.running_process.sequences_running)
        for _ in range(4):
            bench.advance(1)
        (ended,) = bench.node.journal.of("generation_ended")
        self.assertEqual({"tokens": 4, "reason": "finished"}, ended.detail)

    def test_unload_kills_it(self) -> None:
        """An unload ends an answer that does not stream with 500."""
        bench = Bench(A, B, token_seconds=1)
        chat = bench.chat()
        bench.operate("unload", "acme/chat")
        bench.advance(0)
        self.assertEqual(500, chat.status)
        self.assertEqual({"message": "No response received from the model."}, chat.json())

    def test_several_choices(self) -> None:
        """N choices come in one answer whose usage counts them all."""
        answer = Bench(A).chat(n=2).json()
        self.assertEqual([0, 1], [choice["index"] for choice in answer["choices"]])
        self.assertEqual(7, answer["usage"]["completion_tokens"])

    def test_tool_call(self) -> None:
        """A tool call has no content, and its arguments are text."""
        answer = Bench(A).chat("call:clock", tools=[CLOCK_TOOL]).json()
        (choice,) = answer["choices"]
        self.assertEqual("tool_calls", choice["finish_reason"])
        self.assertIsNone(choice["message"]["content"])
        (call,) = choice["message"]["tool_calls"]
        self.assertTrue(call.pop("id").startswith("call-"))
        self.assertEqual(
            {"index": 0, "type": "function", "function": {"name": "clock", "arguments": "{}"}},
            call,
        )

    def test_tool_call_ids(self) -> None:
        """Unlike answers' ids, tool calls' ids do not repeat."""
        bench = Bench(A)

        def call_ids() -> list[str]:
            answer = bench.chat("call:clock call:clock", tools=[CLOCK_TOOL]).json()
            return [call["id"] for call in answer["choices"][0]["message"]["tool_calls"]]

        self.assertEqual(4, len({*call_ids(), *call_ids()}))

    def test_reasoning(self) -> None:
        """Reasoning stands beside the content."""
        (choice,) = Bench(THINKER).chat(model="default").json()["choices"]
        self.assertEqual("You said: hi", choice["message"]["content"])
        self.assertEqual("The user said 1 words.", choice["message"]["reasoning_content"])

    def test_logprobs(self) -> None:
        """Log probabilities come as a list under `content`, a token each."""
        (choice,) = Bench(A).chat(logprobs=True, top_logprobs=2).json()["choices"]
        tokens = choice["logprobs"]["content"]
        self.assertEqual(["You", " said:", " hi"], [token["token"] for token in tokens])
        self.assertEqual(list(b" hi"), tokens[2]["bytes"])
        self.assertTrue(all(len(token["top_logprobs"]) == 2 for token in tokens))

    def test_later_usage(self) -> None:
        """Later versions send details of the prompt, null where no cache was hit."""
        self.assertNotIn("prompt_tokens_details", Bench(A).chat().json()["usage"])
        later = Bench(A, version="0.9.5").chat().json()["usage"]
        self.assertIsNone(later["prompt_tokens_details"])


class PrefixTests(SynchronousTestCase):
    """What an engine does not read again (nodes.md 7.10)."""

    def setUp(self) -> None:
        """Set up a node that reports it."""
        adapted = SimulatedModel(id="acme/chat", adapters=("poet",), tokens_per_word=2)
        self.bench = Bench(adapted, version="0.9.5", prompt_token_seconds=0.001)

    def cached(self, *texts: str, **fields: Any) -> int:
        """Give the cached tokens of a conversation whose messages have these texts."""
        turns = [
            {"role": "assistant" if place % 2 else "user", "content": text}
            for place, text in enumerate(texts)
        ]
        exchange = self.bench.chat(messages=turns, **fields)
        self.bench.advance(1)
        details = exchange.json()["usage"]["prompt_tokens_details"]
        return 0 if details is None else int(details["cached_tokens"])

    def test_continued(self) -> None:
        """A longer conversation finds the whole blocks of the one before, in tokens."""
        long = "word " * 100
        self.assertEqual(0, self.cached(long))
        self.assertEqual(2 * 96, self.cached(long, "yes", "go on"))
        self.assertEqual(2 * 96, self.cached(long, "no", "go on"))
        self.assertIn(
            f"mistralrs_prefix_cache_tokens_reused_total {2 * 2 * 96}\n",
            self.bench.get("/metrics").text(),
        )

    def test_changed_front(self) -> None:
        """A prompt that begins in another way finds nothing, nor does one for an adapter."""
        long = "word " * 100
        self.cached(long)
        self.assertEqual(0, self.cached(f"now {long}"))
        self.assertEqual(0, self.cached(long, "yes", "go on", model="poet"))

    def test_repeated(self) -> None:
        """A prompt that is wholly in the cache is read again."""
        long = "word " * 100
        self.cached(long)
        self.assertEqual(0, self.cached(long))

    def test_tools(self) -> None:
        """Tools come before the messages, so that another tool changes everything behind it."""
        long = "word " * 100
        names = ("first", "second")
        tools = [{"type": "function", "function": {"name": name}} for name in names]
        self.cached(long, tools=tools)
        self.assertEqual(0, self.cached(long, "yes", "go on", tools=tools[1:]))
        self.assertLess(0, self.cached(long, "yes", "go on", tools=tools))

    def test_unloaded(self) -> None:
        """An unload drops the cache."""
        long = "word " * 100
        self.cached(long)
        self.bench.operate("unload", "acme/chat")
        self.assertEqual(0, self.cached(long, "yes", "go on"))

    def test_left(self) -> None:
        """A prompt whose client leaves before the answer ends is not cached."""
        long = "word " * 100
        leaving = self.bench.stream(messages=[{"role": "user", "content": long}])
        self.bench.leave(leaving)
        self.bench.advance(1)
        self.assertEqual(0, self.cached(long, "yes", "go on"))

    def test_oldest(self) -> None:
        """The oldest of 16 prompts goes first."""
        long = "word " * 100
        self.cached(long)
        for place in range(15):
            self.cached(f"{place} {long}")
        self.assertEqual(2 * 96, self.cached(long, "yes", "go on"))
        self.cached("short")
        self.assertEqual(2 * 96, self.cached(long, "yes", "go on", "and", "on"))
        for place in range(16):
            self.cached(f"{place} {long}")
        self.assertEqual(0, self.cached(long, "yes", "go on"))

    def test_prompt_seconds(self) -> None:
        """The time to the first token grows with the tokens that are not cached."""
        long = "word " * 100
        self.cached(long)
        turns = [{"role": "user", "content": f"{long} and {long}"}]
        exchange = self.bench.chat(messages=turns)
        self.bench.advance((402 - 192) * 0.001 - 0.005)
        self.assertIsNone(exchange.status)
        self.bench.advance(0.01)
        self.assertEqual(200, exchange.status)


class RefusalTests(SynchronousTestCase):
    def refused(self, **fields: Any) -> tuple[int | None, str, Any]:
        """Give status, content type and body of a refused chat completion."""
        bench = Bench(A, EMBED, SimulatedModel(id="acme/small", context_tokens=2))
        answer = bench.chat(**fields)
        is_json = answer.headers["content-type"] == "application/json"
        return (
            answer.status,
            answer.headers["content-type"],
            answer.json() if is_json else answer.text(),
        )

    def test_unknown_model(self) -> None:
        """An unknown model is a 500 with the loaded models' names."""
        status, content_type, body = self.refused(model="gpt")
        self.assertEqual((500, "application/json"), (status, content_type))
        self.assertIn("Requested model 'gpt' is not available.", body["message"])
        self.assertEqual(["message"], list(body))

    def test_senseless_parameters(self) -> None:
        """What parses and makes no sense is a 500 in the handlers' envelope."""
        parts = [{"role": "system", "content": [{"type": "text", "text": "be kind"}]}]
        refused: list[dict[str, Any]] = [
            {"max_tokens": 0},
            {"reasoning_effort": "minimal"},
            {"tool_choice": "required"},
            {"messages": parts},
        ]
        for fields in refused:
            status, content_type, body = self.refused(**fields)
            self.assertEqual((500, "application/json"), (status, content_type), fields)
            self.assertEqual(["message"], list(body))

    def test_developer(self) -> None:
        """The role `developer` is taken like any other."""
        messages = [{"role": "developer", "content": "be kind"}, {"role": "user", "content": "hi"}]
        self.assertEqual(200, self.refused(messages=messages)[0])

    def test_unparsable(self) -> None:
        """What does not parse is refused in plain text."""
        refused: list[dict[str, Any]] = [
            {"logprobs": None},
            {"max_tokens": 1, "max_completion_tokens": 1},
            {"tools": [{"type": "custom"}]},
            {"messages": None},
        ]
        for fields in refused:
            status, content_type, body = self.refused(**fields)
            self.assertEqual((422, "text/plain; charset=utf-8"), (status, content_type), fields)
            self.assertIn("Failed to deserialize", body)

    def test_framework_errors(self) -> None:
        """Broken JSON, a wrong content type and an oversized body are refused in plain text."""
        bench = Bench(A)
        large = b'"' + b"x" * (50 * 1024 * 1024) + b'"'
        for status, body, headers in (
            (400, b'{"messages":', JSON_HEADERS),
            (415, b"{}", {"content-type": "text/plain"}),
            (413, large, JSON_HEADERS),
        ):
            answer = bench.send("POST", CHAT, body, headers)
            self.assertEqual(status, answer.status)
            self.assertEqual("text/plain; charset=utf-8", answer.headers["content-type"])

    def test_prompt_too_long(self) -> None:
        """A prompt longer than the context is 422, with `greater than` in its message."""
        messages = [{"role": "user", "content": "one two three"}]
        status, _, body = self.refused(model="acme/small", messages=messages)
        self.assertEqual(422, status)
        self.assertIn("greater than 2", body["message"])

    def test_routes(self) -> None:
        """An unknown route is 404 and a wrong method 405, both without a body."""
        bench = Bench(A)
        self.assertEqual((404, b""), (bench.get("/v2").status, bench.get("/v2").body))
        self.assertEqual((404, b""), (bench.get("/v1/models/").status, bench.get("/v2").body))
        wrong = bench.get(CHAT)
        self.assertEqual((405, b"", "POST"), (wrong.status, wrong.body, wrong.headers["allow"]))

    def test_no_messages_api(self) -> None:
        """Both routes of the Messages API are missing; only a double in the tests has them."""
        bench = Bench(A)
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            answer = bench.post(path, body)
            self.assertEqual((404, b""), (answer.status, answer.body))

    def test_no_responses(self) -> None:
        """The routes of Responses are missing; only a double in the tests has them."""
        bench = Bench(A)
        for method, path in (
            ("POST", "/v1/responses"),
            ("GET", "/v1/responses/resp_1"),
            ("DELETE", "/v1/responses/resp_1"),
            ("POST", "/v1/responses/resp_1/cancel"),
        ):
            answer = bench.send(method, path, b'{"input": "hi"}', JSON_HEADERS)
            self.assertEqual((404, b""), (answer.status, answer.body))


class CompletionTests(SynchronousTestCase):
    def complete(self, **fields: object) -> Any:
        """POST a completion."""
        return Bench(A).post("/v1/completions", {"model": "acme/chat", **fields})

    def test_whole(self) -> None:
        """A completion that does not stream has text and usage."""
        answer = self.complete(prompt="once upon").json()
        self.assertEqual("text_completion", answer["object"])
        self.assertEqual("You said: once upon", answer["choices"][0]["text"])
        self.assertEqual("stop", answer["choices"][0]["finish_reason"])
        self.assertEqual(4, answer["usage"]["completion_tokens"])

    def test_stream(self) -> None:
        """A streamed completion never says its usage."""
        stream = self.complete(prompt="once upon", stream=True)
        chunks = stream.chunks()
        self.assertEqual(
            "You said: once upon", "".join(chunk["choices"][0]["text"] for chunk in chunks)
        )
        self.assertEqual("stop", chunks[-1]["choices"][0]["finish_reason"])
        self.assertEqual("[DONE]", stream.events()[-1])
        self.assertFalse(any("usage" in chunk for chunk in chunks))

    def test_logprobs(self) -> None:
        """Log probabilities are given where asked for."""
        (choice,) = self.complete(prompt="hi", logprobs=1).json()["choices"]
        self.assertEqual(3, len(choice["logprobs"]["content"]))

    def test_array(self) -> None:
        """A prompt that is an array is refused in plain text."""
        answer = self.complete(prompt=["once"])
        self.assertEqual(422, answer.status)
        self.assertEqual("text/plain; charset=utf-8", answer.headers["content-type"])


class EmbeddingTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Set up a node with a chat and an embedding model."""
        self.bench = Bench(A, EMBED)

    def embed(self, **fields: object) -> Any:
        """POST an embedding request."""
        return self.bench.post("/v1/embeddings", {"model": "acme/embed", **fields})

    def test_texts(self) -> None:
        """Each text gets its vector, in order, and the tokens are counted."""
        answer = self.embed(input=["one two", "three"]).json()
        self.assertEqual("list", answer["object"])
        self.assertEqual([0, 1], [entry["index"] for entry in answer["data"]])
        self.assertEqual({"prompt_tokens": 3, "total_tokens": 3}, answer["usage"])
        alone = self.embed(input="three").json()
        self.assertEqual(alone["data"][0]["embedding"], answer["data"][1]["embedding"])

    def test_base64(self) -> None:
        """Asked for base64 it sends the same numbers as little-endian floats."""
        numbers = self.embed(input="one").json()["data"][0]["embedding"]
        packed = self.embed(input="one", encoding_format="base64").json()["data"][0]["embedding"]
        self.assertEqual(
            numbers, list(struct.unpack(f"<{len(numbers)}f", base64.b64decode(packed)))
        )

    def test_refusals(self) -> None:
        """Dimensions, no input and an unknown model are 422 in the handlers' envelope."""
        refused: list[dict[str, Any]] = [{"dimensions": 4}, {"input": []}, {"model": "gpt"}]
        for fields in refused:
            answer = self.embed(**{"input": "one", **fields})
            self.assertEqual(422, answer.status, fields)
            self.assertEqual(["message"], list(answer.json()))

    def test_chat_model(self) -> None:
        """A chat model does not embed."""
        self.assertEqual(500, self.embed(input="one", model="acme/chat").status)

    def test_takes_the_prompts_time(self) -> None:
        """An embedding takes as long as a prompt."""
        self.bench = Bench(EMBED, prompt_seconds=2)
        answer = self.embed(input="one")
        self.assertIsNone(answer.status)
        self.bench.advance(2)
        self.assertEqual(200, answer.status)


class JsonTests(SynchronousTestCase):
    def test_compact_and_unescaped(self) -> None:
        """JSON has no spaces and characters beyond ASCII stand for themselves."""
        body = Bench(A).chat("grüße 👋").body
        self.assertIn("You said: grüße 👋".encode(), body)
        self.assertNotIn(b'": ', body)
        self.assertEqual("You said: grüße 👋", json.loads(body)["choices"][0]["message"]["content"])
