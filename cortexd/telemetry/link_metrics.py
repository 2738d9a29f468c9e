"""The metrics of the links to agents: read at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Links(Protocol):
    """The links to agents; ``refused`` counts connections by reason."""

    @property
    def refused(self) -> Mapping[str, int]:
        """How many connections were refused, by reason."""


class LinkCollector(Collector):
    """Yields how many connections of agents were refused."""

    def __init__(self, links: Links) -> None:
        self._links = links

    def collect(self) -> Iterator[Metric]:
        """Yield the family, with a sample for each reason."""
        family = CounterMetricFamily(
            "cortex_agent_connections_refused",
            "Connections of agents that were refused: 'tls' failed, the 'certificate' or the "
            "'token' admits none, another 'version', too 'slow', 'full' of others, or 'garbage'.",
            labels=["reason"],
        )
        for reason, count in self._links.refused.items():
            family.add_metric([reason], count)
        yield family


class EnrolmentCollector(Collector):
    """Yields what ``read`` returns: when the enrolment of each node ends (UNIX time), by its name.

    A certificate of another authority counts once it has admitted an agent.
    """

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield the family, with a sample for each node."""
        family = GaugeMetricFamily(
            "cortex_agent_enrolment_not_after_seconds",
            "The UNIX time when the certificate or the token of a node's agent expires.",
            labels=["node"],
        )
        for node, not_after in self._read().items():
            family.add_metric([node], not_after)
        yield family
