"""The agent beside a simulated node, which other tests rely on."""

from twisted.internet.defer import Deferred

from cortexd.fleet.agents import AgentAbilities, AgentReport, EngineLife
from cortexd.link.connected import AgentFailed, AgentGone
from tests.support.fleets import FleetTestCase

UNABLE = AgentAbilities(version="0")


class SimulatedAgentTests(FleetTestCase):
    def test_what_it_sees(self) -> None:
        """It reports what changes within a second: memory, what others take, the engine's end."""
        node = self.node("a")
        fleet = self.fleet(node)
        self.agent(fleet)
        ada = fleet.fleet.nodes["a"]

        def report() -> AgentReport:
            assert ada.report is not None
            return ada.report

        free_mb = report().memory_free_mb
        assert free_mb is not None
        assert (EngineLife.ANSWERS, 0) == (report().life, report().others_mb)

        node.faults.others_mb = 500
        fleet.advance(1)
        assert (free_mb - 500, 500) == (report().memory_free_mb, report().others_mb)

        node.faults.fatal_down_seconds = 3.0
        node.die()
        fleet.advance(1)
        assert EngineLife.ENDED is report().life
        assert "signal 9" in report().reason
        fleet.advance(3)
        assert EngineLife.ANSWERS is report().life

    def test_restart(self) -> None:
        """A restart takes its time, once for each order, and the answer to a cut link is lost."""
        node = self.node("a")
        fleet = self.fleet(node)
        agent = self.agent(fleet, restart_seconds=4.0)
        born = node.running_process.number

        first = agent.restart("b-1", "it leaks", 30.0)
        fleet.advance(2)
        self.assertNoResult(first)
        agent.leave()
        self.failureResultOf(first, AgentGone)
        agent.join()
        again = agent.restart("b-1", "it leaks", 30.0)
        fleet.advance(2)

        assert 4.0 == self.successResultOf(again)
        assert 4.0 == self.successResultOf(agent.restart("b-1", "it leaks", 30.0))
        assert [("b-1", "it leaks")] == agent.orders
        assert born + 1 == node.running_process.number

    def test_what_fails(self) -> None:
        """What it cannot do fails, and so does what it does not do within its limit."""
        fleet = self.fleet(self.node("a"))
        agent = self.agent(fleet, answer_seconds=10.0, restart_seconds=9.0)
        slow = agent.read_memory(5.0), agent.restart("b-1", "it leaks", 5.0)
        fleet.advance(5)
        for answer in slow:
            self.failureResultOf(answer, AgentFailed)

        given_up: Deferred[AgentReport] = agent.read_memory(30.0)
        given_up.addErrback(lambda failure: None)
        given_up.cancel()
        agent.abilities = UNABLE
        self.failureResultOf(agent.restart("b-2", "it leaks", 5.0), AgentFailed)
        agent.answer_seconds = 0.0
        self.failureResultOf(agent.tail(1, None, 5.0), AgentFailed)
        self.failureResultOf(agent.suspend("b-3", 5.0), AgentFailed)
        agent.leave()
        self.failureResultOf(agent.read_memory(5.0), AgentGone)

    def test_log(self) -> None:
        """It sends the last lines of the log, and further ones until the stream is closed."""
        fleet = self.fleet(self.node("a"))
        agent = self.agent(fleet)
        agent.write("one", "two", "three")
        taken: list[str] = []
        stream = self.successResultOf(agent.tail(2, taken.extend, 5.0))
        agent.write("four")
        stream.close()
        agent.write("five")

        assert (["two", "three"], ["four"]) == (stream.last, taken)
