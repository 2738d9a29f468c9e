"""Parses the raw bytes of HTTP answers for tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One HTTP answer: status, headers in lower case, and the body without chunk framing."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The content of the OpenAI error envelope; AssertionError for any other body."""
        assert "application/json" == self.headers.get("content-type"), self
        envelope = json.loads(self.body)
        assert {"error"} == envelope.keys()
        error: dict[str, Any] = envelope["error"]
        assert {"message", "type", "param", "code"} == error.keys()
        return error


def read_answers(received: bytes, *, to_head: bool = False) -> list[Answer]:
    """Parse all answers that one client received.

    With ``to_head`` the requests were HEAD, whose answers have no body. A chunked body may lack its
    end; a body with neither chunks nor a length extends to the end.
    """
    answers = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        assert version in ("HTTP/1.1", "HTTP/1.0")
        pairs = (line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in pairs}
        if to_head or status == "100":
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body, received = _read_chunks(received)
        else:
            length = int(headers.get("content-length", len(received)))
            body, received = received[:length], received[length:]
        answers.append(Answer(int(status), headers, body))
    return answers


def _read_chunks(received: bytes) -> tuple[bytes, bytes]:
    body = b""
    while received:
        size, _, received = received.partition(b"\r\n")
        length = int(size, 16)
        body += received[:length]
        received = received[length + 2 :]
        if length == 0:
            break
    return body, received
