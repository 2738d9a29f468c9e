"""The events of a real daemon, read over a plain connection as `curl -N` reads them."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path
from typing import Any

from tests.engine.processes import RunningNode
from tests.live.daemons import ANSWER_SECONDS, running_daemon
from tests.live.streams import CHAT

GRACE_SECONDS = 300


class EventReader:
    """Reads ``/api/events`` from an address; ``head`` is that of the answer."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._connection = socket.create_connection(address, timeout=ANSWER_SECONDS)
        self._connection.sendall(b"GET /api/events HTTP/1.1\r\nHost: x\r\n\r\n")
        self._received = b""
        self.head = self._until(b"\r\n\r\n")

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            piece = self._connection.recv(65536)
            assert piece, "the stream ended"
            self._received += piece
        before, _, self._received = self._received.partition(end)
        return before

    def event(self, kind: str, status: str) -> dict[str, Any]:
        """Return the next event of this kind and status; skip all others."""
        while True:
            line = self._until(b"\n")
            if line.startswith(b"data: "):
                event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                if (event["type"], event["status"]) == (kind, status):
                    return event

    def rest(self) -> bytes:
        """Return what comes until the connection ends."""
        while piece := self._connection.recv(65536):
            self._received += piece
        return self._received

    def close(self) -> None:
        self._connection.close()


def test_a_load_is_followed_from_its_begin_to_its_end(
    tmp_path: Path, fast_node: RunningNode
) -> None:
    """And the request that waits for it; a stop of the daemon ends the stream at once."""
    model = fast_node.chat_models[0]
    gateway = {"allow_http_control": True, "grace_seconds": GRACE_SECONDS}
    with running_daemon(tmp_path, {"node": fast_node.base_url}, gateway=gateway) as daemon:
        reader = EventReader(daemon.address)
        assert reader.head.startswith(b"HTTP/1.1 200 OK")
        assert b"text/event-stream" in reader.head
        assert 200 == daemon.http.post(f"/api/models/unload/{model}").status_code
        assert model == reader.event("model_status", "unloaded")["model"]

        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
        answers: list[Any] = []

        def ask() -> None:
            answers.append(daemon.http.post(CHAT, json=body, headers={"X-Request-ID": "mine"}))

        asking = threading.Thread(target=ask)
        with fast_node.loads_held():
            asking.start()
            waits = reader.event("request_status", "waiting")
            assert ("mine", model, 1) == (waits["request_id"], waits["model"], waits["place"])
            progress = reader.event("model_status", "loading")["progress"]
            assert progress["elapsed_seconds"] >= 0
            status = daemon.http.get(f"/api/models/{model}/load-status").json()
            assert ("loading", 1) == (status["state"], status["queued"])
        assert "mine" == reader.event("request_status", "granted")["request_id"]
        asking.join(ANSWER_SECONDS)
        assert 200 == answers[0].status_code
        assert int(answers[0].headers["x-cortex-eta-ms"]) > 0

        daemon.signal(signal.SIGTERM)
        assert reader.rest().endswith(b"0\r\n\r\n")
        reader.close()
        assert 0 == daemon.end()
