"""`cortexctl restart`, `defrag`, `plan restart`, `logs` and `agents`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from cortexd.agents.repairing import Repairing
from cortexd.control.summaries import RestartPlanSummary, RestartSummary
from cortexd.ctl.commands import SUBCOMMANDS
from cortexd.ctl.main import make_parser
from cortexd.ctl.restarting import plan_text, restart_words
from cortexd.fleet.states import Observation
from cortexd.link.connected import AgentFailed
from cortexd.scheduling.events import Observed
from cortexd.scheduling.repairs.events import AgentJoined
from tests.ctl.test_commands import LOADED, UNLOADED, CommandTestCase
from tests.doubles.scripted_agent import ScriptedAgent

BOOTED = {"org/old": LOADED, "org/chat": LOADED, "org/new": UNLOADED}
PLAN = {
    "node": "large",
    "reason": "",
    "leases": 0,
    "moving": "",
    "after": [],
    "begun": 0,
    "budget": 4,
    "models": ["org/old", "org/chat"],
    "pins": [],
    "alone": ["org/chat"],
    "planned": "",
}


class RestartTestCase(CommandTestCase):
    """The fleet of the commands, with an agent on node "large" that can restart its engine."""

    def setUp(self) -> None:
        """Connect the agent, and let its orders reach it."""
        super().setUp()
        self.agent = ScriptedAgent("large")
        self.factory.agents.add(self.agent)
        self.given.tell(AgentJoined("large", self.agent.abilities))
        repairing = Repairing(self.given.tell, self.factory.agents, self.clock, "b7", 900.0)
        self.given.dispatcher.listen(repairing.carry_out)
        repairing.startService()
        self.addCleanup(repairing.stopService)
        self.factory.ended = repairing.ended

    def boot(self) -> None:
        """Let the agent report the end of the restart, and a poll find the new process."""
        self.agent.orders[-1].answer.callback(5.0)
        observation = Observation(901, BOOTED)
        self.given.tell(Observed("large", observation, self.clock.seconds()))


class RestartTests(RestartTestCase):
    def test_idle(self) -> None:
        """Progress is shown until what was loaded is back, and then the end."""
        waiting = self.begin("restart large")
        assert [
            "restarting the engine of large; loaded afterwards: org/old, org/chat\n",
            "large is being restarted by its agent\n",
        ] == self.texts()
        self.boot()
        self.pass_second()
        done = self.successResultOf(waiting)
        assert "large is restarted; it took no work for 0s; loaded: org/old, org/chat\n" == (
            done.text
        )
        assert (PLAN, ["org/old", "org/chat"]) == (done.data["plan"], done.data["ended"]["models"])
        assert [("restart", "large")] == [(each["command"], each["node"]) for each in self.audits]

    def test_requests_end_first(self) -> None:
        """It is told how many are left; the agent gets its order once there are none."""
        lease = self.successResultOf(self.given.begin("org/chat", "request-1")).lease
        waiting = self.begin("defrag large")
        assert [
            "restarting the engine of large after 1 request on it has ended; "
            "loaded afterwards: org/old, org/chat\n",
            "large gets no new work until its restart: 1 request left\n",
        ] == self.texts()
        assert [] == self.agent.orders
        self.given.dispatcher.release(lease)
        self.pass_second()
        assert ["large is being restarted by its agent\n"] == self.texts()
        self.boot()
        self.pass_second()
        self.successResultOf(waiting)
        assert "defrag" == self.audits[0]["command"]

    def test_without_waiting(self) -> None:
        """The command ends at once, and the restart goes on."""
        text, data = self.done("restart large --cold --no-wait")
        assert "restarting the engine of large; loaded afterwards: nothing\n" == text
        assert {"plan": PLAN} == data
        assert 1 == len(self.agent.orders)

    def test_a_failure(self) -> None:
        """The agent's words reach the operator, and the command is refused."""
        waiting = self.begin("restart large")
        self.agent.orders[0].answer.errback(AgentFailed("systemctl: exit status 1"))
        self.pass_second()
        error = self.failureResultOf(waiting).value
        assert "the restart of large failed: systemctl: exit status 1" == str(error)

    def test_what_cannot_be_restarted(self) -> None:
        """A node without an agent is refused in words, by the command and by its plan."""
        for line in ("restart small", "defrag small", "plan restart small"):
            assert "node small has no agent" in self.refused(line), line
        assert [] == self.audits

    def test_the_words_of_each_phase(self) -> None:
        """A phase that this cortexctl does not know is named."""
        words = {
            "due": "is to be restarted, and waits: 2 requests run there",
            "draining": "gets no new work until its restart: 2 requests left",
            "restarting": "is being restarted by its agent",
            "trimming": "has restarted, and unloads what should not stay loaded",
            "loading": "takes work again, and loads what is missing",
            "sleeping": "is in its restart: sleeping",
        }
        for phase, expected in words.items():
            restart = RestartSummary(
                number=7,
                phase=phase,
                reason="leak",
                age_seconds=1.0,
                waits_for="2 requests run there",
                leases=2,
            )
            assert expected == restart_words(restart)


class PlanTests(RestartTestCase):
    def test_plan(self) -> None:
        """It shows what a restart would do, and does nothing."""
        for word in ("restart", "defrag"):
            done = self.answer(f"plan {word} large")
            assert (
                "the engine of large would be restarted; it does not need that by itself\n"
                "afterwards it has org/old, org/chat; with --cold nothing\n"
                "no other node has org/chat loaded: their requests would wait, or load them "
                "elsewhere\n"
                "large had 0 restarts in the last hour, and may have 4 without an operator\n"
            ) == done.text
            assert {"plan": PLAN} == done.data
        assert ([], []) == (self.agent.orders, self.audits)

    def test_all_that_a_plan_may_say(self) -> None:
        """Each fact has a line of its own."""
        plan = RestartPlanSummary(
            node="a",
            reason="unloads did not free 400 MiB",
            leases=2,
            moving="org/new",
            after=["b", "c"],
            begun=1,
            budget=4,
            models=["org/chat"],
            pins=["org/chat"],
            alone=[],
            planned="due",
        )
        assert (
            "the engine of a would be restarted; it needs that: unloads did not free 400 MiB\n"
            "a restart is planned there already (due)\n"
            "it waits until the restart of b, c is over\n"
            "2 requests on it would end first; --now would abort them\n"
            "org/new is being loaded or unloaded there, which would end first\n"
            "afterwards it has org/chat; with --cold org/chat\n"
            "a had 1 restart in the last hour, and may have 4 without an operator\n"
        ) == plan_text(plan)

    def test_wrong_usage(self) -> None:
        """A plan of a restart takes a node, and not as an option."""
        problem = SUBCOMMANDS["plan"].problem
        for line, is_wrong in (
            ("plan restart", True),
            ("plan defrag", True),
            ("plan restart --node large", True),
            ("plan restart large", False),
            ("plan defrag large", False),
        ):
            found = problem(make_parser().parse_args(line.split()))
            assert is_wrong == (found is not None), line


class StatusTests(RestartTestCase):
    def test_a_restart_under_way(self) -> None:
        """The status says what is closed, what it waits for, and why."""
        self.successResultOf(self.given.begin("org/chat", "request-1"))
        self.done("restart large --no-wait")
        text = SUBCOMMANDS["status"].text(self.answer("status"), 1100.0)
        assert "up, closed" in text
        assert "large gets no new work until its restart: 1 request left; because " in text
        assert "large takes no work for now" not in text
        nodes = SUBCOMMANDS["nodes"].data(self.answer("nodes"))["nodes"]
        assert ("1.2.3", "draining") == (nodes[0]["agent"], nodes[0]["restart"]["phase"])
        assert (None, None) == (nodes[1]["agent"], nodes[1]["restart"])


class LogsTests(RestartTestCase):
    def test_the_last_lines(self) -> None:
        """Each is shown in one line, without control characters."""
        self.agent.log = ["one", "two\x1b[2J", "three"]
        text, data = self.done("logs large -n 2")
        assert "two\\x1b[2J\nthree\n" == text
        assert {"node": "large", "lines": ["two\x1b[2J", "three"]} == data

    def test_follow(self) -> None:
        """Further lines are shown as they come, until the operator ends it."""
        self.agent.log = ["one"]
        following = self.begin("logs large -f")
        assert ["one\n"] == self.texts()
        self.agent.streams[0].write("two", "three")
        self.pass_second()
        assert ["two\n", "three\n"] == self.texts()
        for _ in range(12):
            self.pass_second()
        self.agent.streams[0].write("four")
        self.pass_second()
        assert ["four\n"] == self.texts()
        following.cancel()
        self.failureResultOf(following, CancelledError)

    def test_lines_that_were_lost(self) -> None:
        """It is said how many came too fast."""
        following = self.begin("logs large -f")
        self.agent.streams[0].write(*("x" * 4000 for _ in range(100)))
        for _ in range(3):
            self.pass_second()
        texts = self.texts()
        [lost] = [text for text in texts if "lost" in text]
        assert f"({100 - (len(texts) - 1)} lines were lost: they came too fast)\n" == lost
        following.cancel()
        self.failureResultOf(following, CancelledError)


class AgentsTests(RestartTestCase):
    def test_agents(self) -> None:
        """Each node is shown, with its agent or without."""
        agents = self.answer("agents")
        large, small = SUBCOMMANDS["agents"].text(agents, 0.0).splitlines()[1:]
        assert ["large", "1.2.3", "10.0.0.9:41000"] == large.split()[:3]
        assert large.endswith("restart, log")
        assert ["small", "no", "agent", "-"] == small.split()[:4]
        assert [True, False] == [
            each["connected"] for each in SUBCOMMANDS["agents"].data(agents)["agents"]
        ]
