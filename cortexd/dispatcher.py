"""Who gets which replica: the one door between requests and the fleet's places."""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet.interfaces import IReactorTime

from cortexd.fleet import Fleet, Lease
from cortexd.metrics import Metrics
from cortexd.routing import choose_replica


class Dispatcher:
    """Grants leases on the replicas of ``fleet`` and takes them back."""

    def __init__(self, fleet: Fleet, clock: IReactorTime, metrics: Metrics) -> None:
        self._fleet = fleet
        self._clock = clock
        self._metrics = metrics

    async def acquire(self, model: str, request_id: str, tried: Collection[str] = ()) -> Lease:
        """Return a lease on the replica that should answer, on none of the nodes ``tried``.

        Raises ModelNotLoaded or Overloaded, as ``choose_replica`` does.
        """
        replica = choose_replica(model, self._fleet.replicas(model), tried)
        self._metrics.in_flight.labels(model, replica.node).inc()
        return self._fleet.grant(replica.node, model, request_id, self._clock.seconds())

    def release(self, lease: Lease) -> None:
        """End a lease; once for each."""
        self._fleet.release(lease)
        self._metrics.in_flight.labels(lease.model, lease.node).dec()
