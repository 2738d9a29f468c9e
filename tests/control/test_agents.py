from cortexd.control.agent_commands import ListAgents
from cortexd.control.summaries import AgentSummary
from cortexd.fleet.agents import AgentReport, EngineLife, EngineProcess
from cortexd.scheduling.repairs.events import AgentJoined, AgentReported
from tests.doubles.scripted_agent import ScriptedAgent
from tests.support.control import ControlTestCase

REPORT = AgentReport(
    life=EngineLife.SILENT,
    reason="it starts",
    process=EngineProcess(pid=42, started_at=1000.0, rss_mb=512, cpu_seconds=3.5, restarts=2),
    source="nvml",
    memory_total_mb=80000,
    memory_free_mb=30000,
    others_mb=2000,
    version="0.9.5",
    notes=("no driver tells what each process takes",),
)


class AgentsTests(ControlTestCase):
    def test_nodes_with_and_without_an_agent(self) -> None:
        """Each node is listed; an agent with its link, its abilities and its last report."""
        agent = ScriptedAgent("large", since=self.clock.seconds())
        self.factory.agents.add(agent)
        self.given.tell(AgentJoined("large", agent.abilities))
        self.clock.advance(5.0)
        large, small = self.ask(ListAgents, offset=0)["items"]
        connected = AgentSummary(
            node="large",
            connected=True,
            version="1.2.3",
            peer="10.0.0.9:41000",
            age_seconds=5.0,
            abilities=["restart", "log"],
        )
        assert connected == large
        assert AgentSummary(node="small", connected=False) == small

        self.given.tell(AgentReported("large", REPORT))
        large, _ = self.ask(ListAgents, offset=0)["items"]
        assert ("silent", "it starts") == (large.life, large.life_reason)
        assert (80000, 30000, 2000, "nvml") == (
            large.memory_total_mb,
            large.memory_free_mb,
            large.others_mb,
            large.source,
        )
        assert (42, 512, 2) == (large.engine_pid, large.engine_rss_mb, large.engine_restarts)
        assert list(REPORT.notes) == large.notes
