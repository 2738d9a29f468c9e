"""What clients of the control socket see of an engine's log."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.protocols import amp

from cortexd.control.agent_commands import MoreLog, ReadLog
from cortexd.control.contract import Refused, UnknownNode
from cortexd.control.engine_logs import (
    ANSWER_BYTES,
    LONGEST_WAIT_SECONDS,
    MOST_BYTES,
    Backlog,
)
from cortexd.fleet.agents import AgentAbilities
from cortexd.link.connected import AgentFailed
from cortexd.link.limits import MAX_LINE, last_lines
from tests.doubles.scripted_agent import ScriptedAgent
from tests.support.control import ControlTestCase, send

LINES = st.lists(st.text(max_size=20) | st.just("\x00" * 2 * MAX_LINE), max_size=12)


class LogTestCase(ControlTestCase):
    """The agent of node "large" has three lines, and a client stays connected."""

    def setUp(self) -> None:
        """Connect the agent and the client."""
        super().setUp()
        self.agent = ScriptedAgent("large")
        self.agent.log = ["one", "two", "three"]
        self.factory.agents.add(self.agent)
        self.client, self.server, self.pump = self.connect()

    def demand(self, command: type[amp.Command], **arguments: Any) -> Deferred[Any]:
        """Send a command on the client's connection."""
        answered = send(self.client, command, **arguments)
        self.pump.flush()
        return answered

    def follow(self) -> list[str]:
        """Begin to follow the log, and return its last two lines."""
        answer = self.successResultOf(self.demand(ReadLog, node="large", lines=2, follow=True))
        lines: list[str] = answer["lines"]
        return lines

    def more(self, seconds: float = 5.0) -> Deferred[Any]:
        """Ask for further lines."""
        return self.demand(MoreLog, seconds=seconds)


class ReadLogTests(LogTestCase):
    def test_the_last_lines(self) -> None:
        """They come from the agent, and nothing is followed."""
        assert ["two", "three"] == self.ask(ReadLog, node="large", lines=2)["lines"]
        assert [True] == [stream.is_closed for stream in self.agent.streams]
        assert [] == self.audits

    def test_no_agent(self) -> None:
        """A node without one is refused in words, and so is a node that does not exist."""
        words = self.refusal(Refused, ReadLog, node="small", lines=2)
        assert words.startswith("node small has no agent that is connected; 'cortexctl agents'")
        self.refusal(UnknownNode, ReadLog, node="none", lines=2)

    def test_an_agent_that_has_no_log(self) -> None:
        """The refusal says which key of the agent's configuration is missing."""
        self.agent.abilities = AgentAbilities(version="1.2.3", can_restart=True)
        words = self.refusal(Refused, ReadLog, node="large", lines=2)
        assert "set `log` in the [engine] table" in words

    def test_an_agent_that_fails(self) -> None:
        """Its words reach the client."""
        self.agent.failure = AgentFailed("journalctl: not found")
        words = self.refusal(Refused, ReadLog, node="large", lines=2)
        assert "the log of node large cannot be read: journalctl: not found" == words


class FollowTests(LogTestCase):
    def test_further_lines(self) -> None:
        """Each answer has those since the last one, at once where there are some."""
        assert ["two", "three"] == self.follow()
        [stream] = self.agent.streams
        stream.write("four")
        stream.write("five", "six")
        assert ["four", "five", "six"] == self.successResultOf(self.more())["lines"]

        waiting = self.more()
        self.assertNoResult(waiting)
        stream.write("seven")
        self.pump.flush()
        assert {"lines": ["seven"], "dropped": 0} == self.successResultOf(waiting)
        assert not stream.is_closed
        assert [] == self.audits

    def test_no_further_line(self) -> None:
        """The wait ends after the client's time, or after the longest one."""
        self.follow()
        for seconds, waits in ((5.0, 5.0), (1e9, LONGEST_WAIT_SECONDS), (-1.0, 0.0)):
            waiting = self.more(seconds)
            self.clock.advance(waits)
            self.pump.flush()
            assert {"lines": [], "dropped": 0} == self.successResultOf(waiting)

    def test_a_client_that_leaves(self) -> None:
        """The agent need send nothing more, and no timer is left."""
        self.follow()
        waiting = self.more()
        self.server.transport.loseConnection()
        self.pump.flush()
        assert self.agent.streams[0].is_closed
        assert [] == self.clock.getDelayedCalls()
        self.failureResultOf(waiting)

    def test_an_agent_that_leaves(self) -> None:
        """The client gets what has come, and then hears that there is no more."""
        self.follow()
        self.agent.streams[0].write("four")
        self.factory.agents.remove(self.agent)
        assert ["four"] == self.successResultOf(self.more())["lines"]
        error = self.failureResultOf(self.more(), Refused)
        assert "the agent of node large is not connected any more" == str(error.value)
        assert self.agent.streams[0].is_closed
        self.failureResultOf(self.more(), Refused)

    def test_another_log(self) -> None:
        """It takes the place of the one before."""
        self.follow()
        self.follow()
        assert [True, False] == [stream.is_closed for stream in self.agent.streams]

    def test_nothing_to_follow(self) -> None:
        """A client that follows no log is refused."""
        self.failureResultOf(self.more(), Refused)


class BacklogTests(ControlTestCase):
    @given(st.lists(LINES, max_size=8), st.data())
    def test_lines_in_order(self, batches: list[list[str]], data: st.DataObject) -> None:
        """Lines come once and in order, cut and without those that did not fit; memory is bound."""
        backlog, taken, fetched = Backlog(), [], []
        for lines in batches:
            backlog.take(lines)
            taken += [line[:MAX_LINE] for line in lines]
            if data.draw(st.booleans()):
                answer = backlog.fetch()
                assert len(msgspec.json.encode(answer)) <= amp.MAX_VALUE_LENGTH
                fetched += answer
        while answer := backlog.fetch():
            fetched += answer
        assert len(taken) == len(fetched) + backlog.dropped
        if not backlog.dropped:
            assert taken == fetched

    def test_a_slow_client(self) -> None:
        """It loses the oldest lines, and hears how many."""
        backlog = Backlog()
        lines = [f"{number:05} {'x' * 994}" for number in range(1_000)]
        backlog.take(lines)
        kept = MOST_BYTES // 1_003
        assert (kept, 1_000 - kept) == (len(backlog), backlog.dropped)
        assert lines[-kept] == backlog.fetch()[0]

    def test_last_lines_that_do_not_fit(self) -> None:
        """The newest ones are kept."""
        lines = [f"{number:05} {'x' * 994}" for number in range(100)]
        found = last_lines(lines, ANSWER_BYTES)
        assert lines[-len(found) :] == found
        assert 65 == len(found)
        assert ["y" * MAX_LINE] == last_lines(["y" * 2 * MAX_LINE], ANSWER_BYTES)
