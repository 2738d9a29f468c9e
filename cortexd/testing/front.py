"""What happens to every request before its route is looked at: journal, request id, faults."""

import secrets

import msgspec
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from cortexd.testing.server import Server
from cortexd.testing.streams import abort, read_body

FIRST_WITH_REQUEST_IDS = (0, 8, 4)


class FrontDoor(Resource):
    """The node's root resource: every request that no fault keeps goes on to `routes`.

    While the server is down it closes the connection without an answer.
    """

    isLeaf = True

    def __init__(self, server: Server, routes: Resource) -> None:
        super().__init__()
        self._server = server
        self._routes = routes
        self._open_requests: set[Request] = set()

    def render(self, request: Request) -> int:
        """Take a request; it is answered later, or never."""
        process = self._server.process
        if process is None:
            abort(request)
            return NOT_DONE_YET
        self._set_headers(request)
        path = request.path.decode(errors="replace")
        model = self._record(request, path)
        visit = _Visit(request)
        self._open_requests.add(request)
        in_flight = (request.method.decode(), path, model)
        process.requests_in_flight[in_flight] += 1

        def leave(_: object) -> None:
            visit.over = True
            self._open_requests.discard(request)
            process.requests_in_flight[in_flight] -= 1
            process.requests_total[(*in_flight, request.code)] += 1

        request.notifyFinish().addBoth(leave)
        if self._server.faults.hangs(path):
            return NOT_DONE_YET
        if self._server.faults.deaf_while_loading:
            process.when_no_load_runs(lambda: self._delay(visit))
        else:
            self._delay(visit)
        return NOT_DONE_YET

    def abort_all(self) -> None:
        """Abort the connection of every request that is not answered in full."""
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
            # Upstream takes any OPTIONS for a CORS preflight and allows everything.
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

    def _record(self, request: Request, path: str) -> str:
        """Journal a request and give the model it names, "" for none."""
        body: object = None
        content = read_body(request)
        if content:
            try:
                body = msgspec.json.decode(content)
            except (msgspec.DecodeError, UnicodeDecodeError):
                body = None
        model: object = ""
        if isinstance(body, dict):
            model = body.get("model", body.get("model_id", ""))
        name = model if isinstance(model, str) else ""
        self._server.journal.record(
            self._server.clock.seconds(),
            "request",
            name,
            method=request.method.decode(errors="replace"),
            path=path,
            headers={
                header.decode(errors="replace").lower(): values[-1].decode(errors="replace")
                for header, values in request.requestHeaders.getAllRawHeaders()
            },
            body=body,
        )
        return name


class _Visit:
    """A request and whether it is over."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.over = False
