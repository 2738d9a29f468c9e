"""What Prometheus is told of the fleet as it is: read off it when asked, never kept beside it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from twisted.internet.interfaces import IReactorTime

from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.scheduler import Scheduler

MEBIBYTE = 1024 * 1024


class FleetCollector(Collector):
    """Gives memory, replicas, queues and restarts due of what ``scheduler`` decides over."""

    def __init__(self, scheduler: Scheduler, clock: IReactorTime) -> None:
        self._scheduler = scheduler
        self._clock = clock

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering does not ask a fleet that is not there yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the families, each with a sample for every node or waited-for model."""
        scheduler, now = self._scheduler, self._clock.seconds()
        memory = GaugeMetricFamily(
            "cortex_node_booked_bytes",
            "What cortexd books of a node's memory: kind 'budget', 'resident', 'leaked' or "
            "'missing'.",
            labels=["node", "kind"],
        )
        replicas = GaugeMetricFamily(
            "cortex_node_replicas", "A node's models by state.", labels=["node", "state"]
        )
        due = GaugeMetricFamily(
            "cortex_node_restart_due", "1 while a node's engine needs a restart.", labels=["node"]
        )
        cordoned = GaugeMetricFamily(
            "cortex_node_cordoned", "1 while a node is sent no work.", labels=["node"]
        )
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
        queue = GaugeMetricFamily(
            "cortex_queue_depth", "Requests that wait for a model.", labels=["model"]
        )
        for model in scheduler.waiting.models():
            queue.add_metric([model], scheduler.waiting.count(model))
        yield from (memory, replicas, due, cordoned, queue)
