from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.scheduling.repairs.events import (
    AgentChanged,
    BudgetExceeded,
    RestartEnded,
    RestartPlanned,
    StartRestart,
)
from cortexd.scheduling.repairs.reasons import Kind
from cortexd.store.repair_record import QUIET_SECONDS, RepairRecord
from cortexd.telemetry.metrics import Metrics
from tests.logs.noting import lines_of

REASON = "unloads did not free 400 MiB"


class RepairRecordTests(SynchronousTestCase):
    """What is told goes to the journal as ``entries``."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.entries: list[tuple[str, str | None, dict[str, object]]] = []
        self.record = RepairRecord(self.metrics, self.note, self.clock)

    def note(self, kind: str, node: str | None, model: str | None, **fields: object) -> None:
        assert model is None
        self.entries.append((kind, node, fields))

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def told(self) -> list[tuple[str, str | None, dict[str, object]]]:
        """Return the entries since the last call."""
        found, self.entries = self.entries, []
        return found

    def test_a_planned_restart(self) -> None:
        """It is in the journal when it is planned, begins and ends, and the metrics count it."""
        self.record.tell(RestartPlanned("a", 7, REASON, Kind.LEAKED))
        self.record.tell(StartRestart("a", 7, REASON))
        self.record.tell(RestartEnded("a", 7, "", 41.25, ("org/chat",)))
        assert [
            ("restart_planned", "a", {"reason": REASON}),
            ("restart_started", "a", {"reason": REASON}),
            ("restart_ended", "a", {"seconds": 41.25, "models": ["org/chat"]}),
        ] == self.told()
        planned = "cortex_node_restarts_planned_total"
        assert 1.0 == self.sample(planned, node="a", reason="leaked")
        assert 1.0 == self.sample("cortex_node_planned_restarts_total", node="a", result="ok")

    def test_a_restart_that_failed(self) -> None:
        """The entry says why, and the metrics tell it from the others."""
        self.record.tell(RestartEnded("a", 7, "systemctl: exit status 1", 2.0))
        fields = {"reason": "systemctl: exit status 1", "seconds": 2.0, "models": []}
        assert [("restart_failed", "a", fields)] == self.told()
        assert 1.0 == self.sample("cortex_node_planned_restarts_total", node="a", result="failed")

    def test_a_restart_that_is_withdrawn(self) -> None:
        """It has not failed: nothing was begun."""
        self.record.tell(RestartEnded("a", 7, "it is no longer needed", 0.0, begun=False))
        assert [("restart_withdrawn", "a", {"reason": "it is no longer needed"})] == self.told()
        assert None is self.sample("cortex_node_planned_restarts_total", node="a", result="failed")

    def test_a_node_over_its_budget(self) -> None:
        """The entry says by how much."""
        self.record.tell(BudgetExceeded("a", 512))
        assert [("over_budget", "a", {"over_mb": 512})] == self.told()

    def test_agents_that_come_and_go(self) -> None:
        """The first change of each is told at once."""
        self.record.tell(AgentChanged("a", "1.2.3"))
        self.record.tell(AgentChanged("b", "1.2.3"))
        assert [
            ("agent_connected", "a", {"version": "1.2.3"}),
            ("agent_connected", "b", {"version": "1.2.3"}),
        ] == self.told()
        self.clock.advance(QUIET_SECONDS)
        self.record.tell(AgentChanged("a", "", "connection lost"))
        assert [("agent_gone", "a", {"reason": "connection lost"})] == self.told()
        self.record.stop()

    def test_an_agent_that_flaps(self) -> None:
        """It gets one entry and one line a minute: how often it changed, and how it is now."""
        lines = lines_of(self, "agent_flaps")
        self.record.tell(AgentChanged("a", "1.2.3"))
        self.told()
        for _ in range(3):
            self.clock.advance(5.0)
            self.record.tell(AgentChanged("a", "", "connection lost"))
            self.record.tell(AgentChanged("a", "1.2.3"))
        self.record.tell(AgentChanged("a", "", "silent for 25 s"))
        assert [] == self.told()

        self.clock.advance(QUIET_SECONDS)
        assert [("agent_gone", "a", {"reason": "silent for 25 s", "changes": 7})] == self.told()
        assert [("a", 7, False)] == [
            (line["node"], line["changes"], line["connected"]) for line in lines
        ]
        self.clock.advance(QUIET_SECONDS)
        assert ([], []) == (self.told(), self.clock.getDelayedCalls())

    def test_a_stop(self) -> None:
        """Nothing is written later, of a node that leaves or of any."""
        for node in "ab":
            self.record.tell(AgentChanged(node, "1.2.3"))
            self.record.tell(AgentChanged(node, "", "connection lost"))
        self.told()
        self.record.forget("a")
        self.record.forget("a")
        self.record.stop()
        assert [] == self.clock.getDelayedCalls()
        self.clock.advance(QUIET_SECONDS)
        assert [] == self.told()
