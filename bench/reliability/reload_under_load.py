"""100 streams and 20 arrivals a second across a reload that removes a node and adds another.

The streams run on two nodes when SIGHUP comes. The new file lacks one of them, has a third one,
and another alias and other limits. The nodes count how often each request reaches any of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.daemons import Daemon, running_daemon
from bench.processes import Address, get
from bench.reliability.scene import Figure

MODEL = "acme/chat"
STREAMS = 100
STREAM_TOKENS = 40
TOKEN_SECONDS = 0.25
ARRIVALS_PER_SECOND = 20
PLAY_SECONDS = 9.0
RELOAD_AT = 3.0
ANSWER_SECONDS = 40.0
LONGEST_ARRIVAL = 2.0
FIRST_MODELS = f'[[models]]\nid = "{MODEL}"\nmax_concurrency = 400\n'
LATER_MODELS = f'[[models]]\nid = "{MODEL}"\naliases = ["quick"]\nmax_concurrency = 500\n'

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(text: str, finish: str | None = None) -> bytes:
    """Return one chunk of a body with one event of a chat."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    data = {"id": "1", "object": "chat.completion.chunk", "choices": [choice]}
    return chunk(b"data: %s\n\n" % json.dumps(data).encode())


def chunk(data: bytes) -> bytes:
    """Return data as a chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Node:
    """A node that lists one loaded model, and notes each request in ``requests`` by its text."""

    def __init__(self, name: str, requests: Counter[str]) -> None:
        self.name = name
        self.chats = 0
        self._requests = requests
        listed = {"id": MODEL, "object": "model", "created": 1, "status": "loaded"}
        listing = json.dumps({"object": "list", "data": [listed]}).encode()
        self._listing = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(listing), listing)
        )

    async def listen(self) -> str:
        """Listen, and return the endpoint."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readline():
                length = 0
                while (line := (await reader.readline()).strip()) != b"":
                    key, _, value = line.partition(b":")
                    length = int(value) if key.lower() == b"content-length" else length
                body = await reader.readexactly(length)
                if b"/chat/" in request:
                    await self._answer(json.loads(body), writer)
                elif b"/models" in request:
                    writer.write(self._listing)
                else:
                    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, asked: dict[str, object], writer: asyncio.StreamWriter) -> None:
        text = json.dumps(asked["messages"])
        self._requests[text] += 1
        self.chats += 1
        tokens = STREAM_TOKENS if "stream-" in text else 1
        writer.write(HEAD)
        for _ in range(tokens):
            writer.write(event("x "))
            await writer.drain()
            await asyncio.sleep(TOKEN_SECONDS)
        writer.write(event("", "stop") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


@dataclass
class Outcome:
    """How requests have ended: refused, or cut, or answered within so many seconds."""

    refused: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    seconds: list[float] = field(default_factory=list)


async def ask(address: Address, name: str, outcome: Outcome) -> None:
    """Ask for a streamed chat on a connection of its own, and note how it ends."""
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    message = {"role": "user", "content": name}
    body = json.dumps({"model": MODEL, "stream": True, "messages": [message]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    kind = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    try:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(head + kind + body)
        status = (await reader.readline()).split(b" ")[1:2]
        if status != [b"200"]:
            outcome.refused[b"".join(status).decode()] += 1
        else:
            answer = await asyncio.wait_for(reader.read(), ANSWER_SECONDS)
            outcome.cut += b"data: [DONE]" not in answer or not answer.endswith(b"0\r\n\r\n")
            outcome.seconds.append(loop.time() - asked_at)
        writer.close()
    except (OSError, TimeoutError) as error:
        outcome.refused[type(error).__name__] += 1


async def play(daemon: Daemon, config: Path, later: str) -> tuple[Outcome, Outcome]:
    """Ask while the daemon reloads; return the outcomes of the streams and of the arrivals."""
    streams, arrivals = Outcome(), Outcome()
    async with asyncio.TaskGroup() as group:
        for number in range(STREAMS):
            group.create_task(ask(daemon.address, f"stream-{number}", streams))
        loop = asyncio.get_running_loop()
        begun_at, number, is_reloaded = loop.time(), 0, False
        while (now := loop.time() - begun_at) < PLAY_SECONDS:
            if now >= RELOAD_AT and not is_reloaded:
                config.write_text(later)
                os.kill(daemon.child.pid, signal.SIGHUP)
                is_reloaded = True
            while number < now * ARRIVALS_PER_SECOND:
                group.create_task(ask(daemon.address, f"arrival-{number}", arrivals))
                number += 1
            await asyncio.sleep(1 / ARRIVALS_PER_SECOND)
    return streams, arrivals


async def scene() -> list[Figure]:
    """Play the scene once."""
    requests: Counter[str] = Counter()
    nodes = [Node(name, requests) for name in ("old", "kept", "new")]
    old, kept, new = [await node.listen() for node in nodes]
    with TemporaryDirectory() as folder:
        path = Path(folder)
        config = path / "cortex.toml"
        running = running_daemon(path, {"old": old, "kept": kept}, FIRST_MODELS, "/ready")
        daemon = await asyncio.to_thread(running.__enter__)
        try:
            later = config.read_text().replace(FIRST_MODELS, LATER_MODELS)
            later = later.replace('"old"', '"new"').replace(old, new)
            streams, arrivals = await play(daemon, config, later)
            metrics = (await asyncio.to_thread(get, daemon.metrics, "/metrics"))[1].decode()
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)
    reloads = 'cortex_config_reloads_total{result="ok"} 1.0' in metrics
    slowest = sorted(arrivals.seconds)[int(len(arrivals.seconds) * 0.99) - 1]
    print({node.name: node.chats for node in nodes}, dict(streams.refused + arrivals.refused))
    return [
        Figure("streams across the reload", len(streams.seconds), ""),
        Figure("arrivals", len(arrivals.seconds), ""),
        Figure("reloads that did not happen", 1 - reloads, "", 0),
        Figure("requests that the new node did not get", float(not nodes[2].chats), "", 0),
        Figure("refused", (streams.refused + arrivals.refused).total(), "", 0),
        Figure("cut", streams.cut + arrivals.cut, "", 0),
        Figure("sent twice to nodes", sum(count > 1 for count in requests.values()), "", 0),
        Figure("arrivals, p99", slowest, "s", LONGEST_ARRIVAL),
    ]


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene."""
    return asyncio.run(scene())
