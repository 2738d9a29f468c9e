"""The bytes that the bench's upstream and load generator exchange, rendered once and reused.

The shapes are those of a mistral.rs node: a role in every chunk, usage on the chunk that carries
the finish_reason, then `[DONE]`. The request body's field `bench` has the orders for the upstream:
no gateway knows the field, and all pass it on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache

MODEL = "bench/model"
# Stands in the content of every chunk, in ASCII letters that no JSON writer escapes, so that
# counting it counts chunks however the gateway re-writes them.
WORD = "bench-word"
WORD_BYTES = WORD.encode()
DONE = b"[DONE]"
LAST_CHUNK = b"0\r\n\r\n"
CREATED = 1_790_000_000


@dataclass(frozen=True, slots=True)
class Knobs:
    """One request's orders for the upstream: times in milliseconds, `chunk_bytes` the least length
    of a chunk's text.
    """

    id: str = ""
    chunks: int = 1
    gap_ms: float = 0
    first_ms: float = 0
    before_headers_ms: float = 0
    chunk_bytes: int = 0

    @classmethod
    def of_body(cls, body: dict[str, object]) -> Knobs:
        """Return the knobs of a decoded body; a body without knobs gets one chunk at once."""
        given = body.get("bench")
        return cls(**given) if isinstance(given, dict) else cls()


@lru_cache(maxsize=256)
def chat_request(knobs: Knobs, *, stream: bool, key: str = "") -> bytes:
    """Render a whole HTTP request for a chat completion, `Host` and all, with a `key` if any."""
    body = json.dumps(
        {
            "model": MODEL,
            "stream": stream,
            "messages": [{"role": "user", "content": "Say something."}],
            "bench": asdict(knobs),
        }
    ).encode()
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\n"
        f"{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def response(
    body: bytes, *, status: str = "200 OK", content_type: str = "application/json"
) -> bytes:
    """Render a whole HTTP response with a known length."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def _usage(chunks: int) -> dict[str, float]:
    return {
        "completion_tokens": chunks,
        "prompt_tokens": 20,
        "total_tokens": chunks + 20,
        "avg_tok_per_sec": 417.9,
        "avg_prompt_tok_per_sec": 20000.0,
        "avg_compl_tok_per_sec": 121.2,
        "total_time_sec": 0.067,
        "total_prompt_time_sec": 0.001,
        "total_completion_time_sec": 0.066,
    }


def _text(chunk_bytes: int) -> str:
    return f"{WORD} ".ljust(chunk_bytes, "x")


def _framed(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def _event(chunk_bytes: int, finish_reason: str | None, usage: dict[str, float] | None) -> bytes:
    chunk = {
        "id": "13",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": MODEL,
        "system_fingerprint": "local",
        "usage": usage,
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "logprobs": None,
                "delta": {"role": "assistant", "content": _text(chunk_bytes), "tool_calls": None},
            }
        ],
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


@lru_cache(maxsize=64)
def chunk(chunk_bytes: int) -> bytes:
    """Render one chunk of a stream, transfer framing included, with at least `chunk_bytes` bytes of
    text.
    """
    return _framed(_event(chunk_bytes, None, None))


@lru_cache(maxsize=64)
def stream_end(chunk_bytes: int, chunks: int) -> bytes:
    """Render the last chunk of a stream of `chunks`, with finish_reason and usage, then `[DONE]`
    and the last frame.
    """
    finish = _framed(_event(chunk_bytes, "length", _usage(chunks)))
    return finish + _framed(b"data: " + DONE + b"\n\n") + LAST_CHUNK


@lru_cache(maxsize=64)
def completion(chunk_bytes: int, chunks: int) -> bytes:
    """Render the non-streaming answer of `chunks` chunks as a whole HTTP response."""
    body = {
        "id": "12",
        "object": "chat.completion",
        "created": CREATED,
        "model": MODEL,
        "system_fingerprint": "local",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "logprobs": None,
                "message": {
                    "role": "assistant",
                    "content": _text(chunk_bytes) * chunks,
                    "tool_calls": None,
                },
            }
        ],
        "usage": _usage(chunks),
    }
    return response(json.dumps(body, separators=(",", ":")).encode())


def models() -> bytes:
    """Render the answer to `GET /v1/models`: the pseudo-model `default` and one loaded model."""
    entry = {"object": "model", "created": CREATED, "owned_by": "local"}
    data = [
        {"id": "default", **entry, "root": "default"},
        {"id": MODEL, **entry, "root": MODEL, "status": "loaded"},
    ]
    return response(json.dumps({"object": "list", "data": data}).encode())


def model_status(model_id: str) -> bytes:
    """Render the answer to `POST /v1/models/status`, 200 whatever the status."""
    status = "loaded" if model_id == MODEL else "not_found"
    return response(json.dumps({"model_id": model_id, "status": status}).encode())


def system_info() -> bytes:
    """Render the answer to `GET /v1/system/info` of a node with one 48 GiB GPU."""
    gib = 1 << 30
    memory = {"total_bytes": 64 * gib, "available_bytes": 48 * gib}
    cpu_features = {"avx": True, "avx2": True, "avx512": False, "fma": True}
    info = {
        "os": "linux",
        "kernel": "6.1.0",
        "cpu": {"brand": "bench", "logical_cores": 8, "physical_cores": 4, **cpu_features},
        "memory": memory,
        "devices": [
            {
                "kind": "cpu",
                "ordinal": None,
                "name": "bench",
                "total_memory_bytes": memory["total_bytes"],
                "available_memory_bytes": memory["available_bytes"],
            },
            {
                "kind": "cuda",
                "ordinal": 0,
                "name": None,
                "total_memory_bytes": 48 * gib,
                "available_memory_bytes": 40 * gib,
                "compute_capability": [8, 0],
            },
        ],
        "build": {"version": "0.9.2", "cuda": True, "metal": False, "git_revision": "bench"},
        "hf_cache_path": "",
    }
    return response(json.dumps(info).encode())
