"""A node whose answers a test writes by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from cortexd.testing.answering.streams import abort

CREATED = 1_790_000_000
LISTING = "/v1/models"


class ScriptedNode:
    """A node for answers that mistral.rs would never send, or not at a moment that a test chooses.

    It lists ``listed``, pairs of id and status; initially all ``models`` are loaded. ``parents``
    has the base of each of them that is an adapter. It answers a GET of any other path from
    ``pages`` as ``page_type``, else with 404. Every POST waits in ``requests``, newest
    last: answer it with ``stream`` and ``answer``, or with the methods of twisted.web's Request.
    While it ``hangs``, no GET is answered.
    """

    def __init__(self, clock: Clock, name: str, models: Sequence[str]) -> None:
        self.name = name
        self.clock = clock
        self.listed = [(model, "loaded") for model in models]
        self.parents: dict[str, str] = {}
        self.pages: dict[str, bytes] = {}
        self.page_type = "application/json"
        self.requests: list[Request] = []
        self.hangs = False
        self._port: Any = None

    async def listen(self, reactor: Any, port: int = 0) -> int:
        """Serve on a port."""
        site = Site(_Script(self), reactor=self.clock, timeout=None)
        site.log = lambda request: None  # type: ignore[method-assign] # no access log
        self._port = reactor.listenTCP(port, site)
        return port

    async def close(self) -> None:
        """Refuse connections and reset the open ones."""
        self._port.stopListening()
        for request in self.requests:
            if not request.finished and request.channel is not None:
                abort(request)

    @property
    def asked(self) -> list[str]:
        """The paths of all POSTs so far."""
        return [request.path.decode() for request in self.requests]

    @property
    def waiting(self) -> list[Request]:
        """The POSTs that are not answered yet."""
        return [each for each in self.requests if not (each.finished or each._disconnected)]

    @property
    def newest_body(self) -> Any:
        """The body of the newest request, which must be JSON."""
        content: Any = self.requests[-1].content
        return json.loads(content.getvalue())

    def stream(self, *pieces: bytes, end: bool = False) -> None:
        """Send pieces of an event stream on the newest request, the headers before the first."""
        request = self.requests[-1]
        request.setHeader("Content-Type", "text/event-stream")
        for piece in pieces:
            request.write(piece)
        if end:
            request.finish()

    def answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        """Send a whole answer to the newest request."""
        request = self.requests[-1]
        request.setResponseCode(status)
        request.setHeader("Content-Type", content_type)
        request.setHeader("Content-Length", str(len(body)))
        request.write(body)
        request.finish()

    def reset(self) -> None:
        """Break the newest request's connection."""
        abort(self.requests[-1])


class _Script(Resource):
    isLeaf = True

    def __init__(self, node: ScriptedNode) -> None:
        super().__init__()
        self._node = node

    def render_GET(self, request: Request) -> bytes | int:
        if self._node.hangs:
            return NOT_DONE_YET
        path = request.path.decode()
        request.setHeader("Content-Type", "application/json")
        if path == LISTING:
            listed = [
                {"id": model, "object": "model", "created": CREATED, "status": status}
                | ({"parent": self._node.parents[model]} if model in self._node.parents else {})
                for model, status in self._node.listed
            ]
            return json.dumps({"object": "list", "data": listed}).encode()
        request.setHeader("Content-Type", self._node.page_type)
        if path not in self._node.pages:
            request.setResponseCode(404)
        return self._node.pages.get(path, b"")

    def render_POST(self, request: Request) -> int:
        self._node.requests.append(request)
        return NOT_DONE_YET
