"""The link of an agent is cut while clients ask for models: nothing fails, and it joins again."""

from __future__ import annotations

import dataclasses

from cortexd.fleet.agents import AgentReport, EngineLife
from cortexd.link.contract import DEAD_SECONDS
from cortexd.link.dialling import Dialler
from cortexd.link.identities import Identity
from tests.agents.links import Doing
from tests.support.fleets import MEMORY_MB, MODEL, FleetTestCase, InMemoryFleet

PORT = 8700
REPORT = AgentReport(
    life=EngineLife.ANSWERS,
    source="nvml",
    memory_total_mb=MEMORY_MB,
    memory_free_mb=MEMORY_MB - 2000,
    version="0.9.0",
)


class CutLinkTests(FleetTestCase):
    def joined(self, fleet: InMemoryFleet, doing: Doing) -> Dialler:
        """Let the agent of a node join."""
        site = fleet.parts.agent_site
        site.is_plain_allowed = True
        fleet.network.listenTCP(PORT, site)
        doing.memory = REPORT
        dialler = Dialler(fleet.network, ("127.0.0.1", PORT), Identity("a"), doing, lambda: 1.0)

        def end() -> None:
            dialler.stopService()
            site.stop("the test ends")
            fleet.network.black_holes.clear()
            fleet.advance(3)

        self.addCleanup(end)
        dialler.report(REPORT)
        dialler.startService()
        fleet.flush()
        return dialler

    def test_a_cut_of_a_minute(self) -> None:
        """Polls show what is there meanwhile, and afterwards the agent does again."""
        fleet = self.fleet(self.node())
        fleet.poller.startService()
        doing = Doing()
        dialler = self.joined(fleet, doing)
        node = fleet.fleet.nodes["a"]
        assert REPORT == node.report

        for end in fleet.network.ends:
            if PORT in (end.getHost().port, end.getPeer().port):
                end.__dict__["turn"] = lambda: False  # no byte and no end passes
        fleet.network.black_holes.add(PORT)
        statuses = []
        for _ in range(6):
            statuses.append(fleet.chat(model=MODEL).status)
            fleet.advance(10)
        assert DEAD_SECONDS < 60
        assert not dialler.is_connected
        assert fleet.parts.agents.on("a") is None
        assert not node.agent
        assert not node.report

        for end in fleet.network.ends:
            end.__dict__.pop("turn", None)
        fleet.network.black_holes.clear()
        doing.memory = dataclasses.replace(REPORT, memory_free_mb=MEMORY_MB - 3000)
        dialler.report(doing.memory)
        for _ in range(6):
            statuses.append(fleet.chat(model=MODEL).status)
            fleet.advance(10)

        assert {200} == set(statuses)
        assert dialler.is_connected
        assert doing.memory == node.report
