"""What follows from agents that come and go, and from what they report."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.agents import AgentAbilities, AgentReport, EngineLife
from cortexd.fleet.nodes import NodeTerms
from cortexd.scheduling.repairs.events import AgentJoined, AgentLeft, AgentReported
from tests.support.scheduling import LOADED, UNLOADED, Setup, World

TOTAL_MB = 24_000
ABILITIES = AgentAbilities(version="1")


def report(free_mb: int | None, life: EngineLife = EngineLife.ANSWERS) -> AgentReport:
    total_mb = None if free_mb is None else TOTAL_MB
    return AgentReport(life=life, memory_total_mb=total_mb, memory_free_mb=free_mb)


def world() -> World:
    nodes = [NodeTerms("ada", "http://ada:1234", TOTAL_MB)]
    listings = {"ada": {"m1": LOADED, "m2": UNLOADED}}
    return World(Setup(nodes, listings, {"m1": 8_000, "m2": 8_000}))


class MemoryTests(SynchronousTestCase):
    def test_a_report_is_booked_at_once(self) -> None:
        """What an agent sends is booked as what the node itself says."""
        ada = (w := world()).fleet.nodes["ada"]
        w.wait(60)
        w.tell(AgentJoined("ada", ABILITIES))
        for _ in range(2):
            w.tell(AgentReported("ada", report(free_mb=10_000)))

        assert ada.system is not None
        assert (TOTAL_MB, 10_000) == (ada.system.memory_total_mb, ada.system.memory_free_mb)
        assert 6_000 == ada.missing_mb

    def test_without_an_agent(self) -> None:
        """A report says nothing after its agent has gone, or for a node that has left."""
        ada = (w := world()).fleet.nodes["ada"]
        w.wait(60)
        w.tell(AgentJoined("ada", ABILITIES))
        w.tell(AgentReported("ada", report(free_mb=10_000)))
        w.tell(AgentLeft("ada", "its link ended"))
        assert (None, None) == (ada.agent, ada.report)

        w.tell(AgentReported("ada", report(free_mb=0)))
        for event in (
            AgentJoined("bob", ABILITIES),
            AgentReported("bob", report(free_mb=0)),
            AgentLeft("bob", "its link ended"),
        ):
            w.tell(event)
        assert ada.system is not None
        assert 10_000 == ada.system.memory_free_mb
