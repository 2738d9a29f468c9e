"""The simulated node on real sockets: what memory transports cannot show."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

import pytest
import treq
from anthropic import Anthropic
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionRefusedError as RefusedError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone
from twisted.web.http_headers import Headers

from cortexd.testing import SimulatedModel, SimulatedNode
from tests.engine.processes import simulated_node
from tests.live.command_lines import next_line

# Long past anything that happens here on a busy machine.
PATIENCE_SECONDS = 30.0


class Reader(Protocol):
    """Collects a body; `done` fires with True if it ended as HTTP says it must.

    It fails where no end comes within PATIENCE_SECONDS of the reactor.
    """

    def __init__(self, reactor: Any) -> None:
        self.body = bytearray()
        self.done: Deferred[bool] = Deferred()
        self.done.addTimeout(PATIENCE_SECONDS, reactor)

    def dataReceived(self, data: bytes) -> None:
        """Collect."""
        self.body += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell how it ended."""
        self.done.callback(reason.check(ResponseDone) is not None)

    def side(self) -> Any:
        """Give the client's side of the connection."""
        assert self.transport is not None
        return self.transport


@pytest.fixture
def reactor() -> Any:
    """Give the reactor that runs."""
    from twisted.internet import reactor

    return reactor


async def until(reactor: Any, reached: Callable[[], bool]) -> None:
    """Let the reactor turn until something holds, within PATIENCE_SECONDS."""
    deadline = reactor.seconds() + PATIENCE_SECONDS
    while not reached():
        assert reactor.seconds() < deadline, "it never came about"
        await deferLater(reactor, 0.001)


async def open_stream(reactor: Any, port: int, **fields: object) -> Reader:
    """Open a stream on a connection of its own and give its reader once the headers are here."""
    response = await treq.post(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps({"stream": True, "messages": "one two three", **fields}).encode(),
        headers=Headers({"content-type": ["application/json"]}),
        agent=Agent(reactor),
        unbuffered=True,
        timeout=PATIENCE_SECONDS,
    )
    assert response.code == 200
    reader = Reader(reactor)
    response.deliverBody(reader)
    return reader


def a_node(reactor: Any, **options: Any) -> SimulatedNode:
    model = SimulatedModel(id="acme/chat", context_tokens=1_000_000)
    return SimulatedNode(reactor, models=[model], **options)


async def test_reset(reactor: Any) -> None:
    """The chunks before a reset arrive, then the connection breaks."""
    node = a_node(reactor)
    node.faults.reset_after_chunks = 2
    try:
        reader = await open_stream(reactor, await node.listen(reactor))
        assert await reader.done is False
    finally:
        await node.close()
    assert reader.body.count(b"chat.completion.chunk") == 2


async def test_close_and_listen_again(reactor: Any) -> None:
    """A closed node breaks its streams and refuses connections until it listens again."""
    node = a_node(reactor, token_seconds=60)
    port = await node.listen(reactor)
    try:
        first_created = node.running_process.created
        reader = await open_stream(reactor, port)
        await until(reactor, lambda: bool(reader.body))
        await node.close()
        assert await reader.done is False
        with pytest.raises(RefusedError):
            await open_stream(reactor, port)
        assert await node.listen(reactor, port) == port
        assert node.running_process.created > first_created
        again = await open_stream(reactor, port, max_tokens=1)
        assert await again.done is True
    finally:
        await node.close()


async def test_restart(reactor: Any) -> None:
    """A restart keeps the port and drops every connection, idle ones included."""
    node = a_node(reactor, token_seconds=60)
    port = await node.listen(reactor)
    try:
        idle = Reader(reactor)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        await connectProtocol(endpoint, idle)
        streaming = await open_stream(reactor, port)
        node.restart()
        await idle.done
        assert await streaming.done is False
        assert await (await open_stream(reactor, port, max_tokens=1)).done is True
    finally:
        await node.close()


async def test_client_gone(reactor: Any) -> None:
    """The node sees at once that a client has closed its side."""
    node = a_node(reactor, token_seconds=60)
    try:
        reader = await open_stream(reactor, await node.listen(reactor))
        await until(reactor, lambda: bool(reader.body))
        assert node.open_streams == 1
        reader.side().loseConnection()
        await until(reactor, lambda: node.open_streams == 0)
        await reader.done
    finally:
        await node.close()
    (ended,) = node.journal.of("stream_ended")
    assert ended.detail["reason"] == "client_gone"


async def test_slow_reader(reactor: Any) -> None:
    """A client that stops reading stops the generation, and misses nothing when it goes on."""
    node = a_node(reactor)
    # Every third token holds 20 kB: 40 MB, several times what a socket's buffers take.
    tokens = 6_000
    try:
        reader = await open_stream(
            reactor,
            await node.listen(reactor),
            messages="x" * 20_000,
            ignore_eos=True,
            max_tokens=tokens,
        )
        reader.side().pauseProducing()
        (stream,) = node.streams
        seen = -1
        while seen != stream.chunks:
            seen = stream.chunks
            await deferLater(reactor, 0.05)
        assert 0 < seen < tokens
        reader.side().resumeProducing()
        assert await reader.done is True
    finally:
        await node.close()
    assert reader.body.count(b"chat.completion.chunk") == tokens


def test_command_line() -> None:
    """The module prints its URL first, serves there, and ends with SIGTERM."""
    command = [sys.executable, "-m", "cortexd.testing", "--fast"]
    with subprocess.Popen(  # noqa: S603 - a fixed command line
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            url = next_line(process).strip()
            with urlopen(f"{url}/v1/models", timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - http
                ids = [model["id"] for model in json.load(answer)["data"]]
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
    assert ids[0] == "default"
    assert "acme/chat" in ids
    assert errors == ""
    assert process.returncode == 0


def test_command_line_port_taken() -> None:
    """A port that is taken ends the module with one plain line."""
    command = [sys.executable, "-m", "cortexd.testing", "--port"]
    with subprocess.Popen(  # noqa: S603 - a fixed command line
        [*command, "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            port = next_line(process).strip().rpartition(":")[2]
            second = subprocess.run(  # noqa: S603 - a fixed command line
                [*command, port],
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 1
    assert "Choose another --port." in second.stderr
    assert second.stderr.count("\n") == 1


def test_messages_only() -> None:
    """In a process of its own, a Messages-only node is what the SDK takes it for."""
    with (
        simulated_node(fast=True, messages_only=True) as node,
        Anthropic(api_key="none", base_url=node.base_url, max_retries=0) as client,
    ):
        models = [model.id for model in client.models.list(limit=1)]
        assert models == ["acme/chat", "acme/thinker"]
        asked: Any = {"max_tokens": 2000, "messages": [{"role": "user", "content": "hi"}]}
        counted = client.messages.count_tokens(model="acme/chat", messages=asked["messages"])
        thinking: Any = {"type": "adaptive"}
        with client.messages.stream(model="acme/thinker", thinking=thinking, **asked) as stream:
            message = stream.get_final_message()
    assert ["thinking", "text"] == [block.type for block in message.content]
    assert 1 == counted.input_tokens == message.usage.input_tokens
