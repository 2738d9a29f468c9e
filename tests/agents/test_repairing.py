from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agents.repairing import GRACE_SECONDS, LOOK_SECONDS, End, Repairing
from cortexd.fleet.states import NodeRemoved
from cortexd.link.connected import AgentFailed, AgentGone, Agents
from cortexd.scheduling.repairs.events import RestartDone, RestartEnded, RestartFailed, StartRestart
from tests.doubles.scripted_agent import Order, ScriptedAgent
from tests.logs.noting import lines_of

LIMIT = 900.0
REASON = "unloads did not free 400 MiB"


class RepairingTests(SynchronousTestCase):
    """The scheduler's orders go in, and the ends of restarts come out in ``ends``."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.agents = Agents()
        self.ends: list[End] = []
        self.repairing = Repairing(self.ends.append, self.agents, self.clock, "b7", LIMIT)
        self.repairing.startService()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        if self.repairing.running:
            self.repairing.stopService()
        assert [] == self.clock.getDelayedCalls()

    def join(self) -> ScriptedAgent:
        """Let the agent of node "a" connect."""
        agent = ScriptedAgent("a")
        self.agents.add(agent)
        return agent

    def order(self, number: int = 7) -> None:
        """Let the scheduler order a restart of node "a"."""
        self.repairing.carry_out(StartRestart("a", number, REASON))

    def lose(self, agent: ScriptedAgent) -> None:
        """End the link of an agent that has been asked."""
        self.agents.remove(agent)
        agent.orders[-1].answer.errback(AgentGone("connection lost"))

    def test_a_restart(self) -> None:
        """The agent gets the order with the whole limit, and its seconds come back."""
        agent = self.join()
        self.order()
        assert [("b7-7", REASON, LIMIT)] == [sent(each) for each in agent.orders]
        assert [] == self.ends

        agent.orders[0].answer.callback(12.5)
        assert [RestartDone("a", 7, 12.5)] == self.ends

    def test_the_same_number_twice(self) -> None:
        """It is one restart while it runs; another number takes its place."""
        agent = self.join()
        self.order()
        self.order()
        assert 1 == len(agent.orders)

        self.order(8)
        assert ["b7-7", "b7-8"] == [each.order for each in agent.orders]
        agent.orders[1].answer.callback(1.0)
        assert [RestartDone("a", 8, 1.0)] == self.ends

    def test_an_agent_that_fails(self) -> None:
        """Its words are those of the failure."""
        agent = self.join()
        self.order()
        agent.orders[0].answer.errback(AgentFailed("systemctl: exit status 1"))
        assert [RestartFailed("a", 7, "systemctl: exit status 1")] == self.ends

    def test_a_link_that_ends(self) -> None:
        """The agent gets the same order when it is back, with what is left of the limit."""
        agent = self.join()
        self.order()
        self.clock.advance(100.0)
        self.lose(agent)
        self.clock.advance(LOOK_SECONDS)
        assert [] == self.ends
        again = self.join()
        self.clock.advance(LOOK_SECONDS)

        assert [("b7-7", REASON, LIMIT - 102.0)] == [sent(each) for each in again.orders]
        again.orders[0].answer.callback(103.0)
        assert [RestartDone("a", 7, 103.0)] == self.ends

    def test_a_link_that_flaps(self) -> None:
        """The log has the order, and the end of its link, once."""
        lines = lines_of(self, "restart_ordered", "restart_unheard")
        agent = self.join()
        self.order()
        for _ in range(3):
            self.lose(agent)
            agent = self.join()
            self.clock.advance(LOOK_SECONDS)
        assert 1 == len(agent.orders)
        assert ["restart_ordered", "restart_unheard"] == [line["event"] for line in lines]

    def test_an_agent_that_stays_away(self) -> None:
        """The restart fails at the end of its limit, and says how the link ended."""
        agent = self.join()
        self.order()
        self.lose(agent)
        self.clock.pump([LOOK_SECONDS] * int(LIMIT))
        words = (
            "the link to its agent ended (connection lost), and the agent has not come back "
            "within 900 s"
        )
        assert [RestartFailed("a", 7, words)] == self.ends

    def test_no_agent(self) -> None:
        """A node whose agent left before the order waits for it, and then fails in words."""
        self.repairing.restart_timeout = 3.0
        self.order()
        self.clock.pump([1.0] * 3)
        words = "node a has no agent that could restart its engine within 3 s"
        assert [RestartFailed("a", 7, words)] == self.ends

    def test_an_agent_that_never_answers(self) -> None:
        """The limit ends the wait, also where the link itself does not."""
        self.join()
        self.order()
        self.clock.advance(LIMIT + GRACE_SECONDS)
        assert [RestartFailed("a", 7, "its agent has not answered within 900 s")] == self.ends

    def test_a_mistake(self) -> None:
        """It fails the restart, so that the node does not stay closed, and the log has it."""
        agent = self.join()
        self.order()
        agent.orders[0].answer.errback(KeyError("seconds"))
        assert [RestartFailed("a", 7, "internal error; see the log")] == self.ends
        assert 1 == len(self.flushLoggedErrors(KeyError))

    def test_a_node_that_leaves(self) -> None:
        """Its restart is no longer awaited, and nothing is reported of it."""
        agent = self.join()
        self.repairing.carry_out(RestartEnded("a", 6, "", 1.0))
        self.order()
        self.repairing.carry_out(NodeRemoved("a"))
        assert [] == self.ends
        assert {} == self.repairing.ended
        assert agent.orders[0].is_cancelled

    def test_a_stop(self) -> None:
        """A service that stops awaits nothing more, also while it looks for an agent."""
        agent = self.join()
        self.order()
        self.repairing.carry_out(StartRestart("b", 8, REASON))
        self.repairing.stopService()
        assert ([], []) == (self.ends, self.clock.getDelayedCalls())
        assert agent.orders[0].is_cancelled

        self.order(9)
        assert 1 == len(agent.orders)

    def test_what_is_over(self) -> None:
        """The last planned restart of each node is remembered."""
        ended = RestartEnded("a", 7, "", 40.0, ("org/chat",))
        self.repairing.carry_out(RestartEnded("a", 6, "it failed", 1.0))
        self.repairing.carry_out(ended)
        assert {"a": ended} == self.repairing.ended


def sent(order: Order) -> tuple[str, str, float]:
    """Return what an order says."""
    return order.order, order.reason, order.limit
