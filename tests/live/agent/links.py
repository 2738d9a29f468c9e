"""A network between two hosts that can be cut: it stops passing bytes, and closes nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from tests.live.agent.machines import Address, loopback_address

PIECE: Final = 65_536
ACCEPT_SECONDS: Final = 0.1
CONNECT_SECONDS: Final = 10.0


class Link:
    """Passes connections on from ``address`` to another one, until it is cut.

    A link that was cut keeps all connections, and those that come meanwhile; nothing of what is
    sent arrives, neither bytes nor an end. Joined again, it passes all of that on, as TCP does.
    """

    def __init__(self, to: Address) -> None:
        self._to = to
        self._whole = threading.Event()
        self._whole.set()
        self._ended = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(loopback_address(), backlog=64)
        self._listener.settimeout(ACCEPT_SECONDS)
        host, port = self._listener.getsockname()
        self.address: Address = (host, port)
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Pass nothing on from now on."""
        self._whole.clear()

    def join(self) -> None:
        """Pass on what has waited, and all that comes."""
        self._whole.set()

    def close(self) -> None:
        """End all connections, and wait for the threads."""
        self._ended.set()
        self._whole.set()
        self._listener.close()
        with self._lock:
            for each in self._sockets:
                _shut(each)
        # The accepting thread first: it adds others.
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.connections += 1
            self._run(self._carry, near)

    def _carry(self, near: socket.socket) -> None:
        self._whole.wait()
        try:
            far = socket.create_connection(self._to, CONNECT_SECONDS)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        near.settimeout(None)
        with self._lock:
            self._sockets |= {near, far}
            if self._ended.is_set():
                _shut(near)
                _shut(far)
        self._run(self._pass_on, near, far)
        self._run(self._pass_on, far, near)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        piece = b"-"
        while piece:
            try:
                piece = source.recv(PIECE)
            except OSError:
                piece = b""
            self._whole.wait()
            try:
                if piece:
                    target.sendall(piece)
                else:
                    target.shutdown(socket.SHUT_WR)
            except OSError:
                _shut(source)
                return

    def _run(self, target: object, *arguments: socket.socket) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()


def _shut(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


@contextmanager
def link_to(address: Address) -> Iterator[Link]:
    """Run a link to an address until the block is left."""
    link = Link(address)
    try:
        yield link
    finally:
        link.close()
