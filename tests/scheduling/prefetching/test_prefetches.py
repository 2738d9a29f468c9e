"""What is loaded before a request waits for it, and that no request suffers from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.nodes import ModelTerms, NodeTerms
from cortexd.fleet.sleep.power import PowerTerms
from cortexd.scheduling.events import StartLoad, StartUnload
from cortexd.scheduling.prefetching.events import Prefetched
from cortexd.scheduling.prefetching.prefetches import LOST_SECONDS, PREFETCHED
from cortexd.scheduling.prefetching.rules import BUDGET, QUIET_SECONDS
from cortexd.scheduling.repairs.events import RestartWanted
from cortexd.scheduling.terms import SchedulingTerms
from tests.scheduling.repairs.worlds import Repaired
from tests.support.scheduling import LOADED, UNLOADED, Setup, World, setup

SIZES = {"a": 8, "b": 8, "c": 8}
LOAD_SECONDS = 5.0


class Idle:
    """A world of "ada", which has "a" and "b" loaded, and whose loads take five seconds."""

    def __init__(
        self,
        *,
        budget: int = 20,
        sizes: Mapping[str, int] = SIZES,
        loaded: str = "ab",
        nodes: tuple[str, ...] = ("ada",),
        made: Setup | None = None,
        models: Mapping[str, ModelTerms] | None = None,
    ) -> None:
        made = made or setup(
            dict.fromkeys(nodes, budget), sizes, {"ada": loaded}, models=models, capacity=2
        )
        self.world = World(made)
        for node in self.world.fleet.nodes:
            for model in self.world.fleet.models:
                self.world.fleet.footprints.learn(node, model, LOAD_SECONDS, None)

    def ask(self, model: str, times: int = 3) -> None:
        """Let a model be requested and answered, once a second."""
        for _ in range(times):
            request = self.world.submit(model)
            self.world.finish_all()
            self.world.end(request)
            self.world.wait(1.0)

    def lose(self, node: str = "ada", *, quiet: float = QUIET_SECONDS) -> None:
        """Let the process of a node end and come back empty, and be quiet from then on."""
        self.world.restart(node, UNLOADED)
        self.world.wait(quiet)

    def sweep(self) -> list[str]:
        """Sweep, and return what begins to load."""
        return [each.model for each in self.world.sweep() if isinstance(each, StartLoad)]

    @property
    def outcomes(self) -> list[tuple[str, bool]]:
        """The prefetched models that were used, and those that were not, so far."""
        return [
            (each.model, each.is_used)
            for each in self.world.effects
            if isinstance(each, Prefetched)
        ]


class PrefetchTests(SynchronousTestCase):
    def test_the_hottest_comes_back_first(self) -> None:
        """Once the node was quiet for a while, one model after the other, with the reason."""
        idle = Idle()
        idle.ask("a", 2)
        idle.ask("b", 5)
        idle.lose(quiet=QUIET_SECONDS - 1)

        assert [] == idle.sweep()
        idle.world.wait(1.0)
        assert ["b"] == idle.sweep()
        assert PREFETCHED == idle.world.scheduler.decisions.about("b")[0].reason
        assert [] == idle.sweep()
        idle.world.load_done("ada")
        assert ["a"] == idle.sweep()
        idle.world.load_done("ada")
        assert [] == idle.sweep()
        assert [] == idle.world.of_kind(StartUnload)

    def test_whether_it_was_used(self) -> None:
        """A request makes it used; without one its eviction shows that it was in vain."""
        idle = Idle()
        for model in "ab":
            idle.ask(model)
        idle.lose()
        for _ in "ab":
            idle.sweep()
            idle.world.load_done("ada")
            idle.world.wait(1.0)
        idle.sweep()
        assert [] == idle.outcomes

        idle.ask("a")
        idle.sweep()
        assert [("a", True)] == idle.outcomes
        idle.world.unload("b")
        idle.world.unload_done("ada")
        idle.sweep()
        assert [("a", True), ("b", False)] == idle.outcomes

    def test_a_request_gets_what_comes(self) -> None:
        """A request that comes during the load waits for its end only, and counts as a use."""
        idle = Idle()
        idle.ask("a")
        idle.lose()
        idle.sweep()
        request = idle.world.submit("a")
        idle.world.load_done("ada")

        assert request in idle.world.leases
        idle.sweep()
        assert [("a", True)] == idle.outcomes

    def test_what_was_unloaded_stays_so(self) -> None:
        """An operator's unload, an eviction and what nobody asks for are not undone."""
        idle = Idle()
        for model in "ab":
            idle.ask(model)
        idle.world.unload("a")
        idle.world.unload_done("ada")
        idle.world.wait(QUIET_SECONDS)
        assert [] == idle.sweep()
        idle.lose()

        assert ["b"] == idle.sweep()
        idle.world.load_done("ada")
        assert [] == idle.sweep()

    def test_a_cold_model(self) -> None:
        """A model that was not requested lately waits for its next request."""
        idle = Idle()
        idle.ask("a", 1)
        idle.world.wait(3_000.0)
        idle.lose()

        assert [] == idle.sweep()

    def test_a_model_whose_ttl_has_ended(self) -> None:
        """It would be unloaded at once."""
        idle = Idle(models={"a": ModelTerms(2, ttl=20.0)})
        for model in "ba":
            idle.ask(model)
        idle.lose(quiet=25.0)

        assert ["b"] == idle.sweep()
        idle.world.load_done("ada")
        assert [] == idle.sweep()

    def test_a_busy_node(self) -> None:
        """While a request runs or waits there, and for a while after it, nothing is prefetched."""
        idle = Idle(budget=30, loaded="abc")
        for model in "abc":
            idle.ask(model)
        idle.lose()
        request = idle.world.submit("c")
        assert [] == idle.sweep()
        idle.world.load_done("ada")
        idle.world.wait(QUIET_SECONDS)
        assert [] == idle.sweep()
        idle.world.end(request)
        assert [] == idle.sweep()
        idle.world.wait(QUIET_SECONDS)

        assert ["b"] == idle.sweep()

    def test_a_long_load(self) -> None:
        """A node must be quiet for as long as the load takes."""
        idle = Idle()
        for _ in range(9):
            idle.world.fleet.footprints.learn("ada", "a", 100.0, None)
        idle.ask("a", 9)
        idle.lose(quiet=50.0)
        assert [] == idle.sweep()
        idle.world.wait(50.0)

        assert ["a"] == idle.sweep()

    def test_a_copy_elsewhere(self) -> None:
        """A model that another node has loaded answers from there."""
        idle = Idle(nodes=("ada", "bob"))
        idle.ask("a")
        idle.ask("b")
        idle.world.change("bob", "a", LOADED)
        idle.world.poll("bob")
        idle.lose()

        assert ["b"] == idle.sweep()

    def test_a_node_that_takes_no_work(self) -> None:
        """On a cordoned node nothing is loaded, until the cordon ends."""
        idle = Idle()
        idle.ask("a")
        idle.world.cordon("ada")
        idle.lose()
        assert [] == idle.sweep()
        idle.world.cordon("ada", cordoned=False)

        assert ["a"] == idle.sweep()

    def test_a_node_that_may_sleep(self) -> None:
        """What would be loaded there would keep it awake."""
        power = PowerTerms(has_command=True, idle_seconds=1e6, wake_seconds=50.0)
        nodes = [NodeTerms("ada", "http://ada:1", budget_mb=20, power=power)]
        idle = Idle(made=Setup(nodes, {"ada": {"a": LOADED}}, SIZES))
        idle.ask("a")
        idle.lose()

        assert [] == idle.sweep()

    def test_without_room(self) -> None:
        """It takes free memory only, and leaves the other models alone."""
        idle = Idle(sizes={"a": 16, "b": 4, "c": 8}, loaded="ab")
        idle.ask("b", 1)
        idle.ask("a", 5)
        idle.world.restart("ada", UNLOADED)
        idle.ask("c", 1)
        idle.world.wait(QUIET_SECONDS)

        assert ["b"] == idle.sweep()
        idle.world.load_done("ada")
        assert [] == idle.sweep()
        assert [] == idle.world.of_kind(StartUnload)

    def test_a_load_that_fails(self) -> None:
        """It is not tried again, and evicts nothing where memory was too little."""
        for out_of_memory in (True, False):
            idle = Idle(budget=30, loaded="abc")
            idle.ask("a")
            idle.ask("b", 9)
            idle.lose()
            assert ["b"] == idle.sweep()
            idle.world.load_done("ada")
            assert ["a"] == idle.sweep()
            idle.world.load_failed("ada", out_of_memory=out_of_memory)
            idle.world.wait(400.0)

            assert [] == idle.sweep()
            assert [] == idle.world.of_kind(StartUnload)
            idle.world.unload("b")
            idle.world.unload_done("ada")
            idle.sweep()
            assert [("b", False)] == idle.outcomes

    def test_a_model_that_ends_its_node(self) -> None:
        """What was prefetched in vain is lost for good, until a request asks for it."""
        idle = Idle()
        idle.ask("a")
        idle.lose()
        assert ["a"] == idle.sweep()
        idle.world.load_done("ada")
        idle.lose()

        assert [] == idle.sweep()
        assert [("a", False)] == idle.outcomes

    def test_budget(self) -> None:
        """A node whose process ends again and again loads so many models an hour and no more."""
        idle = Idle()
        loads = 0
        for _ in range(BUDGET + 2):
            idle.ask("a")
            idle.lose()
            loads += len(idle.sweep())
            idle.world.finish_all()

        assert BUDGET == loads
        idle.world.wait(3_600.0)
        idle.ask("a")
        idle.lose()
        assert ["a"] == idle.sweep()

    def test_too_late(self) -> None:
        """A node that comes to rest long after it has lost its models stays empty."""
        idle = Idle()
        idle.ask("a", 60)
        idle.lose(quiet=LOST_SECONDS)
        idle.sweep()
        idle.ask("b", 0)

        assert [] == idle.sweep()

    def test_a_planned_restart(self) -> None:
        """It brings its models back by itself, and a cold one none."""
        repaired = Repaired({"ada": 20}, SIZES, {"ada": ["a", "b"]})
        for _ in range(3):
            repaired.world.end(repaired.world.submit("a"))
        repaired.order("ada", cold=True)
        repaired.world.sweep()
        repaired.come_back("ada", UNLOADED)
        repaired.idle()

        assert [] == [each for each in repaired.world.effects if isinstance(each, StartLoad)]

    def test_before_a_restart_that_is_due(self) -> None:
        """On a node that is to be restarted nothing is prefetched."""
        repaired = Repaired({"ada": 20}, SIZES, {"ada": ["a", "b"]})
        for _ in range(3):
            repaired.world.end(repaired.world.submit("a"))
        repaired.world.restart("ada", UNLOADED)
        repaired.world.wish(RestartWanted("ada"))
        repaired.world.wait(QUIET_SECONDS)
        loads = [each for each in repaired.world.sweep() if isinstance(each, StartLoad)]

        assert [] == loads

    def test_switched_off(self) -> None:
        """With ``prefetch = false`` every load has a request, also after a reload."""
        idle = Idle(made=replace(setup({"ada": 20}, SIZES, {"ada": "ab"}), terms=OFF))
        idle.ask("a")
        idle.lose()
        assert [] == idle.sweep()
        idle.world.reconfigure(idle.world.setup.nodes, terms=SchedulingTerms())

        assert ["a"] == idle.sweep()

    def test_a_node_that_leaves(self) -> None:
        """Nothing of it is remembered."""
        idle = Idle(nodes=("ada", "bob"))
        idle.ask("a")
        idle.lose()
        nodes = idle.world.setup.nodes
        idle.world.reconfigure([nodes[1]])
        idle.world.reconfigure(nodes, {"ada": {"a": UNLOADED}})
        idle.world.wait(QUIET_SECONDS)

        assert [] == idle.sweep()


OFF = SchedulingTerms(prefetch=False)

STEPS = st.lists(
    st.sampled_from(
        ["ask a", "ask b", "ask c", "lose ada", "lose bob", "rest", "finish", "end", "others"]
    ),
    max_size=30,
)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=60)
    @given(STEPS, st.tuples(*[st.integers(3, 16)] * 3), st.integers(10, 30))
    def test_budgets_hold(self, steps: list[str], sizes: tuple[int, ...], budget: int) -> None:
        """Whatever happens, a prefetch fits into free memory, evicts nothing and has a quiet node.

        The world checks its rules after each event, the budgets of nodes among them.
        """
        idle = Idle(
            budget=budget,
            sizes=dict(zip("abc", sizes, strict=True)),
            loaded="",
            nodes=("ada", "bob"),
        )
        world = idle.world
        for step in steps:
            match step.split():
                case ["ask", model]:
                    world.submit(model)
                case ["lose", node]:
                    world.restart(node, UNLOADED)
                case ["rest"]:
                    world.wait(QUIET_SECONDS)
                case ["finish"]:
                    world.finish_all()
                case ["end"]:
                    world.end(*world.leases)
                case _:
                    world.read_system("ada", budget, budget // 2)
            world.sweep()
            for swap in world.scheduler.swaps:
                if swap.is_prefetch:
                    assert [] == [*swap.victims, *swap.evicted]
                    assert swap.since < world.now or swap.node.free_mb >= 0
