from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.agents import AgentAbilities, AgentReport, Device, EngineLife, EngineProcess
from cortexd.telemetry.agent_metrics import AGENT_METRICS, MOST_DEVICES, AgentCollector
from tests.support.nodes import make_fleet

MEBIBYTE = 2.0**20
CARD = Device(name="RTX", total_mb=24_000, free_mb=4_000, engine_mb=18_000, others_mb=2_000)
UNTOLD = Device(name="RTX", total_mb=8_000, free_mb=1_000)
PROCESS = EngineProcess(pid=7, started_at=1.0, rss_mb=900, cpu_seconds=12.5, restarts=3)


class AgentCollectorTests(SynchronousTestCase):
    """Two nodes, of which one has an agent."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.fleet = make_fleet("a", "b")
        self.fleet.note_agent("a", AgentAbilities(version="1"))
        self.registry = CollectorRegistry()
        self.registry.register(AgentCollector(self.fleet, self.clock))

    def report(self, **fields: Any) -> None:
        report = AgentReport(**{"life": EngineLife.ANSWERS, **fields})
        self.fleet.take_report("a", report, self.clock.seconds())

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """Read a family as Prometheus does: values by the values of the labels."""
        text = generate_latest(self.registry).decode()
        (family,) = [each for each in text_string_to_metric_families(text) if each.name == name]
        assert family.documentation.endswith(".")
        return {tuple(sample.labels.values()): sample.value for sample in family.samples}

    def test_without_reports(self) -> None:
        """Each node says whether it has an agent; nothing else is known."""
        assert {("a",): 1.0, ("b",): 0.0} == self.samples("cortex_agent_up")
        for metric in AGENT_METRICS[1:]:
            assert {} == self.samples(metric.name)

    def test_reports(self) -> None:
        """What an agent sees is shown in bytes and seconds, and so is how old its report is."""
        self.report(process=PROCESS)
        self.clock.advance(30)

        assert {("a",): 30.0} == self.samples("cortex_agent_report_age_seconds")
        assert {("a",): 1.0} == self.samples("cortex_engine_up")
        assert {("a",): 900 * MEBIBYTE} == self.samples("cortex_engine_resident_memory_bytes")
        assert {("a",): 12.5} == self.samples("cortex_engine_cpu_seconds")
        assert {("a",): 3.0} == self.samples("cortex_engine_exits")
        self.report(life=EngineLife.ENDED)
        assert {("a",): 0.0} == self.samples("cortex_engine_up")
        self.report(life=EngineLife.UNKNOWN)
        assert {} == self.samples("cortex_engine_up")

    def test_devices(self) -> None:
        """Each card has its position for a label, and no series for what its driver hides."""
        self.report(devices=(CARD, UNTOLD))
        assert {
            ("0", "total", "a"): 24_000,
            ("0", "free", "a"): 4_000,
            ("0", "engine", "a"): 18_000,
            ("0", "others", "a"): 2_000,
            ("1", "total", "a"): 8_000,
            ("1", "free", "a"): 1_000,
        } == {
            labels: amount / MEBIBYTE
            for labels, amount in self.samples("cortex_device_memory_bytes").items()
        }

    def test_an_agent_that_names_many_devices(self) -> None:
        """It cannot make more series than so many."""
        self.report(devices=(UNTOLD,) * 2 * MOST_DEVICES)
        assert 2 * MOST_DEVICES == len(self.samples("cortex_device_memory_bytes"))
