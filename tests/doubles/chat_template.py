"""A node in one function: it renders a chat as a template with the given rules does, and counts."""

import json
import re
from dataclasses import dataclass
from typing import Any

TOKEN = re.compile(r"<[^<> ]+>|\w+|[^\w\s]")


class RaisedError(Exception):
    """Raised where a template raises an exception."""


@dataclass(frozen=True)
class ChatTemplate:
    """The rules of a template; each has the value of a template that takes everything."""

    system: str = "shown"
    middle: str = "shown"
    developer: str = "shown"
    arrays: str = "shown"
    default_system: str = ""
    users: str = "shown"
    tools: str = "shown"
    calls: str = "shown"
    system_before_calls: str = "shown"
    after_result: str = "shown"
    parallel: str = "shown"
    beside: str = "shown"
    any_id: bool = True
    efforts: tuple[str, ...] = ("low", "medium", "high", "xhigh")
    shows_effort: bool = False
    switch: str = "ignored"
    picture_tokens: int | None = 0

    def answer(self, question: bytes) -> tuple[int, bytes]:
        """Return the status and the body of a node's answer to a chat request."""
        body = json.loads(question)
        assert (body["max_tokens"], body["stream"]) == (1, False)
        try:
            prompt = self.render(body)
        except RaisedError as error:
            words = f"invalid operation: {error} (in chat_template:7)\nstack backtrace:\n 0: main"
            return 422, json.dumps({"message": words}).encode()
        message = {"role": "assistant", "content": prompt[-3:]}
        usage = {"prompt_tokens": len(TOKEN.findall(prompt)), "completion_tokens": 1}
        answer = {"choices": [{"message": message, "finish_reason": "length"}], "usage": usage}
        return 200, json.dumps(answer).encode()

    def render(self, body: dict[str, Any]) -> str:
        """Return the prompt; raises RaisedError."""
        messages = body["messages"]
        pieces = []
        if messages[0]["role"] != "system":
            pieces.append(self.default_system)
        if "tools" in body:
            pieces.append(_by(self.tools, json.dumps(body["tools"]), "tools are unknown"))
        effort = body.get("reasoning_effort")
        if effort is not None and effort not in self.efforts:
            raise RaisedError(f"Unknown effort {effort}")
        if self.shows_effort:
            pieces.append(f"<effort> {effort.replace('x', 'x ') if effort else 'medium'}")
        if messages[0]["role"] == "system" and any("tool_calls" in each for each in messages):
            messages = messages[self.system_before_calls == "lost" :]
        for index, message in enumerate(messages):
            before = messages[index - 1]["role"] if index else "assistant"
            pieces.append(self._turn(message, index, before))
        thinks = body.get("enable_thinking", True)
        closing = {"ignored": "", "counted": "<no> <think>", "equal": "<direct>"}[self.switch]
        pieces.append("<assistant>" + ("<think>" if thinks or not closing else closing))
        return " ".join(pieces)

    def _turn(self, message: dict[str, Any], index: int, before: str) -> str:
        role, content = message["role"], message["content"]
        if role == "system":
            rule = self.middle if index else self.system
            if rule == "moved":
                return str(content)
            return _by(rule, f"<start> <system> {content} <end>", "System message must come first")
        if role == "developer":
            return _by(self.developer, f"<developer> {content} <end>", "Unknown role")
        if role in ("user", "assistant") and "tool_calls" not in message and role == before:
            _by(self.users, "", "roles must alternate")
            content = "" if self.users == "lost" else content
        if role == "user" and before == "tool":
            content = _by(self.after_result, content, "roles must alternate")
        if isinstance(content, list):
            content = json.dumps(content) if self.arrays == "printed" else self._parts(content)
        for call in message.get("tool_calls", ()):
            if not self.any_id and len(call["id"]) != 9:
                raise RaisedError("Tool call IDs should have length 9!")
        called = message.get("tool_calls", [])
        if called and content:
            content = _by(self.beside, content, "no text beside calls")
            called = called if self.beside != "instead" else []
        if len(called) > 1:
            _by(self.parallel, "", "This model only supports single tool-calls at once!")
            called = called[:1] if self.parallel == "lost" else called
        shown = "".join(f"<call> {json.dumps(call['function'])}" for call in called)
        return f"<{role}> {content} {_by(self.calls, shown, 'tools are unknown')} <end>"

    def _parts(self, parts: list[dict[str, Any]]) -> str:
        pictures = sum(part["type"] == "image_url" for part in parts)
        if pictures and self.picture_tokens is None:
            raise RaisedError("Unexpected item type in content.")
        text = " ".join(part["text"] for part in parts if part["type"] == "text")
        placeholders = " <i>" * (pictures * (self.picture_tokens or 0))
        return f"{_by(self.arrays, text, 'content must be a string')}{placeholders}"


def _by(rule: str, text: str, words: str) -> str:
    if rule == "raises" and text != "":
        raise RaisedError(words)
    if rule == "raises" and words.startswith(("roles", "This model")):
        raise RaisedError(words)
    return "" if rule == "lost" else text
