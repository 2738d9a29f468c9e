"""The daemon's metrics, for Prometheus. No client can choose the value of a label.

Every value comes from the configuration, the catalogue or a fixed set of words, so that the number
of series has a bound.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from cortexd import __version__
from cortexd.fleet.states import NodeHealth
from cortexd.scheduling.repairs.reasons import Kind
from cortexd.telemetry.batches import BatchHistogram
from cortexd.telemetry.declared import METRICS
from cortexd.telemetry.exposition import Registry

MOST_BORN: Final = 500
"""How many series of one counter are shown before anything was counted: more of them, as a large
fleet has, would make each scrape longer."""


class Birth(NamedTuple):
    """When a series of a counter is shown with the value 0, before anything is counted.

    Prometheus's ``rate`` misses the first increment of a series that was not there before. ``on``
    names the occasion, which has all labels but the last: the "start", a "node" that is known, a
    "replica" that answers, a "load" or an "unload" that begins, all three by model and node, or the
    first "request" of a route for a model on a node. ``values`` are those of the last label;
    without any, the occasion has all labels.
    """

    on: str
    values: tuple[str, ...] = ()


BIRTHS: Final = {
    "requests": Birth("request", ("broken", "500", "502", "503", "504", "529")),
    "tokens": Birth("replica", ("prompt", "completion")),
    "cached_tokens": Birth("replica"),
    "affinity": Birth("replica", ("session", "prefix", "elsewhere", "new")),
    "model_load_failures": Birth("load", ("out_of_memory", "other")),
    "model_unload_failures": Birth("unload"),
    "leaked": Birth("node"),
    "restarts_due": Birth("node"),
    "restarts_planned": Birth("node", tuple(kind.value for kind in Kind)),
    "planned_restarts": Birth("node", ("ok", "failed")),
    "suspends": Birth("node", ("ok", "failed")),
    "wakes": Birth("node", ("ok", "failed")),
    "ejections": Birth("replica"),
    "prefetches": Birth("node", ("used", "unused")),
    "upstream_errors": Birth("node", ("node_error", "bad_gateway", "timeout", "overloaded")),
    "node_restarts": Birth("node"),
    "polls": Birth("node", ("ok", "failed", "timed_out")),
    "reloads": Birth("start", ("ok", "refused")),
}
"""The birth of each counter with labels, by its attribute. One without labels begins at 0."""


class Metrics:
    """All of the daemon's metrics, in a registry of their own."""

    build: Gauge
    requests: Counter
    tokens: Counter
    cached_tokens: Counter
    affinity: Counter
    first_token: Histogram
    inter_token: BatchHistogram
    tokens_per_second: Histogram
    duration: Histogram
    in_flight: Gauge
    queue_wait: Histogram
    model_load: Histogram
    load_estimate_error: Histogram
    model_load_failures: Counter
    model_unload: Histogram
    model_unload_failures: Counter
    leaked: Counter
    restarts_due: Counter
    restarts_planned: Counter
    planned_restarts: Counter
    suspends: Counter
    wakes: Counter
    unsettled: Counter
    fatal_requests: Counter
    fatal_refusals: Counter
    ejections: Counter
    prefetches: Counter
    upstream_errors: Counter
    node_up: Gauge
    node_health: Gauge
    node_restarts: Counter
    polls: Counter
    reloads: Counter
    last_reload: Gauge
    reactor_delay: Histogram
    reactor_stalls: Counter
    store_available: Gauge
    log_lines_dropped: Counter

    def __init__(self) -> None:
        self.registry = registry = Registry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        for each in METRICS:
            options: dict[str, Any] = {"registry": registry}
            if each.buckets is not None:
                options["buckets"] = each.buckets
            metric = each.kind(each.name, each.documentation, each.labels, **options)
            setattr(self, each.attribute, metric)
        self.build.labels(__version__).set(1)
        self._born: set[tuple[str, ...]] = set()
        self._most_born = dict.fromkeys(BIRTHS, MOST_BORN)
        self.bear("start")

    def bear(self, on: str, *labels: str) -> None:
        """Show the counters of an occasion, with its labels, from 0 on; see ``Birth``."""
        if (on, *labels) in self._born:
            return
        self._born.add((on, *labels))
        for attribute, birth in BIRTHS.items():
            if birth.on != on:
                continue
            series = [(*labels, value) for value in birth.values] or [labels]
            if self._most_born[attribute] >= len(series):
                self._most_born[attribute] -= len(series)
                for each in series:
                    getattr(self, attribute).labels(*each)

    def show_health(self, node: str, health: NodeHealth, *, answers: bool) -> None:
        """Show the one health that a node is in, and whether requests are sent to it."""
        self.bear("node", node)
        self.node_up.labels(node).set(answers)
        for each in NodeHealth:
            self.node_health.labels(node, each.value).set(each is health)

    def forget_nodes(self, nodes: Collection[str]) -> None:
        """Remove every series of nodes that have left the configuration."""
        for born in [each for each in self._born if len(each) > 1 and each[-1] in nodes]:
            self._born.remove(born)
            for attribute, birth in BIRTHS.items():
                if birth.on == born[0]:
                    room = self._most_born[attribute] + max(1, len(birth.values))
                    self._most_born[attribute] = min(MOST_BORN, room)
        for each in METRICS:
            if "node" not in each.labels:
                continue
            metric = getattr(self, each.attribute)
            found = {
                tuple(sample.labels[label] for label in each.labels)
                for family in metric.collect()
                for sample in family.samples
                if sample.labels.get("node") in nodes
            }
            for labelvalues in found:
                metric.remove(*labelvalues)
