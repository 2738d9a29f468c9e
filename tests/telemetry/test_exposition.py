"""The text of the metrics: what prometheus_client would render, line by line."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from twisted.trial.unittest import SynchronousTestCase

from cortexd.telemetry.batches import BatchHistogram
from cortexd.telemetry.exposition import Registry, lines

TEXTS = st.text(max_size=5) | st.sampled_from(['"', "\\", "\n", 'a"b\\c\nd', "ü"])
VALUES = st.floats() | st.integers(0, 2**70)


class ExpositionTests(SynchronousTestCase):
    @given(st.dictionaries(st.tuples(TEXTS, TEXTS), VALUES, max_size=4))
    def test_every_kind_is_rendered_as_by_the_client(
        self, amounts: dict[tuple[str, str], float]
    ) -> None:
        """Whatever the labels and the values are."""
        registry = Registry()
        PlatformCollector(registry=registry)
        documentation = "What it is,\nwith a \\ in it."
        names = ("node", "kind")
        gauge = Gauge("a_gauge", documentation, names, registry=registry)
        plain = Gauge("a_plain_gauge", documentation, registry=registry)
        counter = Counter("a_counter", documentation, names, registry=registry)
        histogram = Histogram(
            "a_histogram", documentation, names, registry=registry, buckets=(0.5, 1)
        )
        batch = BatchHistogram("a_batch", documentation, names, registry=registry, buckets=(0.5, 1))
        for labels, amount in amounts.items():
            plain.set(amount)
            gauge.labels(*labels).set(amount)
            counter.labels(*labels).inc(1 if not amount >= 0 else amount)
            histogram.labels(*labels).observe(amount)
            batch.labels(*labels).observe_all([amount])

        rendered = "".join(lines(registry))
        assert generate_latest(registry).decode() == rendered
