"""A client's end of a streamed answer, read by hand: what comes when, and how it ends."""

from __future__ import annotations

import json
import socket
import ssl
from types import TracebackType
from typing import Any

from tests.live.daemons import ANSWER_SECONDS, Daemon

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"

# What stands before each piece of content, by the path.
CONTENT = {
    CHAT: b'"content":"',
    MESSAGES: b'"text_delta"',
    RESPONSES: b'"response.output_text.delta"',
}


def trusting() -> ssl.SSLContext:
    """Return a client's side of TLS that takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def question(path: str, model: str, text: str, tokens: int) -> dict[str, Any]:
    """Return the body that asks for a stream of so many tokens, in the dialect of the path."""
    common = {"model": model, "stream": True, "ignore_eos": True}
    if path == RESPONSES:
        return {**common, "input": text, "max_output_tokens": tokens}
    return {**common, "messages": [{"role": "user", "content": text}], "max_tokens": tokens}


class OpenStream:
    """A streamed answer on a connection of its own; use it in a ``with``.

    ``received`` is all that has been read of the answer.
    """

    def __init__(
        self,
        daemon: Daemon,
        model: str,
        tokens: int,
        *,
        text: str = "a few words to be repeated",
        read_buffer: int = 0,
        key: str = "",
        path: str = CHAT,
    ) -> None:
        """Ask for that many tokens, of ``text`` again and again, in the dialect of ``path``.

        ``read_buffer`` is the kernel's, in bytes, 0 for its own. The gateway may require a ``key``.
        The connection speaks TLS if the daemon does, and takes any certificate; ``certificate`` is
        the one shown, in PEM.
        """
        self.path = path
        content = json.dumps(question(path, model, text, tokens)).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
        head += f"Authorization: Bearer {key}\r\n\r\n" if key else "\r\n"
        self.received = bytearray()
        self._socket = socket.socket()
        if read_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, read_buffer)
        self._socket.settimeout(ANSWER_SECONDS)
        self._socket.connect(daemon.address)
        self.certificate = ""
        if daemon.base_url.startswith("https:"):
            self._socket = secured = trusting().wrap_socket(self._socket)
            shown = secured.getpeercert(binary_form=True)
            self.certificate = ssl.DER_cert_to_PEM_cert(shown or b"")
        self._socket.sendall(head.encode() + content)

    def __enter__(self) -> OpenStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave, in the middle of whatever is sent."""
        self._socket.close()

    def read_some(self) -> bytes:
        """Wait for more bytes and return them; empty at the end."""
        piece = self._socket.recv(65536)
        self.received += piece
        return piece

    def read_until_content(self, tokens: int = 1) -> None:
        """Read until that many pieces of content have come."""
        while self.received.count(CONTENT[self.path]) < tokens:
            assert self.read_some(), self.received

    def read_to_end(self) -> None:
        """Read until the daemon closes the connection or the answer is whole."""
        while not self.is_whole and self.read_some():
            pass

    @property
    def is_whole(self) -> bool:
        """Whether the last chunk of the body has come: HTTP's word that nothing is missing."""
        return self.received.endswith(b"\r\n0\r\n\r\n")

    def events(self) -> list[Any]:
        """Return the data of the events received, decoded; ``[DONE]`` as the text it is."""
        lines = [line for line in self.received.split(b"\n") if line.startswith(b"data: ")]
        data = [line.removeprefix(b"data: ").decode() for line in lines]
        return [text if text == "[DONE]" else json.loads(text) for text in data]
