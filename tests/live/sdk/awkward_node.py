"""A node whose answers are whole but not as a client wants them, as the model's id says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Two calls, whose arguments come by turns.
INTERLEAVED = "awkward/interleaved"
# Vectors of plain numbers, whatever encoding is asked for.
FLOATS = "awkward/floats"
# A refusal with the status that ends the id.
REFUSES = "awkward/refuses-"
STATUSES = (401, 402, 403, 422, 429)
MODELS = (INTERLEAVED, FLOATS, *(f"{REFUSES}{status}" for status in STATUSES))

WORDS = "not with this node"
# Eighths are exact in 32 bits.
VECTOR = [0.5, -0.125, 0.0, 1.0]
# As (index, name where the call begins, a piece of its arguments).
PIECES = [
    (0, "get_weather", ""),
    (1, "get_tides", ""),
    (0, None, '{"city": "Ber'),
    (1, None, '{"harbour": '),
    (0, None, 'gen", "days": 2}'),
    (1, None, '"Bergen"}'),
]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
        """Keep quiet."""

    def do_GET(self) -> None:
        """List the models, whatever was asked."""
        listed = [{"id": model, "created": 1, "status": "loaded"} for model in MODELS]
        self._json(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        """Answer as the model's id says."""
        model = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]
        if model.startswith(REFUSES):
            self._json(int(model.removeprefix(REFUSES)), {"message": WORDS})
        elif model == FLOATS:
            item = {"object": "embedding", "index": 0, "embedding": VECTOR}
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            self._json(200, {"object": "list", "data": [item], "model": model, "usage": usage})
        else:
            self._stream([*map(_call_chunk, PIECES), _chunk({"content": None}, "tool_calls")])

    def _stream(self, chunks: list[Any]) -> None:
        data = [*map(json.dumps, chunks), "[DONE]"]
        self._answer(200, "text/event-stream", "".join(f"data: {item}\n\n" for item in data))

    def _json(self, status: int, value: Any) -> None:
        self._answer(status, "application/json", json.dumps(value))

    def _answer(self, status: int, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _call_chunk(piece: tuple[int, str | None, str]) -> Any:
    index, name, arguments = piece
    call: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if name is not None:
        call |= {"id": f"call-{index}", "type": "function"}
        call["function"]["name"] = name
    return _chunk({"role": "assistant", "content": None, "tool_calls": [call]}, None)


def _chunk(delta: dict[str, Any], finish_reason: str | None) -> Any:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": INTERLEAVED,
        "system_fingerprint": "local",
        "choices": [choice],
    }


@contextmanager
def awkward_node() -> Iterator[str]:
    """Run the node in a thread until the block is left; give its base URL, no slash at the end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        # Connections that the daemon keeps would be waited for.
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
