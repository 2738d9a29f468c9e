"""The daemon's metrics, for Prometheus. No client can choose the value of a label.

Every value comes from the configuration, the catalogue or a fixed set of words, so that the number
of series has a bound. Names follow those of the same measures in vLLM, smg and mistral.rs, under
the prefix ``cortex_``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate
from math import inf
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from cortexd import __version__
from cortexd.fleet.states import NodeHealth
from cortexd.telemetry.exposition import Family, Line, Registry

# From a warm small model, over a long prompt on a large one, to a wait for a load.
_FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_INTER_TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 5)
_QUEUE_WAIT_SECONDS = (0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_LOAD_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_DURATION_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_DELAY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_TOKENS_PER_SECOND = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 250, 500, 1000)


class Distribution:
    """The sum of some amounts, and how many lie in each bucket.

    ``bounds`` are the upper ones of the buckets, rising to infinity.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * len(bounds)
        self.sum = 0.0

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Count amounts, each in the first bucket whose bound it does not exceed."""
        bounds, counts = self._bounds, self._counts
        for amount in amounts:
            counts[bisect_left(bounds, amount)] += 1
        self.sum += sum(amounts)

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bound, as Prometheus writes it, and the number of amounts up to it."""
        return list(zip(map(floatToGoString, self._bounds), accumulate(self._counts), strict=True))


class BatchHistogram(Collector):
    """A histogram that takes many amounts at once, each in a tenth of the time that
    ``prometheus_client`` takes.

    ``buckets`` are their upper bounds, rising, without infinity.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labelnames = labelnames
        self._bounds = (*buckets, inf)
        self._distributions: dict[tuple[str, ...], Distribution] = {}
        registry.register(self)

    def labels(self, *labelvalues: str) -> Distribution:
        """Return the distribution under these values of the labels."""
        found = self._distributions.get(labelvalues)
        if found is None:
            found = self._distributions[labelvalues] = Distribution(self._bounds)
        return found

    def remove(self, *labelvalues: str) -> None:
        """Remove the distribution under these values of the labels."""
        self._distributions.pop(labelvalues, None)

    def describe(self) -> list[HistogramMetricFamily]:
        """Return the family without samples, by which the registry learns its name."""
        return [HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)]

    def families(self) -> Iterator[Family]:
        """Yield the family, whose samples are read one by one."""
        yield Family(self._name, self._documentation, "histogram", self._samples())

    def _samples(self) -> Iterator[Line]:
        name = self._name
        for labelvalues, distribution in list(self._distributions.items()):
            labels = dict(zip(self._labelnames, labelvalues, strict=True))
            buckets = distribution.buckets()
            for bound, count in buckets:
                yield Line(f"{name}_bucket", {**labels, "le": bound}, count)
            yield Line(f"{name}_count", labels, buckets[-1][1])
            yield Line(f"{name}_sum", labels, distribution.sum)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the family with all that has been counted."""
        (family,) = self.describe()
        for labelvalues, distribution in self._distributions.items():
            family.add_metric(labelvalues, distribution.buckets(), distribution.sum)
        yield family


class Declared(NamedTuple):
    """One metric: the attribute of ``Metrics`` that holds it, and what Prometheus shows of it.

    ``buckets`` are the upper bounds of a histogram, rising, without infinity.
    """

    attribute: str
    kind: type[Counter | Gauge | Histogram | BatchHistogram]
    name: str
    documentation: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] | None = None


METRICS: Final = (
    Declared("build", Gauge, "cortex_build_info", "The running version.", ("version",)),
    Declared(
        "requests",
        Counter,
        "cortex_requests",
        "Answered requests, by the client's HTTP status; 'broken' is a stream that broke after its "
        "status 200, 'client_gone' a client that disconnected.",
        ("route", "model", "node", "status"),
    ),
    Declared(
        "tokens",
        Counter,
        "cortex_tokens",
        "Tokens of answered requests, by direction: 'prompt' or 'completion'.",
        ("model", "node", "direction"),
    ),
    Declared(
        "first_token",
        Histogram,
        "cortex_time_to_first_token_seconds",
        "Time from the last byte of a request to the first content of its streamed answer.",
        ("model", "node"),
        _FIRST_TOKEN_SECONDS,
    ),
    Declared(
        "inter_token",
        BatchHistogram,
        "cortex_inter_token_latency_seconds",
        "Time between the contents of a streamed answer.",
        ("model", "node"),
        _INTER_TOKEN_SECONDS,
    ),
    Declared(
        "tokens_per_second",
        Histogram,
        "cortex_tokens_per_second",
        "Completion tokens of an answer, divided by the time from its first to its last content.",
        ("model", "node"),
        _TOKENS_PER_SECOND,
    ),
    Declared(
        "duration",
        Histogram,
        "cortex_request_duration_seconds",
        "Time from the last byte of a request to the last byte of its answer.",
        ("route", "model", "node"),
        _DURATION_SECONDS,
    ),
    Declared(
        "in_flight",
        Gauge,
        "cortex_requests_in_flight",
        "Requests that hold a replica.",
        ("model", "node"),
    ),
    Declared(
        "queue_wait",
        Histogram,
        "cortex_queue_wait_seconds",
        "Time from the arrival of a request until it gets a replica, including loads.",
        ("model", "node"),
        _QUEUE_WAIT_SECONDS,
    ),
    Declared(
        "model_load",
        Histogram,
        "cortex_model_load_seconds",
        "Duration of successful loads.",
        ("model", "node"),
        _LOAD_SECONDS,
    ),
    Declared(
        "model_load_failures",
        Counter,
        "cortex_model_load_failures",
        "Failed loads, by reason: 'out_of_memory' or 'other'.",
        ("model", "node", "reason"),
    ),
    Declared(
        "model_unload",
        Histogram,
        "cortex_model_unload_seconds",
        "Duration of unloads, until the memory was free.",
        ("model", "node"),
        _LOAD_SECONDS,
    ),
    Declared(
        "model_unload_failures",
        Counter,
        "cortex_model_unload_failures",
        "Failed unloads.",
        ("model", "node"),
    ),
    Declared(
        "leaked",
        Counter,
        "cortex_unload_leak_bytes",
        "Memory that unloads did not free.",
        ("node",),
    ),
    Declared(
        "restarts_due",
        Counter,
        "cortex_node_restarts_due",
        "How often a node was found due for a restart.",
        ("node",),
    ),
    Declared(
        "fatal_requests",
        Counter,
        "cortex_fatal_requests",
        "How often a request was found to end the engines that it reaches.",
        (),
    ),
    Declared(
        "fatal_refusals",
        Counter,
        "cortex_fatal_requests_refused",
        "Requests refused because they have ended engines before.",
        (),
    ),
    Declared(
        "ejections",
        Counter,
        "cortex_replica_ejections",
        "How often a loaded model was ejected on a node because it failed there.",
        ("model", "node"),
    ),
    Declared(
        "upstream_errors",
        Counter,
        "cortex_upstream_errors",
        "Failed attempts on a node, by error code.",
        ("node", "code"),
    ),
    Declared("node_up", Gauge, "cortex_node_up", "1 while the node gets requests.", ("node",)),
    Declared(
        "node_health",
        Gauge,
        "cortex_node_health",
        "1 for the current health of the node, 0 for the others.",
        ("node", "health"),
    ),
    Declared(
        "node_restarts",
        Counter,
        "cortex_node_restarts",
        "How often a node's process was found to be a new one.",
        ("node",),
    ),
    Declared(
        "polls",
        Counter,
        "cortex_polls",
        "Polls of a node, by outcome: 'ok', 'failed' or 'timed_out'.",
        ("node", "outcome"),
    ),
    Declared(
        "reloads",
        Counter,
        "cortex_config_reloads",
        "Reloads of the configuration, by result: 'ok' or 'refused'.",
        ("result",),
    ),
    Declared(
        "last_reload",
        Gauge,
        "cortex_config_last_reload_success_timestamp_seconds",
        "When the configuration in effect was read, in unix seconds.",
        (),
    ),
    Declared(
        "reactor_delay",
        Histogram,
        "cortex_reactor_delay_seconds",
        "How late a timer fires that is due ten times a second: how long the daemon did not look.",
        (),
        _DELAY_SECONDS,
    ),
    Declared(
        "reactor_stalls",
        Counter,
        "cortex_reactor_stalls",
        "How often such a timer was more than a second late.",
        (),
    ),
    Declared(
        "store_available",
        Gauge,
        "cortex_store_available",
        "1 while pins, cordons and what was learned are on the disk, 0 while they are in memory.",
        (),
    ),
    Declared(
        "log_lines_dropped",
        Counter,
        "cortex_log_lines_dropped",
        "Lines of the log that were dropped, because the log could not be written for too long.",
        (),
    ),
)
"""Every metric, in the order of the exposition; a new one gets its row here and its type below."""

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
    "model_load_failures": Birth("load", ("out_of_memory", "other")),
    "model_unload_failures": Birth("unload"),
    "leaked": Birth("node"),
    "restarts_due": Birth("node"),
    "ejections": Birth("replica"),
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
    first_token: Histogram
    inter_token: BatchHistogram
    tokens_per_second: Histogram
    duration: Histogram
    in_flight: Gauge
    queue_wait: Histogram
    model_load: Histogram
    model_load_failures: Counter
    model_unload: Histogram
    model_unload_failures: Counter
    leaked: Counter
    restarts_due: Counter
    fatal_requests: Counter
    fatal_refusals: Counter
    ejections: Counter
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
