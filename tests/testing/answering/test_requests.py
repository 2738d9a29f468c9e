import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing.answering.requests import (
    MAX_BODY_BYTES,
    BodyRefusedError,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ModelOperation,
    decode,
)

JSON = "application/json"
TURNS = [{"role": "user", "content": "hi"}]


class DecodeTests(SynchronousTestCase):
    def refused(
        self, body: object, into: type = ChatRequest, content_type: str | None = JSON
    ) -> BodyRefusedError:
        """Decode what must be refused, and give the refusal."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        with self.assertRaises(BodyRefusedError) as caught:
            decode(raw, content_type, into)
        refusal: BodyRefusedError = caught.exception
        return refusal

    def test_defaults(self) -> None:
        """A chat request needs messages only."""
        body = decode(json.dumps({"messages": TURNS}).encode(), JSON, ChatRequest)
        self.assertEqual("default", body.model)
        self.assertEqual(1, body.n)
        self.assertIsNone(body.token_limit())

    def test_unknown_fields(self) -> None:
        """Fields that upstream does not know, or ignores, are no fault."""
        body = {"messages": TURNS, "seed": 1, "stream_options": {"include_usage": True}, "x": {}}
        decode(json.dumps(body).encode(), JSON, ChatRequest)

    def test_alias(self) -> None:
        """max_completion_tokens is the same field under another name, so both are a duplicate."""
        both = {"messages": TURNS, "max_tokens": 1, "max_completion_tokens": 1}
        refusal = self.refused(both)
        self.assertEqual(422, refusal.status)
        self.assertIn("duplicate field `max_tokens`", str(refusal))
        del both["max_tokens"]
        self.assertEqual(1, decode(json.dumps(both).encode(), JSON, ChatRequest).token_limit())

    def test_duplicate_with_null(self) -> None:
        """Both names are a duplicate even where one is null."""
        body = {"messages": TURNS, "max_tokens": None, "max_completion_tokens": 1}
        self.assertEqual(422, self.refused(body).status)

    def test_wrong_fields(self) -> None:
        """A wrong or missing field is 422, and so is null where upstream knows no null."""
        for fields in (
            {},
            {"messages": 5},
            {"messages": [{"content": "no role"}]},
            {"messages": TURNS, "logprobs": None},
            {"messages": TURNS, "n": None},
            {"messages": TURNS, "max_tokens": -1},
            {"messages": TURNS, "max_tokens": 1.5},
            {"messages": TURNS, "model": 5},
            {"messages": TURNS, "stream": "yes"},
            {"messages": TURNS, "tools": [{"type": "custom", "custom": {"name": "f"}}]},
            {"messages": TURNS, "tools": [{"type": "function", "function": {}}]},
            {"messages": TURNS, "tool_choice": "always"},
            {"messages": TURNS, "response_format": {"type": "json_schema", "json_schema": {}}},
        ):
            self.assertEqual(422, self.refused(fields).status, fields)

    def test_builtin_tools(self) -> None:
        """The tools that a node runs itself are accepted."""
        tools = [
            {"type": "web_search"},
            {"type": "code_interpreter", "container": {"type": "auto"}},
            {"type": "shell", "environment": {"type": "container_auto"}},
        ]
        body = {"messages": TURNS, "tools": tools}
        self.assertEqual(3, len(decode(json.dumps(body).encode(), JSON, ChatRequest).tools or ()))

    def test_broken_json(self) -> None:
        """What is no JSON is 400, also where a wrong type stands before the break."""
        for body in (b"", b"{", b'{"messages": 5, "x": ', b"\xff\xfe", b'{"model_id": "\xff"}'):
            self.assertEqual(400, self.refused(body).status, body)

    def test_content_type(self) -> None:
        """A content type that is no JSON is 415, looked at before the body."""
        for content_type in (None, "text/plain", "application/x-www-form-urlencoded"):
            self.assertEqual(415, self.refused(b"{", content_type=content_type).status)
        for content_type in ("application/json; charset=utf-8", "application/problem+json"):
            decode(b'{"model_id": "a"}', content_type, ModelOperation)

    def test_too_large(self) -> None:
        """A body above 50 MiB is 413, whatever it holds."""
        self.assertEqual(413, self.refused(b" " * (MAX_BODY_BYTES + 1)).status)

    def test_model_operation(self) -> None:
        """The model operations want `model_id`; `model` is not that."""
        self.assertEqual(422, self.refused({"model": "a"}, ModelOperation).status)

    def test_prompt(self) -> None:
        """A completion's prompt is one string; arrays are refused."""
        for prompt in (["a"], [1, 2], None):
            self.assertEqual(422, self.refused({"prompt": prompt}, CompletionRequest).status)

    @given(st.binary(max_size=64))
    def test_any_bytes(self, body: bytes) -> None:
        """Whatever bytes come, they are decoded or refused in plain text, and nothing else."""
        try:
            decode(body, JSON, ModelOperation)
        except BodyRefusedError as refusal:
            self.assertIn(refusal.status, (400, 422))


class EmbeddingInputTests(SynchronousTestCase):
    def texts(self, value: object) -> list[str]:
        """Decode one input and give its texts."""
        return decode(json.dumps({"input": value}).encode(), JSON, EmbeddingRequest).texts()

    def test_shapes(self) -> None:
        """The input is text or tokens, one or many."""
        self.assertEqual(["a b"], self.texts("a b"))
        self.assertEqual(["a", "b"], self.texts(["a", "b"]))
        self.assertEqual(["1 2"], self.texts([1, 2]))
        self.assertEqual(["1 2", "3"], self.texts([[1, 2], [3]]))
        self.assertEqual([], self.texts([]))

    def test_mixtures(self) -> None:
        """Mixtures are refused."""
        for value in (["a", 1], [1, [2]], [["a"]], [None], {"a": 1}, 5):
            with self.assertRaises(BodyRefusedError) as caught:
                self.texts(value)
            self.assertEqual(422, caught.exception.status)
