"""A thousand clients connect in the same moment, and each sends a request.

Beyond its backlog the kernel drops the attempts to connect, and a client's kernel tries again only
after 1, 3, 7 … seconds.
"""

from __future__ import annotations

import argparse
import socket
import time

from bench.load import RECEIVE_BYTES, ResponseScanner
from bench.loop import READ, WRITE, Loop
from bench.processes import Address, cpu_nanoseconds, raise_open_files_limit
from bench.reliability.daemons import daemon
from bench.reliability.scene import Figure
from bench.wire import Knobs, chat_request

CLIENTS = 1000
ANSWER_SECONDS = 3.0
SCENE_SECONDS = 40.0


class Caller:
    """One client: it connects without waiting, sends its request and reads the answer."""

    def __init__(self, loop: Loop, address: Address, request: bytes) -> None:
        self._loop = loop
        self._request = request
        self._scanner = ResponseScanner(streaming=False)
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self.answered_at: float | None = None
        self.failure = ""
        self._socket.connect_ex(address)
        loop.watch(self._socket.fileno(), self._ready, WRITE)

    @property
    def is_over(self) -> bool:
        """Whether it has its answer, or has failed."""
        return self.answered_at is not None or bool(self.failure)

    def _ready(self, events: int) -> None:
        try:
            if events & WRITE:
                self._socket.sendall(self._request)
                self._loop.modify(self._socket.fileno(), READ)
            else:
                self._receive(self._socket.recv(RECEIVE_BYTES))
        except OSError as error:
            self._end(str(error))

    def _receive(self, data: bytes) -> None:
        if data:
            self._scanner.feed(data)
        else:
            self._scanner.closed()
        if self._scanner.ended:
            self._end(self._scanner.failure)

    def _end(self, failure: str) -> None:
        self.failure = failure
        if not failure:
            self.answered_at = time.monotonic()
        self.close()

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._socket.fileno() >= 0:
            self._loop.forget(self._socket.fileno())
            self._socket.close()


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene."""
    raise_open_files_limit()
    request = chat_request(Knobs(chunks=2), stream=False)
    loop = Loop()
    with daemon() as played:
        used = cpu_nanoseconds([played.child.pid])
        began = time.monotonic()
        callers = [Caller(loop, played.address, request) for _ in range(CLIENTS)]
        try:
            loop.run(began + SCENE_SECONDS, lambda: all(each.is_over for each in callers))
        finally:
            for caller in callers:
                caller.close()
        used = cpu_nanoseconds([played.child.pid]) - used
    times = [each.answered_at - began for each in callers if each.answered_at is not None]
    return [
        Figure("clients at once", CLIENTS, ""),
        Figure("without an answer", CLIENTS - len(times), "", 0),
        Figure("CPU time of the daemon", used / 1e9, "s"),
        Figure("the last answer", max(times, default=SCENE_SECONDS), "s", ANSWER_SECONDS),
    ]
