"""When nodes sleep, when they are woken, and that nobody is forgotten meanwhile."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import OperationRefused
from cortexd.fleet.agents import AgentAbilities
from cortexd.fleet.nodes import NodeTerms
from cortexd.fleet.sleep.power import PowerState, PowerTerms
from cortexd.fleet.states import HealthChanged
from cortexd.scheduling.events import PollFailed, StartLoad, Sweep
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
from cortexd.scheduling.powering.powers import NO_ANSWER, SUSPEND_SECONDS
from cortexd.scheduling.powering.rules import retry_pause
from cortexd.scheduling.repairs.events import AgentJoined, AgentLeft, RestartWanted
from tests.support.scheduling import LOADED, SILENT, UNLOADED, Setup, World

IDLE, WAKE = 100.0, 50.0
TERMS = PowerTerms(has_command=True, idle_seconds=IDLE, wake_seconds=WAKE)
SIZES = {"a": 10, "b": 10, "c": 10}


class Sleepers:
    """A world of "ada", which may sleep and has "a" loaded, and of "bob", which never sleeps.

    ``asleep``: whether the machine really sleeps, so that it answers no poll.
    """

    def __init__(self, *, power: PowerTerms = TERMS, bob: tuple[str, ...] = ("b",)) -> None:
        nodes = [
            NodeTerms("ada", "http://ada:1", budget_mb=20, power=power),
            NodeTerms("bob", "http://bob:1", budget_mb=20),
        ]
        listings = {
            "ada": {"a": LOADED, "c": UNLOADED},
            "bob": {model: UNLOADED if model == "a" else LOADED for model in bob},
        }
        self.world = World(Setup(nodes, listings, SIZES))
        self.asleep = False
        self.ada = self.world.fleet.nodes["ada"]

    @property
    def state(self) -> str:
        """The state of the node that may sleep."""
        return self.ada.power.state.value

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with polls and sweeps every ten seconds."""
        until = self.world.now + seconds
        while self.world.now < until:
            self.world.now += 10.0
            self.look()

    def look(self) -> None:
        """Poll both nodes, and sweep."""
        for node in ("ada", "bob"):
            if node == "ada" and self.asleep:
                self.world.tell(PollFailed(node, SILENT))
            else:
                self.world.poll(node)
        self.world.tell(Sweep())

    def orders(self, kind: type[Any]) -> list[Any]:
        """Return the orders of a kind so far."""
        return [each for each in self.world.effects if isinstance(each, kind)]

    def fall_asleep(self) -> None:
        """Let it be idle, and sleep as ordered."""
        self.pass_time(IDLE)
        assert "suspending" == self.state
        self.asleep = True
        self.world.tell(SuspendDone("ada", self.ada.power.number))
        self.pass_time(20.0)
        assert "asleep" == self.state


class SleepTests(SynchronousTestCase):
    def test_what_keeps_a_node_awake(self) -> None:
        """A lease does, and the time after it; so does a planned restart."""
        sleepers = Sleepers()
        lease = sleepers.world.submit("a")
        sleepers.pass_time(IDLE * 2)
        assert "awake" == sleepers.state
        with self.assertRaisesRegex(OperationRefused, "1 request on it"):
            sleepers.world.tell(SleepWanted("ada"))
        sleepers.world.end(lease)
        sleepers.pass_time(IDLE - 10.0)
        assert "awake" == sleepers.state
        sleepers.world.tell(AgentJoined("ada", AgentAbilities(version="1", can_restart=True)))
        sleepers.world.tell(RestartWanted("ada"))
        with self.assertRaisesRegex(OperationRefused, "a restart of its engine is planned"):
            sleepers.world.tell(SleepWanted("ada"))

    def test_without_a_command(self) -> None:
        """An agent that can let the machine sleep is as good."""
        sleepers = Sleepers(power=PowerTerms(idle_seconds=IDLE, wake_seconds=WAKE))
        sleepers.pass_time(IDLE * 2)
        assert "awake" == sleepers.state
        sleepers.world.tell(AgentJoined("ada", AgentAbilities(version="1", can_suspend=True)))
        sleepers.pass_time(10.0)
        assert "suspending" == sleepers.state

    def test_the_agent_leaves_with_the_machine(self) -> None:
        """That is no news, and no restart is planned or refused by another reason meanwhile."""
        sleepers = Sleepers()
        able = AgentAbilities(version="1", can_restart=True)
        sleepers.world.tell(AgentJoined("ada", able))
        sleepers.fall_asleep()
        effects = sleepers.world.tell(AgentLeft("ada", "its link ended"))
        assert () == effects
        with self.assertRaisesRegex(OperationRefused, "ada is asleep"):
            sleepers.world.tell(RestartWanted("ada"))

    def test_it_does_not_fall_asleep(self) -> None:
        """After a minute of answers it is awake, and rests until it was idle again."""
        sleepers = Sleepers()
        sleepers.pass_time(IDLE)
        sleepers.world.tell(SuspendDone("ada", sleepers.ada.power.number))
        sleepers.pass_time(50.0)
        assert "suspending" == sleepers.state
        sleepers.pass_time(20.0)
        assert "awake" == sleepers.state
        sleepers.pass_time(IDLE - 30.0)
        assert 1 == len(sleepers.orders(StartSuspend))

    def test_a_request_while_it_falls_asleep(self) -> None:
        """It waits, and wakes the node once that sleeps."""
        sleepers = Sleepers()
        sleepers.pass_time(IDLE)
        request = sleepers.world.submit("a")
        assert [request] == sleepers.world.waiting
        sleepers.asleep = True
        sleepers.pass_time(20.0)
        assert "waking" == sleepers.state
        sleepers.asleep = False
        sleepers.look()
        assert request in sleepers.world.leases

    def test_no_end_of_the_command(self) -> None:
        """A node that answers on is awake after three minutes, whatever is heard of the command."""
        sleepers = Sleepers()
        sleepers.pass_time(IDLE)
        sleepers.pass_time(SUSPEND_SECONDS - 10.0)
        assert "suspending" == sleepers.state
        sleepers.pass_time(10.0)
        assert "awake" == sleepers.state
        assert "it did not fall asleep" == sleepers.orders(PowerChanged)[-1].failure

    def test_a_command_that_fails(self) -> None:
        """The node is awake at once, with the words of the failure, and serves."""
        sleepers = Sleepers()
        sleepers.pass_time(IDLE)
        sleepers.world.tell(SuspendFailed("ada", sleepers.ada.power.number, "denied"))
        assert "awake" == sleepers.state
        assert "denied" == sleepers.orders(PowerChanged)[-1].failure
        assert sleepers.world.submit("a") in sleepers.world.leases

    def test_a_failure_of_silence(self) -> None:
        """A command whose answer was lost with the machine has put it to sleep nevertheless."""
        sleepers = Sleepers()
        sleepers.pass_time(IDLE)
        sleepers.asleep = True
        sleepers.pass_time(10.0)
        sleepers.world.tell(SuspendFailed("ada", sleepers.ada.power.number, "its link ended"))
        assert "suspending" == sleepers.state
        sleepers.pass_time(10.0)
        assert "asleep" == sleepers.state

    def test_one_missed_poll(self) -> None:
        """A failed command is told as such once the node answers again."""
        sleepers = Sleepers()
        sleepers.pass_time(IDLE)
        sleepers.world.tell(PollFailed("ada", SILENT))
        sleepers.world.tell(SuspendFailed("ada", sleepers.ada.power.number, "denied"))
        sleepers.look()
        assert "awake" == sleepers.state
        assert "denied" == sleepers.orders(PowerChanged)[-1].failure

    def test_an_old_answer(self) -> None:
        """A poll that was sent before the node fell asleep does not show that it is awake."""
        sleepers = Sleepers()
        asked_at = sleepers.world.now
        sleepers.fall_asleep()
        world = sleepers.world
        world.poll_from("ada", world.observation("ada"), asked_at)
        assert "asleep" == sleepers.state

    def test_the_end_of_another_order(self) -> None:
        """It changes nothing: neither an order before this one, nor one that is over, counts."""
        sleepers = Sleepers()
        sleepers.pass_time(IDLE)
        number = sleepers.ada.power.number
        for late in (
            SuspendDone("ada", number - 1),
            SuspendFailed("ada", number - 1, "denied"),
            WakeFailed("ada", number, "no answer"),
            SuspendDone("gone", number),
        ):
            assert () == sleepers.world.tell(late)
        assert "suspending" == sleepers.state
        sleepers.asleep = True
        sleepers.pass_time(20.0)
        assert () == sleepers.world.tell(SuspendFailed("ada", number, "denied"))
        assert "asleep" == sleepers.state


class WakeTests(SynchronousTestCase):
    def test_cost(self) -> None:
        """A node that is awake and has room loads the model sooner than the other one wakes."""
        sleepers = Sleepers(bob=("b", "a"))
        sleepers.fall_asleep()
        sleepers.world.submit("a")
        assert ["bob"] == [each.node for each in sleepers.orders(StartLoad)]
        assert [] == sleepers.orders(StartWake)

    def test_before_evictions(self) -> None:
        """Nothing is evicted for a model that a node has loaded which can be woken."""
        sleepers = Sleepers(bob=("b", "d", "a"))
        sleepers.fall_asleep()
        sleepers.world.submit("a")
        assert 1 == len(sleepers.orders(StartWake))
        assert [] == sleepers.orders(StartLoad)

    def test_a_load_after_it(self) -> None:
        """A model that was not loaded there is loaded once it is awake."""
        sleepers = Sleepers()
        sleepers.fall_asleep()
        request = sleepers.world.submit("c")
        sleepers.world.submit("c")
        assert 1 == len(sleepers.orders(StartWake))
        sleepers.asleep = False
        sleepers.look()
        sleepers.world.finish_all()
        assert request in sleepers.world.leases

    def test_in_vain(self) -> None:
        """The node is down, the request is refused, and the next one wakes it after a pause."""
        sleepers = Sleepers()
        sleepers.fall_asleep()
        request = sleepers.world.submit("a")
        number = sleepers.ada.power.number
        effects = sleepers.world.tell(WakeFailed("ada", number, "no answer"))
        assert ["down"] == [e.after.value for e in effects if isinstance(e, HealthChanged)]
        assert request in sleepers.world.errors
        assert sleepers.world.submit("a") in sleepers.world.errors
        sleepers.pass_time(60.0)
        assert sleepers.world.submit("a") in sleepers.world.waiting
        assert "waking" == sleepers.state

    def test_no_end_of_the_wake(self) -> None:
        """The node is down after its time and a grace, also where nobody reports the end."""
        sleepers = Sleepers()
        sleepers.fall_asleep()
        request = sleepers.world.submit("a")
        sleepers.pass_time(WAKE)
        assert "waking" == sleepers.state
        sleepers.pass_time(10.0)
        assert ("awake", "down") == (sleepers.state, sleepers.ada.health.value)
        assert NO_ANSWER == sleepers.orders(PowerChanged)[-1].failure
        assert request in sleepers.world.errors

    def test_by_hand(self) -> None:
        """An operator need not wait for the pause after an attempt in vain, but for one at work."""
        sleepers = Sleepers()
        sleepers.fall_asleep()
        sleepers.world.tell(WakeWanted("ada"))
        with self.assertRaisesRegex(OperationRefused, "it is waking"):
            sleepers.world.tell(WakeWanted("ada"))
        sleepers.world.tell(WakeFailed("ada", sleepers.ada.power.number, "no answer"))
        sleepers.world.tell(WakeWanted("ada"))
        assert "waking" == sleepers.state
        assert 2 == len(sleepers.orders(StartWake))

    def test_pauses(self) -> None:
        """They double from a minute to an hour."""
        assert [60.0, 120.0, 240.0] == [retry_pause(attempts) for attempts in (1, 2, 3)]
        assert 3600.0 == retry_pause(1_000)

    def test_it_may_not_sleep_any_more(self) -> None:
        """A configuration without power leaves nothing closed."""
        sleepers = Sleepers()
        sleepers.fall_asleep()
        bare = NodeTerms("ada", "http://ada:1", budget_mb=20)
        sleepers.world.reconfigure([bare, sleepers.world.setup.nodes[1]])
        assert "awake" == sleepers.state
        assert "" == sleepers.ada.closed
        sleepers.pass_time(20.0)
        assert "down" == sleepers.ada.health.value


STEPS = st.lists(
    st.sampled_from(
        ["a", "b", "c", "end", "10", "100", "sleeps", "wakes", "done", "failed", "in vain"]
    ),
    max_size=30,
)


class AnyCourseTests(SynchronousTestCase):
    @settings(max_examples=60, deadline=None)
    @given(STEPS)
    def test_nobody_is_forgotten(self, steps: list[str]) -> None:
        """No node is let sleep under a lease or a wait, and all are served or refused at last."""
        sleepers = Sleepers(bob=("b", "a"))
        world, ada = sleepers.world, sleepers.ada
        asked: list[str] = []
        for step in steps:
            number = ada.power.number
            ordered = len(sleepers.orders(StartSuspend))
            match step:
                case "a" | "b" | "c":
                    asked.append(world.submit(step))
                case "end" if world.leases:
                    world.end(next(iter(world.leases)))
                case "10" | "100":
                    sleepers.pass_time(float(step))
                case "sleeps" if not ada.leases:
                    sleepers.asleep = True
                case "wakes":
                    sleepers.asleep = False
                case "done":
                    world.tell(SuspendDone("ada", number))
                case "failed":
                    world.tell(SuspendFailed("ada", number, "denied"))
                case "in vain":
                    world.tell(WakeFailed("ada", number, "no answer"))
            world.finish_all()
            if len(sleepers.orders(StartSuspend)) > ordered:
                assert not ada.leases
            if not ada.power.is_awake:
                assert ada.closed
            if ada.power.state in (PowerState.SUSPENDING, PowerState.ASLEEP):
                # A node that is woken may have slept by itself, under a request that still waits.
                assert not ada.leases
        ended = set(asked) - world.leases.keys()
        for _ in range(60):
            sleepers.asleep = sleepers.asleep and ada.power.state is not PowerState.WAKING
            sleepers.pass_time(10.0)
            world.finish_all()
        assert set(asked) <= ended | world.leases.keys() | world.errors.keys()
        assert [] == world.waiting
