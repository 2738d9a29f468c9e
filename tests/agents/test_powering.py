"""Nodes that sleep in a whole gateway: what clients, journal and metrics see of them."""

from __future__ import annotations

import tempfile
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agents.machines import machine, magic_packet
from cortexd.errors import OperationRefused
from cortexd.scheduling.powering.events import SleepWanted, WakeWanted
from cortexd.testing import SimulatedModel
from tests.doubles.machines import HARDWARE_ADDRESS, SUSPEND, Machine
from tests.support.fleets import MODEL, FleetTestCase, InMemoryFleet

OTHER = "acme/other"
IDLE, WAKE = 100.0, 60.0
POWER = {
    "wake": HARDWARE_ADDRESS,
    "suspend": list(SUSPEND),
    "idle_seconds": IDLE,
    "wake_seconds": WAKE,
}


class PacketTests(SynchronousTestCase):
    def test_the_format(self) -> None:
        """Six bytes FF, then sixteen times the card's address: 102 bytes, however it is written."""
        packet = magic_packet("01-23-45-67-89-aB")
        assert 102 == len(packet)
        assert b"\xff\xff\xff\xff\xff\xff" == packet[:6]
        assert bytes.fromhex("0123456789ab") * 16 == packet[6:]
        found = machine("01:23:45:67:89:ab", "10.0.0.255:7", (), 1.0)
        assert (packet, ("10.0.0.255", 7)) == (found.packet, found.address)


class PoweringTests(FleetTestCase):
    """Node "a" may sleep after 100 s; it has MODEL loaded. Node "b" has OTHER only."""

    def make(self, **settings: Any) -> InMemoryFleet:
        """Return the fleet, polled every five seconds, with a journal."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        a = self.node("a", SimulatedModel(id=MODEL, size_mb=4_000))
        b = self.node("b", SimulatedModel(id=OTHER, size_mb=4_000))
        keys = {"a": {"power": POWER}}
        fleet = self.fleet(a, b, node_keys=keys, state_dir=directory.name, **settings)
        self.machine = Machine(a, fleet.network)
        fleet.poller.startService()
        fleet.advance(1.0)
        return fleet

    def state(self, fleet: InMemoryFleet) -> str:
        """Return the state of power of node "a"."""
        state: str = fleet.fleet.nodes["a"].power.state.value
        return state

    def journal(self, fleet: InMemoryFleet) -> list[str]:
        """Return the kinds of the entries about nodes."""
        entries = fleet.recorder.entries(0, 100)
        return [each.kind for each in entries if each.kind.startswith("node_")]

    def asleep(self, **settings: Any) -> InMemoryFleet:
        """Return the fleet once node "a" was idle for long enough and sleeps."""
        fleet = self.make(**settings)
        fleet.advance(IDLE + 40.0)
        assert "asleep" == self.state(fleet), self.journal(fleet)
        return fleet

    def test_sleep_and_wake(self) -> None:
        """A node that nobody uses sleeps without an alarm; a request for its model wakes it."""
        fleet = self.asleep()
        fleet.advance(300.0)
        assert 1 == self.machine.suspended
        assert ["node_up", "node_up", "node_suspending", "node_asleep"] == self.journal(fleet)
        assert 1.0 == fleet.sample("cortex_node_up", node="a")
        assert 1.0 == fleet.sample("cortex_node_power", node="a", state="asleep")
        assert 200 == fleet.get("/health").status
        listed = fleet.get("/v1/models").json()["data"]
        assert {MODEL, OTHER} == {each["id"] for each in listed}

        client = fleet.chat()
        fleet.advance(10.0)
        assert "waking" == self.state(fleet)
        assert not client.ended
        fleet.advance(20.0)
        assert client.ended
        assert 200 == client.status
        assert ["node_waking", "node_awake"] == self.journal(fleet)[-2:]
        assert 1.0 == fleet.sample("cortex_node_suspends_total", node="a", result="ok")
        assert 1.0 == fleet.sample("cortex_node_wakes_total", node="a", result="ok")
        assert 0 == self.machine.open_senders
        sent = len(self.machine.packets)
        fleet.advance(IDLE - 40.0)
        assert "awake" == self.state(fleet)
        assert sent == len(self.machine.packets)

    def test_requests_for_others(self) -> None:
        """They neither wake it nor keep it awake."""
        fleet = self.make()
        for _ in range(15):
            assert 200 == fleet.chat(model=OTHER).status
            fleet.advance(10.0)
        assert "asleep" == self.state(fleet)
        assert [] == self.machine.packets

    def test_a_node_that_does_not_wake(self) -> None:
        """It is down after its time, and the request is refused; later it is tried again."""
        fleet = self.asleep()
        self.machine.is_deaf = True
        client = fleet.chat()
        fleet.advance(WAKE + 5.0)
        assert client.ended
        assert 503 == client.status
        assert 1.0 == fleet.sample("cortex_node_wakes_total", node="a", result="failed")
        assert 0.0 == fleet.sample("cortex_node_up", node="a")
        assert 503 == fleet.chat().status

        self.machine.is_deaf = False
        fleet.advance(60.0)
        client = fleet.chat()
        fleet.advance(30.0)
        assert client.ended
        assert 200 == client.status

    def test_a_command_that_fails(self) -> None:
        """The journal has its words, the node takes requests, and it is tried again later."""
        fleet = self.make()
        self.machine.suspend_fails = "Access denied"
        fleet.advance(IDLE + 15.0)
        awake = [each for each in fleet.recorder.entries(0, 100) if each.kind == "node_awake"]
        assert 1 == len(awake)
        assert "Access denied" in str(awake[0].fields["failure"])
        assert 1.0 == fleet.sample("cortex_node_suspends_total", node="a", result="failed")
        assert 200 == fleet.chat().status
        self.machine.suspend_fails = ""
        fleet.advance(IDLE + 40.0)
        assert "asleep" == self.state(fleet)

    def test_it_wakes_by_itself(self) -> None:
        """An answer to a poll shows that it is awake."""
        fleet = self.asleep()
        self.machine.wake()
        fleet.advance(6.0)
        assert "awake" == self.state(fleet)
        assert 200 == fleet.chat().status

    def test_by_hand(self) -> None:
        """An operator need not wait; what cannot be is refused in words."""
        fleet = self.make()
        fleet.dispatcher.dispatch(SleepWanted("a"))
        fleet.advance(15.0)
        assert "asleep" == self.state(fleet)
        with self.assertRaisesRegex(OperationRefused, "it is asleep already"):
            fleet.dispatcher.dispatch(SleepWanted("a"))
        fleet.dispatcher.dispatch(WakeWanted("a"))
        fleet.advance(25.0)
        assert "awake" == self.state(fleet)
        with self.assertRaisesRegex(OperationRefused, "it is awake"):
            fleet.dispatcher.dispatch(WakeWanted("a"))
        with self.assertRaisesRegex(OperationRefused, "has no power"):
            fleet.dispatcher.dispatch(SleepWanted("b"))

    def test_a_new_gateway(self) -> None:
        """A node that sleeps since before this process began is down, and is woken nevertheless."""
        fleet = self.make()
        self.machine.sleep()
        fleet.advance(30.0)
        assert "down" == fleet.fleet.nodes["a"].health.value
        client = fleet.chat()
        fleet.advance(30.0)
        assert client.ended
        assert 200 == client.status
