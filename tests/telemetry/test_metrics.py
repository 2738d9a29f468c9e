from typing import Any, get_type_hints

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from treq.testing import StubTreq
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd import __version__
from cortexd.fleet.states import NodeHealth
from cortexd.telemetry.batches import BatchHistogram
from cortexd.telemetry.declared import METRICS
from cortexd.telemetry.metrics import BIRTHS, MOST_BORN, Metrics
from cortexd.telemetry.metrics_page import MetricsResource
from tests.testing.client import Exchange

PINNED = {
    "cortex_build_info": ("gauge", {"version"}),
    "cortex_requests": ("counter", {"route", "model", "node", "status"}),
    "cortex_tokens": ("counter", {"model", "node", "direction"}),
    "cortex_cached_prompt_tokens": ("counter", {"model", "node"}),
    "cortex_affinity_requests": ("counter", {"model", "node", "kind"}),
    "cortex_time_to_first_token_seconds": ("histogram", {"model", "node"}),
    "cortex_inter_token_latency_seconds": ("histogram", {"model", "node"}),
    "cortex_tokens_per_second": ("histogram", {"model", "node"}),
    "cortex_request_duration_seconds": ("histogram", {"route", "model", "node"}),
    "cortex_requests_in_flight": ("gauge", {"model", "node"}),
    "cortex_queue_wait_seconds": ("histogram", {"model", "node"}),
    "cortex_model_load_seconds": ("histogram", {"model", "node"}),
    "cortex_load_estimate_error_ratio": ("histogram", {"model", "node"}),
    "cortex_model_load_failures": ("counter", {"model", "node", "reason"}),
    "cortex_model_unload_seconds": ("histogram", {"model", "node"}),
    "cortex_model_unload_failures": ("counter", {"model", "node"}),
    "cortex_unload_leak_bytes": ("counter", {"node"}),
    "cortex_node_restarts_due": ("counter", {"node"}),
    "cortex_node_restarts_planned": ("counter", {"node", "reason"}),
    "cortex_node_planned_restarts": ("counter", {"node", "result"}),
    "cortex_node_suspends": ("counter", {"node", "result"}),
    "cortex_node_wakes": ("counter", {"node", "result"}),
    "cortex_scheduler_unsettled": ("counter", set()),
    "cortex_fatal_requests": ("counter", set()),
    "cortex_fatal_requests_refused": ("counter", set()),
    "cortex_replica_ejections": ("counter", {"model", "node"}),
    "cortex_prefetches": ("counter", {"node", "outcome"}),
    "cortex_upstream_errors": ("counter", {"node", "code"}),
    "cortex_node_up": ("gauge", {"node"}),
    "cortex_node_health": ("gauge", {"node", "health"}),
    "cortex_node_restarts": ("counter", {"node"}),
    "cortex_polls": ("counter", {"node", "outcome"}),
    "cortex_config_reloads": ("counter", {"result"}),
    "cortex_config_last_reload_success_timestamp_seconds": ("gauge", set()),
    "cortex_reactor_delay_seconds": ("histogram", set()),
    "cortex_reactor_stalls": ("counter", set()),
    "cortex_store_available": ("gauge", set()),
    "cortex_log_lines_dropped": ("counter", set()),
}
"""Dashboards and alerts hang on these: name, kind and labels, in the order of the exposition."""


class MetricsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics()

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def test_names_kinds_and_labels_stay(self) -> None:
        """Prometheus reads just these, each with its help, and no client can fill a label."""
        for metric in METRICS:
            if metric.labels:
                getattr(self.metrics, metric.attribute).labels(*metric.labels)
        text = generate_latest(self.metrics.registry).decode()
        shown = {}
        for family in text_string_to_metric_families(text):
            if family.name.startswith("cortex_") and not family.name.endswith("_created"):
                labels = family.samples[-1].labels.keys() - {"le"}
                shown[family.name] = (family.type, labels)
                assert family.documentation.endswith("."), family.name
        assert list(PINNED.items()) == list(shown.items())

    def test_histograms_have_bounds_of_their_own(self) -> None:
        """Those of ``prometheus_client`` end at ten seconds, which many loads take longer than."""
        for metric in METRICS:
            has_bounds = metric.kind in (Histogram, BatchHistogram)
            assert has_bounds == (metric.buckets is not None), metric.name

    def test_each_metric_has_its_attribute(self) -> None:
        """Metrics states the types of just the attributes that the list names."""
        declared = {metric.attribute: metric.kind for metric in METRICS}
        assert declared == get_type_hints(Metrics)

    def test_the_version_is_told(self) -> None:
        """As the label of a constant."""
        assert 1.0 == self.sample("cortex_build_info", version=__version__)

    def test_the_process_is_measured_too(self) -> None:
        """Memory and time of the daemon itself are in the same registry."""
        assert (self.sample("process_resident_memory_bytes") or 0) > 0

    def test_two_daemons_in_one_process_do_not_meet(self) -> None:
        """Each has a registry of its own."""
        self.metrics.node_restarts.labels("a").inc()
        other = Metrics()
        assert other.registry.get_sample_value("cortex_node_restarts_total", {"node": "a"}) is None

    def test_each_counter_begins_at_zero(self) -> None:
        """The rate of a counter sees its first increment too: each with labels has its birth."""
        counters = {each.attribute: each for each in METRICS if each.kind is Counter}
        assert BIRTHS.keys() == {name for name, each in counters.items() if each.labels}
        for on, labels in (
            ("start", ()),
            ("node", ("n",)),
            ("replica", ("m", "n")),
            ("load", ("m", "n")),
            ("unload", ("m", "n")),
            ("request", ("chat", "m", "n")),
        ):
            assert on in {birth.on for birth in BIRTHS.values()}
            for _ in range(2):
                self.metrics.bear(on, *labels)
        for name, each in counters.items():
            values = BIRTHS[name].values if each.labels else ()
            given = {"node": "n", "model": "m", "route": "chat"}
            for value in values or ("",):
                shown = {label: given.get(label, value) for label in each.labels}
                assert 0.0 == self.sample(f"{each.name}_total", **shown), (name, shown)

    def test_a_large_fleet_is_not_born_whole(self) -> None:
        """The series of which nothing was counted have a bound; what is counted is shown."""
        for number in range(1_000):
            self.metrics.bear("node", f"n-{number}")
        for name in ("polls", "leaked"):
            families = getattr(self.metrics, name).collect()
            totals = [each for each in families[0].samples if each.name.endswith("_total")]
            assert MOST_BORN - 4 < len(totals) <= MOST_BORN
        self.metrics.forget_nodes(["n-0"])
        self.metrics.bear("node", "n-0")
        assert 0.0 == self.sample("cortex_polls_total", node="n-0", outcome="failed")
        self.metrics.polls.labels("n-999", "ok").inc()
        assert 1.0 == self.sample("cortex_polls_total", node="n-999", outcome="ok")

    def test_a_node_is_in_one_health_at_a_time(self) -> None:
        """1 for that one and 0 for all others, and up as it is told."""
        for health in NodeHealth:
            self.metrics.show_health("a", health, answers=health is NodeHealth.UP)
            shown = {
                each: self.sample("cortex_node_health", node="a", health=each.value)
                for each in NodeHealth
            }
            assert {each: float(each is health) for each in NodeHealth} == shown
            assert float(health is NodeHealth.UP) == self.sample("cortex_node_up", node="a")


BOUNDS = (0.002, 0.5, 1, 5)
AMOUNTS = st.one_of(st.sampled_from([0.0, *map(float, BOUNDS)]), st.floats(0, 10))


class BatchHistogramTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(AMOUNTS))))
    def test_it_shows_what_prometheus_own_does(
        self, batches: list[tuple[str, list[float]]]
    ) -> None:
        """Of the same amounts under the same labels, in whatever batches they come."""
        registries = CollectorRegistry(), CollectorRegistry()
        ours = BatchHistogram("x", "X.", ["node"], buckets=BOUNDS, registry=registries[0])
        theirs = Histogram("x", "X.", ["node"], buckets=BOUNDS, registry=registries[1])
        for node, amounts in batches:
            ours.labels(node).observe_all(amounts)
            child = theirs.labels(node)
            for amount in amounts:
                child.observe(amount)

        shown, expected = (
            {
                (sample.name, *sorted(sample.labels.items())): round(sample.value, 6)
                for family in registry.collect()
                for sample in family.samples
                if not sample.name.endswith("_created")
            }
            for registry in registries
        )
        assert expected == shown

    def test_a_name_is_taken_once(self) -> None:
        """By one metric of a registry, as with Prometheus's own."""
        registry = CollectorRegistry()
        BatchHistogram("x", "X.", [], buckets=BOUNDS, registry=registry)

        self.assertRaises(ValueError, Histogram, "x", "X.", registry=registry)


class MetricsResourceTests(SynchronousTestCase):
    def get(self, path: str) -> Exchange:
        treq: Any = StubTreq(MetricsResource(Metrics(), Clock()))
        exchange = Exchange()
        exchange.begin(treq.request("GET", f"http://cortex{path}"))
        treq.flush()
        return exchange

    def test_the_metrics_are_served(self) -> None:
        """At both paths, in the text format that Prometheus reads."""
        for path in ("/metrics", "/", "/metrics?name=x"):
            answer = self.get(path)
            assert 200 == answer.status
            assert answer.headers["content-type"].startswith("text/plain; version=")
            families = [family.name for family in text_string_to_metric_families(answer.text())]
            assert "cortex_build_info" in families

    def test_other_paths_say_where_they_are(self) -> None:
        """404, in a sentence."""
        for path in ("/metric", "/metrics/", "/health"):
            answer = self.get(path)
            assert (404, "The metrics are at /metrics.\n") == (answer.status, answer.text())
