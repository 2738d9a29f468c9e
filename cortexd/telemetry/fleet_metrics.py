"""The fleet's metrics: read from the fleet at each scrape, so that no copy can differ from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from twisted.internet.interfaces import IReactorTime

from cortexd.fleet.memory import over_mb
from cortexd.fleet.nodes import Node
from cortexd.fleet.sleep.power import PowerState
from cortexd.fleet.states import ANSWERING_STATES, ReplicaState
from cortexd.scheduling.scheduler import Scheduler
from cortexd.telemetry.exposition import Family, Line, eager

MEBIBYTE = 1024 * 1024


class DeclaredGauge(NamedTuple):
    """One gauge of the fleet, as Prometheus shows it."""

    name: str
    documentation: str
    labels: tuple[str, ...]


GAUGES: Final = (
    DeclaredGauge(
        "cortex_node_booked_bytes",
        "A node's booked memory, by kind: 'budget', 'resident', 'leaked', 'missing' or "
        "'others', which is what other programs take of the budget.",
        ("node", "kind"),
    ),
    DeclaredGauge(
        "cortex_node_memory_bytes",
        "Memory of the node's accelerators as last reported, by kind: 'total' or 'free'.",
        ("node", "kind"),
    ),
    DeclaredGauge("cortex_node_replicas", "A node's models by state.", ("node", "state")),
    DeclaredGauge("cortex_node_restart_due", "1 while a node is due for a restart.", ("node",)),
    DeclaredGauge(
        "cortex_node_over_budget_bytes",
        "Memory of a node's models beyond what they may fill.",
        ("node",),
    ),
    DeclaredGauge(
        "cortex_node_closed", "1 while a node takes no work, as for a planned restart.", ("node",)
    ),
    DeclaredGauge(
        "cortex_node_power",
        "1 for the current state of a node that may sleep, 0 for the others.",
        ("node", "state"),
    ),
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
        """Return the families, each with a sample for every node or model with a queue."""
        return eager(self.families())

    def families(self) -> Iterator[Family]:
        """Yield the same families; their samples are read from the fleet one by one."""
        readers = (
            self._booked,
            self._reported,
            self._replicas,
            self._due,
            self._over,
            self._closed,
            self._power,
            self._cordoned,
            self._ejected,
            self._queues,
        )
        for gauge, read in zip(GAUGES, readers, strict=True):
            found = (
                Line(gauge.name, dict(zip(gauge.labels, values, strict=True)), float(value))
                for *values, value in read()
            )
            yield Family(gauge.name, gauge.documentation, "gauge", found)

    def _nodes(self) -> list[Node]:
        return list(self._scheduler.fleet.nodes.values())

    def _booked(self) -> Iterator[tuple[Any, ...]]:
        for node in self._nodes():
            yield node.name, "budget", node.budget_mb * MEBIBYTE
            yield node.name, "resident", node.resident_mb * MEBIBYTE
            yield node.name, "leaked", node.leaked_mb * MEBIBYTE
            yield node.name, "missing", node.missing_mb * MEBIBYTE
            yield node.name, "others", node.others_mb * MEBIBYTE

    def _reported(self) -> Iterator[tuple[Any, ...]]:
        for node in self._nodes():
            if node.system is not None:
                amounts = node.system.memory_total_mb, node.system.memory_free_mb
                for kind, amount in zip(("total", "free"), amounts, strict=True):
                    if amount is not None:
                        yield node.name, kind, amount * MEBIBYTE

    def _replicas(self) -> Iterator[tuple[Any, ...]]:
        for node in self._nodes():
            states = [replica.state for replica in node.replicas.values()]
            for state in ReplicaState:
                yield node.name, state.value, states.count(state)

    def _due(self) -> Iterator[tuple[Any, ...]]:
        now = self._clock.seconds()
        for node in self._nodes():
            yield node.name, self._scheduler.restart_reason(node, now) is not None

    def _over(self) -> Iterator[tuple[Any, ...]]:
        for node in self._nodes():
            yield node.name, over_mb(node) * MEBIBYTE

    def _closed(self) -> Iterator[tuple[Any, ...]]:
        for node in self._nodes():
            yield node.name, bool(node.closed)

    def _power(self) -> Iterator[tuple[Any, ...]]:
        for node in self._nodes():
            if node.power.terms is not None:
                for state in PowerState:
                    yield node.name, state.value, node.power.state is state

    def _cordoned(self) -> Iterator[tuple[Any, ...]]:
        for node in self._nodes():
            yield node.name, node.cordoned

    def _ejected(self) -> Iterator[tuple[Any, ...]]:
        for node in self._nodes():
            for model, replica in list(node.replicas.items()):
                if replica.state in ANSWERING_STATES:
                    yield model, node.name, replica.is_ejected

    def _queues(self) -> Iterator[tuple[Any, ...]]:
        waiting = self._scheduler.waiting
        for model in waiting.models():
            yield model, waiting.count(model)
