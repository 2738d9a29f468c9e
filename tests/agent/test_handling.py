from typing import Any

from cortexd import __version__
from cortexd.agent.handling import Handling
from cortexd.fleet.agents import AgentAbilities
from tests.agent.machine import MachineTestCase


class HandlingTests(MachineTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.handling: Any = Handling(self.watcher, self.control)

    def test_abilities(self) -> None:
        """The abilities are those that the agent's file gives."""
        assert self.handling.abilities == AgentAbilities(
            version=__version__, can_restart=True, can_suspend=False, has_log=True
        )

    def test_orders(self) -> None:
        """Each order goes to the control of the engine, and its result comes back."""
        results = [
            self.handling.restart("o-1", "why", 60.0),
            self.handling.suspend("o-2"),
            self.handling.tail(3, 10, None),
        ]
        self.handling.end_log(3)
        self.handling.end_logs()

        assert ["restarting", "suspending", "tailing"] == results
        assert [
            ("restart", "o-1", "why", 60.0),
            ("suspend", "o-2"),
            ("tail", 3, 10, None),
            ("end_log", 3),
            ("end_logs",),
        ] == self.control.orders

    def test_memory(self) -> None:
        """A question about memory is answered by a look of now."""
        self.devices.set_card(20_000)
        self.begin()

        report = self.run_until_done(self.handling.read_memory())

        assert 20_000 == report.memory_free_mb
