"""A server that records the heads of requests, to see what a proxy sends."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any


@dataclass
class Recorder:
    """``received`` has the head of each request, with the number of its connection from 1."""

    address: str = ""
    received: list[tuple[int, bytes]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))


@contextmanager
def recording() -> Iterator[Recorder]:
    """Run a server on this machine that records, until the block is left."""
    recorder = Recorder()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            number = None
            while head := self._head():
                number = number or next(recorder.numbers)  # a probe sends nothing
                length = next(
                    (
                        int(line[15:])
                        for line in head
                        if line.lower().startswith(b"content-length:")
                    ),
                    0,
                )
                self.rfile.read(length)
                recorder.received.append((number, b"\r\n".join(head)))
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        def _head(self) -> list[bytes]:
            lines: list[bytes] = []
            while line := self.rfile.readline().rstrip(b"\r\n"):
                lines.append(line)
            return lines

    server: Any = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        recorder.address = f"127.0.0.1:{server.server_address[1]}"
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
