"""The scripted model: the real engine says what was written for it, calls included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.hosting import HostedModel
from tests.engine.scripted_model import CONVERSATION, tool_call, write_scripted_model

SCRIPTS = {
    "call": "I will look." + tool_call("weather", {"city": "Paris"}),
    "answer": "It is sunny in Paris today, and all is well.",
    "talk": "You are welcome, as you always were.",
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASKED = {"role": "user", "content": "How is the weather?"}
CALLED = {
    "role": "assistant",
    "content": "I will look.",
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}


def said(model: HostedModel, *messages: Any) -> tuple[str, list[tuple[str, str]], str]:
    """Return the text, the calls and the finish reason of an answer."""
    texts, calls, reason = [], [], ""
    body = {"model": "m", "messages": list(messages), "tools": [TOOL], "max_tokens": 100}
    for chunk in model.chunks(body):
        choice = chunk["choices"][0]
        texts.append(choice["delta"].get("content") or "")
        for call in choice["delta"].get("tool_calls") or ():
            calls.append((call["function"]["name"], call["function"]["arguments"]))
        reason = choice["finish_reason"] or reason
    return "".join(texts), calls, reason


def test_the_engine_speaks_the_scripts(tmp_path: Path) -> None:
    """A call, the answer to its result, and small talk: the conversation chooses the script."""
    model = HostedModel("m", write_scripted_model(tmp_path, SCRIPTS, CONVERSATION))
    model.load()
    call = ("weather", '{"city":"Paris"}')

    assert ("I will look.", [call], "tool_calls") == said(model, ASKED)
    assert (SCRIPTS["answer"], [], "stop") == said(model, ASKED, CALLED, RESULT)
    assert (SCRIPTS["talk"], [], "stop") == said(
        model, ASKED, CALLED, RESULT, {"role": "assistant", "content": "ok"}, ASKED
    )


def test_a_second_call_is_refused(tmp_path: Path) -> None:
    """The token of a call has one successor, so that a model can have one call."""
    two = {"a": tool_call("f", {}), "b": tool_call("g", {})}

    with pytest.raises(ValueError, match="two successors"):
        write_scripted_model(tmp_path, two, CONVERSATION)
