"""Answers ``GET /api/models/{id}/load-status``; never loads a model."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from cortexd.access.callers import Caller
from cortexd.dialects.routes import waits as told
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dispatcher import Dispatcher
from cortexd.fleet.catalogue import Catalogue
from cortexd.fleet.nodes import Replica
from cortexd.gateway.waits.loads import progress


class LoadStatus:
    """Says how soon a model of the ``catalogue`` can take a request."""

    def __init__(self, dispatcher: Dispatcher, catalogue: Catalogue, clock: IReactorTime) -> None:
        self._dispatcher = dispatcher
        self._catalogue = catalogue
        self._clock = clock

    def body(self, name: str, caller: Caller) -> bytes:
        """Return the answer about a model, by any of its names. Raises as ``Catalogue.find``."""
        entry = self._catalogue.entry(name, caller)
        fleet = self._dispatcher.fleet
        # An adapter comes with its base, in whose queue its requests wait.
        model = entry.id if entry.id in fleet else fleet.base_of(entry.id) or entry.id
        expected = self._dispatcher.expect(model)
        about = None
        if expected is not None:
            seconds = expected.seconds(self._clock.seconds())
            about = told.expectation(
                expected.phase, expected.place, seconds, is_measured=expected.is_measured
            )
        queued = self._dispatcher.scheduler.waiting.count(model)
        nodes = [self._node(replica, caller) for replica in fleet.replicas(model)]
        return told.load_status_body(entry.id, entry.status.value, queued, about, nodes)

    def _node(self, replica: Replica, caller: Caller) -> JsonObject:
        scheduler, now = self._dispatcher.scheduler, self._clock.seconds()
        found, usual = progress(scheduler, replica, now), scheduler.expect_load(replica, now)
        return told.node_status(
            replica.node.name,
            replica.state.value if replica.node.takes_work else "unavailable",
            usual,
            None if found is None else told.load_progress(found.elapsed, found.rest, found.share),
            self._catalogue.concealed(replica.failure, caller) if replica.failure else "",
        )
