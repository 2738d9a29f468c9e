"""The metrics of keys."""

from __future__ import annotations

from prometheus_client import generate_latest
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.limits import Limit
from cortexd.access.usage import Usage
from cortexd.telemetry.exposition import Registry, lines
from cortexd.telemetry.key_metrics import KeyCollector, KeyFigures

ALICE = KeyFigures("alice", Usage(3, 40, 5, 6, 7.5, 8.25, 0.5), 2, {Limit.BUDGET: 1})


class KeyCollectorTests(SynchronousTestCase):
    def test_all_figures_of_a_key_are_shown(self) -> None:
        """Also those that are 0, so that no first increment is missed."""
        registry = Registry()
        registry.register(KeyCollector(lambda: [ALICE]))
        found = {
            (sample.name.removeprefix("cortex_key_"), *sample.labels.values()): sample.value
            for family in registry.collect()
            for sample in family.samples
        }

        expected: dict[tuple[str, ...], float] = {
            ("requests_total", "alice"): 3,
            ("tokens_total", "alice", "prompt"): 40,
            ("tokens_total", "alice", "completion"): 5,
            ("tokens_total", "alice", "uncounted"): 6,
            ("gpu_seconds_total", "alice", "answer"): 7.5,
            ("gpu_seconds_total", "alice", "load"): 8.25,
            ("loads_total", "alice"): 0.5,
            ("requests_in_progress", "alice"): 2,
        }
        for limit in Limit:
            expected["refusals_total", "alice", limit.value] = limit is Limit.BUDGET
        assert expected == found

    def test_the_page_is_the_one_of_prometheus(self) -> None:
        """Line by line."""
        registry = Registry()
        registry.register(KeyCollector(lambda: [ALICE]))

        assert generate_latest(registry).decode() == "".join(lines(registry))
