"""What a node answers, in the shapes of nodes.md 4.2 and 4.3, and the relaying of it."""

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from cortexd import sse
from cortexd.dialects.wire.exchange import Responder
from cortexd.dialects.wire.json_values import decode, encode
from cortexd.errors import CortexError
from cortexd.sse import ServerSentEvent, SseDecoder

USAGE = {
    "completion_tokens": 8,
    "prompt_tokens": 20,
    "total_tokens": 28,
    "avg_tok_per_sec": 417.9,
    "avg_prompt_tok_per_sec": 20000.0,
    "avg_compl_tok_per_sec": 121.2,
    "total_time_sec": 0.067,
    "total_prompt_time_sec": 0.001,
    "total_completion_time_sec": 0.066,
}
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b":\n\n"
AGENTIC = b'event: agentic_tool_call_progress\ndata: {"tool": "web_search"}\n\n'


def chat_chunk(
    content: str | None = None,
    *,
    finish: object = None,
    usage: object = None,
    logprobs: object = None,
    **delta: object,
) -> dict[str, Any]:
    """Return one chunk of a chat stream as a node writes it; ``delta`` has what else it brings."""
    return {
        "id": "13",
        "object": "chat.completion.chunk",
        "created": 1_790_000_002,
        "model": "org/base",
        "system_fingerprint": "local",
        "usage": usage,
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "logprobs": logprobs,
                "delta": {"role": "assistant", "content": content, "tool_calls": None} | delta,
            }
        ],
    }


def text_chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    """Return one chunk of a text completion stream, which never counts tokens (nodes.md 6)."""
    return {
        "id": "14",
        "object": "text_completion",
        "created": 1_790_000_002,
        "model": "org/base",
        "system_fingerprint": "local",
        "choices": [{"index": 0, "finish_reason": finish, "logprobs": None, "text": text}],
    }


def tool_call(name: str, arguments: str, index: int = 0) -> dict[str, Any]:
    """Return a whole tool call, as nodes send it."""
    return {
        "index": index,
        "id": f"call-{index}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def event(data: object) -> ServerSentEvent:
    """Return the event of one chunk; bytes are its data as they are."""
    return ServerSentEvent(data if isinstance(data, bytes) else encode(data))


def stream(*chunks: object, end: bytes = DONE) -> bytes:
    """Return the bytes of a stream of chunks; bytes among them are parts of it as they are."""
    parts = [chunk if isinstance(chunk, bytes) else sse.encode(encode(chunk)) for chunk in chunks]
    return b"".join(parts) + end


def fed(responder: Responder, *pieces: bytes) -> bytes:
    """Return what goes downstream while a node's stream comes in these pieces."""
    decoder = SseDecoder()
    return b"".join(responder.feed(each) for piece in pieces for each in decoder.feed(piece))


def relay(responder: Responder, *pieces: bytes) -> bytes:
    """Return what goes downstream when a node's stream comes in these pieces and then ends."""
    return fed(responder, *pieces) + responder.finish()


def broken_after(responder: Responder, first: ServerSentEvent) -> bytes:
    """Return what goes downstream when a node's stream breaks off after its first event."""
    out = responder.feed(first)
    try:
        return out + responder.finish()
    except CortexError as error:
        return out + responder.fail(error)


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Return ``data`` in pieces, cut at these places, wherever those lie."""
    edges = [0, *sorted(place % (len(data) + 1) for place in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def chunks_of(downstream: bytes) -> list[Any]:
    """Return the chunks of a downstream stream that ends in good order."""
    *events, last = SseDecoder().feed(downstream)
    assert ServerSentEvent(b"[DONE]") == last
    assert all(event.name == b"message" for event in events)
    return [decode(event.data) for event in events]


def failure(responder: Responder, *pieces: bytes) -> CortexError:
    """Return the error with which relaying these pieces of a stream ends."""
    try:
        found = relay(responder, *pieces)
    except CortexError as error:
        return error
    raise AssertionError(f"answered {found!r}")


_TOOL_CALLS = st.lists(
    st.tuples(st.sampled_from(["search", "read"]), st.dictionaries(st.text(), st.integers())),
    max_size=3,
)


@st.composite
def chat_streams(draw: st.DrawFn) -> tuple[list[dict[str, Any]], bytes]:
    """Return the chunks of a complete chat stream, and its bytes with what comes between them."""
    said: Sequence[tuple[str, str]] = draw(
        st.lists(st.tuples(st.sampled_from(["content", "reasoning_content"]), st.text()))
    )
    chunks = [chat_chunk(**{kind: text}) for kind, text in said]
    calls = [
        tool_call(name, json.dumps(arguments), index)
        for index, (name, arguments) in enumerate(draw(_TOOL_CALLS))
    ]
    chunks.append(
        chat_chunk(
            draw(st.none() | st.text()),
            finish="tool_calls" if calls else draw(st.sampled_from(["stop", "length"])),
            usage=draw(st.sampled_from([USAGE, None])),
            tool_calls=calls or None,
        )
    )
    between = [draw(st.sampled_from([b"", b"", KEEP_ALIVE, AGENTIC])) for _ in chunks]
    parts = [part for pair in zip(between, chunks, strict=True) for part in pair]
    return chunks, stream(*parts, end=draw(st.sampled_from([DONE, b""])))
