"""Polls of a node that has an agent: who is asked for its memory, and when it is polled at once."""

from typing import Any

from cortexd.fleet.agents import EngineLife
from cortexd.fleet.states import NodeHealth, ReplicaState
from cortexd.scheduling.events import LoadFailed, LoadWanted
from cortexd.testing import SimulatedNode
from tests.doubles.agents import SimulatedAgent
from tests.support.fleets import MODEL, InMemoryFleet
from tests.support.lifecycles import COLD, SYSTEM, LifecycleTestCase, cold

LISTING = "/v1/models"
UP, DOWN = NodeHealth.UP, NodeHealth.DOWN
INTERVAL = 60.0


class AgentPollTestCase(LifecycleTestCase):
    def started(
        self, node: SimulatedNode, *, agent: dict[str, Any] | None = None, **settings: Any
    ) -> tuple[InMemoryFleet, SimulatedAgent]:
        """Return a fleet with an agent, whose node is polled at 0, 5, 10 s and so on."""
        fleet = self.fleet(node, polled=False, system_info_interval=INTERVAL, **settings)
        self.listen(fleet)
        made = self.agent(fleet, node.name, **agent or {})
        fleet.poller.startService()
        fleet.flush()
        return fleet, made

    def asked_at(self, node: SimulatedNode, path: str = SYSTEM) -> list[int]:
        return [int(entry.at) for entry in node.journal.requests(path)]


class MemoryTests(AgentPollTestCase):
    def test_the_agent_is_asked(self) -> None:
        """While an agent reports memory, the node is never asked for its slow report."""
        node = self.node("a")
        fleet, agent = self.started(node)
        fleet.advance(2 * INTERVAL + 1)

        assert ([], [0.0, 60.0, 120.0]) == (self.asked_at(node), agent.questions)
        system = fleet.fleet.nodes["a"].system
        assert system is not None
        assert ("0.9.2", 23_576) == (system.version, system.memory_free_mb)

    def test_a_version_that_the_agent_does_not_know(self) -> None:
        """The node is asked for it once, and after each restart."""
        node = self.node("a")
        fleet, _ = self.started(node, agent={"version": ""})
        fleet.advance(2 * INTERVAL + 1)
        assert [0] == self.asked_at(node)
        node.restart()
        fleet.advance(INTERVAL)

        assert 2 == len(self.asked_at(node))
        system = fleet.fleet.nodes["a"].system
        assert system is not None
        assert ("0.9.2", 23_576) == (system.version, system.memory_free_mb)

    def test_the_agent_leaves(self) -> None:
        """The node is polled at once and asked for its memory; others stay booked until then."""
        node = self.node("a")
        fleet, agent = self.started(node, models={MODEL: {"vram_mb": 1_000}})
        ada = fleet.fleet.nodes["a"]
        node.faults.others_mb = 3_000
        fleet.advance(11)
        free_mb = ada.free_mb
        assert (3_000, 0) == (ada.others_mb, ada.missing_mb)
        node.faults.slow_seconds = 0.5
        agent.leave()
        assert free_mb == ada.free_mb
        fleet.advance(2)

        assert [11] == self.asked_at(node)
        assert (0, 3_000, free_mb) == (ada.others_mb, ada.missing_mb, ada.free_mb)
        fleet.advance(INTERVAL + 5)
        assert 2 == len(self.asked_at(node))

    def test_reports_lose_their_memory(self) -> None:
        """The next poll asks the node, and the agent again once it can tell."""
        node = self.node("a")
        fleet, agent = self.started(node)
        fleet.advance(11)
        agent.tells_memory = False
        fleet.advance(5)
        assert [15] == self.asked_at(node)
        agent.tells_memory = True
        fleet.advance(2 * INTERVAL)

        assert [15] == self.asked_at(node)
        assert agent.questions[-1] > 70

    def test_an_agent_that_does_not_answer(self) -> None:
        """The node is asked in its place."""
        node = self.node("a")
        fleet, _ = self.started(node, agent={"answer_seconds": 60.0})
        fleet.advance(11)

        assert [5] == self.asked_at(node)
        assert UP is self.health(fleet)

    def test_what_others_load(self) -> None:
        """After a load by another client the agent is asked, for its report was too early."""
        node = self.node("a", MODEL, cold(load_seconds=0.0))
        sizes = {MODEL: {"vram_mb": 1_000}, COLD: {"vram_mb": 4_000}}
        fleet, agent = self.started(node, models=sizes)
        fleet.advance(6)
        asked = len(agent.questions)
        node.running_process.reload(COLD)
        fleet.advance(4)
        assert ReplicaState.LOADED is self.state(fleet)
        fleet.advance(5)

        assert len(agent.questions) > asked
        ada = fleet.fleet.nodes["a"]
        assert (5_000, 0) == (ada.committed_mb, ada.missing_mb)


class EngineEndTests(AgentPollTestCase):
    def test_an_engine_that_dies_while_idle(self) -> None:
        """The node is down within a second, with the agent's reason, and up once it answers."""
        node = self.node("a")
        node.faults.fatal_down_seconds = 2.0
        fleet, _ = self.started(node)
        fleet.close_idle()
        fleet.advance(5.5)
        node.die()
        fleet.advance(1)
        assert DOWN is self.health(fleet)
        assert (
            "its engine has ended: the engine was killed by signal 9"
            == fleet.fleet.nodes["a"].reason
        )
        fleet.advance(2.1)

        # The agent sees it at 8 s, and the next poll would have been at 10 s.
        assert UP is self.health(fleet)
        assert 1 == fleet.fleet.nodes["a"].restarts

    def test_a_load(self) -> None:
        """A load that runs there ends at once as for any node that is lost."""
        node = self.node("a", MODEL, cold())
        node.faults.fatal_down_seconds = 1_000.0
        fleet, _ = self.started(node)
        fleet.dispatcher.dispatch(LoadWanted(COLD))
        fleet.advance(5)
        node.process, process = None, node.running_process  # its connections stay open
        fleet.advance(1)
        (end,) = self.ends
        assert isinstance(end, LoadFailed)
        self.assert_at_rest(fleet)
        node.process = process
        fleet.advance(1.1)

        assert UP is self.health(fleet)

    def test_an_agent_that_is_wrong(self) -> None:
        """An agent that says that the engine has ended loses its node for one poll only."""
        node = self.node("a")
        fleet, agent = self.started(node)
        fleet.advance(6)
        agent.life = EngineLife.ENDED
        fleet.advance(2)
        assert UP is self.health(fleet)
        agent.life = EngineLife.GIVEN_UP
        fleet.advance(2)
        assert UP is self.health(fleet)
        assert 1 == len(fleet.events("node_down"))

    def test_an_agent_that_flaps(self) -> None:
        """A node that does not answer polls stays down, whatever its agent says."""
        node = self.node("a")
        fleet, agent = self.started(node, down_after=1)
        fleet.advance(6)
        node.faults.hang = True
        agent.life = EngineLife.ANSWERS
        fleet.advance(9)
        assert DOWN is self.health(fleet)
        for life in (EngineLife.ENDED, EngineLife.ANSWERS) * 3:
            agent.life = life
            fleet.advance(1)
            assert DOWN is self.health(fleet)

    def test_silence(self) -> None:
        """Polls decide, and the reason has what the agent knows."""
        node = self.node("a")
        fleet, _ = self.started(node, down_after=1)
        fleet.advance(6)
        node.faults.hang = True
        fleet.advance(3)
        assert UP is self.health(fleet)
        fleet.advance(3)

        assert DOWN is self.health(fleet)
        assert (
            "no answer within 2 s; its agent sees that the engine runs and does not answer: "
            "its health does not answer"
        ) == fleet.fleet.nodes["a"].reason
