"""``cortexctl sleep`` and ``cortexctl wake``."""

from cortexd.fleet.sleep.power import PowerState, PowerTerms
from tests.ctl.test_commands import CommandTestCase


class PowerTests(CommandTestCase):
    def test_sleep_and_wake(self) -> None:
        """Each says what has begun, and a node that never sleeps is told so."""
        node = self.fleet.nodes["small"]
        assert "its [[nodes]] has no power" in self.refused("sleep small")
        node.power.terms = PowerTerms(has_command=True)
        text, data = self.done("sleep small")
        assert "small is let sleep; `cortexctl events -f` shows the end of it\n" == text
        assert {"node": "small", "ordered": "sleep"} == data
        assert "it is suspending" in self.refused("wake small")
        self.fleet.set_power(node, PowerState.ASLEEP, "it does not answer", 0.0)
        assert {"node": "small", "ordered": "wake"} == self.done("wake small")[1]
        assert PowerState.WAKING is node.power.state
