"""The processing of every request before routing: journal, request id, faults."""

import itertools
import secrets

import msgspec
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from cortexd.testing.answering.streams import abort, read_body
from cortexd.testing.gauge import labels_of
from cortexd.testing.server import Server

FIRST_WITH_REQUEST_IDS = (0, 8, 4)


class FrontDoor(Resource):
    """The node's root resource: it passes requests to `routes`, unless a fault stops them.

    While the server is down, it closes the connection without an answer.
    """

    isLeaf = True

    def __init__(self, server: Server, routes: Resource) -> None:
        super().__init__()
        self._server = server
        self._routes = routes
        self._open_requests: set[Request] = set()
        self._numbers = itertools.count(1)

    def render(self, request: Request) -> int:
        """Accept a request; it is answered later, or never."""
        process = self._server.process
        if process is None:
            abort(request)
            return NOT_DONE_YET
        self._set_headers(request)
        method = request.method.decode(errors="replace")
        path = request.path.decode(errors="replace")
        body = _decoded(request)
        number = next(self._numbers)
        model = self._record(request, number, method, path, body)
        visit = _Visit(request)
        self._open_requests.add(request)
        labels = labels_of(method, path, body, process.models)
        if labels is not None:
            process.requests_in_flight[labels] += 1

        def leave(ending: object) -> None:
            visit.over = True
            self._open_requests.discard(request)
            if labels is not None:
                process.requests_in_flight[labels] -= 1
                process.requests_total[(*labels, request.code)] += 1
            self._server.journal.record(
                self._server.clock.seconds(),
                "request_ended",
                model,
                number=number,
                path=path,
                status=request.code if request.startedWriting else 0,
                whole=not isinstance(ending, Failure),
            )

        request.notifyFinish().addBoth(leave)
        if self._server.faults.is_fatal(read_body(request)):
            self._server.die()
            return NOT_DONE_YET
        if self._server.faults.hangs(path):
            return NOT_DONE_YET
        if self._server.faults.deaf_while_loading:
            process.when_no_load_runs(lambda: self._delay(visit))
        else:
            self._delay(visit)
        return NOT_DONE_YET

    def abort_all(self) -> None:
        """Abort the connection of every request without a complete answer."""
        for request in list(self._open_requests):
            abort(request)

    def _delay(self, visit: "_Visit") -> None:
        seconds = self._server.faults.slow_seconds
        if seconds <= 0 or visit.over:
            self._route(visit)
            return
        call = self._server.clock.callLater(seconds, self._route, visit)
        visit.request.notifyFinish().addBoth(lambda _: call.cancel() if call.active() else None)

    def _route(self, visit: "_Visit") -> None:
        if visit.over or self._server.process is None:
            return
        request = visit.request
        if request.method == b"OPTIONS":
            # mistral.rs treats any OPTIONS as a CORS preflight and allows everything.
            request.setHeader(b"access-control-allow-methods", b"*")
            request.setHeader(b"access-control-allow-headers", b"*")
            request.finish()
            return
        self._routes.render(request)

    def _set_headers(self, request: Request) -> None:
        request.responseHeaders.removeHeader(b"server")
        request.defaultContentType = None
        request.setHeader(b"access-control-allow-origin", b"*")
        if self._server.version >= FIRST_WITH_REQUEST_IDS:
            sent = request.getHeader(b"x-request-id")
            request.setHeader(b"x-request-id", sent or f"req_{secrets.token_hex(16)}".encode())

    def _record(self, request: Request, number: int, method: str, path: str, body: object) -> str:
        """Record a request in the journal, and return the model that it names, "" for none."""
        model: object = ""
        if isinstance(body, dict):
            model = body.get("model", body.get("model_id", ""))
        name = model if isinstance(model, str) else ""
        self._server.journal.record(
            self._server.clock.seconds(),
            "request",
            name,
            number=number,
            method=method,
            path=path,
            headers={
                header.decode(errors="replace").lower(): values[-1].decode(errors="replace")
                for header, values in request.requestHeaders.getAllRawHeaders()
            },
            body=body,
        )
        return name


def _decoded(request: Request) -> object:
    """Return the JSON body of a request, None if it has none."""
    content = read_body(request)
    if not content:
        return None
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class _Visit:
    """A request, and whether it has ended."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.over = False
