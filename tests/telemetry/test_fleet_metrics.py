from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.breaker import Outcome
from cortexd.fleet.states import Observation, ReplicaState, SystemInfo
from cortexd.scheduling.events import (
    CordonWanted,
    Event,
    Grant,
    LeaseEnded,
    Observed,
    Submit,
    SystemRead,
    UnloadDone,
    UnloadWanted,
)
from cortexd.scheduling.scheduler import Scheduler
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.telemetry.fleet_metrics import FleetCollector
from tests.support.nodes import BUDGET_MB, LOADED, LOADING, UNLOADED, make_fleet

MEBIBYTE = 2.0**20
SIZES = {"x": 5_000, "y": 3_000}


class FleetCollectorTests(SynchronousTestCase):
    """Two nodes that list x and y."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler(make_fleet("a", "b", sizes=SIZES), SchedulingTerms())
        self.registry = CollectorRegistry()
        self.registry.register(FleetCollector(self.scheduler, self.clock))

    def tell(self, *events: Event) -> None:
        for event in events:
            self.scheduler.handle(event, self.clock.seconds())

    def see(self, node: str, **states: ReplicaState) -> None:
        self.tell(Observed(node, Observation(1, states), self.clock.seconds()))

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """Read a family as Prometheus does: values by the values of the labels."""
        text = generate_latest(self.registry).decode()
        (family,) = [each for each in text_string_to_metric_families(text) if each.name == name]
        assert "gauge" == family.type
        assert family.documentation.endswith(".")
        return {tuple(sample.labels.values()): sample.value for sample in family.samples}

    def by_node(self, name: str, **labels: Any) -> list[float | None]:
        return [
            self.registry.get_sample_value(name, {"node": node, **labels}) for node in ("a", "b")
        ]

    def test_memory_is_what_is_booked(self) -> None:
        """In bytes, as Prometheus has them: the budget, what is resident, leaked and missing."""
        self.see("a", x=LOADED, y=LOADED)
        self.see("b", x=UNLOADED, y=UNLOADED)
        self.tell(UnloadWanted("y", "a"), UnloadDone("a", "y", 700))
        self.tell(SystemRead("b", SystemInfo("0.9.5", BUDGET_MB, BUDGET_MB - 900)))

        for kind, expected in (
            ("budget", [BUDGET_MB, BUDGET_MB]),
            ("resident", [5_000, 0]),
            ("leaked", [700, 0]),
            ("missing", [0, 900]),
            ("others", [0, 0]),
        ):
            in_bytes = [amount * MEBIBYTE for amount in expected]
            assert in_bytes == self.by_node("cortex_node_booked_bytes", kind=kind)
        assert 10 == len(self.samples("cortex_node_booked_bytes"))

    def test_memory_as_reported(self) -> None:
        """Total and free memory come from the last report, a node's or an agent's."""
        assert {} == self.samples("cortex_node_memory_bytes")
        self.tell(SystemRead("a", SystemInfo("0.9.5", 900, None)))
        assert {("total", "a"): 900 * MEBIBYTE} == self.samples("cortex_node_memory_bytes")

    def test_too_much_is_loaded(self) -> None:
        """What models take beyond the budget is shown, others' memory counted."""
        self.see("a", x=LOADED, y=LOADED)
        assert [0.0, 0.0] == self.by_node("cortex_node_over_budget_bytes")
        others_mb = BUDGET_MB - 6_000
        self.tell(SystemRead("a", SystemInfo("0.9.5", BUDGET_MB, 0, others_mb)))

        assert [2_000 * MEBIBYTE, 0.0] == self.by_node("cortex_node_over_budget_bytes")
        assert [others_mb * MEBIBYTE, 0.0] == self.by_node(
            "cortex_node_booked_bytes", kind="others"
        )

    def test_a_closed_node(self) -> None:
        """A node that takes no work for a while is shown as such."""
        assert [0.0, 0.0] == self.by_node("cortex_node_closed")
        node = self.scheduler.fleet.nodes["b"]
        self.scheduler.fleet.close(node, "a restart is planned")
        assert [0.0, 1.0] == self.by_node("cortex_node_closed")

    def test_replicas_are_counted_by_state(self) -> None:
        """Every state has its number, 0 too, so that no series comes and goes."""
        self.see("a", x=LOADED, y=LOADED)
        self.see("b", x=LOADING, y=UNLOADED)
        counts = self.samples("cortex_node_replicas")
        assert 2 * len(ReplicaState) == len(counts)
        assert [2.0, 0.0] == self.by_node("cortex_node_replicas", state="loaded")
        assert [0.0, 1.0] == self.by_node("cortex_node_replicas", state="loading")
        assert [0.0, 1.0] == self.by_node("cortex_node_replicas", state="unloaded")
        assert 4.0 == sum(counts.values())

    def test_a_node_that_needs_a_hand_is_shown(self) -> None:
        """Cordoned by the operator, or due for a restart."""
        self.see("a", x=LOADED)
        self.see("b", x=LOADED)
        assert [0.0, 0.0] == self.by_node("cortex_node_cordoned")
        assert [0.0, 0.0] == self.by_node("cortex_node_restart_due")
        self.tell(
            CordonWanted("a", cordoned=True), UnloadWanted("x", "b"), UnloadDone("b", "x", 500)
        )
        assert [1.0, 0.0] == self.by_node("cortex_node_cordoned")
        assert [0.0, 1.0] == self.by_node("cortex_node_restart_due")

    def test_ejections_are_shown(self) -> None:
        """Each loaded model of each node has a series, so that it begins at 0."""
        self.see("a", x=LOADED, y=UNLOADED)
        self.see("b", x=LOADED)
        assert {("x", "a"): 0.0, ("x", "b"): 0.0} == self.samples("cortex_replica_ejected")
        (grant,) = self.scheduler.handle(Submit("r", "x", only=frozenset("a")), 0)
        assert isinstance(grant, Grant)
        self.tell(LeaseEnded(grant.lease, Outcome(fault="lost", poisoned=True)))

        assert {("x", "a"): 1.0, ("x", "b"): 0.0} == self.samples("cortex_replica_ejected")

    def test_queues_are_shown_while_somebody_waits(self) -> None:
        """By model."""
        assert {} == self.samples("cortex_queue_depth")
        self.see("a", x=LOADING, y=UNLOADED)
        for number in range(3):
            self.tell(Submit(f"x{number}", "x"))
        self.tell(Submit("y0", "y"))
        assert {("x",): 3.0, ("y",): 1.0} == self.samples("cortex_queue_depth")

    def test_a_fleet_that_was_not_asked_yet_has_all_series(self) -> None:
        """Of its nodes; of models it knows none."""
        assert [BUDGET_MB * MEBIBYTE] * 2 == self.by_node("cortex_node_booked_bytes", kind="budget")
        assert 10 == len(self.samples("cortex_node_booked_bytes"))
        assert {0.0} == set(self.samples("cortex_node_replicas").values())
