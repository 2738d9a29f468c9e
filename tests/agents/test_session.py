"""What a link carries once its agent is admitted: reports, commands, logs, and its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.protocols import amp

from cortexd.agents.session import ANSWER_SECONDS, REPORT_GAP, Session
from cortexd.fleet.agents import AgentReport, Device, EngineLife
from cortexd.link.connected import AgentFailed, AgentGone
from cortexd.link.contract import DEAD_SECONDS, Report
from cortexd.link.end import LinkEnd
from cortexd.link.identities import Identity
from cortexd.scheduling.repairs.events import AgentJoined, AgentLeft, AgentReported
from tests.agents.links import REPORT, Doing, LinkTestCase
from tests.logs.noting import lines_of


class SessionTestCase(LinkTestCase):
    def setUp(self) -> None:
        """Join the agent of a node."""
        super().setUp()
        self.be_plain()
        self.doing = Doing()
        self.dialler = self.dial(Identity("a"), self.doing)

    @property
    def agent(self) -> Session:
        """The agent, as the gateway knows it."""
        found = self.agents.on("a")
        assert isinstance(found, Session)
        return found

    @property
    def end(self) -> LinkEnd:
        """The agent's end of the link."""
        assert self.dialler._link is not None
        return self.dialler._link

    def reports(self) -> list[AgentReport]:
        """Return what was dispatched."""
        return [event.report for event in self.events if isinstance(event, AgentReported)]


def other(free_mb: int) -> AgentReport:
    """Return a report with another amount of free memory."""
    return dataclasses.replace(REPORT, memory_free_mb=free_mb)


class ReportTests(SessionTestCase):
    def test_a_report(self) -> None:
        """It is dispatched as it was sent, at once."""
        report = AgentReport(
            life=EngineLife.SILENT,
            reason="starts",
            devices=(Device(name="H100", total_mb=80_000, free_mb=9, others_mb=3),),
            notes=("no NVML",),
        )
        self.dialler.report(report)
        self.network.flush()

        assert [report] == self.reports()

    def test_the_newest_of_several(self) -> None:
        """While a report is on its way, further ones replace each other."""
        for free_mb in range(10):
            self.dialler.report(other(free_mb))
        self.network.flush()
        self.network.advance(REPORT_GAP)

        assert [0, 9] == [report.memory_free_mb for report in self.reports()]

    def test_a_flood(self) -> None:
        """However many reports come, one event in 100 ms is the most, and the last one counts."""
        for free_mb in range(150):
            self.end.ask(Report, report=other(free_mb)).addErrback(lambda failure: None)
        self.network.flush()
        assert [0] == [report.memory_free_mb for report in self.reports()]
        self.network.advance(REPORT_GAP)

        assert [0, 149] == [report.memory_free_mb for report in self.reports()]

    def test_nonsense(self) -> None:
        """A report with an amount that cannot be is refused, and harms nothing."""
        for wrong in (
            other(-1),
            other(1001),
            dataclasses.replace(REPORT, others_mb=2**40),
            dataclasses.replace(REPORT, devices=(Device(name="x", total_mb=1, free_mb=2),)),
        ):
            found = self.result(self.end.ask(Report, report=wrong))
            assert isinstance(found, amp.UnknownRemoteError), found
        assert [] == self.reports()
        assert self.agent.is_open

    def test_texts(self) -> None:
        """Texts of an agent become one short line each."""
        self.dialler.report(
            AgentReport(life=EngineLife.ENDED, reason="a\nb" + "x" * 900, notes=("\x1b[2J",) * 99)
        )
        self.network.flush()
        (report,) = self.reports()

        assert report.reason.startswith("a\\nbxxx")
        assert 300 == len(report.reason)
        assert ("\\x1b[2J",) * 16 == report.notes

    def test_after_a_break(self) -> None:
        """The newest report goes over each new link again."""
        self.dialler.report(other(1))
        self.dialler.report(other(2))
        self.network.flush()
        self.network.advance(1)
        self.agent.drop("enough")
        self.network.flush()
        self.dialler.report(other(3))
        self.network.advance(2)

        assert [1, 2, 3] == [report.memory_free_mb for report in self.reports()]
        kinds = [type(event) for event in self.events]
        assert [AgentJoined, AgentLeft, AgentJoined] == [
            kind for kind in kinds if kind is not AgentReported
        ]


class CommandTests(SessionTestCase):
    def test_memory(self) -> None:
        """The agent looks when it is asked."""
        self.doing.memory = other(7)

        assert other(7) == self.result(self.agent.read_memory(5.0))

    def test_restart(self) -> None:
        """The agent gets order, reason and limit, and answers how long it took."""
        assert 4.5 == self.result(self.agent.restart("b-1", "leaked\n" + "x" * 999, 60.0))
        ((order, reason, limit),) = self.doing.asked
        assert ("b-1", 300, 60.0) == (order, len(reason), limit)
        assert reason.isprintable()

    def test_failures(self) -> None:
        """What the agent cannot do is said in its own words, on one line."""
        self.doing.seconds = "it did\nnot start"
        found = self.result(self.agent.restart("b-1", "", 60.0))

        assert isinstance(found, AgentFailed)
        assert "it did\\nnot start" == str(found)

    def test_nonsense_in_answers(self) -> None:
        """An answer that cannot be is a failure of the agent."""
        self.doing.memory, self.doing.seconds = other(-1), float("nan")
        found = [
            self.result(self.agent.read_memory(5.0)),
            self.result(self.agent.restart("b-1", "", 60.0)),
        ]

        assert all(isinstance(each, AgentFailed) for each in found), found
        assert "memory_free_mb is -1" in str(found[0])

    def test_limits(self) -> None:
        """No answer takes longer than its limit; that of a restart has some seconds more."""
        self.doing.memory = self.doing.seconds = None
        failures: list[Any] = []
        self.agent.read_memory(5.0).addErrback(failures.append)
        self.agent.restart("b-1", "", 5.0).addErrback(failures.append)
        self.network.advance(5)
        assert 1 == len(failures)
        self.network.advance(ANSWER_SECONDS)

        assert 2 == len(failures)
        assert all(failure.check(AgentFailed) for failure in failures)
        assert "within 5 s" in failures[0].getErrorMessage()
        assert self.agent.is_open

    def test_a_late_answer(self) -> None:
        """An answer after the limit, or after a cancellation, harms nothing."""
        self.doing.memory = self.doing.seconds = None
        waits: list[Any] = [self.agent.read_memory(1.0), self.agent.restart("b-1", "", 60.0)]
        found = [self.failure(wait) for wait in waits]
        self.network.flush()
        waits[1].cancel()
        self.network.advance(1)
        for running in list(self.end._running):  # type: ignore[attr-defined] # of an agent's end
            running.callback(2.0)
        self.network.flush()

        assert [AgentFailed, CancelledError] == [type(errors[0]) for errors in found]
        assert self.agent.is_open

    def failure(self, deferred: Any) -> list[Any]:
        """Return a list that gets the error."""
        found: list[Any] = []
        deferred.addErrback(lambda failure: found.append(failure.value))
        return found

    def test_suspend(self) -> None:
        """The agent answers before its machine sleeps."""
        assert self.result(self.agent.suspend("b-2", 5.0)) is None
        assert ["b-2"] == self.doing.asked

    def test_an_older_agent(self) -> None:
        """A command that the agent does not know is a failure that names its version."""
        self.end._by_name = {}  # type: ignore[misc] # as an older agent
        found = self.result(self.agent.suspend("b-2", 5.0))

        assert isinstance(found, AgentFailed)
        assert "an agent of cortexd 1.2 cannot do that" == str(found)
        assert self.agent.is_open

    def test_the_link_ends_first(self) -> None:
        """Whoever waits hears how the link ended, and so does everyone who asks later."""
        self.doing.memory = None
        agent = self.agent
        failures = self.failure(agent.read_memory(5.0))
        self.network.flush()
        agent.drop("enough")
        later = self.failure(agent.read_memory(5.0))
        self.network.flush()

        assert [AgentGone, AgentGone] == [type(each) for each in failures + later]
        assert "the link to the agent has ended: enough" == str(failures[0])
        assert 1 == self.doing.cancelled


class LogTests(SessionTestCase):
    def test_the_last_lines(self) -> None:
        """They come with the answer, without what a terminal would obey."""
        self.doing.lines = ["one", "t\two", "\x1b[31mred"]
        stream = self.result(self.agent.tail(10, None, 5.0))

        assert ["one", "t\two", "\\x1b[31mred"] == stream.last
        assert [(1, 10)] == self.doing.asked
        stream.close()
        self.network.flush()
        assert [] == self.doing.ended_streams  # nothing was followed

    def test_further_lines(self) -> None:
        """They come until the stream is closed; then the agent hears of it."""
        taken: list[Sequence[str]] = []
        stream = self.result(self.agent.tail(2, taken.append, 5.0))
        take = self.doing.takes[1]
        assert take is not None
        self.result(take(["three"]))
        self.result(take(["x" * 4096] * 40))
        assert ["three"] == taken[0]
        assert 40 == sum(map(len, taken[1:]))
        stream.close()
        self.network.flush()

        assert [1] == self.doing.ended_streams
        assert isinstance(self.result(take(["four"])), amp.UnknownRemoteError)
        assert 41 == sum(map(len, taken))

    def test_a_failure_ends_the_stream(self) -> None:
        """An agent without a log says so, and nothing more is taken of it."""
        self.doing.lines = "no log"  # a failure
        found = self.result(self.agent.tail(2, lambda lines: None, 5.0))

        assert isinstance(found, AgentFailed)
        assert {} == self.agent._streams

    def test_the_link_ends(self) -> None:
        """All streams end with the link."""
        self.result(self.agent.tail(2, lambda lines: None, 5.0))
        take = self.doing.takes[1]
        assert take is not None
        self.agent.drop("enough")
        self.network.flush()

        assert [None] == self.doing.ended_streams
        assert isinstance(self.result(take(["four"])), Exception)


class EndTests(SessionTestCase):
    def test_a_newer_link(self) -> None:
        """A second link of the same node replaces the first one, which comes back only slowly."""
        before, doing = self.agent, Doing()
        second = self.dial(Identity("a"), doing)

        assert self.agent is not before
        assert not before.is_open
        assert second.is_connected
        assert not self.dialler.is_connected
        assert [AgentJoined, AgentJoined] == [type(event) for event in self.events]
        self.dialler.stopService()
        second.report(other(5))
        self.network.advance(1)
        assert [other(5)] == self.reports()

    def test_two_agents_of_one_node(self) -> None:
        """Two that fight for a node do so more and more rarely."""
        self.dial(Identity("a"))
        self.network.advance(600)

        assert len(self.events) < 60

    def test_a_link_that_flaps(self) -> None:
        """The log says once a minute that an agent has joined, and that it has left."""
        lines = lines_of(self, "agent_joined", "agent_left")

        def flap() -> list[str]:
            self.dialler.stopService()
            self.network.advance(1)
            self.dialler = self.dial(Identity("a"))
            found = [line["event"] for line in lines]
            lines.clear()
            return found

        assert ["agent_left"] == flap()  # it joined just before
        assert [] == flap()
        self.network.advance(60)
        assert ["agent_left", "agent_joined"] == flap()

    def test_its_node_leaves(self) -> None:
        """The agent of a node that leaves the configuration is dropped, and not admitted again."""
        self.nodes.remove("a")
        self.site.review()
        self.network.advance(5)

        assert AgentLeft("a", "the gateway's configuration has no node 'a'") == self.events[-1]
        assert "no node 'a'" in self.dialler.reason

    def test_silence(self) -> None:
        """A link that carries nothing any more ends on both sides, and is made again later."""
        self.cut()
        self.network.advance(DEAD_SECONDS)

        assert AgentLeft("a", "silent for 25 s") == self.events[-1]
        assert "silent for 25 s" == self.dialler.reason

    def cut(self) -> None:
        """Let no byte pass on the connections of now."""
        for end in self.network.ends:
            end.__dict__["turn"] = lambda: False

    def test_a_cut_of_a_minute(self) -> None:
        """Both ends notice, the agent tries again and again, and joins when it can."""
        self.dialler.report(other(3))
        self.network.flush()
        self.cut()
        self.network.black_holes.add(9443)
        self.network.advance(60)
        assert isinstance(self.events[-1], AgentLeft)
        assert not self.dialler.is_connected
        for end in self.network.ends:
            end.__dict__.pop("turn", None)
        self.network.black_holes.clear()
        self.network.advance(60)

        joined = AgentJoined("a", self.doing.abilities)
        assert [joined, AgentReported("a", other(3))] == self.events[-2:]

    def test_the_gateway_stops(self) -> None:
        """It closes its links in order, and agents try again."""
        stopping = self.site.stop("the gateway stops")
        self.network.flush()

        assert stopping.called
        assert AgentLeft("a", "the gateway stops") == self.events[-1]
        assert "the other side has closed it" == self.dialler.reason
        self.network.advance(2)
        assert self.dialler.is_connected

    def test_the_agent_stops(self) -> None:
        """It closes its link in order, and does not come back."""
        stopping = self.dialler.stopService()
        self.network.flush()
        assert stopping.called
        self.network.advance(300)

        assert AgentLeft("a", "the other side has closed it") == self.events[-1]
        assert [] == self.clock.getDelayedCalls()

    def test_stop_while_dialling(self) -> None:
        """An agent can stop at any moment of its greeting, or between two attempts."""
        for seconds in (0.0, 3.0, 11.0):
            self.network.ports.pop(9443, None)
            self.network.black_holes.add(9443)
            dialler = self.dial(Identity("b"))
            self.network.advance(seconds)
            stopping = dialler.stopService()
            self.network.flush()

            assert stopping.called, seconds

    def test_another_address(self) -> None:
        """A new identity or address counts from the next link on, which may begin now."""
        self.dialler.identity = Identity("b")
        self.dialler.redial()
        self.network.advance(2)

        assert self.agents.on("a") is None
        assert self.agents.on("b") is not None

    def test_another_address_between_attempts(self) -> None:
        """A new identity does not wait for the attempt after those that have failed."""
        dialler = self.dial(Identity("unknown"))
        self.network.advance(200)
        dialler.identity = Identity("b")
        dialler.redial()
        self.network.flush()

        assert dialler.is_connected
        assert self.agents.on("b") is not None

    def test_another_address_during_an_attempt(self) -> None:
        """An attempt that goes on is given up, and an agent can stop right then."""
        self.network.ports.pop(9443, None)
        self.network.black_holes.add(9443)
        dialler = self.dial(Identity("b"))
        dialler.redial()
        dialler.redial()
        stopping = dialler.stopService()
        self.network.flush()

        assert stopping.called
        assert not dialler.is_connected


class SecureTests(LinkTestCase):
    def test_reports_and_commands(self) -> None:
        """TLS changes nothing of all this, nor do long values."""
        own = self.be_secure()
        doing = Doing()
        doing.lines = ["x" * 4000] * 30
        dialler = self.dial(self.enrolled(own), doing)
        dialler.report(REPORT)
        self.network.flush()
        agent = self.agents.on("a")
        assert agent is not None

        assert [REPORT] == [e.report for e in self.events if isinstance(e, AgentReported)]
        assert REPORT == self.result(agent.read_memory(5.0))
        last = self.result(agent.tail(30, None, 5.0)).last
        assert ["x" * 4000] * 14 == last

    def test_the_end(self) -> None:
        """Either side may stop, and the other one hears of it at once."""
        own = self.be_secure()
        dialler = self.dial(self.enrolled(own))
        second = self.dial(self.enrolled(own, "b"))
        stopping = dialler.stopService()
        self.network.flush()
        assert stopping.called
        stopped = self.site.stop("the gateway stops")
        self.network.flush()

        assert stopped.called
        assert not second.is_connected

    def test_a_renewed_certificate(self) -> None:
        """New connections get it, and links that are open stay."""
        own = self.be_secure()
        self.dial(self.enrolled(own))
        renewed = dataclasses.replace(own.gateway, authorities=own.gateway.authorities)
        self.show(dataclasses.replace(renewed, chain=own.gateway.chain), is_ours=True)

        assert 1 == len(self.agents)

    def test_other_authorities(self) -> None:
        """If the authorities of agents are others, each agent has to prove itself anew."""
        self.be_secure()
        own = self.be_secure()
        dialler = self.dial(self.enrolled(own))
        assert dialler.is_connected
        self.be_secure()
        self.network.flush()

        assert isinstance(self.events[-1], AgentLeft)
