"""The metrics of the clients' connections: read from the listeners at each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Listener(Protocol):
    """The connections to one listener; ``closed`` and ``refused`` count by reason."""

    @property
    def connections(self) -> Sized:
        """Those that are open."""

    @property
    def closed(self) -> Mapping[str, int]:
        """How many we closed for want of room."""

    @property
    def refused(self) -> Mapping[str, int]:
        """How many of their requests we refused because of the load."""


class ClientCollector(Collector):
    """Yields the connections of each of the ``listeners``, by their names."""

    def __init__(self, listeners: Mapping[str, Listener]) -> None:
        self._listeners = listeners

    def collect(self) -> Iterator[Metric]:
        """Yield the families, each with a sample for every listener and reason."""
        connections = GaugeMetricFamily(
            "cortex_client_connections", "Open connections of clients.", labels=["listener"]
        )
        closed = CounterMetricFamily(
            "cortex_client_connections_closed",
            "Connections that were closed for want of room: 'idle' made room for others, 'full' "
            "found none.",
            labels=["listener", "reason"],
        )
        refused = CounterMetricFamily(
            "cortex_requests_shed",
            "Requests refused because of the load of the gateway: 'full' of connections, or in "
            "'overload'.",
            labels=["listener", "reason"],
        )
        for name, listener in self._listeners.items():
            connections.add_metric([name], len(listener.connections))
            for family, counts in ((closed, listener.closed), (refused, listener.refused)):
                for reason, count in counts.items():
                    family.add_metric([name, reason], count)
        yield connections
        yield closed
        yield refused


class GateCollector(Collector):
    """Yields how many requests the gate has refused: ``denied`` counts them by reason."""

    def __init__(self, denied: Mapping[str, int]) -> None:
        self._denied = denied

    def collect(self) -> Iterator[Metric]:
        """Yield the family, with a sample for each reason."""
        family = CounterMetricFamily(
            "cortex_requests_denied",
            "Requests without a valid key ('absent', 'foreign', 'several', 'unknown', 'expired', "
            "'former' after a rotation), or without the 'scope' of the route.",
            labels=["reason"],
        )
        for reason, count in self._denied.items():
            family.add_metric([reason], count)
        yield family
