"""Good request bodies, made from grammars of the two dialects.

A mistral.rs node can answer each of them, so a refusal is a fault of the gateway. The full Messages
API is stricter, and accepts all bodies that are made for it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from tests.doubles.messages_api.shapes import signature_of

Json = dict[str, Any]
T = TypeVar("T")

MODEL = "acme/chat"

TEXTS = (
    "hi",
    "What is the weather in Málaga?",
    "天气怎么样",
    "🏳️‍🌈 e\u0301 \u200b",
    "\u202eabc\u202c",
    "a\x00b\x1f\x7f",
    "  \n\t",
    '{"a": [1, "\\\\"]}',
    "data: [DONE]\n\nevent: error\r\n\r\n",
    "<think>hm</think>",
    "x-anthropic-billing-header: cc_version=2; cch=00000;",
    "lorem ipsum dolor sit amet " * 20,
)
NAMES = ("weather", "Read", "mcp__files__read-file", "名前", "a b.c/d", "x" * 80)
_IDS = ("toolu_{}", "call_{}-a.b:0", "{}", "chatcmpl-tool-{}é")
_STRICT_TEXTS = tuple(text for text in TEXTS if text.strip())
_STRICT_NAMES = ("weather", "Read", "mcp__files__read-file", "x" * 80)
_STRICT_IDS = ("toolu_{}", "{}")
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA"
INPUTS: tuple[Json, ...] = (
    {},
    {"city": "Málaga"},
    {"path": "/tmp/a", "lines": [1, 2.5, None, True]},  # noqa: S108 -- only words of a made-up call
    {"__unparsedToolInput": {"raw": '{"a":', "len": 5}},
    {"deep": {"er": {"est": [[[]]]}}},
)
SCHEMAS: tuple[Json, ...] = (
    {"type": "object"},
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": {}},
)


class Grammar:
    """What both dialects are made of; ``chance`` decides."""

    def __init__(self, chance: Random, *, is_strict: bool = False) -> None:
        self._chance = chance
        self._calls = 0
        self._is_strict = is_strict

    def likely(self, share: float) -> bool:
        """Decide for it with this share, from 0 to 1."""
        return self._chance.random() < share

    def pick(self, options: tuple[T, ...]) -> T:
        """Return one of the options."""
        return options[int(self._chance.random() * len(options))]

    def count(self, most: int) -> int:
        """Return a number from 0 to ``most``, a small one more often."""
        return int((most + 1) * self._chance.random() ** 2)

    def some(self, make: Callable[[], T], most: int) -> list[T]:
        """Return up to ``most`` of what ``make`` makes."""
        return [make() for _ in range(self.count(most))]

    def text(self) -> str:
        """Return a text that is not empty."""
        return self.pick(_STRICT_TEXTS if self._is_strict else TEXTS)

    def name(self) -> str:
        """Return the name of a tool."""
        return self.pick(_STRICT_NAMES if self._is_strict else NAMES)

    def call_id(self) -> str:
        """Return an id of a tool call that no other call of this body has."""
        self._calls += 1
        return self.pick(_STRICT_IDS if self._is_strict else _IDS).format(self._calls)


class MessagesGrammar(Grammar):
    """Makes bodies of the Anthropic Messages dialect."""

    def body(self) -> Json:
        """Return the body of a request for a message."""
        body = self.prompt()
        body["max_tokens"] = self.pick((1, 100, 4096, 32_000))
        for field, values in (
            ("stream", (True, True, True, False, None)),
            ("temperature", (0, 0.7, 1, 1.0)),
            ("top_p", (0.0, 0.95, 1)),
            ("top_k", (0, 40)),
            ("stop_sequences", ([], ["\n\nHuman:"], ["stop", "st", "天"])),
            ("output_config", ({"effort": "high"}, {"effort": "max", "format": _SCHEMA_FORMAT})),
            ("metadata", ({"user_id": '{"device_id":"a"}'}, {})),
            ("context_management", (_KEEP_ALL, {"edits": [{"type": "clear_tool_uses_20250919"}]})),
            ("service_tier", ("auto", "standard_only")),
            ("brand_new_field", ({"a": 1}, "on", 5)),
        ):
            if self.likely(0.6 if field == "stream" else 0.15):
                body[field] = self.pick(values)
        if self._is_strict and body.get("thinking", _NO_THINKING) != _NO_THINKING:
            body["max_tokens"] = 32_000
            for field in ("temperature", "tool_choice"):
                body.pop(field, None)
        return body

    def prompt(self) -> Json:
        """Return what a request for a message and one for its tokens have in common."""
        body: Json = {"model": MODEL, "messages": self._turns()}
        if self.likely(0.5):
            body["system"] = self.text() if self.likely(0.3) else self.some(self._text_block, 3)
        if self.likely(0.5):
            names = sorted({self.name() for _ in range(1 + self.count(3))})
            body["tools"] = [self._tool(name) for name in names]
            if self.likely(0.4):
                kind = self.pick(("auto", "any", "none", "tool"))
                choice: Json = {"type": kind}
                if kind == "tool":
                    choice["name"] = names[0]
                if self.likely(0.4):
                    choice["disable_parallel_tool_use"] = True
                body["tool_choice"] = choice
        if self.likely(0.4):
            body["thinking"] = self.pick(
                (
                    {"type": "adaptive"},
                    {"type": "enabled", "budget_tokens": 31_999},
                    _NO_THINKING,
                    {"type": "adaptive", "display": "omitted"},
                )
            )
        return body

    def _tool(self, name: str) -> Json:
        tool: Json = {"name": name, "input_schema": self.pick(SCHEMAS)}
        if self.likely(0.7):
            tool["description"] = self.text()
        for field, value in (
            ("type", "custom"),
            ("strict", True),
            ("cache_control", {"type": "ephemeral"}),
            ("input_examples", [{"city": "Rome"}]),
            ("defer_loading", True),
            ("eager_input_streaming", True),
        ):
            if self.likely(0.1):
                tool[field] = value
        return tool

    def _turns(self) -> list[Json]:
        turns: list[Json] = []
        for _ in range(self.count(4)):
            turns += self._user_turns([])
            said: list[Json] = []
            if self.likely(0.3):
                thought = self.text()
                theirs = signature_of(thought) if self._is_strict else "EqQBCg"
                signature = self.pick(("", "cortex", theirs))
                said.append({"type": "thinking", "thinking": thought, "signature": signature})
            if self.likely(0.05):
                said.append({"type": "redacted_thinking", "data": "abc"})
            said += self.some(self._text_block, 2)
            calls = [self.call_id() for _ in range(self.count(3))]
            said += [
                {
                    "type": "tool_use",
                    "id": each,
                    "name": self.name(),
                    "input": self.pick(INPUTS),
                }
                for each in calls
            ]
            if said:
                turns.append({"role": "assistant", "content": said})
            else:
                turns.append({"role": "assistant", "content": self.text()})
            if calls:
                turns += self._user_turns(calls)
        return turns + self._user_turns([])

    def _user_turns(self, calls: list[str]) -> list[Json]:
        """Return one turn of the user's, or more: of the system's too, where results allow it."""
        blocks = [self._result(each) for each in calls] + self.some(self._user_block, 3)
        if calls and self.likely(0.2) and not self._is_strict:
            self._chance.shuffle(blocks)
        content: Any = blocks
        if not blocks:
            content = self.text()
        turns: list[Json] = [{"role": "user", "content": content}]
        if self.likely(0.1):
            turns.append({"role": "system", "content": self.text()})
        return turns

    def _text_block(self) -> Json:
        block: Json = {"type": "text", "text": self.text()}
        if self.likely(0.1):
            block["cache_control"] = {"type": "ephemeral"}
        return block

    def _image(self) -> Json:
        if self.likely(0.2):
            return {
                "type": "image",
                "source": {"type": "url", "url": f"data:image/png;base64,{PNG}"},
            }
        source = {"type": "base64", "media_type": "image/png", "data": PNG}
        return {"type": "image", "source": source}

    def _document(self) -> Json:
        source: Json = {"type": "text", "media_type": "text/plain", "data": self.text()}
        if self.likely(0.3):
            source = {"type": "content", "content": [self._text_block(), self._image()]}
        return {"type": "document", "source": source, "title": self.text()}

    def _search_result(self) -> Json:
        content = self.some(self._text_block, 2)
        return {"type": "search_result", "title": "a", "source": "https://a", "content": content}

    def _user_block(self) -> Json:
        if self.likely(0.7):
            return self._text_block()
        return self.pick((self._image, self._document, self._search_result))()

    def _result(self, call_id: str) -> Json:
        result: Json = {"type": "tool_result", "tool_use_id": call_id}
        if self.likely(0.4):
            result["content"] = self.text()
        elif self.likely(0.8):
            result["content"] = self.some(self._user_block, 3)
        if self.likely(0.2):
            result["is_error"] = self.likely(0.8)
        return result


class ChatGrammar(Grammar):
    """Makes bodies of the OpenAI chat dialect."""

    def body(self) -> Json:
        """Return the body of a request for a chat completion."""
        body: Json = {"model": MODEL, "messages": self._messages()}
        if self.likely(0.02):
            body["messages"] = self.text()
        if self.likely(0.6):
            body["stream"] = self.pick((True, True, True, False, None))
        if body.get("stream") and self.likely(0.5):
            body["stream_options"] = {"include_usage": self.likely(0.7)}
        if not body.get("stream") and self.likely(0.1):
            body["n"] = self.pick((1, 2))
        if self.likely(0.4):
            names = sorted({self.name() for _ in range(1 + self.count(3))})
            body["tools"] = [self._tool(name) for name in names]
            if self.likely(0.5):
                named = {"type": "function", "function": {"name": names[0]}}
                body["tool_choice"] = self.pick(("auto", "none", "required", named))
        for field, values in (
            ("max_tokens", (1, 100, None)),
            ("temperature", (0, 0.7, 2, None)),
            ("top_p", (0.0, 0.95, 1)),
            ("stop", ("\n", ["a", "b"], None)),
            ("logprobs", (True, False, None)),
            ("presence_penalty", (0, -2.0)),
            ("seed", (0, 7)),
            ("user", ("someone",)),
            ("reasoning_effort", ("minimal", "low", "high", None)),
            ("response_format", ({"type": "text"}, {"type": "json_object"}, _CHAT_FORMAT)),
            ("parallel_tool_calls", (False, True)),
            ("brand_new_field", ({"a": 1}, "on", 5)),
        ):
            if self.likely(0.12):
                body[field] = self.pick(values)
        if "max_tokens" not in body and self.likely(0.2):
            body["max_completion_tokens"] = self.pick((1, 100))
        return body

    def _tool(self, name: str) -> Json:
        function: Json = {"name": name, "parameters": self.pick(SCHEMAS)}
        if self.likely(0.7):
            function["description"] = self.text()
        return {"type": "function", "function": function}

    def _messages(self) -> list[Json]:
        messages: list[Json] = []
        if self.likely(0.5):
            content = self.text() if self.likely(0.7) else self.some(self._text_part, 2)
            messages.append({"role": self.pick(("system", "developer")), "content": content})
        for _ in range(self.count(4)):
            messages += [self._user(), self._assistant()]
            for call in messages[-1].get("tool_calls") or ():
                result: Any = self.text() if self.likely(0.8) else self.some(self._text_part, 2)
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
            if self.likely(0.05):
                messages.append({"role": "system", "content": self.text()})
        return [*messages, self._user()]

    def _text_part(self) -> Json:
        return {"type": "text", "text": self.text()}

    def _user(self) -> Json:
        if self.likely(0.6):
            return {"role": "user", "content": self.text()}
        parts: list[Json] = self.some(self._text_part, 3)
        if self.likely(0.4):
            url = {"url": f"data:image/png;base64,{PNG}", "detail": "low"}
            parts.append({"type": "image_url", "image_url": url})
        return {"role": "user", "content": parts}

    def _assistant(self) -> Json:
        message: Json = {"role": "assistant"}
        if self.likely(0.9):
            message["content"] = self.pick((self.text(), None, [self._text_part()]))
        if self.likely(0.3):
            message["reasoning_content"] = self.text()
        if self.likely(0.4):
            message["tool_calls"] = [
                {
                    "id": self.call_id(),
                    "type": "function",
                    "function": {"name": self.name(), "arguments": '{"city":"Rome"}'},
                }
                for _ in range(1 + self.count(2))
            ]
        return message


_NO_THINKING: Json = {"type": "disabled"}
_SCHEMA_FORMAT: Json = {"type": "json_schema", "schema": {"type": "object"}}
_CHAT_FORMAT: Json = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True},
}
_KEEP_ALL: Json = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
