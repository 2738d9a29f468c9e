"""Nodes that sleep in a whole gateway: what clients, journal and metrics see of them."""

from __future__ import annotations

import tempfile
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agents.machines import machine, magic_packet
from cortexd.agents.powering import (
    POLL_SECONDS,
    POLLS_PER_PACKET,
    SUSPEND_SECONDS,
    End,
    Powering,
)
from cortexd.errors import OperationRefused
from cortexd.fleet.sleep.power import PowerState
from cortexd.fleet.states import NodeRemoved
from cortexd.link.connected import AgentFailed, AgentGone, Agents
from cortexd.scheduling.powering.events import (
    PowerChanged,
    SleepWanted,
    StartSuspend,
    StartWake,
    SuspendDone,
    SuspendFailed,
    WakeFailed,
    WakeWanted,
)
from cortexd.testing import SimulatedModel
from tests.doubles.machines import HARDWARE_ADDRESS, SUSPEND, Machine
from tests.doubles.scripted_agent import ScriptedAgent, Suspend
from tests.logs.noting import lines_of
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


class NoNetwork(Clock):
    """A clock whose ports cannot send, or cannot even be opened, as a reactor raises it.

    ``tries`` counts; ``open_ports`` are to be closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.can_open = True
        self.tries = self.open_ports = 0

    def listenUDP(self, port: int, protocol: Any) -> NoNetwork:
        """Open a port: this is its transport too."""
        self.tries += 1
        if not self.can_open:
            raise CannotListenError("", port, OSError("no network"))
        self.open_ports += 1
        return self

    def setBroadcastAllowed(self, enabled: bool) -> None:
        """Allow datagrams to everybody."""

    def write(self, datagram: bytes, address: tuple[str, int]) -> None:
        """Fail."""
        raise OSError("no network")

    def stopListening(self) -> None:
        """Close."""
        self.open_ports -= 1


class OrderTests(SynchronousTestCase):
    """Orders for "a", which its agent lets sleep: their ends come out in ``ends``."""

    def setUp(self) -> None:
        self.clock = NoNetwork()
        self.agents = Agents()
        self.ends: list[End] = []
        self.polls: list[str] = []
        a = machine(HARDWARE_ADDRESS, "10.0.0.255:9", (), WAKE)
        self.powering = Powering(
            self.ends.append, self.agents, self.clock, "b7", self.polls.append, {"a": a}
        )
        self.powering.startService()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        if self.powering.running:
            self.powering.stopService()
        assert [] == self.clock.getDelayedCalls()

    def suspend(self) -> Suspend:
        """Let the scheduler order that "a" sleeps, and return what its agent is asked."""
        agent = ScriptedAgent("a")
        self.agents.add(agent)
        self.powering.carry_out(StartSuspend("a", 7, "idle"))
        (asked,) = agent.suspends
        return asked

    def test_by_the_agent(self) -> None:
        """Without a command of the gateway, the agent gets the order, and its answer is the end."""
        asked = self.suspend()
        assert ("b7-7", SUSPEND_SECONDS) == (asked.order, asked.limit)
        assert [] == self.ends
        asked.answer.callback(None)
        assert [SuspendDone("a", 7)] == self.ends

    def test_an_agent_that_fails(self) -> None:
        """Its words are those of the failure, and so are those of a link that ends."""
        for error in (AgentFailed("systemctl: denied"), AgentGone("connection lost")):
            self.suspend().answer.errback(error)
            assert SuspendFailed("a", 7, str(error)) == self.ends[-1]

    def test_an_agent_that_never_answers(self) -> None:
        """The limit ends the wait."""
        asked = self.suspend()
        self.clock.advance(SUSPEND_SECONDS)
        words = "its agent has not answered within 60 s"
        assert [SuspendFailed("a", 7, words)] == self.ends
        assert asked.is_cancelled

    def test_an_agent_that_has_left(self) -> None:
        """The order fails in words."""
        self.powering.carry_out(StartSuspend("a", 7, "idle"))
        words = "its agent is not connected any more"
        assert [SuspendFailed("a", 7, words)] == self.ends

    def test_a_mistake(self) -> None:
        """It fails the order, so that the node does not stay closed, and the log has it."""
        self.suspend().answer.errback(KeyError("order"))
        assert [SuspendFailed("a", 7, "internal error; see the log")] == self.ends
        assert 1 == len(self.flushLoggedErrors(KeyError))

    def test_what_ends_an_order(self) -> None:
        """Nothing is reported of a node that is awake again, that leaves, or gets another order."""
        for effect in (
            PowerChanged("a", PowerState.SUSPENDING, PowerState.AWAKE, "it answers"),
            NodeRemoved("a"),
            StartWake("a", 8, "a request"),
        ):
            asked = self.suspend()
            self.powering.carry_out(effect)
            assert asked.is_cancelled
        assert [] == self.ends

    def test_a_stop(self) -> None:
        """A service that stops awaits and begins nothing more."""
        asked = self.suspend()
        self.powering.stopService()
        assert asked.is_cancelled
        self.powering.carry_out(StartWake("a", 8, "a request"))
        assert ([], [], []) == (self.ends, self.polls, self.clock.getDelayedCalls())

    def test_a_machine_that_has_left(self) -> None:
        """A node that a reload took the power from is not woken."""
        self.powering.machines = {}
        self.powering.carry_out(StartWake("a", 7, "a request"))
        assert [WakeFailed("a", 7, "its [[nodes]] has no power any more")] == self.ends

    def test_a_packet_that_cannot_be_sent(self) -> None:
        """The node is polled on, for it may wake by itself; at last the words say what failed."""
        lines = lines_of(self, "wake_unsent")
        for can_open in (True, False):
            self.clock.can_open, self.clock.tries = can_open, 0
            self.polls.clear()
            lines.clear()
            self.powering.carry_out(StartWake("a", 7, "a request"))
            self.clock.pump([POLL_SECONDS] * int(WAKE))
            end = self.ends[-1]
            assert isinstance(end, WakeFailed)
            assert "the packet that wakes it cannot be sent to 10.0.0.255:9" in end.reason
            assert "no network" in end.reason
            assert ["a"] * int(WAKE) == self.polls
            assert int(WAKE) // POLLS_PER_PACKET == self.clock.tries == len(lines)
            assert 0 == self.clock.open_ports


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
