"""`python -m bench.translation`: what it costs to translate between the Messages and chat dialects.

No sockets and no reactor: the dialects alone, in CPU time of this process. Each figure is the
median over several windows.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from bench.figures import Bar, Figures
from bench.report import Rows, circumstances, markdown, plain, shown
from cortexd.dialects import anthropic_messages, anthropic_tokens, openai_chat
from cortexd.dialects.exchange import Responder
from cortexd.sse import SseDecoder

WINDOWS = 9
CHUNKS = 20_000
REQUESTS = 100
REQUEST_BYTES = 80_000
TOOLS = 24

CHUNK_US = 10.0
REQUEST_MS = 1.0

BARS = (
    Bar(
        "a chunk, chat to Messages, the dearest kind",
        ("chunk.text_us", "chunk.text_stop_us", "chunk.thinking_us", "chunk.arguments_us"),
        CHUNK_US,
        "us",
    ),
    Bar("80 KB request, Messages to chat", ("request.claude_code_ms",), REQUEST_MS, "ms"),
)

LABELS = {
    "chunk.text_us": "text chunk, us",
    "chunk.text_stop_us": "  with stop sequences to look for, us",
    "chunk.thinking_us": "thinking chunk, us",
    "chunk.arguments_us": "chunk of a tool call's arguments, us",
    "chunk.whole_us": "text chunk of an answer gathered whole, us",
    "chunk.chat_us": "text chunk, chat to chat, us",
    "request.claude_code_ms": "80 KB Claude Code request, ms",
    "request.chat_ms": "  the same as a chat, chat to chat, ms",
    "request.count_ms": "  its tokens counted, ms",
}


def claude_code_body() -> dict[str, Any]:
    """Return a request as Claude Code sends its second turn: 24 tools and some 80 KB in all."""
    properties = {
        f"parameter_{number}": {"type": "string", "description": "What it is for. " * 12}
        for number in range(10)
    }
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": ["parameter_0"],
        "additionalProperties": False,
    }
    cached = {"cache_control": {"type": "ephemeral"}}
    call = {"type": "tool_use", "id": "toolu_1", "name": "Tool0", "input": {"parameter_0": "a"}}
    body: dict[str, Any] = {
        "model": "claude-local",
        "max_tokens": 32_000,
        "stream": True,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=0;"},
            {"type": "text", "text": "You are an agent.", **cached},
            {"type": "text", "text": "Be careful with what you run. " * 200, **cached},
        ],
        "tools": [
            {"name": f"Tool{number}", "description": "Does it.\n", "input_schema": schema}
            for number in range(TOOLS)
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "say hi", **cached}]},
            {"role": "system", "content": "These agents there are. " * 250},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "cortex"},
                    {"type": "text", "text": "I look."},
                    call,
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "line\n", **cached}
                ],
            },
        ],
        "metadata": {"user_id": '{"device_id":"a","session_id":"b"}'},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    }
    missing = REQUEST_BYTES - len(_encoded(body))
    each = body["tools"][0]["description"]
    for tool in body["tools"]:
        tool["description"] = each * (1 + missing // (TOOLS * len(json.dumps(each)[1:-1])))
    return body


def chat_body() -> bytes:
    """Return what that request becomes on its way to a node."""
    read = anthropic_messages.read_request(_encoded(claude_code_body()))
    return read.exchange("acme/chat", random_id="0" * 32, now=0.0).first.body


def _encoded(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _frame(delta: dict[str, Any]) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None, "logprobs": None}
    chunk = {
        "id": "7",
        "choices": [choice],
        "created": 1_790_000_000,
        "model": "acme/chat",
        "system_fingerprint": "local",
        "object": "chat.completion.chunk",
    }
    return b"data: " + _encoded(chunk) + b"\n\n"


_TEXT = ({"content": " token", "role": "assistant"},)
_THINKING = ({"content": None, "role": "assistant", "reasoning_content": " token"},)
_CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "Tool0"}}
_ARGUMENTS = (
    {"tool_calls": [_CALL | {"function": {"name": "Tool0", "arguments": '{"parameter_0":"'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": " token"}}]},
)


def _responder(**fields: Any) -> Responder:
    body = {"model": "a", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    read = anthropic_messages.read_request(_encoded({**body, **fields}))
    return read.exchange("a", random_id="0" * 32, now=0.0).first.make_responder()


def _chat_responder() -> Responder:
    body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    read = openai_chat.read_request(_encoded(body))
    return read.exchange("a", random_id="0" * 32, now=0.0).first.make_responder()


def _cpu(work: Callable[[], object], times: int) -> float:
    """Return the CPU seconds that one call of ``work`` takes."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def _chunk_us(responder: Responder, deltas: tuple[dict[str, Any], ...]) -> float:
    """Return the microseconds from a node's bytes to the client's, for the last of the deltas."""
    decoder = SseDecoder()
    *firsts, frame = (_frame(delta) for delta in deltas)

    def take(data: bytes) -> None:
        # As an attempt does, with its short way first.
        mould = responder.mould
        if mould is not None and decoder.is_between_events and mould.cast(data) is not None:
            return
        for event in decoder.feed(data):
            responder.feed(event)

    for first in (*firsts, frame, frame):
        take(first)
    return _cpu(lambda: take(frame), CHUNKS) * 1e6


def measured() -> Figures:
    """Return the figures of one window."""
    messages_body, chat = _encoded(claude_code_body()), chat_body()
    thinks = {"thinking": {"type": "adaptive"}}

    def messages_request() -> None:
        read = anthropic_messages.read_request(messages_body)
        read.exchange("acme/chat", random_id="0" * 32, now=0.0)

    def chat_request() -> None:
        openai_chat.read_request(chat).exchange("acme/chat", random_id="0" * 32, now=0.0)

    def count_tokens() -> None:
        anthropic_tokens.read_count(messages_body).estimate()

    return {
        "chunk.text_us": _chunk_us(_responder(stream=True), _TEXT),
        "chunk.text_stop_us": _chunk_us(
            _responder(stream=True, stop_sequences=["\n\nHuman:", "STOP"]), _TEXT
        ),
        "chunk.thinking_us": _chunk_us(_responder(stream=True, **thinks), _THINKING),
        "chunk.arguments_us": _chunk_us(_responder(stream=True), _ARGUMENTS),
        "chunk.whole_us": _chunk_us(_responder(), _TEXT),
        "chunk.chat_us": _chunk_us(_chat_responder(), _TEXT),
        "request.claude_code_ms": _cpu(messages_request, REQUESTS) * 1e3,
        "request.chat_ms": _cpu(chat_request, REQUESTS) * 1e3,
        "request.count_ms": _cpu(count_tokens, REQUESTS) * 1e3,
    }


def table(figures: Figures) -> Rows:
    """Lay the figures out."""
    return [["", "CPU"], *([label, shown(figures[name], 2)] for name, label in LABELS.items())]


def bar_table(figures: Figures) -> Rows:
    """Lay the bars out: what is limited, what was measured, the limit, the verdict."""
    results = {"cortexd": figures}
    return [
        ["bar", "measured", "at most", "verdict"],
        *(
            [
                bar.label,
                shown(bar.measured(results), 2),
                f"{bar.limit:g} {bar.unit}",
                bar.verdict(results),
            ]
            for bar in BARS
        ),
    ]


def main() -> int:
    """Measure and print; answers the exit status, 1 where a bar is missed and --check was given."""
    parser = argparse.ArgumentParser(prog="python -m bench.translation", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--check", action="store_true", help="fail where a bar is missed")
    options = parser.parse_args()
    gc.disable()
    windows = [measured() for _ in range(WINDOWS)]
    figures = {name: median(window[name] for window in windows) for name in LABELS}
    render = markdown if options.markdown else plain
    print(*circumstances(), sep="\n")
    print(f"\n{render(table(figures))}\n\n{render(bar_table(figures))}")
    missed = any(bar.verdict({"cortexd": figures}) == "miss" for bar in BARS)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
