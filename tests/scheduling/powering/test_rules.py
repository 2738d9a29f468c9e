"""The reasons why a node may not sleep or is not woken, and what a model costs after a wake."""

from __future__ import annotations

from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.agents import AgentAbilities
from cortexd.fleet.breaker import Outcome
from cortexd.fleet.learning.load_times import ASSUMED_LOAD_SECONDS
from cortexd.fleet.nodes import NodeTerms
from cortexd.fleet.sleep.power import PowerState, PowerTerms
from cortexd.fleet.states import Observation, ReplicaState
from cortexd.scheduling.eviction import NO_VICTIMS
from cortexd.scheduling.placement import (
    Finding,
    Hindrance,
    Obstacle,
    Option,
)
from cortexd.scheduling.powering.rules import after_wake, wake_cost, why_awake, why_not_woken
from cortexd.scheduling.repairs.restarts import Restarts
from cortexd.scheduling.swaps import Swap, Swaps
from cortexd.scheduling.waiting import Waiter, Waiting
from tests.support.nodes import (
    BUDGET_MB,
    LOADED,
    LOADING,
    REFUSED,
    UNLOADED,
    make_fleet,
    replica_on,
)
from tests.support.placements import NOW, SIZES, TERMS

WAKE: Final = 50.0
POWER: Final = PowerTerms(has_command=True, idle_seconds=100.0, wake_seconds=WAKE)
ABLE: Final = AgentAbilities(version="1", can_suspend=True)


class AdaTestCase(SynchronousTestCase):
    """Tests of a fleet whose only node is "ada"; each changes it as it likes."""

    def make(
        self,
        power: PowerTerms | None = POWER,
        *,
        is_silent: bool = False,
        **listing: ReplicaState,
    ) -> None:
        """Let "ada" list these models, or "m" as loaded, and answer unless it ``is_silent``."""
        terms = NodeTerms("ada", "http://ada:1", BUDGET_MB, power=power)
        self.fleet = make_fleet(terms, sizes=SIZES, now=NOW)
        self.fleet.observe("ada", Observation(100, listing or {"m": LOADED}), NOW)
        self.node = self.fleet.nodes["ada"]
        if is_silent:
            self.fleet.fail("ada", REFUSED, NOW)

    def enter(self, state: PowerState, since: float = NOW) -> None:
        """Let it enter a state of power."""
        self.fleet.set_power(self.node, state, f"it is {state.value}", since)


class AwakeTests(AdaTestCase):
    def make(self, *args: Any, **more: Any) -> None:
        """Let nothing wait or change besides."""
        super().make(*args, **more)
        self.waiting, self.swaps = Waiting(), Swaps()

    def check(self, words: str) -> None:
        """Check why it must stay awake."""
        assert words == why_awake(self.node, self.fleet, self.waiting, self.swaps, Restarts(), NOW)

    def test_idle(self) -> None:
        """Nothing keeps a node awake that answers and has nothing to do."""
        self.make()
        self.check("")

    def test_power(self) -> None:
        """A node without power, or asleep already, is not let sleep."""
        self.make(None)
        self.check("its [[nodes]] has no power")
        self.make()
        self.enter(PowerState.ASLEEP)
        self.check("it is asleep already")

    def test_agent(self) -> None:
        """Without a command of the gateway, the agent must have one."""
        none = "neither its power.suspend nor an agent of its own has a command for that"
        self.make(PowerTerms())
        self.check(none)
        self.fleet.note_agent("ada", AgentAbilities(version="1", can_restart=True))
        self.check(none)
        self.fleet.note_agent("ada", ABLE)
        self.check("")

    def test_no_answer(self) -> None:
        """A node that is down, or did not answer a load, may be at work unseen."""
        self.make(is_silent=True)
        self.check("the node does not answer")
        self.make()
        self.fleet.note_unreachable(self.node)
        self.check("the node does not answer")

    def test_a_lease(self) -> None:
        """The requests on a node are counted."""
        self.make()
        self.fleet.grant(self.node.replicas["m"], "request", NOW)
        self.check("1 request on it")

    def test_closed(self) -> None:
        """A node that is closed stays awake for what it is closed for."""
        self.make()
        self.fleet.close(self.node, "its engine is restarted")
        self.check("its engine is restarted")

    def test_changing_models(self) -> None:
        """A swap of ours keeps a node awake, and so does a load of another client."""
        self.make()
        self.swaps.add(Swap(self.node, None, [], 1, NOW))
        self.check("a model is loaded or unloaded there")
        self.make(m=LOADING)
        self.check("a model is loaded or unloaded there")

    def test_waiting(self) -> None:
        """Only requests for a model that the node lists keep it awake."""
        self.make()
        self.waiting.add(Waiter("request-1", "other", NOW))
        self.check("")
        self.waiting.add(Waiter("request-2", "m", NOW))
        self.check("requests wait for its models")


class WakeTests(AdaTestCase):
    def check(self, words: str) -> None:
        """Check why it is not woken, and that the cost of a wake agrees."""
        assert words == why_not_woken(self.node, NOW)
        assert (None if words else WAKE) == wake_cost(self.node, NOW)

    def test_can_be_woken(self) -> None:
        """A node is woken that sleeps, and one that does not answer for an unknown reason."""
        self.make()
        self.enter(PowerState.ASLEEP)
        self.check("")
        self.make(is_silent=True)
        self.check("")

    def test_no_power(self) -> None:
        """A node without power is not woken, also where it does not answer."""
        self.make(None, is_silent=True)
        self.check("its [[nodes]] has no power")

    def test_falling_asleep(self) -> None:
        """A packet would be lost on a node that falls asleep just now."""
        self.make()
        self.enter(PowerState.SUSPENDING)
        self.check("it is suspending")

    def test_awake(self) -> None:
        """What answers needs no packet, and nor does a machine whose agent is connected."""
        self.make()
        self.check("it is awake")
        self.make(is_silent=True)
        self.fleet.note_agent("ada", ABLE)
        self.check("its machine is awake, for its agent is connected")

    def test_closed(self) -> None:
        """A node that is restarted answers again by itself."""
        self.make(is_silent=True)
        self.fleet.close(self.node, "its engine is restarted")
        self.check("its engine is restarted")

    def test_in_vain(self) -> None:
        """After an attempt in vain, the words say when the next one is made."""
        self.make()
        self.enter(PowerState.WAKING)
        self.fleet.give_up_wake(self.node, "no answer", NOW + 60.0, NOW)
        self.check("it was woken in vain; the next attempt is made in 60 s")

    def test_on_the_way(self) -> None:
        """The cost of a node that is woken already is what is left of its time, or nothing."""
        for passed, left in ((20.0, WAKE - 20.0), (WAKE + 3.0, 0.0)):
            self.make()
            self.enter(PowerState.WAKING, NOW - passed)
            assert left == wake_cost(self.node, NOW)
            assert "it is waking" == why_not_woken(self.node, NOW)


class AfterWakeTests(AdaTestCase):
    def found(self, model: str = "m", *, may_evict: bool = True) -> Finding:
        """Return what is found of a model on the node that does not answer."""
        obstacle = Obstacle(replica_on(self.fleet, "ada", model), Hindrance.ASLEEP)
        may: dict[str, Any] = {"may_evict": may_evict, "may_drain": False, "claim": None}
        return after_wake(self.fleet, obstacle, TERMS, NOW, **may)

    def option(self, model: str = "m") -> Option:
        """Return the option that is found of a model."""
        found = self.found(model)
        assert isinstance(found, Option), found
        return found

    def check(self, hindrance: Hindrance, model: str = "m", *, may_evict: bool = True) -> None:
        """Check which obstacle is found of a model."""
        found = self.found(model, may_evict=may_evict)
        assert isinstance(found, Obstacle), found
        assert hindrance is found.hindrance

    def test_loaded(self) -> None:
        """A model that was loaded costs the wake only."""
        self.make()
        self.enter(PowerState.ASLEEP)
        found = self.option()
        assert (NO_VICTIMS, WAKE, True) == (found.victims, found.seconds, found.is_measured)

    def test_unloaded(self) -> None:
        """A model that was not loaded costs its load too, whose time is a guess here."""
        self.make(m=UNLOADED)
        self.enter(PowerState.ASLEEP)
        found = self.option()
        assert WAKE + ASSUMED_LOAD_SECONDS == found.seconds
        assert (SIZES["m"], False) == (found.footprint_mb, found.is_measured)

    def test_unknown_size(self) -> None:
        """The option has no unknown footprint, for that would put it before nodes that answer."""
        self.make(new=UNLOADED)
        self.enter(PowerState.ASLEEP)
        assert 0 == self.option("new").footprint_mb

    def test_full(self) -> None:
        """Where it does not fit, another must go, if that is allowed."""
        self.make(m=UNLOADED, a=LOADED, b=LOADED)
        self.enter(PowerState.ASLEEP)
        assert 1 == len(self.option().victims.victims)
        self.check(Hindrance.OCCUPIED, may_evict=False)

    def test_ejected(self) -> None:
        """A wake does not mend a replica that has failed its requests."""
        self.make()
        replica = self.node.replicas["m"]
        lease = self.fleet.grant(replica, "request", NOW)
        self.fleet.release(lease, NOW)
        self.fleet.ejections.take_end(replica, (), lease, Outcome(fault="x", poisoned=True), NOW)
        self.enter(PowerState.ASLEEP)
        self.check(Hindrance.EJECTED)

    def test_failed(self) -> None:
        """A load that has failed is not tried again before its time."""
        self.make(m=UNLOADED)
        self.fleet.note_load_failure(self.node.replicas["m"], "no file", NOW + 1.0)
        self.enter(PowerState.ASLEEP)
        self.check(Hindrance.FAILED)

    def test_too_large(self) -> None:
        """No node is woken for a model that it can never hold."""
        self.make(large=UNLOADED)
        self.enter(PowerState.ASLEEP)
        self.check(Hindrance.TOO_LARGE, "large")

    def test_no_help(self) -> None:
        """The obstacle stays where no wake helps now, and where the model was just being loaded."""
        self.make()
        self.enter(PowerState.SUSPENDING)
        self.check(Hindrance.ASLEEP)
        self.make(m=LOADING)
        self.enter(PowerState.ASLEEP)
        self.check(Hindrance.ASLEEP)
