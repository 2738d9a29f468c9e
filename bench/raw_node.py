"""A node on plain sockets: it lists models and answers each chat with bytes of a scene's choice."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable


class RawNode:
    """Answers each chat by ``answer``, and any other request by ``listing``, a whole answer.

    ``answer`` writes to the connection, and returns whether that serves further requests. Each
    connection has a thread.
    """

    def __init__(self, listing: bytes, answer: Callable[[socket.socket], bool]) -> None:
        self._listing = listing
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            try:
                while request := lines.readline():
                    length = 0
                    while (line := lines.readline().strip()) != b"":
                        key, _, value = line.partition(b":")
                        if key.lower() == b"content-length":
                            length = int(value)
                    lines.read(length)
                    if b"/chat/" not in request:
                        connection.sendall(self._listing)
                    elif not self._answer(connection):
                        return
            except OSError:
                return
