"""The metrics of the listeners: until when their certificates are valid, and who is admitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Listeners(Protocol):
    """What is known of all listeners."""

    @property
    def is_open(self) -> bool:
        """Whether clients beyond this machine are admitted without a key."""

    @property
    def expiries(self) -> Mapping[str, float]:
        """Until when, in unix seconds, the certificate of each listener with TLS is valid."""


class ListenerCollector(Collector):
    """Yields what is known of ``listeners`` at each scrape."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        yield GaugeMetricFamily(
            "cortex_open_without_keys",
            "1 if clients beyond this machine are admitted without a key, otherwise 0.",
            value=float(self._listeners.is_open),
        )
        expiry = GaugeMetricFamily(
            "cortex_tls_certificate_not_after_seconds",
            "When the certificate of a listener expires, in unix seconds.",
            labels=["listener"],
        )
        for listener, not_after in self._listeners.expiries.items():
            expiry.add_metric([listener], not_after)
        yield expiry
