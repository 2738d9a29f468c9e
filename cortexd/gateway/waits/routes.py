"""The answers of the routes that tell of waits."""

from __future__ import annotations

from cortexd.dialects.routes.waits import EVENTS_ROUTE, ROUTE
from cortexd.dialects.wire.exchange import EVENT_STREAM
from cortexd.downstream.request import GatewayRequest
from cortexd.downstream.response import Downstream
from cortexd.gateway.answers import Answers
from cortexd.gateway.waits.events import Events
from cortexd.gateway.waits.load_status import LoadStatus
from cortexd.telemetry.accounting import RequestRecord
from cortexd.upstream.first_polls import FirstPolls


class WaitRoutes:
    """Answers what clients ask about waits; it never loads a model."""

    def __init__(
        self, answers: Answers, first_polls: FirstPolls, load_status: LoadStatus, events: Events
    ) -> None:
        self._answers = answers
        self._first_polls = first_polls
        self._load_status = load_status
        self._events = events

    async def show(self, request: GatewayRequest, name: str) -> None:
        """Say how soon a model can take a request, by any of its names."""
        await self._first_polls.known()
        body = self._load_status.body(name, request.caller)
        self._answers.at_once(request, ROUTE, body)

    async def follow(self, request: GatewayRequest) -> None:
        """Send the events until the client leaves; a HEAD gets the headers alone."""
        if request.method == b"HEAD":
            self._answers.at_once(request, EVENTS_ROUTE, b"", content_type=EVENT_STREAM)
            return

        async def send(record: RequestRecord, downstream: Downstream) -> None:
            record.streams = True
            try:
                await self._events.serve(record.caller, downstream)
            finally:
                record.bytes_out = downstream.bytes_out

        await self._answers.later(request, EVENTS_ROUTE, send)
