"""A client that ends its side of the connection after its request, as `nc -N` does."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.engine.processes import RunningNode
from tests.live.daemons import ANSWER_SECONDS, running_daemon
from tests.live.streams import CHAT


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_it_gets_its_answer(tmp_path: Path, slow_node: RunningNode, stream: bool) -> None:
    """The whole of it, and then the end of the connection."""
    body = {"model": "acme/chat", "stream": stream, "max_tokens": 20, "ignore_eos": True}
    body["messages"] = [{"role": "user", "content": "a few words"}]
    content = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    with (
        running_daemon(tmp_path, {"node": slow_node.base_url}) as daemon,
        socket.create_connection(daemon.address, timeout=ANSWER_SECONDS) as connection,
    ):
        connection.sendall(head.encode() + content)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece

        assert b"HTTP/1.1 200 OK\r\n" in received
        assert received.endswith(b"0\r\n\r\n" if stream else b"}")
        assert b'"finish_reason":"length"' in received.replace(b" ", b"")
