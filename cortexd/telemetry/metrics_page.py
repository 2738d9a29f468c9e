"""The page of the metrics, which Prometheus reads."""

from __future__ import annotations

from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from cortexd.logs import get_logger
from cortexd.slices import in_slices
from cortexd.telemetry.exposition import lines
from cortexd.telemetry.metrics import Metrics

LINES_AT_ONCE: Final = 1000
"""How many samples one turn of the reactor renders, in some 5 ms."""

log = get_logger("cortexd.metrics")


class MetricsResource(Resource):
    """Serves the metrics at ``/metrics`` and, for people who try the bare address, at ``/``."""

    isLeaf = True

    def __init__(self, metrics: Metrics, clock: IReactorTime) -> None:
        super().__init__()
        self._metrics = metrics
        self._clock = clock

    def render(self, request: Request) -> bytes | int:
        """Answer GET and HEAD, and refuse all other methods without Twisted's page of HTML."""
        if request.method in (b"GET", b"HEAD"):
            return self.render_GET(request)
        request.setResponseCode(405)
        request.setHeader("Allow", "GET, HEAD")
        request.setHeader("Content-Type", "text/plain")
        return b"The metrics can only be read.\n"

    def render_GET(self, request: Request) -> bytes | int:
        """Return the text exposition format, or make it in several turns of the reactor."""
        if request.path not in (b"/metrics", b"/"):
            request.setResponseCode(404)
            request.setHeader("Content-Type", "text/plain")
            return b"The metrics are at /metrics.\n"
        request.setHeader("Content-Type", CONTENT_TYPE_LATEST)
        making = Deferred.fromCoroutine(self._answer(request))
        request.notifyFinish().addErrback(lambda _: making.cancel())
        making.addErrback(lambda failure: failure.trap(CancelledError))
        making.addErrback(lambda failure: log.error("metrics_crashed", failure=failure))
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> None:
        text = await in_slices(lines(self._metrics.registry), self._clock, LINES_AT_ONCE)
        body = "".join(text).encode()
        request.setHeader("Content-Length", str(len(body)))
        request.write(body)
        request.finish()
