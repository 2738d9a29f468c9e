"""An HTTP node before the real engine: a mistral.rs server's answers, with the engine's own tokens.

`python -m tests.engine.node --model NAME=DIRECTORY [--model ...] [--port 0]` prints its base URL as
the first line of stdout and serves until it is killed. The first model is the default. With
`--memory-mb N --size NAME=MIB` it pretends to a GPU that holds no more than that, and a model named
by `--cold` starts unloaded. `--hold-folder` is that of `cortexd.testing`: while it has a file
`loads` no reload ends, and while it has one `answers` no answer goes on behind its first chunk.

`--weight NAME=MIB` lets a model really take that memory beside its weights, of which each unload
leaves `--keep-mb` behind. A file `poison` in the folder poisons the context of the device, for the
life of the process. While there is a file `boot` no model is loaded and no port bound, and a file
`no-boot` ends each start with status 1. The file `boots` tells when each process began, when it
listened, and its pid.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socketserver
import struct
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from pathlib import Path
from typing import Any

from cortexd.testing.faults import HELD_SECONDS
from tests.engine.bodies import RequestRefusedError, body_fault, completion_as_chat, model_name
from tests.engine.damage import Ballast, DeviceContext
from tests.engine.hosting import CutError, HostedModel, ModelTable
from tests.engine.machine import system_info

BODY_LIMIT = 50 * 1024 * 1024
NO_RESPONSE = "No response received from the model."

Chunks = Iterator[dict[str, Any]]


class EngineNode(ThreadingHTTPServer):
    """The listening server with its models and its gauges; one thread a connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, models: ModelTable) -> None:
        super().__init__((host, port), EngineRequestHandler)
        self.models = models
        # As of the server: the same for every model, and new after a restart.
        self.created = int(time.time())
        self._in_flight: Counter[tuple[str, str, str]] = Counter()
        self._total: Counter[tuple[str, str, str, int]] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def counted(
        self, handler: EngineRequestHandler, method: str, path: str, body: dict[str, Any]
    ) -> Iterator[None]:
        """Count a request as the server does: in flight while it runs, by its status after."""
        if path in HOUSEKEEPING:
            yield
            return
        model = "none"
        if path in INFERENCE:
            model = self.models.label_or_default(body.get("model"))
        elif path in OPERATIONS:
            model = self.models.label(body.get("model_id"))
        with self._lock:
            self._in_flight[method, path, model] += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_flight[method, path, model] -= 1
                self._total[method, path, model, handler.status] += 1

    def metrics(self) -> str:
        """Return the Prometheus text of the requests in flight and of those that have ended."""
        with self._lock:
            lines = ["# TYPE http_requests_in_flight gauge"]
            lines += [
                f'http_requests_in_flight{{method="{method}",path="{path}",model="{model}"}} {n}'
                for (method, path, model), n in self._in_flight.items()
            ]
            lines.append("# TYPE http_requests_total counter")
            lines += [
                f'http_requests_total{{method="{method}",path="{path}",model="{model}",'
                f'status="{status}"}} {n}'
                for (method, path, model, status), n in self._total.items()
            ]
        return "\n".join([*lines, ""])

    def server_bind(self) -> None:
        """Bind without the parent's look-up of the host's full name, which may ask the network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what broke a request, but not that a client went away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class EngineRequestHandler(BaseHTTPRequestHandler):
    """One connection: routes, bodies and answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: EngineNode
    # Of the answer that was begun last.
    status = 0

    def route(self) -> None:
        """Answer one request of any method."""
        content = self._read_body()
        routes = ROUTES.get(self.path.partition("?")[0])
        method = "GET" if self.command == "HEAD" else self.command
        if content is None:
            self._text(413, "Failed to buffer the request body: length limit exceeded")
        elif routes is None:
            self._answer(404, b"", None)
        elif method not in routes:
            self._answer(405, b"", None)
        else:
            self._dispatch(method, routes[method], content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = route  # noqa: N815 - http.server calls them by these names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
        """Keep quiet: stdout carries the address and stderr faults."""

    def _read_body(self) -> bytes | None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_LIMIT:
            self.close_connection = True
            return None
        return self.rfile.read(length)

    def _dispatch(
        self, method: str, handler: Callable[[Any, dict[str, Any]], None], content: bytes
    ) -> None:
        try:
            body = self._parse(content) if method == "POST" else {}
        except RequestRefusedError as refused:
            self._refuse(refused)
            return
        with self.server.counted(self, method, self.path, body):
            try:
                handler(self, body)
            except RequestRefusedError as refused:
                self._refuse(refused)
            except CutError:
                self._json({"message": NO_RESPONSE}, 500)

    def _refuse(self, refused: RequestRefusedError) -> None:
        if refused.plain:
            self._text(refused.status, refused.message)
        else:
            self._json({"message": refused.message}, refused.status)

    def _parse(self, content: bytes) -> dict[str, Any]:
        if self.headers.get_content_type() != "application/json":
            text = "Expected request with `Content-Type: application/json`"
            raise RequestRefusedError(415, text, plain=True)
        try:
            body = json.loads(content)
        except ValueError as error:
            text = f"Failed to parse the request body as JSON: {error}"
            raise RequestRefusedError(400, text, plain=True) from error
        if not isinstance(body, dict):
            raise body_fault("invalid type, expected a map")
        return body

    def _answer(self, status: int, content: bytes, content_type: str | None) -> None:
        self._begin(status, content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _begin(self, status: int, content_type: str | None) -> None:
        self.status = status
        self.send_response(status)
        if content_type is not None:
            self.send_header("Content-Type", content_type)
        request_id = self.headers.get("x-request-id") or f"req_{uuid.uuid4().hex}"
        self.send_header("x-request-id", request_id)

    def _text(self, status: int, text: str) -> None:
        self._answer(status, text.encode(), "text/plain; charset=utf-8")

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), "application/json")

    def _stream(self, chunks: Chunks) -> None:
        # Headers go out before the first token, as the server sends them before prefill.
        self._begin(200, "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for chunk in chunks:
                self._event(json.dumps(chunk))
            self._event("[DONE]")
        except RequestRefusedError as refused:
            error = {
                "message": refused.message,
                "type": "server_error",
                "param": None,
                "code": None,
            }
            self._event(json.dumps({"error": error}))
            self._event("[DONE]")
        except CutError:
            pass  # an unload ends streams without a finish, an error or [DONE]
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))

    def _ok(self, _body: dict[str, Any]) -> None:
        self._text(200, "OK")

    def _models(self, _body: dict[str, Any]) -> None:
        common = {"object": "model", "created": self.server.created, "owned_by": "local"}
        entries = [{"id": "default", **common, "root": "default"}]
        for name, status in self.server.models.listing():
            entries.append({"id": name, **common, "root": name, "status": status})
        self._json({"object": "list", "data": entries})

    def _status(self, body: dict[str, Any]) -> None:
        self._json(self.server.models.status(model_id(body)))

    def _reload(self, body: dict[str, Any]) -> None:
        self._json(self.server.models.reload(model_id(body)))

    def _unload(self, body: dict[str, Any]) -> None:
        self._json(self.server.models.unload(model_id(body)))

    def _chat(self, body: dict[str, Any]) -> None:
        model = self.server.models.for_request(model_name(body))
        if body.get("stream"):
            self._stream(model.chunks(body))
        elif (body.get("n") or 1) > 1:
            self._json(model.choices_together(body))
        else:
            self._json(gathered(model.chunks(body)))

    def _completions(self, body: dict[str, Any]) -> None:
        model = self.server.models.for_request(model_name(body))
        chunks = model.chunks(completion_as_chat(body))
        if body.get("stream"):
            self._stream(completion_chunk(chunk) for chunk in chunks)
        else:
            self._json(gathered_completion(chunks))

    def _embeddings(self, body: dict[str, Any]) -> None:
        name = model_name(body)
        model = self.server.models.for_request(name, unknown_status=422)
        if body.get("dimensions") is not None:
            raise RequestRefusedError(422, "Custom embedding dimensions are not supported.")
        given = body.get("input")
        if not isinstance(given, (str, list)):
            raise body_fault("data did not match any variant of untagged enum EmbeddingInput")
        one = isinstance(given, str) or (given and isinstance(given[0], int))
        inputs: Any = [given] if one else given
        if not inputs:
            raise RequestRefusedError(422, "input must contain at least one entry.")
        vectors, tokens = model.embed(inputs)
        packed = body.get("encoding_format") == "base64"
        data = [
            {
                "object": "embedding",
                "embedding": base64_floats(vector) if packed else vector,
                "index": i,
            }
            for i, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        self._json({"object": "list", "data": data, "model": name, "usage": usage})

    def _system_info(self, _body: dict[str, Any]) -> None:
        models = self.server.models
        self._json(system_info(models.memory_mb, models.free_mb))

    def _metrics(self, _body: dict[str, Any]) -> None:
        self._text(200, self.server.metrics())


ROUTES: dict[str, dict[str, Callable[[Any, dict[str, Any]], None]]] = {
    "/": {"GET": EngineRequestHandler._ok},
    "/health": {"GET": EngineRequestHandler._ok},
    "/metrics": {"GET": EngineRequestHandler._metrics},
    "/v1/models": {"GET": EngineRequestHandler._models},
    "/v1/models/status": {"POST": EngineRequestHandler._status},
    "/v1/models/reload": {"POST": EngineRequestHandler._reload},
    "/v1/models/unload": {"POST": EngineRequestHandler._unload},
    "/v1/chat/completions": {"POST": EngineRequestHandler._chat},
    "/v1/completions": {"POST": EngineRequestHandler._completions},
    "/v1/embeddings": {"POST": EngineRequestHandler._embeddings},
    "/v1/system/info": {"GET": EngineRequestHandler._system_info},
}


INFERENCE = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
OPERATIONS = ("/v1/models/status", "/v1/models/reload", "/v1/models/unload")
HOUSEKEEPING = ("/", "/health", "/metrics")


def model_id(body: dict[str, Any]) -> str:
    """Return the id a status, reload or unload body names; RequestRefusedError without one."""
    name = body.get("model_id")
    if not isinstance(name, str):
        raise body_fault("missing field `model_id`")
    return name


def gathered(chunks: Chunks) -> dict[str, Any]:
    """Return the non-streaming chat answer that a stream of one choice adds up to."""
    pieces = until_cut(chunks)
    last = pieces[-1]
    deltas = [piece["choices"][0]["delta"] for piece in pieces]
    calls = [call for delta in deltas for call in delta["tool_calls"] or []]
    tokens = [piece["choices"][0]["logprobs"] for piece in pieces]
    content = "".join(delta["content"] or "" for delta in deltas)
    choice = {
        "index": 0,
        "finish_reason": last["choices"][0]["finish_reason"],
        "logprobs": {"content": [t for t in tokens if t]} if any(tokens) else None,
        "message": {
            "role": "assistant",
            "content": None if calls and not content else content,
            "tool_calls": calls or None,
        },
    }
    return {**last, "object": "chat.completion", "choices": [choice]}


def until_cut(chunks: Chunks) -> list[dict[str, Any]]:
    """Return all chunks; CutError or RequestRefusedError where the model was unloaded before."""
    pieces = list(chunks)
    if not pieces:
        raise RequestRefusedError(500, NO_RESPONSE)
    return pieces


def completion_chunk(chunk: dict[str, Any]) -> dict[str, Any]:
    """Return a chat chunk as a /v1/completions chunk, which never has usage."""
    (choice,) = chunk["choices"]
    text = {
        "text": choice["delta"]["content"] or "",
        "index": choice["index"],
        "logprobs": choice["logprobs"],
        "finish_reason": choice["finish_reason"],
    }
    kept = {name: value for name, value in chunk.items() if name != "usage"}
    return {**kept, "object": "text_completion", "choices": [text]}


def gathered_completion(chunks: Chunks) -> dict[str, Any]:
    """Return the non-streaming /v1/completions answer that a stream adds up to."""
    answer = gathered(chunks)
    (choice,) = answer["choices"]
    message = choice.pop("message")
    return {
        **answer,
        "object": "text_completion",
        "choices": [{**choice, "text": message["content"] or ""}],
    }


def base64_floats(vector: list[float]) -> str:
    """Return a vector as base64 of little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; it ends the process if models are named that it does not have."""
    parser = argparse.ArgumentParser(prog="python -m tests.engine.node")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=DIRECTORY")
    parser.add_argument("--host", default="127.0.0.1", help="an address of this machine")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    parser.add_argument(
        "--hold-folder",
        type=Path,
        required=True,
        help="whose files `loads` and `answers` hold those up: alone a reload is done in 20 ms",
    )
    parser.add_argument("--memory-mb", type=int, help="pretend to a GPU of so many MiB")
    parser.add_argument(
        "--size", action="append", default=[], metavar="NAME=MIB", help="what a model takes of it"
    )
    parser.add_argument(
        "--cold", action="append", default=[], metavar="NAME", help="a model that starts unloaded"
    )
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="NAME=MIB",
        help="what a model really takes beside its weights",
    )
    parser.add_argument(
        "--keep-mb", type=int, default=0, help="what each unload leaves of that behind"
    )
    parser.add_argument(
        "--disk-mb",
        type=float,
        default=inf,
        metavar="MIB",
        help="how much of its size a model reads from the disk in a second when it is loaded",
    )
    options = parser.parse_args(arguments)
    options.model = dict(given.split("=", 1) for given in options.model)
    for table in ("size", "weight"):
        pairs = (given.rsplit("=", 1) for given in getattr(options, table))
        setattr(options, table, {name: int(size_mb) for name, size_mb in pairs})
    if {*options.size, *options.weight, *options.cold} - set(options.model):
        parser.error("--size, --weight and --cold take the name of a --model")
    warm_mb = sum(mb for name, mb in options.size.items() if name not in options.cold)
    if options.memory_mb is not None and warm_mb > options.memory_mb:
        parser.error("the models do not fit --memory-mb together: let some start --cold")
    return options


def process_age() -> float:
    """Return the seconds since this process began, with the time that its imports have taken."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    began_at = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began_at


def note_boot(folder: Path, event: str, ago: float = 0.0) -> None:
    """Add a line to the file of boots: the event, the pid, and when it was, in unix seconds."""
    line = {"event": event, "pid": os.getpid(), "at": time.time() - ago}
    with (folder / "boots").open("a", encoding="utf-8") as boots:
        boots.write(json.dumps(line) + "\n")


def main() -> None:
    """Load the models, bind the port, print the address, serve."""
    options = options_of()
    folder: Path = options.hold_folder
    note_boot(folder, "began", process_age())
    while (folder / "boot").exists():
        time.sleep(HELD_SECONDS)
    if (folder / "no-boot").exists():
        sys.exit("failed to load model: told so")
    context = DeviceContext(folder / "poison")
    models = [
        HostedModel(
            name,
            Path(directory),
            options.size.get(name, 0),
            (folder / "answers").exists,
            ballast=Ballast(options.weight.get(name, 0), options.keep_mb),
            context=context,
            load_seconds=options.size.get(name, 0) / options.disk_mb,
        )
        for name, directory in options.model.items()
    ]
    # The server too loads one model after the other, and binds its port only after the last one.
    for model in models:
        if model.name not in options.cold:
            model.load()
    table = ModelTable(models, options.memory_mb, (folder / "loads").exists)
    node = EngineNode(options.host, options.port, table)
    note_boot(folder, "listened")
    sys.stdout.write(f"http://{options.host}:{node.server_port}\n")
    sys.stdout.flush()
    node.serve_forever()


if __name__ == "__main__":
    main()
