"""Engines that heal by themselves in a whole gateway, and what clients see of that."""

from __future__ import annotations

from cortexd.scheduling.repairs.events import RestartPlanned
from cortexd.testing import SimulatedModel
from tests.agents.test_planned_restarts import RestartsTestCase
from tests.support.fleets import MODEL, InMemoryFleet

LARGE = "acme/large"
SMALL = "acme/small"
POISON = "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, an illegal memory access was encountered)"


class HealingTests(RestartsTestCase):
    def heal(self, **settings: object) -> InMemoryFleet:
        """Return the fleet: node "a" has room for its large model beside no other one."""
        models = [
            SimulatedModel(id=MODEL, size_mb=8_000),
            SimulatedModel(id=SMALL, size_mb=8_000),
            SimulatedModel(id=LARGE, size_mb=20_000, loaded=False),
        ]
        sizes = {each.id: {"vram_mb": each.size_mb} for each in models}
        other = self.node("b", SimulatedModel(id="acme/elsewhere", size_mb=8_000))
        node = self.node("a", *models)
        fleet = self.fleet(node, other, models=sizes, **settings)
        fleet.poller.startService()
        self.planned: list[str] = []
        fleet.dispatcher.listen(
            lambda effect: (
                self.planned.append(effect.reason) if isinstance(effect, RestartPlanned) else None
            )
        )
        self.simulated = self.agent(fleet)
        self.node_a = node
        fleet.advance(1.0)
        return fleet

    def test_a_leak_that_is_in_the_way(self) -> None:
        """A request for a model that a leak keeps out is answered after a restart."""
        fleet = self.heal()
        self.node_a.faults.leak_mb_per_unload = 3_000
        waiting = fleet.chat(model=LARGE)
        fleet.advance(32.0)
        assert 1 == len(self.simulated.orders)
        self.node_a.faults.leak_mb_per_unload = 0
        fleet.advance(120.0)

        assert 200 == waiting.status
        assert [LARGE] == self.loaded(fleet)
        assert 1 == len(self.simulated.orders)
        assert [f"requests wait for {LARGE}, which can be loaded only after a restart"] == (
            self.planned
        )

    def test_a_restart_that_does_not_help(self) -> None:
        """An engine that loses as much again after a restart is not restarted once more for it."""
        fleet = self.heal()
        self.node_a.faults.leak_mb_per_unload = 3_000
        waiting = fleet.chat(model=LARGE)
        fleet.advance(900.0)

        assert 503 == waiting.status
        assert 1 == len(self.simulated.orders)
        assert 200 == fleet.chat().status

    def test_a_device_that_fails(self) -> None:
        """A node that answers each chat with the fault of its device is restarted at once."""
        fleet = self.heal()
        elsewhere = fleet.stream(model="acme/elsewhere")
        faults = self.node_a.faults
        faults.error_responses, faults.error_message = 1_000, POISON
        assert (fleet.chat().status or 0) >= 500
        assert 1 == len(self.simulated.orders)
        faults.error_responses = 0
        waiting = fleet.chat()
        fleet.advance(30.0)

        assert 200 == waiting.status
        assert 200 == elsewhere.status
        assert "[DONE]" in elsewhere.body.decode()

    def test_over_the_budget_at_the_start(self) -> None:
        """A node that starts with everything is trimmed before it answers a request."""
        fleet = self.heal()
        assert 200 == fleet.chat(model=SMALL).status
        self.node_a.starts_loaded = {MODEL, SMALL}
        fleet.fleet.footprints.reconfigure(lambda node, model: 14_000)
        self.node_a.restart()
        fleet.advance(6.0)
        waiting = fleet.chat(model=SMALL)
        fleet.advance(30.0)

        assert 200 == waiting.status
        assert [SMALL] == self.loaded(fleet)
