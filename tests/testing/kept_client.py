"""What clients send that a node is to keep, and how they read what it tells of that."""

import json
from typing import Any

from cortexd.sse import SseDecoder
from tests.testing.client import Exchange

MULTIPART = {"content-type": "multipart/form-data; boundary=cut"}


def multipart(name: str = "notes.txt", content: str = "the notes", **fields: str) -> bytes:
    """Return the body of an upload, whose boundary is ``cut``."""
    parts = [
        f'--cut\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    ]
    heading = f'Content-Disposition: form-data; name="file"; filename="{name}"'
    parts.append(f"--cut\r\n{heading}\r\nContent-Type: text/plain\r\n\r\n{content}\r\n--cut--\r\n")
    return "".join(parts).encode()


def named_events(exchange: Exchange) -> list[tuple[str, Any]]:
    """Return the events of a stream that have names, decoded."""
    return [
        (event.name.decode(), json.loads(event.data))
        for event in SseDecoder().feed(exchange.body)
        if event.name != b"message"
    ]
