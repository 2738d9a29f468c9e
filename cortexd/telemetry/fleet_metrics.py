"""The fleet's metrics: read from the fleet at each scrape, so that no copy can differ from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from twisted.internet.interfaces import IReactorTime

from cortexd.fleet.states import ANSWERING_STATES, ReplicaState
from cortexd.scheduling.scheduler import Scheduler

MEBIBYTE = 1024 * 1024


class DeclaredGauge(NamedTuple):
    """One gauge of the fleet, as Prometheus shows it."""

    name: str
    documentation: str
    labels: tuple[str, ...]


GAUGES: Final = (
    DeclaredGauge(
        "cortex_node_booked_bytes",
        "A node's booked memory, by kind: 'budget', 'resident', 'leaked' or 'missing'.",
        ("node", "kind"),
    ),
    DeclaredGauge("cortex_node_replicas", "A node's models by state.", ("node", "state")),
    DeclaredGauge("cortex_node_restart_due", "1 while a node is due for a restart.", ("node",)),
    DeclaredGauge("cortex_node_cordoned", "1 while a node is cordoned.", ("node",)),
    DeclaredGauge(
        "cortex_replica_ejected",
        "1 while a loaded model gets no requests on a node because it failed there.",
        ("model", "node"),
    ),
    DeclaredGauge("cortex_queue_depth", "Requests in the queue of a model.", ("model",)),
)
"""Every gauge, in the order of the exposition; ``collect`` fills them in this order."""


class FleetCollector(Collector):
    """Yields the gauges of the fleet of a ``scheduler``."""

    def __init__(self, scheduler: Scheduler, clock: IReactorTime) -> None:
        self._scheduler = scheduler
        self._clock = clock

    def describe(self) -> list[Metric]:
        """Return nothing, so that the registry does not read a fleet that is not there yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the families, each with a sample for every node or for every model with a queue."""
        scheduler, now = self._scheduler, self._clock.seconds()
        families = [
            GaugeMetricFamily(each.name, each.documentation, labels=each.labels) for each in GAUGES
        ]
        memory, replicas, due, cordoned, ejected, queue = families
        for name, node in scheduler.fleet.nodes.items():
            for kind, amount in (
                ("budget", node.budget_mb),
                ("resident", node.resident_mb),
                ("leaked", node.leaked_mb),
                ("missing", node.missing_mb),
            ):
                memory.add_metric([name, kind], amount * MEBIBYTE)
            states = [replica.state for replica in node.replicas.values()]
            for state in ReplicaState:
                replicas.add_metric([name, state.value], states.count(state))
            due.add_metric([name], float(scheduler.restart_reason(node, now) is not None))
            cordoned.add_metric([name], float(node.cordoned))
            for model, replica in node.replicas.items():
                if replica.state in ANSWERING_STATES:
                    ejected.add_metric([model, name], float(replica.is_ejected))
        for model in scheduler.waiting.models():
            queue.add_metric([model], scheduler.waiting.count(model))
        yield from families
