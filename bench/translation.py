"""`python -m bench.translation`: the cost of translating between dialects, and of passing on.

It measures only the dialects, without sockets or a reactor, in CPU time of this process. Each
figure is the median over several windows.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from bench.figures import Bar, Figures
from bench.report import Rows, circumstances, markdown, plain, shown
from cortexd.dialects.messages_to_chat import tokens
from cortexd.dialects.routes import chat, messages, responses
from cortexd.dialects.wire.exchange import Responder
from cortexd.dialects.wire.profile import MISTRALRS, Profile, Speaks
from cortexd.sse import SseDecoder

WINDOWS = 9
CHUNKS = 20_000
REQUESTS = 100
REQUEST_BYTES = 80_000
TOOLS = 24
LONG_CHAT_ROUNDS = 60

ON_MESSAGES = Profile(speaks=Speaks.MESSAGES)
NATIVE = Profile(native_responses=True)

CHUNK_US = 10.0
REQUEST_MS = 1.0
LONG_CHAT_MS = 2.0

BARS = (
    Bar(
        "a chunk, chat to Messages, the dearest kind",
        ("chunk.text_us", "chunk.text_stop_us", "chunk.thinking_us", "chunk.arguments_us"),
        CHUNK_US,
        "us",
    ),
    Bar(
        "an event, Messages to chat, the dearest kind",
        ("event.text_us", "event.arguments_us"),
        CHUNK_US,
        "us",
    ),
    Bar(
        "an event, Messages to Messages, the dearest kind",
        ("event.passed_us", "event.passed_arguments_us"),
        CHUNK_US,
        "us",
    ),
    Bar(
        "a chunk, chat to responses, the dearest kind",
        ("chunk.response_us", "chunk.response_thinking_us", "chunk.response_arguments_us"),
        CHUNK_US,
        "us",
    ),
    Bar("an event of a response, passed on", ("event.response_us",), CHUNK_US, "us"),
    Bar("80 KB request, Messages to chat", ("request.claude_code_ms",), REQUEST_MS, "ms"),
    Bar("80 KB request, responses to chat", ("request.responses_ms",), REQUEST_MS, "ms"),
    Bar("80 KB request, chat to Messages", ("request.onto_messages_ms",), REQUEST_MS, "ms"),
    Bar("80 KB request, Messages to Messages", ("request.passed_ms",), REQUEST_MS, "ms"),
    Bar("80 KB request, chat to chat", ("request.chat_ms",), REQUEST_MS, "ms"),
    Bar("80 KB chat of 240 messages, fitted", ("request.long_chat_ms",), LONG_CHAT_MS, "ms"),
)

LABELS = {
    "chunk.text_us": "text chunk, us",
    "chunk.text_stop_us": "  with stop sequences to look for, us",
    "chunk.thinking_us": "thinking chunk, us",
    "chunk.arguments_us": "chunk of a tool call's arguments, us",
    "chunk.whole_us": "text chunk of an answer gathered whole, us",
    "chunk.chat_us": "text chunk, chat to chat, us",
    "chunk.response_us": "text chunk, chat to responses, us",
    "chunk.response_thinking_us": "  thinking, us",
    "chunk.response_arguments_us": "  of a tool call's arguments, us",
    "event.text_us": "text event, Messages to chat, us",
    "event.arguments_us": "  of a tool call's arguments, us",
    "event.passed_us": "text event, Messages to Messages, us",
    "event.passed_arguments_us": "  of a tool call's arguments, us",
    "event.response_us": "text event of a response, passed on, us",
    "request.claude_code_ms": "80 KB Claude Code request, ms",
    "request.passed_ms": "  passed on to a node that speaks Messages, ms",
    "request.chat_ms": "  the same as a chat, chat to chat, ms",
    "request.onto_messages_ms": "  as a chat, onto Messages, ms",
    "request.responses_ms": "  as a request for a response, ms",
    "request.count_ms": "  its tokens counted, ms",
    "request.long_chat_ms": "80 KB chat of 240 messages, fitted, ms",
}


def claude_code_body() -> dict[str, Any]:
    """Return a request like Claude Code's second turn: 24 tools and some 80 KB in all."""
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
    """Return the chat completion into which the gateway translates that request."""
    read = messages.read_request(_encoded(claude_code_body()))
    return read.exchange("acme/chat", random_id="0" * 32, now=0.0).first.body


def long_chat_body() -> bytes:
    """Return a chat of some 80 KB as an SDK sends it: 240 messages, the user's texts as arrays."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You are an agent."}]
    for number in range(LONG_CHAT_ROUNDS):
        function = {"name": "Tool0", "arguments": json.dumps({"parameter_0": "x" * 400})}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        messages += [
            {"role": "user", "content": [{"type": "text", "text": "do it " * 20}]},
            {"role": "assistant", "content": "I look.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "line\n" * 60},
            {"role": "assistant", "content": "Done."},
        ]
    messages.append({"role": "user", "content": "And now?"})
    return _encoded({"model": "acme/chat", "messages": messages, "stream": True})


def responses_body() -> bytes:
    """Return a request for a response that says the same as ``claude_code_body``."""
    body = claude_code_body()
    texts = [{"type": "input_text", "text": block["text"]} for block in body["system"][1:]]
    items: list[dict[str, Any]] = [{"type": "message", "role": "developer", "content": texts}]
    for message in json.loads(chat_body())["messages"][1:]:
        if message["role"] == "tool":
            output = {"call_id": message["tool_call_id"], "output": message["content"]}
            items.append({"type": "function_call_output", **output})
            continue
        items.append({"role": message["role"], "content": message["content"] or ""})
        for call in message.get("tool_calls", ()):
            items.append({"type": "function_call", "call_id": call["id"], **call["function"]})
    tools = [
        {
            "type": "function",
            "name": tool["name"],
            "description": tool["description"],
            "parameters": tool["input_schema"],
            "strict": False,
        }
        for tool in body["tools"]
    ]
    return _encoded({"model": "a", "stream": True, "tools": tools, "input": items})


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


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _encoded({"type": kind, **fields}) + b"\n\n"


_TEXT = (_frame({"content": " token", "role": "assistant"}),)
_THINKING = (_frame({"content": None, "role": "assistant", "reasoning_content": " token"}),)
_CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "Tool0"}}
_ARGUMENTS = (
    _frame(
        {"tool_calls": [_CALL | {"function": {"name": "Tool0", "arguments": '{"parameter_0":"'}}]}
    ),
    _frame({"tool_calls": [{"index": 0, "function": {"arguments": " token"}}]}),
)
_MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "acme/chat",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {
        "input_tokens": 20_000,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 1,
    },
}
_TOOL_USE = {"type": "tool_use", "id": "toolu_1", "name": "Tool0", "input": {}}
_START = _event("message_start", message=_MESSAGE)
_TEXT_EVENTS = (
    _START,
    _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    _event("content_block_delta", index=0, delta={"type": "text_delta", "text": " token"}),
)
_ARGUMENT_EVENTS = (
    _START,
    _event("content_block_start", index=0, content_block=_TOOL_USE),
    _event(
        "content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": " token"}
    ),
)
_RESPONSE = {"id": "resp_1", "object": "response", "model": "acme/chat", "output": []}
_ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
_RESPONSE_EVENTS = (
    _event("response.created", response=_RESPONSE, sequence_number=0),
    _event("response.output_item.added", output_index=0, item=_ITEM, sequence_number=1),
    _event(
        "response.output_text.delta",
        output_index=0,
        content_index=0,
        delta=" token",
        sequence_number=2,
    ),
)


def _responder(profile: Profile = MISTRALRS, **fields: Any) -> Responder:
    body = {"model": "a", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    read = messages.read_request(_encoded({**body, **fields}))
    return read.exchange("a", [profile], random_id="0" * 32, now=0.0).first.make_responder()


def _chat_responder(profile: Profile = MISTRALRS) -> Responder:
    body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    read = chat.read_request(_encoded(body))
    return read.exchange("a", [profile], random_id="0" * 32, now=0.0).first.make_responder()


def _response_responder(profile: Profile = MISTRALRS) -> Responder:
    read = responses.read_request(_encoded({"model": "a", "input": "hi", "stream": True}))
    return read.exchange("a", [profile], random_id="0" * 32, now=0.0).first.make_responder()


CHUNKS_OF: dict[str, tuple[Callable[[], Responder], tuple[bytes, ...]]] = {
    "chunk.text_us": (partial(_responder, stream=True), _TEXT),
    "chunk.text_stop_us": (
        partial(_responder, stream=True, stop_sequences=["\n\nHuman:", "STOP"]),
        _TEXT,
    ),
    "chunk.thinking_us": (
        partial(_responder, stream=True, thinking={"type": "adaptive"}),
        _THINKING,
    ),
    "chunk.arguments_us": (partial(_responder, stream=True), _ARGUMENTS),
    "chunk.whole_us": (_responder, _TEXT),
    "chunk.chat_us": (_chat_responder, _TEXT),
    "event.text_us": (partial(_chat_responder, ON_MESSAGES), _TEXT_EVENTS),
    "event.arguments_us": (partial(_chat_responder, ON_MESSAGES), _ARGUMENT_EVENTS),
    "event.passed_us": (partial(_responder, ON_MESSAGES, stream=True), _TEXT_EVENTS),
    "event.passed_arguments_us": (partial(_responder, ON_MESSAGES, stream=True), _ARGUMENT_EVENTS),
    "chunk.response_us": (_response_responder, _TEXT),
    "chunk.response_thinking_us": (_response_responder, _THINKING),
    "chunk.response_arguments_us": (_response_responder, _ARGUMENTS),
    "event.response_us": (partial(_response_responder, NATIVE), _RESPONSE_EVENTS),
}
"""For each kind the responder, and the frames of which the last is measured, again and again."""


def _cpu(work: Callable[[], object], times: int) -> float:
    """Return the CPU seconds that one call of ``work`` takes."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def _chunk_us(responder: Responder, frames: tuple[bytes, ...]) -> float:
    """Return the microseconds from a node's bytes to the client's, for the last of the frames."""
    decoder = SseDecoder()
    *firsts, frame = frames

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
    messages_body, chat_sent = _encoded(claude_code_body()), chat_body()
    long_chat = long_chat_body()
    responses_sent = responses_body()

    def messages_request(profile: Profile = MISTRALRS) -> None:
        read = messages.read_request(messages_body)
        read.exchange("acme/chat", [profile], random_id="0" * 32, now=0.0)

    def chat_request(profile: Profile = MISTRALRS) -> None:
        read = chat.read_request(chat_sent)
        read.exchange("acme/chat", [profile], random_id="0" * 32, now=0.0)

    def long_chat_request() -> None:
        read = chat.read_request(long_chat)
        read.exchange("acme/chat", [MISTRALRS], random_id="0" * 32, now=0.0)

    def responses_request() -> None:
        read = responses.read_request(responses_sent)
        read.exchange("acme/chat", random_id="0" * 32, now=0.0)

    def count_tokens() -> None:
        tokens.read_count(messages_body).estimate()

    return {
        **{name: _chunk_us(make(), frames) for name, (make, frames) in CHUNKS_OF.items()},
        "request.claude_code_ms": _cpu(messages_request, REQUESTS) * 1e3,
        "request.passed_ms": _cpu(lambda: messages_request(ON_MESSAGES), REQUESTS) * 1e3,
        "request.chat_ms": _cpu(chat_request, REQUESTS) * 1e3,
        "request.onto_messages_ms": _cpu(lambda: chat_request(ON_MESSAGES), REQUESTS) * 1e3,
        "request.responses_ms": _cpu(responses_request, REQUESTS) * 1e3,
        "request.count_ms": _cpu(count_tokens, REQUESTS) * 1e3,
        "request.long_chat_ms": _cpu(long_chat_request, REQUESTS) * 1e3,
    }


def table(figures: Figures) -> Rows:
    """Lay out the figures."""
    return [["", "CPU"], *([label, shown(figures[name], 2)] for name, label in LABELS.items())]


def bar_table(figures: Figures) -> Rows:
    """Lay out the bars: the figure's name, the measured value, the limit, the verdict."""
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
    """Measure and print; return the exit status, 1 if a bar is missed under --check."""
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
