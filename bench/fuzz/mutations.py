"""Turns a good body into a bad one: changes its tree, or its bytes."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

LEAVES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    0.5,
    1e308,
    -1e308,
    5e-324,
    2**31,
    2**63,
    2**64,
    -(2**63) - 1,
    10**40,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    " ",
    "0",
    "null",
    "\ud800",
    "\udfff\ud800",
    "\x00",
    "\ufeff",
    "é" * 100,
    "../../etc/passwd",
    "http://127.0.0.1:1/",
    [],
    {},
    [None],
    [[]],
    [{}],
    {"": None},
    {"type": None},
    {"type": []},
    {"type": "text"},
    {"type": "object", "properties": 5},
)
"""What takes the place of a value."""

DIALECT_WORDS = (
    *("user", "assistant", "system", "tool", "developer", "function"),
    *("text", "image", "document", "search_result", "tool_use", "tool_result", "thinking"),
    *("redacted_thinking", "tool_reference", "server_tool_use", "web_search_tool_result"),
    *("image_url", "input_audio", "file", "refusal", "base64", "url", "content", "file_id"),
    *("auto", "any", "none", "required", "custom", "web_search_20250305", "bash_20250124"),
    *("enabled", "disabled", "adaptive", "json_schema", "json_object", "minimal", "max", "xhigh"),
    *("acme/chat", "acme/other", "default", "claude-sonnet-4-5"),
)
DIALECT_KEYS = (
    *("role", "content", "type", "text", "source", "data", "media_type", "url", "id", "name"),
    *("input", "tool_use_id", "tool_call_id", "tool_calls", "function", "arguments", "is_error"),
    *("thinking", "signature", "citations", "title", "context", "model", "messages", "system"),
    *("stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "stop", "logprobs"),
    *("stop_sequences", "tools", "tool_choice", "input_schema", "description", "input_examples"),
    *("allowed_callers", "strict", "defer_loading", "output_config", "output_format", "effort"),
    *("container", "mcp_servers", "skills", "top_k", "temperature", "budget_tokens", "display"),
    *("reasoning_content", "refusal", "reasoning_effort", "context_management", "edits"),
)

_RAW = re.compile(rb'"\\u0000raw ([a-z]+) (\d+)"')
_RAW_WORDS: tuple[bytes, ...] = (
    b"1e999",
    b"-1e999",
    b"1e-999",
    b"-0",
    b"01",
    b"+1",
    b"0x1",
    b"1.",
    b".5",
    b"1e",
    b"NaN",
    b"Infinity",
    b"undefined",
    b"'a'",
    b"",
    b",",
    b"{",
    b"]",
    b"tru",
    b"/* a */ 1",
    b'"\\ud800"',
    b'"\\ud83d\\ude00"',
    b'"\\udc00\\ud800"',
    b'"\\u00zz"',
    b'"\\x00"',
    b'"\n"',
    b'"\x00"',
    b'"\xff\xfe"',
    b'"\xed\xa0\x80"',
    b'"\xc0\x80"',
    b'"\xf4\x90\x80\x80"',
    b'{"a":1,"a":2}',
    b'{"type":"text","text":"a","type":"image"}',
    b'{"\\u0074ype":"text","text":"a"}',
)
_DEEPEST = 100_000


def mutate(body: dict[str, Any], chance: Random) -> Any:
    """Return a copy of a body with up to four changes to its tree."""
    root: list[Any] = [_copy(body)]
    for _ in range(1 + int(4 * chance.random() ** 2)):
        places = _places(root)
        container, key = places[int(len(places) * chance.random() ** 0.7)]
        _change(container, key, places, chance)
    return root[0] if root else None


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))  # a third of what deepcopy takes


def _places(root: list[Any]) -> list[tuple[Any, Any]]:
    """Return where each value of a tree is, from the top downwards."""
    places: list[tuple[Any, Any]] = [(root, 0)] if root else []
    for container, key in places:
        value = container[key]
        if isinstance(value, dict):
            places += [(value, inner) for inner in value]
        elif isinstance(value, list):
            places += [(value, inner) for inner in range(len(value))]
    return places or [([None], 0)]


def _change(container: Any, key: Any, places: list[tuple[Any, Any]], chance: Random) -> None:
    value = container[key]
    match int(chance.random() * 12):
        case 0 | 1:
            del container[key]
        case 2 | 3 | 4:
            container[key] = _leaf(chance)
        case 5:
            container[key] = chance.choice(DIALECT_WORDS)
        case 6:
            container[key] = _raw(chance)
        case 7:
            if isinstance(container, dict):
                container[chance.choice(DIALECT_KEYS)] = container.pop(key)
            else:
                container.insert(key, _copy(value))
        case 8:  # something from elsewhere in the body
            other, place = chance.choice(places)
            try:
                container[key] = _copy(other[place])
            except (KeyError, IndexError):  # an earlier change has taken it away
                container[key] = None
        case 9:
            container[key] = [value] if chance.random() < 0.5 else {"type": "text", "text": value}
        case 10:
            if isinstance(value, dict):
                value[chance.choice(DIALECT_KEYS)] = _leaf(chance)
            elif isinstance(value, list):
                value.append(_leaf(chance))
            elif isinstance(value, str):
                container[key] = value + chance.choice(("\x00", " ", "é", "\ud800", value))
        case _:
            if isinstance(value, list):
                chance.shuffle(value)
            else:
                container[key] = chance.choice((str(value), value == 0, 1))


def _leaf(chance: Random) -> Any:
    leaf = chance.choice(LEAVES)
    return _copy(leaf) if isinstance(leaf, (list, dict)) else leaf


def _raw(chance: Random) -> str:
    """Return what ``encode`` puts bytes for that no tree can hold."""
    drawn = chance.random()
    if drawn < 0.5:
        return f"\x00raw word {int(chance.random() * len(_RAW_WORDS))}"
    if drawn < 0.6:
        return f"\x00raw digits {chance.choice((20, 400, 4_300, 4_301, 20_000))}"
    if drawn < 0.63:
        return f"\x00raw string {chance.choice((10_000, 300_000))}"
    depth = _DEEPEST if chance.random() < 0.05 else int(chance.random() * 1_100)
    return f"\x00raw {chance.choice(('arrays', 'objects', 'blocks'))} {depth}"


def _written(match: re.Match[bytes]) -> bytes:
    kind, number = match[1], int(match[2])
    if kind == b"word":
        return _RAW_WORDS[number]
    if kind == b"digits":
        return b"9" * number
    if kind == b"string":
        return b'"' + b"ab\\n\xc3\xa9" * (number // 6) + b'"'
    opening, closing = {
        b"arrays": (b"[", b"]"),
        b"objects": (b'{"a":', b"}"),
        b"blocks": (b'[{"type":"tool_result","tool_use_id":"a","content":', b"}]"),
    }[kind]
    return opening * number + b"1" + closing * number


def encode(body: Any, chance: Random) -> bytes:
    """Return a tree as bytes, in one of the ways in which clients write JSON."""
    if chance.random() < 0.5:
        text = json.dumps(body, separators=(",", ":"))
    else:
        text = json.dumps(body, ensure_ascii=False)
    written = text.encode("utf-8", "surrogatepass")
    return _RAW.sub(_written, written) if b"\\u0000raw " in written else written


def damage(body: bytes, chance: Random) -> bytes:
    """Return the bytes of a body with a fault that a tree cannot express."""
    place = int(chance.random() * (len(body) + 1))
    match int(chance.random() * 8):
        case 0:
            return body[:place]
        case 1:
            return body[place:]
        case 2:
            return body[:place] + chance.randbytes(1 + int(8 * chance.random())) + body[place:]
        case 3:
            return body[:place] + body[place + 1 + int(8 * chance.random()) :]
        case 4:
            return chance.randbytes(int(200 * chance.random()))
        case 5:
            ends = (b"\xef\xbb\xbf", b" \r\n\t", b"\x00", body, b"// a\n")
            return chance.choice(ends) + body + chance.choice((b"", *ends))
        case 6:  # a key that is there twice
            twice = chance.choice(DIALECT_KEYS).encode()
            value = json.dumps(chance.choice(LEAVES)).encode("utf-8", "surrogatepass")
            return body[:-1] + b',"' + twice + b'":' + value + b"}"
        case _:
            flipped = bytearray(body)
            for _ in range(1 + int(4 * chance.random())):
                if flipped:
                    flipped[int(len(flipped) * chance.random())] ^= 1 << int(8 * chance.random())
            return bytes(flipped)
