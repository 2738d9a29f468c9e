"""When the certificates of nodes expire, for Prometheus: read from the pool at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class NodeCertificateCollector(Collector):
    """Yields what ``read`` returns: by a node's name, its certificate's last moment (UNIX time)."""

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield the family, with a sample for each node that has shown a certificate."""
        family = GaugeMetricFamily(
            "cortex_node_certificate_not_after_seconds",
            "The UNIX time when the certificate expires that a node showed last; only with https.",
            labels=["node"],
        )
        for node, not_after in self._read().items():
            family.add_metric([node], not_after)
        yield family
