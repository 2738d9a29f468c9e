"""Chats, what a Messages upstream is sent for them, and what must hold of that."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from cortexd.dialects.chat_to_messages.request import MessagesBody, translate_chat
from cortexd.dialects.nodes.chat_stream import Identity
from cortexd.dialects.wire.json_values import decode, read_object
from cortexd.dialects.wire.profile import Profile, Speaks
from cortexd.errors import BadRequest

IDENTITY = Identity("chatcmpl-ours", 1_790_000_100, "acme/chat")
"""What our answer to a chat calls itself."""

NAMES = {"up_read": "mcp.read"}
"""The client's name of a tool by the upstream's."""

UPSTREAM = Profile(speaks=Speaks.MESSAGES, max_output=1_000)
HELLO: list[Any] = [{"role": "user", "content": "hi"}]
PNG_URL = "data:image/png;base64,iVBORw0KGgo="
IMAGE_PART = {"type": "image_url", "image_url": {"url": PNG_URL}}
IMAGE_BLOCK = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER_FUNCTION = {
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": SCHEMA,
}
WEATHER = {"type": "function", "function": WEATHER_FUNCTION}
WEATHER_UPSTREAM = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": SCHEMA,
}


def text(words: str) -> dict[str, Any]:
    """Return a part of a chat's content, or a block of Messages': they are alike."""
    return {"type": "text", "text": words}


def turn(role: str, *content: Any) -> dict[str, Any]:
    return {"role": role, "content": list(content)}


def say(role: str, content: Any, **fields: object) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def call(call_id: str, arguments: str = "{}", name: str = "weather") -> dict[str, Any]:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def calling(*calls: Any, **fields: object) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


def found(call_id: str, content: Any = "sun", **fields: object) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **fields}


def tool_use(call_id: str, given: Any = None, name: str = "weather") -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given or {}}


def tool_result(call_id: str, content: Any = "sun") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def translated(profile: Profile = UPSTREAM, /, **fields: object) -> MessagesBody:
    body = json.dumps({"model": "acme/chat", "messages": HELLO} | fields).encode()
    return translate_chat(read_object(body), profile)


def sent(profile: Profile = UPSTREAM, /, **fields: object) -> Any:
    """Return the body an upstream is sent, as it is sent, less its model."""
    body = decode(translated(profile, **fields).encoded("acme/chat"))
    assert "acme/chat" == body.pop("model")
    check(body)
    return body


def sent_turns(*messages: Any, profile: Profile = UPSTREAM) -> Any:
    return sent(profile, messages=list(messages))["messages"]


def noted(profile: Profile = UPSTREAM, /, **fields: object) -> list[str]:
    return sorted(translated(profile, **fields).approximations)


def noted_of(*messages: Any, profile: Profile = UPSTREAM) -> list[str]:
    return noted(profile, messages=list(messages))


def refused(profile: Profile = UPSTREAM, /, **fields: object) -> BadRequest:
    try:
        body = translated(profile, **fields)
    except BadRequest as error:
        return error
    raise AssertionError(f"not refused: {body}")


def refused_turns(*messages: Any, profile: Profile = UPSTREAM) -> BadRequest:
    return refused(profile, messages=list(messages))


# What holds of every body that an upstream is sent.

_FIELDS = {
    "max_tokens",
    "stream",
    "system",
    "messages",
    "tools",
    "tool_choice",
    "temperature",
    "top_p",
    "top_k",
    "thinking",
    "output_config",
    "stop_sequences",
    "metadata",
}
_BLOCKS = {
    "system": {"text"},
    "user": {"text", "image", "tool_result"},
    "assistant": {"text", "thinking", "tool_use"},
    "tool_result": {"text", "image"},
}


def check(body: Any) -> None:
    """Assert that a body is one that the Messages API takes."""
    assert set() == body.keys() - _FIELDS
    assert body["stream"] is True
    assert type(body["max_tokens"]) is int
    assert body["max_tokens"] >= 1
    assert 0 <= body.get("temperature", 0) <= 1
    assert all(body.get("stop_sequences", ["x"]))
    if body.get("thinking", {}).get("type") == "adaptive":
        assert 1 == body.get("temperature", 1)
        assert body.get("top_p", 1) >= 0.95
        assert "top_k" not in body
    if "system" in body:
        _check_blocks(body["system"], "system")
    _check_turns(body["messages"])
    _check_tools(body)


def _check_blocks(blocks: Any, place: str) -> None:
    assert blocks, place
    for block in blocks:
        assert block["type"] in _BLOCKS[place], place
        if block["type"] == "text":
            assert block["text"].strip()


def _check_turns(turns: list[Any]) -> None:
    assert "user" == turns[0]["role"]
    roles = [each["role"] for each in turns]
    assert all(role != after for role, after in pairwise(roles)), roles
    called: list[str] = []
    for each in turns:
        _check_blocks(each["content"], each["role"])
        kinds = [block["type"] for block in each["content"]]
        if each["role"] != "system":  # which may stand between a call and the next user turn
            count = kinds.count("tool_result")
            assert ["tool_result"] * count == kinds[:count], "results come first"
            answered = [block["tool_use_id"] for block in each["content"][:count]]
            assert sorted(called) == sorted(answered)
            called = [block["id"] for block in each["content"] if block["type"] == "tool_use"]
            assert len(called) == len(set(called))
        for block in each["content"]:
            if block["type"] == "tool_use":
                assert isinstance(block["input"], dict)
            elif isinstance(block.get("content"), list):
                _check_blocks(block["content"], "tool_result")
    assert [] == called


def _check_tools(body: Any) -> None:
    names = [tool["name"] for tool in body.get("tools", ())]
    assert len(names) == len(set(names))
    assert all(1 <= len(name) <= 64 for name in names)
    assert all(isinstance(tool["input_schema"], dict) for tool in body.get("tools", ()))
    choice = body.get("tool_choice")
    if choice is not None:
        assert names
        assert choice["type"] in ("auto", "any", "tool", "none")
        assert ("name" in choice) == (choice["type"] == "tool")
        assert choice.get("name", names[0]) in names
        if choice["type"] in ("any", "tool"):
            assert "adaptive" != body.get("thinking", {}).get("type")


# Any good chat.

_WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).filter(str.strip)
_TEXTS = st.builds(text, _WORDS | st.just(""))
_ARGUMENTS = st.sampled_from(["", "{}", '{"city":"大阪"}', "[1]", '{"city":', "null"])


@st.composite
def chats(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return messages as a chat allows them: each call has its one result."""
    messages = [say("system", draw(_WORDS)) for _ in range(draw(st.integers(0, 2)))]
    calls = 0
    for _ in range(draw(st.integers(0, 3))):
        parts = draw(st.lists(_TEXTS | st.just(IMAGE_PART), max_size=2))
        messages.append(say("user", [text(draw(_WORDS)), *parts]))
        if draw(st.booleans()):
            messages.append(say("developer", draw(_WORDS)))
        said = draw(st.none() | st.just("") | _WORDS)
        if draw(st.booleans()):
            messages.append(say("assistant", said, reasoning_content=draw(_WORDS)))
        open_calls = [f"call_{calls + number}" for number in range(draw(st.integers(0, 3)))]
        calls += len(open_calls)
        if open_calls:
            made = [call(call_id, draw(_ARGUMENTS)) for call_id in open_calls]
            messages.append(say("assistant", said, tool_calls=made))
            contents = st.none() | _WORDS | st.lists(_TEXTS | st.just(IMAGE_PART), max_size=2)
            messages += [found(each, draw(contents)) for each in draw(st.permutations(open_calls))]
        if draw(st.booleans()):
            messages.append(say("system", draw(_WORDS)))
    messages.append(say("user", "and now?"))
    return messages


CHATS = chats()
