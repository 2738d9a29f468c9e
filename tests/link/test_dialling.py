"""The agent's end of the link, before gateways that do not behave as ours."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config.node_tls import NodeTLS
from cortexd.fleet.agents import AgentReport, EngineLife
from cortexd.link.contract import PROTOCOL, Beat, Failed, Hello, Report, RestartEngine
from cortexd.link.dialling import Dialler
from cortexd.link.end import LinkEnd
from cortexd.link.identities import Identity
from cortexd.logs import fields_of
from tests.agents.links import Doing
from tests.support.network import Network

PORT = 9443
REPORT = AgentReport(life=EngineLife.ANSWERS)


class Gateway(LinkEnd):
    """A gateway of another version, which refuses every report."""

    commands: ClassVar = {Beat: "note_beat", Hello: "greet", Report: "take"}
    protocol = PROTOCOL

    def greet(self, **_: Any) -> dict[str, Any]:
        """Admit the agent."""
        return {"protocol": self.protocol, "version": "9.9", "nonce": b""}

    def take(self, report: AgentReport) -> dict[str, Any]:
        """Refuse a report."""
        raise RuntimeError(report.life.value)


class NewerGateway(Gateway):
    """A gateway that speaks a newer protocol."""

    protocol = PROTOCOL + 1


class Other(LinkEnd):
    """A program that speaks AMP, and is no gateway."""


class DiallerTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a network."""
        self.clock = Clock()
        self.network = Network(self.clock)
        self.gateways: list[LinkEnd] = []
        self.doing = Doing()
        self.diallers: list[Dialler] = []
        self.addCleanup(self.finish)

    def finish(self) -> None:
        """Stop all agents, and check that no timer is left."""
        for dialler in self.diallers:
            if dialler.running:
                dialler.stopService()
        for end in self.network.ends:
            end.abortConnection()
        self.network.flush()
        assert [] == self.clock.getDelayedCalls()

    def dialled(self, kind: type[LinkEnd], identity: Identity | None = None) -> Dialler:
        """Return an agent that has dialled a gateway of some kind."""

        def build() -> LinkEnd:
            self.gateways.append(kind(self.network))
            return self.gateways[-1]

        factory: Any = Factory()
        factory.buildProtocol = lambda _: build()
        factory.noisy = False
        self.network.listenTCP(PORT, factory)
        dialler = Dialler(
            self.network, ("127.0.0.1", PORT), identity or Identity("a"), self.doing, lambda: 1.0
        )
        self.diallers.append(dialler)
        dialler.startService()
        self.network.flush()
        return dialler

    def test_another_protocol(self) -> None:
        """The agent leaves a gateway that answers with another version of the protocol."""
        dialler = self.dialled(NewerGateway)

        assert not dialler.is_connected
        assert (
            "gateway and agent do not fit: "
            f"it speaks version {PROTOCOL + 1}, and we {PROTOCOL}" == dialler.reason
        )

    def test_no_gateway(self) -> None:
        """The agent leaves a program that does not know the greeting."""
        dialler = self.dialled(Other)

        assert not dialler.is_connected
        assert dialler.reason.startswith("the other side does not greet like a gateway: ")

    def test_unusable_files(self) -> None:
        """With an authority that OpenSSL cannot read, the agent does not connect."""
        dialler = self.dialled(Gateway, Identity("a", tls=NodeTLS((b"no certificate",))))

        assert dialler.reason.startswith("the agent's own files cannot be used: ")
        assert [] == self.gateways

    def test_refused_reports(self) -> None:
        """The agent logs refused reports once, and keeps the link."""
        dialler = self.dialled(Gateway)
        with capturedLogs() as events:
            for _ in range(3):
                dialler.report(REPORT)
                self.network.flush()

        logged = [fields["event"] for event in events if (fields := fields_of(event))]
        assert 1 == logged.count("report_refused")
        assert dialler.is_connected
        assert 3 == len(self.flushLoggedErrors(RuntimeError))  # as the gateway logs them

    def test_a_limit_without_sense(self) -> None:
        """The agent refuses a restart with a limit that is no number of seconds, or is negative."""
        self.dialled(Gateway)
        for limit in (math.inf, math.nan, 0.0, -1.0):
            found: list[Any] = []
            asked = self.gateways[0].ask(RestartEngine, order="1", reason="leak", limit=limit)
            asked.addBoth(found.append)
            self.network.flush()

            (failure,) = found
            assert isinstance(failure, Failure), limit
            assert failure.check(Failed), limit
        assert [] == self.doing.asked

    def test_stop_while_it_dials_anew(self) -> None:
        """An agent that stops while it ends a connection for a redial does not connect again."""
        silent = Factory.forProtocol(Protocol)
        silent.noisy = False
        self.network.listenTCP(PORT, silent)
        dialler = Dialler(self.network, ("127.0.0.1", PORT), Identity("a"), self.doing)
        self.diallers.append(dialler)
        dialler.startService()
        self.network.flush()
        assert 1 == self.network.connections_made
        dialler.redial()
        stopped = dialler.stopService()
        self.assertNoResult(stopped)
        self.network.flush()

        self.successResultOf(stopped)
        self.network.advance(60)
        assert 1 == self.network.connections_made
