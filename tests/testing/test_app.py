import base64
import json
import struct
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedModel
from tests.testing.client import CHAT, JSON_HEADERS, Bench

A = SimulatedModel(id="acme/chat", size_mb=6_000)
B = SimulatedModel(id="acme/other", size_mb=3_000)
COLD = SimulatedModel(id="acme/cold", size_mb=2_000, load_seconds=5, loaded=False)
EMBED = SimulatedModel(id="acme/embed", size_mb=100, kind="embedding")
THINKER = SimulatedModel(id="acme/thinker", thinks=True)
CLOCK_TOOL = {"type": "function", "function": {"name": "clock"}}


class ModelListTests(SynchronousTestCase):
    def test_list(self) -> None:
        """The list begins with `default`, which alone has no status; all share one `created`."""
        bench = Bench(A, COLD)
        data = bench.get("/v1/models").json()["data"]
        created = bench.node.running_process.created
        self.assertEqual(
            [
                {
                    "id": model_id,
                    "object": "model",
                    "created": created,
                    "owned_by": "local",
                    "root": model_id,
                }
                | status
                for model_id, status in (
                    ("default", {}),
                    ("acme/chat", {"status": "loaded"}),
                    ("acme/cold", {"status": "unloaded"}),
                )
            ],
            data,
        )

    def test_before_lora(self) -> None:
        """Before v0.9.1 entries have no root."""
        data = Bench(A, version="0.9.0").get("/v1/models").json()["data"]
        self.assertNotIn("root", data[1])


class ModelOperationTests(SynchronousTestCase):
    def test_unload(self) -> None:
        """Unload answers 200 with the outcome, unknown ids included."""
        bench = Bench(A, B)
        self.assertEqual(
            {"model_id": "acme/chat", "status": "unloaded"}, bench.operate("unload", "acme/chat")
        )
        self.assertEqual("not_found", bench.operate("unload", "acme/none")["status"])
        self.assertEqual("not_found", bench.operate("unload", "default")["status"])
        self.assertEqual("unloaded", bench.operate("status", "acme/chat")["status"])
        self.assertEqual(1, len(bench.node.journal.of("unload")))

    def test_reload_blocks(self) -> None:
        """Reload sends no byte until the model is loaded; status tells meanwhile."""
        bench = Bench(A, COLD)
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(4.9)
        self.assertIsNone(reload.status)
        self.assertEqual("reloading", bench.operate("status", "acme/cold")["status"])
        self.assertIn(("acme/cold", "reloading"), bench.listed())
        self.assertNotIn(("acme/cold", "unloaded"), bench.listed())
        bench.advance(5 - bench.clock.seconds())
        self.assertEqual(
            (200, {"model_id": "acme/cold", "status": "loaded"}), (reload.status, reload.json())
        )
        (done,) = bench.node.journal.of("load_done", "acme/cold")
        self.assertEqual({"seconds": 5.0}, done.detail)

    def test_second_reload(self) -> None:
        """A second reload of the same model answers `reloading` at once."""
        bench = Bench(A, COLD)
        bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        self.assertEqual("reloading", bench.operate("reload", "acme/cold")["status"])
        self.assertEqual([], bench.node.journal.of("reload_of_not_unloaded"))

    def test_reload_outlives_its_client(self) -> None:
        """A load goes on though whoever asked for it has left."""
        bench = Bench(A, COLD)
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.leave(reload)
        bench.advance(5)
        self.assertEqual("loaded", bench.operate("status", "acme/cold")["status"])

    def test_reload_of_loaded_bricks(self) -> None:
        """The reload of a loaded id bricks it: it works until unloaded, and then never again."""
        bench = Bench(A, B)
        self.assertEqual("not_found", bench.operate("reload", "acme/chat")["status"])
        self.assertEqual("reloading", bench.operate("status", "acme/chat")["status"])
        listed = [status for model_id, status in bench.listed() if model_id == "acme/chat"]
        self.assertEqual(["reloading", "loaded"], listed)
        self.assertEqual(200, bench.chat().status)
        bench.operate("unload", "acme/chat")
        refused = bench.chat()
        self.assertEqual(500, refused.status)
        self.assertEqual({"message": "model `acme/chat` is being reloaded"}, refused.json())
        (bricked,) = bench.node.journal.of("reload_of_not_unloaded")
        self.assertEqual({"was_loaded": True}, bricked.detail)

    def test_reload_of_unknown_leaves_a_phantom(self) -> None:
        """The reload of an unknown id puts a phantom into the list."""
        bench = Bench(A)
        self.assertEqual("not_found", bench.operate("reload", "acme/typo")["status"])
        self.assertIn(("acme/typo", "reloading"), bench.listed())
        self.assertEqual(500, bench.chat(model="acme/typo").status)

    def test_failed_load(self) -> None:
        """A load that fails says so in the body after its full time, and may be tried again."""
        bench = Bench(A, COLD)
        bench.node.faults.fail_load["acme/cold"] = "no such file"
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        self.assertEqual(
            {
                "model_id": "acme/cold",
                "status": "internal_error",
                "error": "failed to load model: no such file",
            },
            reload.json(),
        )
        self.assertEqual("unloaded", bench.operate("status", "acme/cold")["status"])
        del bench.node.faults.fail_load["acme/cold"]
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        self.assertEqual("loaded", reload.json()["status"])

    def test_out_of_memory(self) -> None:
        """A load that does not fit fails as CUDA does."""
        bench = Bench(A, COLD, memory_mb=7_000)
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        self.assertEqual("internal_error", reload.json()["status"])
        self.assertIn("CUDA_ERROR_OUT_OF_MEMORY", reload.json()["error"])
        self.assertEqual([], bench.node.journal.of("overfilled"))
        self.assertEqual(6_000, bench.node.resident_mb)

    def test_overfilled(self) -> None:
        """Where memory never runs out, a load that does not fit is journalled."""
        bench = Bench(A, COLD, memory_mb=7_000, out_of_memory=False)
        bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        self.assertEqual("loaded", bench.operate("status", "acme/cold")["status"])
        (overfilled,) = bench.node.journal.of("overfilled")
        self.assertEqual({"resident_mb": 8_000, "memory_mb": 7_000}, overfilled.detail)

    def test_loads_race_for_memory(self) -> None:
        """Loads of different models run side by side and may take each other's memory."""
        twin = SimulatedModel(id="acme/twin", size_mb=2_000, load_seconds=5, loaded=False)
        bench = Bench(A, COLD, twin, memory_mb=9_000)
        first = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        second = bench.post("/v1/models/reload", {"model_id": "acme/twin"})
        bench.advance(5)
        self.assertEqual("loaded", first.json()["status"])
        self.assertEqual("internal_error", second.json()["status"])

    def test_memory_comes_back_late(self) -> None:
        """A load right after an unload finds the memory still taken; later it fits."""
        bench = Bench(A, COLD, memory_mb=7_000)
        bench.node.faults.free_delay_seconds = 3
        bench.operate("unload", "acme/chat")
        self.assertEqual(6_000, bench.node.resident_mb)
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        self.assertEqual("internal_error", reload.json()["status"])
        self.assertEqual(0, bench.node.resident_mb)
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        self.assertEqual("loaded", reload.json()["status"])

    def test_lost_before_loader_configurations(self) -> None:
        """Before v0.9.1 an unload of one of several models loses it, its streams going on."""
        bench = Bench(A, B, version="0.9.0", token_seconds=1)
        stream = bench.stream()
        self.assertEqual("no_loader_config", bench.operate("unload", "acme/chat")["status"])
        bench.advance(1)
        bench.advance(1)
        self.assertEqual("clean", stream.ended)
        self.assertEqual("[DONE]", stream.events()[-1])
        self.assertEqual(500, bench.chat().status)


class AutomaticReloadTests(SynchronousTestCase):
    def test_first_caller(self) -> None:
        """A request for an unloaded model loads it silently: not even headers before that."""
        bench = Bench(A, COLD, keepalive_seconds=1)
        stream = bench.stream(model="acme/cold")
        bench.advance(4.9)
        self.assertIsNone(stream.status)
        bench.advance(0.1)
        self.assertEqual("You said: hi", stream.content())
        (started,) = bench.node.journal.of("load_started")
        self.assertEqual({"automatic": True}, started.detail)

    def test_second_caller(self) -> None:
        """A second request during that load is refused at once with 500."""
        bench = Bench(A, COLD)
        bench.chat(model="acme/cold")
        second = bench.chat(model="acme/cold")
        self.assertEqual(500, second.status)
        self.assertEqual({"message": "model `acme/cold` is being reloaded"}, second.json())

    def test_failure(self) -> None:
        """A failed load is a 500 for who caused it."""
        bench = Bench(A, COLD, memory_mb=7_000)
        chat = bench.chat(model="acme/cold")
        bench.advance(5)
        self.assertEqual(500, chat.status)
        self.assertIn("failed to reload model: failed to load", chat.json()["message"])

    def test_client_leaves(self) -> None:
        """The load goes on though the client left, and nothing is generated for it."""
        bench = Bench(A, COLD)
        bench.leave(bench.stream(model="acme/cold"))
        bench.advance(5)
        self.assertEqual("loaded", bench.operate("status", "acme/cold")["status"])
        self.assertEqual([], bench.node.journal.of("stream_opened"))

    def test_refused_before_loading(self) -> None:
        """A request that makes no sense loads nothing."""
        bench = Bench(A, COLD)
        self.assertEqual(500, bench.chat(model="acme/cold", max_tokens=0).status)
        self.assertEqual([], bench.node.journal.of("load_started"))


class DefaultModelTests(SynchronousTestCase):
    def test_real_id(self) -> None:
        """`default`, said or implied, is answered under the real id."""
        bench = Bench(A, B)
        self.assertEqual("acme/chat", bench.chat(model="default").json()["model"])
        implied = bench.post(CHAT, {"messages": "hi"})
        self.assertEqual("acme/chat", implied.json()["model"])

    def test_broken(self) -> None:
        """Once nothing was loaded, `default` is broken until the process restarts."""
        bench = Bench(A)
        bench.operate("unload", "acme/chat")
        bench.operate("reload", "acme/chat")
        chat = bench.chat(model="default")
        self.assertEqual(500, chat.status)
        self.assertEqual({"message": "engine state lock is poisoned"}, chat.json())
        bench.node.restart()
        self.assertEqual(200, bench.chat(model="default").status)


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


class RefusalTests(SynchronousTestCase):
    def refused(self, **fields: object) -> tuple[int | None, str, Any]:
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
        fields: dict[str, object]
        for fields in (
            {"max_tokens": 0},
            {"reasoning_effort": "minimal"},
            {"tool_choice": "required"},
            {"messages": parts},
            {"model": "acme/embed"},
        ):
            status, content_type, body = self.refused(**fields)
            self.assertEqual((500, "application/json"), (status, content_type), fields)
            self.assertEqual(["message"], list(body))

    def test_developer(self) -> None:
        """The role `developer` is taken like any other."""
        messages = [{"role": "developer", "content": "be kind"}, {"role": "user", "content": "hi"}]
        self.assertEqual(200, self.refused(messages=messages)[0])

    def test_unparsable(self) -> None:
        """What does not parse is refused in plain text."""
        fields: dict[str, object]
        for fields in (
            {"logprobs": None},
            {"max_tokens": 1, "max_completion_tokens": 1},
            {"tools": [{"type": "custom"}]},
            {"messages": None},
        ):
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
        """A node with a chat and an embedding model."""
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
        fields: dict[str, object]
        for fields in ({"dimensions": 4}, {"input": []}, {"model": "gpt"}):
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


class HealthTests(SynchronousTestCase):
    def test_ok(self) -> None:
        """Health and root say OK though no model is loaded."""
        bench = Bench(COLD)
        for path in ("/", "/health"):
            self.assertEqual((200, "OK"), (bench.get(path).status, bench.get(path).text()))

    def test_info(self) -> None:
        """The machine is described with total and free bytes of its one CUDA device."""
        bench = Bench(A, memory_mb=10_000)
        bench.node.faults.leak_mb_per_unload = 100
        cpu, gpu = bench.get("/v1/system/info").json()["devices"]
        self.assertEqual(("cpu", None), (cpu["kind"], cpu["ordinal"]))
        self.assertEqual(("cuda", 0, None), (gpu["kind"], gpu["ordinal"], gpu["name"]))
        mebibyte = 1024 * 1024
        self.assertEqual(10_000 * mebibyte, gpu["total_memory_bytes"])
        self.assertEqual(4_000 * mebibyte, gpu["available_memory_bytes"])
        bench.operate("unload", "acme/chat")
        gpu = bench.get("/v1/system/info").json()["devices"][1]
        self.assertEqual(9_900 * mebibyte, gpu["available_memory_bytes"])

    def test_info_version(self) -> None:
        """The version is that of the mistral.rs imitated, without a v."""
        info = Bench(A, version="0.9.3").get("/v1/system/info").json()
        self.assertEqual("0.9.3", info["build"]["version"])

    def test_metrics(self) -> None:
        """Requests in flight are counted by method, path and model; sequences without a label."""
        bench = Bench(A, token_seconds=1, max_sequences=1)
        bench.stream()
        bench.stream()
        text = bench.get("/metrics").text()
        labels = 'method="POST",path="/v1/chat/completions",model="acme/chat"'
        self.assertIn(f"http_requests_in_flight{{{labels}}} 2\n", text)
        self.assertIn("mistralrs_sequences_running 1\n", text)
        self.assertIn("mistralrs_sequences_waiting 1\n", text)

    def test_metrics_when_done(self) -> None:
        """A finished request leaves the gauge and enters the counter with its status."""
        bench = Bench(A)
        bench.stream()
        text = bench.get("/metrics").text()
        labels = 'method="POST",path="/v1/chat/completions",model="acme/chat"'
        self.assertIn(f"http_requests_in_flight{{{labels}}} 0\n", text)
        self.assertIn(f'http_requests_total{{{labels},status="200"}} 1\n', text)

    def test_metrics_escape(self) -> None:
        """A model's name cannot break the text format."""
        bench = Bench(A)
        bench.chat(model='a"b\\c\nd')
        self.assertIn(r'model="a\"b\\c\nd"', bench.get("/metrics").text())

    def test_old_metrics(self) -> None:
        """Older versions have fewer series, or no metrics at all."""
        self.assertNotIn("sequences", Bench(A, version="0.9.1").get("/metrics").text())
        self.assertEqual(404, Bench(A, version="0.8.3").get("/metrics").status)


class JsonTests(SynchronousTestCase):
    def test_compact_and_unescaped(self) -> None:
        """JSON has no spaces and characters beyond ASCII stand for themselves."""
        body = Bench(A).chat("grüße 👋").body
        self.assertIn("You said: grüße 👋".encode(), body)
        self.assertNotIn(b'": ', body)
        self.assertEqual("You said: grüße 👋", json.loads(body)["choices"][0]["message"]["content"])
