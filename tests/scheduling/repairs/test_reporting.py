"""What follows from agents that come and go, and from what they report."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.agents import AgentAbilities, AgentReport, EngineLife
from cortexd.fleet.nodes import NodeTerms
from cortexd.scheduling.decisions import obstacle_words
from cortexd.scheduling.events import StartLoad, StartUnload
from cortexd.scheduling.placement import Hindrance, Obstacle
from cortexd.scheduling.repairs.events import (
    AgentChanged,
    AgentJoined,
    AgentLeft,
    AgentReported,
    PollWanted,
)
from tests.support.scheduling import LOADED, UNLOADED, Setup, World

TOTAL_MB = 24_000
ABILITIES = AgentAbilities(version="1")


def report(
    free_mb: int | None = None, others_mb: int = 0, life: EngineLife = EngineLife.ANSWERS
) -> AgentReport:
    total_mb = None if free_mb is None else TOTAL_MB
    return AgentReport(
        life=life, memory_total_mb=total_mb, memory_free_mb=free_mb, others_mb=others_mb
    )


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


class OthersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = world()
        self.world.wait(60)
        self.world.tell(AgentJoined("ada", ABILITIES))

    def test_refusal(self) -> None:
        """A model for which others leave no room is refused, with the reason, until they end."""
        self.world.tell(AgentReported("ada", report(free_mb=0, others_mb=17_000)))
        refused = self.world.submit("m2")
        assert (
            "model 'm2' needs 8000 MiB and does not fit beside the pinned models of any node: "
            "ada has 24000 MiB, of which other programs take 17000"
        ) == self.world.errors[refused].message
        too_large = Obstacle(self.world.replica("ada", "m2"), Hindrance.TOO_LARGE)
        assert "cannot hold it while other programs take 17000 MiB" == obstacle_words(
            too_large, self.world.now
        )

        self.world.tell(AgentReported("ada", report(free_mb=16_000)))
        self.world.submit("m2")
        assert "m2" == self.world.running["ada"].model

    def test_a_request_that_waits(self) -> None:
        """It is refused as soon as others leave no room for its model, which would never come."""
        busy = self.world.submit("m1")
        self.world.tell(AgentReported("ada", report(free_mb=4_000, others_mb=12_000)))
        waiting = self.world.submit("m2")
        assert [waiting] == self.world.waiting
        self.world.tell(AgentReported("ada", report(free_mb=0, others_mb=16_500)))
        assert "other programs take 16500" in self.world.errors[waiting].message
        self.world.end(busy)

    def test_room(self) -> None:
        """A load evicts what it needs to fit beside what others take."""
        self.world.tell(AgentReported("ada", report(free_mb=4_000, others_mb=12_000)))
        self.world.submit("m2")
        assert ("m1", True) == (
            self.world.running["ada"].model,
            isinstance(self.world.running["ada"], StartUnload),
        )
        self.world.finish_all()


class EndTests(SynchronousTestCase):
    def test_a_load(self) -> None:
        """A load under way is given up as soon as its engine has ended; the queue is told why."""
        w = world()
        w.tell(AgentJoined("ada", ABILITIES))
        waiting = w.submit("m2")
        assert isinstance(w.running["ada"], StartLoad)
        w.tell(AgentReported("ada", report(life=EngineLife.ENDED)))
        assert {"ada"} == w.abandoned
        assert PollWanted("ada") == w.effects[-1]
        w.load_failed("ada", unreachable=True)

        assert [waiting] == list(w.errors)
        assert "node ada does not answer" in w.errors[waiting].message

    def test_polls(self) -> None:
        """A node is polled at once when its engine answers again, and when its agent leaves."""
        w = world()
        w.tell(AgentJoined("ada", ABILITIES))
        w.tell(AgentReported("ada", report(life=EngineLife.SILENT)))
        w.effects.clear()
        w.tell(AgentReported("ada", report(life=EngineLife.SILENT)))
        assert [] == w.effects
        w.tell(AgentReported("ada", report()))
        w.tell(AgentLeft("ada", "its link ended"))

        gone = AgentChanged("ada", "", "its link ended")
        assert [PollWanted("ada"), gone, PollWanted("ada")] == w.effects
