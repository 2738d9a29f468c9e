"""A client that leaves: the node hears of it at once, whatever the answer had come to.

How many milliseconds it takes is measured by the benchmark; here that it happens at all.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tests.engine.processes import RunningNode
from tests.live.daemons import ANSWER_SECONDS, Daemon, eventually, running_daemon
from tests.live.sdk.broken_node import HOLDING, BrokenNode, broken_node
from tests.live.streams import CHAT, OpenStream

# No timeout of the daemon's would close a connection within them.
SECONDS = ANSWER_SECONDS


@pytest.fixture(scope="module")
def node() -> Iterator[BrokenNode]:
    """Run a node that holds requests until their connection is closed."""
    with broken_node() as running:
        yield running


@pytest.fixture(scope="module")
def daemon(
    tmp_path_factory: pytest.TempPathFactory, node: BrokenNode, slow_node: RunningNode
) -> Iterator[Daemon]:
    """Run a daemon before that node and an ordinary one."""
    nodes = {"holding": node.base_url, "ordinary": slow_node.base_url}
    with running_daemon(tmp_path_factory.mktemp("client-gone"), nodes) as running:
        yield running


def outcomes(daemon: Daemon, model: str) -> list[str]:
    return [line["outcome"] for line in daemon.lines("request") if line["model"] == model]


@pytest.mark.parametrize("model", HOLDING)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("farewell", ["orderly", "reset"])
def test_the_nodes_connection_is_closed(
    daemon: Daemon, node: BrokenNode, model: str, stream: bool, farewell: str
) -> None:
    """Before the headers, before the first token and after it, streamed or not, closed or reset."""
    before = len(outcomes(daemon, model))
    body = json.dumps({"model": model, "stream": stream, "messages": "hi"}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(daemon.address, timeout=SECONDS) as connection:
        connection.sendall(head + body)
        assert model == node.held.get(timeout=SECONDS)
        if farewell == "reset":
            # Closed with a linger of 0 seconds (struct linger, socket(7)) the kernel sends a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert model == node.released.get(timeout=SECONDS)
    eventually(lambda: len(outcomes(daemon, model)) > before, "the log line", SECONDS)
    assert "client_gone" == outcomes(daemon, model)[-1]


def test_the_node_stops_generating(daemon: Daemon, slow_node: RunningNode) -> None:
    """A node with an endless answer has nothing in flight soon after the client has left."""

    def in_flight() -> list[str]:
        metrics = daemon.http.get(f"{slow_node.base_url}/metrics").text
        lines = [line for line in metrics.splitlines() if CHAT in line]
        gauges = [line for line in lines if line.startswith("http_requests_in_flight")]
        return [line for line in gauges if not line.endswith(" 0")]

    with OpenStream(daemon, "acme/thinker", 4000) as stream:
        stream.read_until_content(3)
        assert 1 == len(in_flight())
    eventually(lambda: not in_flight(), "the end of the generation", SECONDS)


def test_no_lease_is_left(daemon: Daemon, node: BrokenNode) -> None:
    """The slots of clients that left are free again, by the daemon's own gauge."""
    with OpenStream(daemon, HOLDING[0], 1):
        assert HOLDING[0] == node.held.get(timeout=SECONDS)

    def taken() -> list[str]:
        metrics = daemon.http.get(f"{daemon.metrics_url}/metrics").text
        lines = [line for line in metrics.splitlines() if line.startswith("cortex_")]
        gauges = [line for line in lines if "in_flight{" in line]
        assert gauges
        return [line for line in gauges if not line.endswith(" 0.0")]

    eventually(lambda: not taken(), "the end of the lease", SECONDS)
    assert HOLDING[0] == node.released.get(timeout=SECONDS)
