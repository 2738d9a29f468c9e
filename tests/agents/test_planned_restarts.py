"""Restarts by agents in a whole gateway: what clients, journal and metrics see of them."""

from __future__ import annotations

import tempfile
from typing import Any

from cortexd.scheduling.repairs.events import RestartWanted
from cortexd.testing import SimulatedModel
from tests.support.fleets import MODEL, FleetTestCase, InMemoryFleet

OTHER = "acme/other"
MB = 4_000


class RestartsTestCase(FleetTestCase):
    """Node "a" has two models loaded and an agent, which takes 5 s for a restart."""

    def make(self, **settings: Any) -> InMemoryFleet:
        """Return the fleet, polled every five seconds, with a journal."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        models = [SimulatedModel(id=each, size_mb=MB) for each in (MODEL, OTHER)]
        fleet = self.fleet(self.node("a", *models), state_dir=directory.name, **settings)
        fleet.poller.startService()
        self.simulated = self.agent(fleet)
        fleet.advance(1.0)
        return fleet

    def journal(self, fleet: InMemoryFleet) -> list[str]:
        """Return the kinds of the entries about restarts and agents."""
        entries = fleet.recorder.entries(0, 100)
        return [each.kind for each in entries if "restart" in each.kind or "agent" in each.kind]

    def loaded(self, fleet: InMemoryFleet) -> list[str]:
        """Return the models that are loaded on the node."""
        return sorted(replica.model for replica in fleet.fleet.nodes["a"].residents)


class ByHandTests(RestartsTestCase):
    def test_an_idle_node(self) -> None:
        """Its engine restarts at once, what was loaded is back, and all of it is recorded."""
        fleet = self.make()
        fleet.dispatcher.dispatch(RestartWanted("a"))
        assert 1 == len(self.simulated.orders)
        assert "" != fleet.fleet.nodes["a"].closed
        for path in ("/running", "/api/ps", "/health", "/v1/models"):
            assert 200 == fleet.get(path).status, path

        fleet.advance(20.0)
        assert "" == fleet.fleet.nodes["a"].closed
        assert [MODEL, OTHER] == self.loaded(fleet)
        assert [
            "agent_connected",
            "restart_planned",
            "restart_started",
            "node_restarted",
            "restart_ended",
        ] == self.journal(fleet)
        planned = "cortex_node_restarts_planned_total"
        assert 1.0 == fleet.sample(planned, node="a", reason="ordered")
        assert 1.0 == fleet.sample("cortex_node_planned_restarts_total", node="a", result="ok")
        assert 200 == fleet.chat().status

    def test_a_link_that_breaks(self) -> None:
        """The agent gets the same order again, which is still one restart."""
        fleet = self.make()
        fleet.dispatcher.dispatch(RestartWanted("a"))
        self.simulated.leave("connection lost")
        fleet.advance(2.0)
        self.simulated.join()
        fleet.advance(20.0)
        assert 1 == len(self.simulated.orders)
        assert "restart_ended" == self.journal(fleet)[-1]
        assert [MODEL, OTHER] == self.loaded(fleet)

    def test_a_restart_that_fails(self) -> None:
        """The journal says why, and the node takes work again."""
        fleet = self.make()
        self.simulated.restart_fails = "systemctl: exit status 1"
        fleet.dispatcher.dispatch(RestartWanted("a"))
        fleet.advance(20.0)
        [failed] = [
            each for each in fleet.recorder.entries(0, 100) if each.kind == "restart_failed"
        ]
        assert "systemctl: exit status 1" == failed.fields["reason"]
        assert 1.0 == fleet.sample("cortex_node_planned_restarts_total", node="a", result="failed")
        assert "" == fleet.fleet.nodes["a"].closed
        assert 200 == fleet.chat().status
