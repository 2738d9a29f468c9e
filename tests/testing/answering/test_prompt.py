"""What the simulated node makes of a chat, and what its engine rejects, streamed and whole."""

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedModel
from cortexd.testing.answering.prompt import PICTURE_TOKENS
from tests.doubles.templates.rendering import renderer
from tests.testing.client import CHAT, Bench

TEMPLATE = "{% for m in messages %}{{ m.role + ' ' + m.content }}{% endfor %}"
RAISES = "\n{{ raise_exception('No system here.') }}"
PNG = "data:image/png;base64,iVBORw0KGgo="
CLOCK = {"type": "function", "function": {"name": "clock"}}


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": content}


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def schema(of: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": of}}


def answered(bench: Bench, **fields: Any) -> tuple[int | None, str]:
    """Return the status and the message of the error of an answer that is not streamed."""
    answer = bench.chat(**fields)
    return answer.status, answer.json().get("message", "")


def streamed(bench: Bench, **fields: Any) -> dict[str, Any]:
    """Return the error inside a stream, which has nothing else but [DONE] after it."""
    answer = bench.stream(**fields)
    assert 200 == answer.status
    error, done = answer.events()
    assert "[DONE]" == done
    error_fields: dict[str, Any] = json.loads(error)["error"]
    return error_fields


class RenderedTests(SynchronousTestCase):
    def test_tokens_are_those_of_the_rendered_text(self) -> None:
        """Each word of the rendered prompt counts, the marks of the template too."""
        model = SimulatedModel(id="acme/chat", render=renderer(TEMPLATE), tokens_per_word=2)
        answer = Bench(model).chat("one two three").json()
        assert 2 * 4 == answer["usage"]["prompt_tokens"]
        assert "You said: one two three" == answer["choices"][0]["message"]["content"]

    def test_text_that_a_template_loses_is_not_in_the_prompt(self) -> None:
        """A list of parts is no string: here it costs no tokens, and the client is not told."""
        lossy = "user{% for m in messages if m.content is string %} {{ m.content }}{% endfor %}"
        bench = Bench(SimulatedModel(id="acme/chat", render=renderer(lossy)))
        parts = [{"type": "text", "text": "one two"}]
        for content, tokens in (("one two", 3), (parts, 1)):
            answer = bench.chat(messages=[user(content)]).json()
            assert tokens == answer["usage"]["prompt_tokens"]

    def test_a_template_that_raises(self) -> None:
        """Its words are the engine's: 500, or an error inside the stream, with the line."""
        bench = Bench(SimulatedModel(id="acme/chat", render=renderer(RAISES)), version="0.9.3")
        words = "invalid operation: No system here. (in chat_template:2)"
        assert (500, words) == answered(bench)
        assert {"message": words, "type": "server_error", "param": None, "code": None} == (
            streamed(bench)
        )
        bench.node.faults.backtraces = True
        status, message = answered(bench)
        assert (500, words) == (status, message.split("\n")[0])
        assert "\n   0: " in message
        assert streamed(bench)["message"] == message

    def test_a_prompt_of_nothing(self) -> None:
        """An empty prompt is a mistake of the client."""
        bench = Bench(
            SimulatedModel(id="acme/chat", render=renderer("{# nothing #}")), version="0.9.3"
        )
        assert (422, "Received an empty prompt.") == answered(bench)
        completion = bench.post("/v1/completions", {"model": "acme/chat", "prompt": ""})
        assert (422, {"message": "Received an empty prompt."}) == (
            completion.status,
            completion.json(),
        )


class EngineTests(SynchronousTestCase):
    def test_mistakes_of_clients(self) -> None:
        """They are 422, and in a stream an error of the server inside a 200."""
        bench = Bench(
            SimulatedModel(id="acme/chat"),
            SimulatedModel(id="acme/embed", kind="embedding"),
            SimulatedModel(id="acme/raw", has_chat_template=False),
            version="0.9.3",
        )
        category = "Received a request incompatible for this model's category."
        bare = "Received messages for a model which does not have a chat template"
        cases: list[tuple[dict[str, Any], str]] = [
            ({"response_format": schema({"type": "wat"})}, "Invalid grammar. Invalid type: wat"),
            (
                {"response_format": schema({"type": "array", "items": {"not": {}}})},
                'Invalid grammar. Unimplemented keys: ["not"]',
            ),
            ({"n": 0}, "Number of choices must be greater than 0."),
            ({"model": "acme/embed"}, category),
            ({"model": "acme/raw"}, bare),
        ]
        for fields, words in cases:
            status, message = answered(bench, **fields)
            assert (422, True) == (status, message.startswith(words)), message
            error = streamed(bench, **fields)
            assert (message, "server_error") == (error["message"], error["type"])
        embeddings = bench.post("/v1/embeddings", {"model": "acme/chat", "input": "hi"})
        assert (500, {"message": category}) == (embeddings.status, embeddings.json())

    def test_forced_calls_in_a_stream(self) -> None:
        """They fail if the model begins a call with several tokens; the whole answer has them."""
        bench = Bench(SimulatedModel(id="acme/chat", call_marker_tokens=3), version="0.9.3")
        named = {"type": "function", "function": {"name": "clock"}}
        for choice in ("required", named):
            error = streamed(bench, tools=[CLOCK], tool_choice=choice)
            assert "Tool choice was required but no tools were called." == error["message"]
            answer = bench.chat(tools=[CLOCK], tool_choice=choice).json()
            assert "tool_calls" == answer["choices"][0]["finish_reason"]
        chunks = bench.stream("call:clock", tools=[CLOCK]).choices()
        assert "tool_calls" == chunks[-1]["finish_reason"]

    def test_pictures(self) -> None:
        """Only a model that sees pays for them, and whatever the model, they must be there."""
        blind = SimulatedModel(id="acme/chat")
        bench = Bench(blind, SimulatedModel(id="acme/eyes", vision=True))
        text = {"type": "text", "text": "see this"}
        for model, tokens in (("acme/chat", 2), ("acme/eyes", 2 + PICTURE_TOKENS)):
            answer = bench.chat(model=model, messages=[user([text, picture(PNG)])]).json()
            assert tokens == answer["usage"]["prompt_tokens"]
        for url, words in (
            ("data:image/png;base64,aGk=", "The image format could not be determined"),
            ("data:image/png;base64,?", "Failed to parse image resource: data:image/png;base64,?"),
            ("https://a.example/b.png", "failed to lookup address information"),
            ("http://10.0.0.1/b.png", "must not target private or local IP addresses."),
            ("http://localhost/b.png", "must not target private or local IP addresses."),
            ("file:///etc/hosts", "do not support file URLs"),
            ("b.png", "Invalid image source: expected http, https, or data URL"),
        ):
            for model in ("acme/chat", "acme/eyes"):
                status, message = answered(bench, model=model, messages=[user([picture(url)])])
                assert (500, True) == (status, words in message), message
        stray = bench.post(CHAT, {"model": "acme/chat", "messages": [user([picture("b")])]})
        assert 500 == stray.status


class HandlerTests(SynchronousTestCase):
    def test_refused_bodies(self) -> None:
        """The framework refuses them whole, in plain text, without naming the cause."""
        bench = Bench(SimulatedModel(id="acme/chat"))
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

        def calling(**changes: object) -> list[dict[str, Any]]:
            return [{"role": "assistant", "tool_calls": [{**call, **changes}]}]

        either = "messages: data did not match any variant of untagged enum Either"
        cases: list[tuple[dict[str, Any], str]] = [
            (
                {"messages": [{**user("hi"), "reasoning": "a", "reasoning_content": "a"}]},
                either,
            ),
            (
                {
                    "messages": [
                        {"role": "assistant", "tool_calls": [{"function": call["function"]}]}
                    ]
                },
                either,
            ),
            ({"messages": calling(function={"name": "f", "arguments": {}})}, either),
            ({"messages": calling(type="custom")}, either),
            (
                {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}},
                "tool_choice: data did not match any variant of untagged enum ToolChoice",
            ),
            (
                {"tools": [{"type": "custom", "name": "c"}]},
                "tools[0]: data did not match any variant of untagged enum OpenAiTool",
            ),
            ({"top_k": -1}, "Failed to deserialize"),
            ({"max_tokens": -1}, "Failed to deserialize"),
            ({"grammar": {"type": "ebnf", "value": "a"}}, "grammar"),
        ]
        extras: list[object] = [None, 0, True, [], {"ttl": None}]
        for extra in extras:
            part = {"type": "text", "text": "hi", "extra": extra}
            cases.append(({"messages": [user([part])]}, either))
        for fields, words in cases:
            refused = bench.chat(**fields)
            assert 422 == refused.status, fields
            assert words in refused.text(), refused.text()
            assert 422 == bench.chat(stream=True, **fields).status
        spoken = {"role": "assistant", "content": "x", "reasoning": "hm"}
        assert 200 == bench.chat(messages=[user("hi"), spoken, user("hi")]).status

    def test_long_errors_are_emptied(self) -> None:
        """Above 4 KB the framework's words are lost; a message of the server's own is not."""
        bench = Bench(SimulatedModel(id="acme/chat"))
        long = "x" * 5000
        refused = bench.chat(agent_permission=long)
        assert (422, b"") == (refused.status, refused.body)
        unknown = bench.chat(model=long)
        assert (500, True) == (unknown.status, long in unknown.json()["message"])

    def test_tools_of_responses(self) -> None:
        """A chat may not have them, and no tool that the request lacks may be forced."""
        bench = Bench(SimulatedModel(id="acme/chat"))
        allowed = {"type": "allowed_tools", "mode": "required", "tools": []}
        cases: list[tuple[dict[str, Any], str]] = [
            ({"tools": [{"type": "web_search"}]}, "only supported by the Responses API"),
            (
                {"tools": [CLOCK], "tool_choice": {"type": "function", "name": "ghost"}},
                "tool_choice references unknown function tool `ghost`.",
            ),
            ({"tools": [CLOCK], "tool_choice": {"type": "shell"}}, "hosted tool `shell`"),
            ({"tools": [CLOCK], "tool_choice": allowed}, "requires at least one tool"),
        ]
        for fields, words in cases:
            status, message = answered(bench, **fields)
            assert (500, True) == (status, words in message), message


class AdapterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.bench = Bench(
            SimulatedModel(id="acme/chat", adapters=("code", "law")),
            SimulatedModel(id="acme/other", adapters=("law",)),
        )

    def test_an_adapter_is_listed_only_while_its_base_is_loaded(self) -> None:
        """It is the last in the list, with its alias as root, and its base as parent."""
        listed = self.bench.get("/v1/models").json()["data"]
        assert ["acme/chat::code", "acme/chat::law", "acme/other::law"] == [
            model["id"] for model in listed[-3:]
        ]
        assert ("code", "acme/chat", 64) == (
            listed[-3]["root"],
            listed[-3]["parent"],
            len(listed[-3]["adapter_generation"]),
        )
        self.bench.operate("unload", "acme/chat")
        assert [("acme/chat", "unloaded"), ("acme/other::law", "loaded")] == self.bench.listed()[
            -2:
        ]
        assert 500 == self.bench.chat(model="acme/chat::code").status

    def test_an_adapter_answers(self) -> None:
        """By its id, and by its alias if that is the only one; the answer has the name so used."""
        for name in ("acme/chat::code", "code"):
            assert name == self.bench.chat(model=name).json()["model"]
        ambiguous = self.bench.chat(model="law")
        assert (422, True) == (ambiguous.status, "is ambiguous" in ambiguous.json()["message"])
