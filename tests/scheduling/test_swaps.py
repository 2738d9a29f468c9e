from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.states import Operation
from cortexd.scheduling.swaps import Swap, Swaps, still_drains
from tests.support.nodes import (
    DRAIN,
    LOAD,
    LOADED,
    UNLOAD,
    UNLOADED,
    fleet_of,
    replica_on,
    seen,
)


class SwapTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.fleet = fleet_of({"ada": {"m": UNLOADED, "a": LOADED, "b": LOADED}})
        self.target, self.first, self.second = (
            replica_on(self.fleet, "ada", model) for model in "mab"
        )
        self.swap = Swap(
            self.fleet.nodes["ada"], self.target, [self.first, self.second], number=1, since=0.0
        )

    def begin(self, model: str, operation: Operation) -> None:
        self.fleet.begin(replica_on(self.fleet, "ada", model), operation, 1)

    def test_phases(self) -> None:
        """A swap drains its victims, unloads one after the other, then loads its target."""
        self.begin("a", DRAIN)
        self.begin("b", DRAIN)
        assert "draining" == self.swap.phase
        assert [self.first, self.second] == self.swap.draining

        self.begin("a", UNLOAD)
        assert ("unloading", self.first) == (self.swap.phase, self.swap.moving)
        assert [self.second] == self.swap.draining

        self.fleet.end(self.first, UNLOADED, 2)
        assert "draining" == self.swap.phase
        assert not self.swap.moving

        self.fleet.end(self.second, LOADED, 2)
        self.begin("m", LOAD)
        assert ("loading", self.target) == (self.swap.phase, self.swap.moving)
        assert [] == self.swap.draining

    def test_without_a_target(self) -> None:
        """A swap that only gives up has nothing but its victims to move."""
        swap = Swap(self.fleet.nodes["ada"], None, [self.first], number=1, since=0.0)
        assert not swap.moving

        self.begin("a", UNLOAD)
        assert ("unloading", self.first) == (swap.phase, swap.moving)

    def test_repr(self) -> None:
        """A swap shows its node, its phase, what moves, how many victims are left, its target."""
        assert "<Swap on ada: draining, 2 victims, then m>" == repr(self.swap)

        self.begin("a", UNLOAD)
        alone = Swap(self.fleet.nodes["ada"], None, [self.first], number=1, since=0.0)
        assert "<Swap on ada: unloading a, 1 victim, no target>" == repr(alone)

    def test_repr_is_short(self) -> None:
        """However long a name is, and whatever is in it, a swap is one short line."""
        for name in ("acme/" + "x" * 10_000, "acme/\nchat\x1b[31m"):
            fleet = fleet_of({name: {name: UNLOADED}})
            replica = replica_on(fleet, name, name)
            fleet.begin(replica, LOAD, 1)
            swap = Swap(replica.node, replica, [], number=1, since=0.0)
            assert repr(swap).isprintable()
            assert len(repr(swap)) < 250

    def test_drained_by_others(self) -> None:
        """A victim that somebody else unloaded, or that vanished, drains no more."""
        self.begin("a", DRAIN)
        self.begin("b", DRAIN)
        assert [True, True] == [still_drains(victim) for victim in self.swap.victims]

        self.fleet.observe("ada", seen(m=UNLOADED, a=UNLOADED), 2)
        assert [False, False] == [still_drains(victim) for victim in self.swap.victims]

    def test_pinned_meanwhile(self) -> None:
        """A victim that an operator has pinned meanwhile stays."""
        self.begin("a", DRAIN)
        self.fleet.set_pin(self.swap.node, "a", pinned=True)

        assert not still_drains(self.first)
        assert [self.first] == self.swap.draining

    def test_victim_that_comes_back(self) -> None:
        """A victim that vanished and came back is another replica, which nobody drains."""
        self.begin("a", DRAIN)
        self.fleet.observe("ada", seen(m=UNLOADED, b=LOADED), 2)
        self.fleet.observe("ada", seen(m=UNLOADED, a=LOADED, b=LOADED), 3)

        assert not still_drains(self.first)
        assert self.first is not replica_on(self.fleet, "ada", "a")
        assert replica_on(self.fleet, "ada", "a").answers
        assert [] == self.swap.draining


class SwapsTests(SynchronousTestCase):
    def swap(self, fleet: Fleet, node: str, model: str | None) -> Swap:
        target = replica_on(fleet, node, model) if model else None
        return Swap(fleet.nodes[node], target, [], number=1, since=0.0)

    def test_by_node(self) -> None:
        """A node's swap is found by its name, until it is over."""
        fleet = fleet_of({"ada": {"m": UNLOADED}, "bob": {"m": UNLOADED}})
        swaps, swap = Swaps(), self.swap(fleet, "ada", "m")
        swaps.add(swap)

        assert "ada" in swaps
        assert "bob" not in swaps
        assert (swap, None) == (swaps.on("ada"), swaps.on("bob"))
        assert [swap] == list(swaps)
        assert {"ada": swap} == swaps.nodes
        swaps.remove(swap)
        assert "ada" not in swaps
        assert [] == list(swaps)

    def test_what_they_bring(self) -> None:
        """A model is being brought until the last swap that brings it is over."""
        fleet = fleet_of({"ada": {"m": UNLOADED}, "bob": {"m": UNLOADED}, "cyd": {}})
        first, second = self.swap(fleet, "ada", "m"), self.swap(fleet, "bob", "m")
        swaps = Swaps()
        for swap in (first, second, self.swap(fleet, "cyd", None)):
            swaps.add(swap)
        assert swaps.brings("m")

        swaps.remove(first)
        assert swaps.brings("m")
        swaps.remove(second)
        assert not swaps.brings("m")

    def test_which_bring_it(self) -> None:
        """The swaps that bring a model are told in the order in which they began."""
        fleet = fleet_of({"ada": {"m": UNLOADED}, "bob": {"m": UNLOADED}, "cyd": {"m": UNLOADED}})
        by_node = {node: self.swap(fleet, node, "m") for node in ("cyd", "ada")}
        swaps = Swaps()
        for swap in (*by_node.values(), self.swap(fleet, "bob", None)):
            swaps.add(swap)
        assert (by_node["cyd"], by_node["ada"]) == swaps.bringing("m")

        swaps.remove(by_node["cyd"])
        assert [by_node["ada"]] == list(swaps.bringing("m"))
        swaps.remove(by_node["ada"])
        assert [] == list(swaps.bringing("m"))

    def test_removal_on_the_way(self) -> None:
        """Whoever goes through the swaps may end them."""
        fleet = fleet_of({"ada": {"m": UNLOADED}, "bob": {"m": UNLOADED}})
        swaps = Swaps()
        for node in ("ada", "bob"):
            swaps.add(self.swap(fleet, node, "m"))
        for swap in swaps:
            swaps.remove(swap)

        assert {} == swaps.nodes
