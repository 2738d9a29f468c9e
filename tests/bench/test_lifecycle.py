"""The simulated fleet: what its world refuses, the peers' rules, the traces and the bounds."""

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bench.figures import percentile
from bench.simulator.bounds import (
    least_loaded_mb,
    least_loads,
    least_loads_of_fleet,
    least_loads_within,
    loads_with_foresight,
)
from bench.simulator.cortex import CortexPolicy
from bench.simulator.decision_cost import Budget, cost_rows, measure, verdict
from bench.simulator.fleets import FleetSpec, ModelSpec, NodeSpec
from bench.simulator.peers import (
    PEERS,
    Lemonade,
    LlamaSwap,
    LocalAi,
    ModelMesh,
    Ollama,
    PlainLru,
)
from bench.simulator.report import run_row, table_rows, unfairness
from bench.simulator.traces import TRACES, Size, Timetable
from bench.simulator.world import (
    Action,
    Begin,
    Call,
    Load,
    Policy,
    Request,
    Run,
    Trace,
    Unload,
    ViolationError,
    play,
)

MakePolicy = Callable[[FleetSpec], Policy]
POLICIES: dict[str, MakePolicy] = {"cortexd": CortexPolicy, **PEERS}
LOAD, UNLOAD = 20.0, 0.5
CHURN = 30.0


def fleet_of(
    nodes: int = 1, slots: int = 1, models: str = "ABC", seats: int = 4, sizes: Sequence[int] = (1,)
) -> FleetSpec:
    """Nodes n0, n1, ... that hold `slots` MiB each and list all models, of `sizes` MiB in turn."""
    names = [f"n{number}" for number in range(nodes)]
    specs = [
        ModelSpec(model, size, LOAD, tuple(names), UNLOAD, seats)
        for model, size in zip(models, itertools.cycle(sizes), strict=False)
    ]
    return FleetSpec(
        {name: NodeSpec(name, slots) for name in names}, {spec.id: spec for spec in specs}
    )


def trace_of(fleet: FleetSpec, *calls: tuple[float, str, int]) -> Trace:
    """Make a trace of calls (second, model, seconds of the answer)."""
    table = tuple(Call(at, "client", model, seconds) for at, model, seconds in calls)
    return Trace("test", fleet, table[-1].at, lambda: Timetable(table), 0.0, 1.0)


class Told:
    """Hands all on to a policy and notes what it wants done, and when."""

    def __init__(self, policy: Policy) -> None:
        self.said: list[tuple[float, str]] = []
        self._policy = policy

    def _note(self, actions: Sequence[Action], now: float) -> Sequence[Action]:
        for action in actions:
            match action:
                case Begin(request, node):
                    self.said.append((now, f"begin {request.model} on {node}"))
                case Load(node, model) | Unload(node, model):
                    verb = type(action).__name__.lower()
                    self.said.append((now, f"{verb} {model} on {node}"))
        return actions

    def arrive(self, request: Request, now: float) -> Sequence[Action]:
        return self._note(self._policy.arrive(request, now), now)

    def finished(self, request: Request, now: float) -> Sequence[Action]:
        return self._note(self._policy.finished(request, now), now)

    def loaded(self, node: str, model: str, now: float) -> Sequence[Action]:
        return self._note(self._policy.loaded(node, model, now), now)

    def unloaded(self, node: str, model: str, now: float) -> Sequence[Action]:
        return self._note(self._policy.unloaded(node, model, now), now)

    def tick(self, now: float) -> Sequence[Action]:
        return self._note(self._policy.tick(now), now)


def said(make: MakePolicy, fleet: FleetSpec, *calls: tuple[float, str, int]) -> list[str]:
    """Return what a policy does for these calls, one line each."""
    told = Told(make(fleet))
    play(trace_of(fleet, *calls), told)
    return [f"{now:g} {words}" for now, words in told.said]


class Script:
    """A policy that answers events by a function of what happened, such as "loaded A"."""

    def __init__(self, answer: Callable[[str, Request | None], Sequence[Action]]) -> None:
        self._answer = answer

    def arrive(self, request: Request, _now: float) -> Sequence[Action]:
        return self._answer(f"arrive {request.number}", request)

    def finished(self, request: Request, _now: float) -> Sequence[Action]:
        return self._answer(f"finished {request.number}", request)

    def loaded(self, _node: str, model: str, _now: float) -> Sequence[Action]:
        return self._answer(f"loaded {model}", None)

    def unloaded(self, _node: str, model: str, _now: float) -> Sequence[Action]:
        return self._answer(f"unloaded {model}", None)

    def tick(self, _now: float) -> Sequence[Action]:
        return []


class WorldTests(SynchronousTestCase):
    def _assert_refused(
        self, why: str, fleet: FleetSpec, script: dict[str, list[Action]], *, begins_at: str = ""
    ) -> None:
        requests: list[Request] = []

        def answer(event: str, request: Request | None) -> list[Action]:
            if request is not None and event.startswith("arrive"):
                requests.append(request)
            actions = list(script.get(event, []))
            if event == begins_at:
                actions = [Begin(each, "n0") for each in requests] + actions
            return actions

        trace = trace_of(fleet, (0.0, "A", 5), (1.0, "A", 5))
        error = self.assertRaises(ViolationError, play, trace, Script(answer))
        self.assertIn(why, str(error))

    def test_a_node_is_not_overfilled(self) -> None:
        """A load that does not fit is an error, also while what made way is still unloading."""
        load, other = Load("n0", "A"), Load("n0", "B")
        self._assert_refused(
            "1 MiB and 0 are free", fleet_of(), {"arrive 0": [load], "loaded A": [other]}
        )
        swap: list[Action] = [Unload("n0", "A"), other]
        self._assert_refused("0 are free", fleet_of(), {"arrive 0": [load], "loaded A": swap})

    def test_a_node_loads_one_model_at_a_time(self) -> None:
        """A second load beside a running one is an error, of whatever model."""
        for second, why in (("B", "a load of A runs there"), ("A", "it is not unloaded there")):
            script: dict[str, list[Action]] = {"arrive 0": [Load("n0", "A"), Load("n0", second)]}
            self._assert_refused(why, fleet_of(slots=2), script)

    def test_a_running_answer_is_not_cut(self) -> None:
        """To unload a model that answers is an error."""
        script: dict[str, list[Action]] = {
            "arrive 0": [Load("n0", "A")],
            "loaded A": [Unload("n0", "A")],
        }
        self._assert_refused("2 requests run on it", fleet_of(), script, begins_at="loaded A")

    def test_a_request_begins_only_where_its_model_is_loaded(self) -> None:
        """To begin on a node without the model, loading it or unloading it is an error."""
        not_loaded = "the model is not loaded there"
        self._assert_refused(not_loaded, fleet_of(), {}, begins_at="arrive 0")
        loading: dict[str, list[Action]] = {"arrive 0": [Load("n0", "A")]}
        self._assert_refused(not_loaded, fleet_of(), loading, begins_at="arrive 1")

    def test_seats_and_requests_are_not_given_twice(self) -> None:
        """A request more than there are seats is an error, and one that does not wait."""
        script: dict[str, list[Action]] = {"arrive 0": [Load("n0", "A")]}
        self._assert_refused("1 seats are taken", fleet_of(seats=1), script, begins_at="loaded A")
        again: list[Action] = [Begin(Request(0, "client", "A", 0.0), "n0")]
        script["loaded A"] = again
        self._assert_refused("it does not wait", fleet_of(), script, begins_at="loaded A")

    def test_only_what_is_loaded_is_unloaded_and_only_what_is_listed_loaded(self) -> None:
        """To unload what is not there, or to load what a node does not list, is an error."""
        self._assert_refused("not loaded there", fleet_of(), {"arrive 0": [Unload("n0", "A")]})
        nodes = {name: NodeSpec(name, 1) for name in ("n0", "n1")}
        fleet = FleetSpec(nodes, {"A": ModelSpec("A", 1, LOAD, ("n1",))})
        self._assert_refused("does not list it", fleet, {"arrive 0": [Load("n0", "A")]})

    def test_what_is_never_answered_is_counted(self) -> None:
        """Requests that a policy forgets wait for ever, and the run ends all the same."""
        run = play(trace_of(fleet_of(), (0.0, "A", 5)), Script(lambda *_: []))
        self.assertEqual((0, 1, [("A", inf)]), (run.answered, run.unanswered, run.waits))

    def test_time_passes_while_no_request_waits(self) -> None:
        """A policy that asks for it is called at intervals up to the last event, then no more."""

        class Clock(PlainLru):
            def __init__(self, fleet: FleetSpec) -> None:
                super().__init__(fleet)
                self.ticks: list[float] = []

            def tick(self, now: float) -> list[Action]:
                self.ticks.append(now)
                return []

        trace = trace_of(fleet_of(), (0.0, "A", 5), (58.0, "A", 1))
        clock = Clock(trace.fleet)
        play(trace, clock, idle_tick_seconds=10.0)
        self.assertEqual([*range(1, 21), 30, 40, 50, 60], clock.ticks)

    def test_a_run_is_booked(self) -> None:
        """Loads, waits, and evictions of what was asked again soon come out as they happened."""
        run = play(
            trace_of(fleet_of(), (0.0, "A", 5), (1.0, "B", 5), (30.0, "A", 5)), PlainLru(fleet_of())
        )
        waits = [("A", 20.0), ("B", 44.5), ("A", 41.0)]
        self.assertEqual((3, 3, 2, 1), (run.answered, run.loads, run.unloads, run.wasted_evictions))
        self.assertEqual((waits, 76.0), (run.waits, run.ended_at))

    def test_a_fleet_that_cannot_be_is_refused(self) -> None:
        """A model that is too large for its node, or on none, is a mistake of whoever made it."""
        for size, nodes in ((2, ("n0",)), (1, ())):
            models = {"A": ModelSpec("A", size, LOAD, nodes)}
            self.assertRaises(ValueError, FleetSpec, {"n0": NodeSpec("n0", 1)}, models)


class PeerTests(SynchronousTestCase):
    def test_lru_serves_in_the_order_of_arrival(self) -> None:
        """Plain LRU swaps for each change of model, and nobody passes the head of the line."""
        expected = [
            *("0 load A on n0", "20 begin A on n0", "30 unload A on n0", "30.5 load B on n0"),
            *("50.5 begin B on n0", "55.5 unload B on n0", "56 load A on n0", "76 begin A on n0"),
        ]
        calls = (0.0, "A", 10), (21.0, "B", 5), (22.0, "A", 5)
        self.assertEqual(expected, said(PlainLru, fleet_of(), *calls))
        self.assertEqual(expected, said(Ollama, fleet_of(), *calls))

    def test_lru_gives_up_the_least_recently_used_and_waits_for_it(self) -> None:
        """The victim is who was asked longest ago, though another one is idle."""
        calls = (0.0, "A", 100), (1.0, "B", 5), (60.0, "C", 5)
        self.assertIn("120 unload A on n0", said(PlainLru, fleet_of(slots=2), *calls))
        again = (0.0, "A", 5), (1.0, "B", 5), (50.0, "A", 5), (60.0, "C", 5)
        self.assertIn("60 unload B on n0", said(PlainLru, fleet_of(slots=2), *again))

    def test_llama_swap_lets_requests_for_a_loaded_model_pass(self) -> None:
        """A swap waits until its victim is idle; meanwhile the victim takes more requests."""
        expected = [
            *("0 load A on n0", "20 begin A on n0", "22 begin A on n0", "30 unload A on n0"),
            *("30.5 load B on n0", "50.5 begin B on n0"),
        ]
        calls = (0.0, "A", 10), (21.0, "B", 5), (22.0, "A", 5)
        self.assertEqual(expected, said(LlamaSwap, fleet_of(), *calls))

    def test_llama_swap_groups_requests_by_model(self) -> None:
        """What waits for a swap is served together once it is done: ABAB becomes AABB."""
        calls = [(float(number), "AB"[number % 2], 5) for number in range(8)]
        run = play(trace_of(fleet_of(), *calls), LlamaSwap(fleet_of()))
        self.assertEqual((2, list("AAAABBBB")), (run.loads, run.begun))

    def test_llama_swap_promotes_nobody_by_age(self) -> None:
        """As long as the loaded model is asked again before it is idle, another never comes."""
        stream = [(20.0 + 5 * number, "A", 8) for number in range(100)]
        run = play(
            trace_of(fleet_of(), (0.0, "A", 8), (1.0, "B", 5), *stream), LlamaSwap(fleet_of())
        )
        self.assertEqual("B", run.begun[-1])
        self.assertGreater(run.longest_wait, 500)

    def test_ollama_gives_up_an_idle_model_first(self) -> None:
        """Whatever was used last, an idle model goes before a busy one."""
        calls = (0.0, "A", 100), (1.0, "B", 5), (60.0, "C", 5)
        self.assertIn("60 unload B on n0", said(Ollama, fleet_of(slots=2), *calls))

    def test_ollama_lets_a_busy_model_run_out_and_all_others_wait(self) -> None:
        """With every model busy, the longest unused takes no more requests until it can go, and
        neither does any other.
        """
        calls = (0.0, "A", 50), (1.0, "B", 90), (60.0, "C", 5), (61.0, "B", 5)
        done = said(Ollama, fleet_of(slots=2), *calls)
        expected = ["70 unload A on n0", "70.5 load C on n0", "70.5 begin B on n0"]
        self.assertEqual([*expected, "90.5 begin C on n0"], done[4:])

    def test_model_mesh_does_not_disturb_a_young_cache(self) -> None:
        """A model is given up only once it was not used for the churn age."""
        calls = (0.0, "A", 5), (30.0, "B", 5)
        done = said(lambda fleet: ModelMesh(fleet, CHURN), fleet_of(), *calls)
        expected = ["55 unload A on n0", "55.5 load B on n0", "75.5 begin B on n0"]
        self.assertEqual(expected, done[2:])

    def test_local_ai_skips_busy_models(self) -> None:
        """The least recently used idle model goes; a load that finds none looks every second."""
        calls = (0.0, "A", 100), (1.0, "B", 5), (60.0, "C", 5)
        self.assertIn("60 unload B on n0", said(LocalAi, fleet_of(slots=2), *calls))
        expected = ["23.5 unload A on n0", "24 load B on n0", "44 begin B on n0"]
        calls = (0.0, "A", 3), (20.5, "B", 5), (21.0, "A", 1)
        self.assertEqual(expected, said(LocalAi, fleet_of(), *calls)[-3:])

    def test_local_ai_gives_up_a_load_that_finds_no_idle_model(self) -> None:
        """After 30 tries, a second apart, the requests for the model fail; others go on."""
        calls = (0.0, "A", 100), (30.0, "B", 5), (40.0, "B", 5), (119.0, "A", 1)
        run = play(trace_of(fleet_of(), *calls), LocalAi(fleet_of()))
        self.assertEqual((2, 2, 1), (run.answered, run.unanswered, run.loads))

    def test_lemonade_lets_nothing_begin_while_a_victim_is_busy(self) -> None:
        """The least recently used model goes although it is busy, and all others wait for that."""
        calls = (0.0, "A", 50), (1.0, "B", 5), (60.0, "C", 5), (61.0, "B", 5)
        done = said(Lemonade, fleet_of(slots=2), *calls)
        expected = ["70 unload A on n0", "70.5 load C on n0", "70.5 begin B on n0"]
        self.assertEqual([*expected, "90.5 begin C on n0"], done[4:])

    def test_peers_take_free_room_then_the_longest_unused(self) -> None:
        """A second model goes to the empty node, a third where the longest unused model is."""
        makes = [*PEERS.values(), lambda fleet: ModelMesh(fleet, CHURN)]
        makes.remove(ModelMesh)
        calls = (0.0, "A", 5), (1.0, "B", 5), (60.0, "A", 5), (100.0, "C", 5)
        for make in makes:
            done = said(make, fleet_of(nodes=2), *calls)
            self.assertIn("1 load B on n1", done)
            self.assertIn("100 unload B on n1", done)

    def test_seats_are_kept(self) -> None:
        """Whoever finds no seat waits for one, under every policy."""
        fleet = fleet_of(seats=1)
        for make in POLICIES.values():
            run = play(trace_of(fleet, (0.0, "A", 5), (1.0, "A", 5)), make(fleet))
            self.assertEqual([("A", 20.0), ("A", 24.0)], run.waits)


class CortexTests(SynchronousTestCase):
    def test_agents_that_alternate_cost_a_third_of_the_loads_of_lru(self) -> None:
        """With 8 and 16 agents on two models of which one fits, loads per answer are at least three
        times fewer than those of LRU in the order of arrival, at no worse waits.
        """
        for name in ("agents-8", "agents-16"):
            trace = TRACES[name](Size(hours=0.3))
            ours, lru = (play(trace, make(trace.fleet)) for make in (CortexPolicy, PlainLru))
            self.assertLessEqual(3 * ours.loads / ours.answered, lru.loads / lru.answered)
            waits = [percentile([wait for _, wait in run.waits], 0.95) for run in (ours, lru)]
            self.assertLessEqual(*waits)

    def test_a_refusal_is_a_request_without_an_answer(self) -> None:
        """What the scheduler rejects, here for the length of its queue, counts as unanswered."""
        fleet = fleet_of()
        run = play(trace_of(fleet, *[(0.0, "A", 1)] * 300), CortexPolicy(fleet))
        self.assertEqual((256, 44), (run.answered, run.unanswered))


def fewest_by_trying(order: str, slots: int) -> int:
    """Return the fewest loads, by trying every victim."""

    @cache
    def fewest(place: int, held: frozenset[str]) -> int:
        if place == len(order):
            return 0
        model = order[place]
        if model in held:
            return fewest(place + 1, held)
        if len(held) < slots:
            return 1 + fewest(place + 1, held | {model})
        return 1 + min(fewest(place + 1, held - {victim} | {model}) for victim in held)

    return fewest(0, frozenset())


ORDERS = st.text("ABCDE", max_size=14)
CALLS = st.lists(
    st.tuples(st.floats(0, 300), st.sampled_from("ABCDE"), st.integers(0, 60)),
    min_size=1,
    max_size=20,
).map(sorted)


class BoundTests(SynchronousTestCase):
    def test_belady_on_a_known_order(self) -> None:
        """What is asked again last is given up."""
        self.assertEqual(7, least_loads("ABCDABEABCDE", 3))
        self.assertEqual(4, least_loads("ABAB", 1))
        self.assertEqual(0, least_loads("", 1))

    @given(ORDERS, st.integers(1, 4))
    def test_belady_is_the_least_of_all_choices(self, order: str, slots: int) -> None:
        """No choice of victims does with fewer loads, and some choice does with as many."""
        self.assertEqual(fewest_by_trying(order, slots), least_loads(order, slots))

    @given(ORDERS, st.integers(1, 4), st.integers(1, 9))
    def test_the_bound_by_mib_is_belady_for_equal_sizes(
        self, order: str, slots: int, size: int
    ) -> None:
        """Where all sizes are equal nothing is gained by giving up parts of a model."""
        fewest_mb = least_loaded_mb(order, dict.fromkeys("ABCDE", size), slots * size)
        self.assertEqual(size * least_loads(order, slots), fewest_mb)

    def test_parts_of_models_may_stay_in_the_bound_by_mib(self) -> None:
        """Where sizes differ, what fits beside a larger model counts as kept."""
        self.assertEqual(3 + 2 + 1, least_loaded_mb("ABA", {"A": 3, "B": 2}, 4))

    @given(ORDERS, st.integers(1, 4))
    def test_foresight_lies_between_lru_and_belady(self, order: str, slots: int) -> None:
        """Who sees everything needs as few loads as MIN, who sees nothing as many as LRU."""
        arrivals = [(float(at), model) for at, model in enumerate(order)]
        least = least_loads(order, slots)
        self.assertEqual(least, loads_with_foresight(arrivals, slots, inf))
        self.assertGreaterEqual(loads_with_foresight(arrivals, slots, 3.0), least)
        used: list[str] = []
        missed = 0
        for model in order:
            missed += model not in used[-slots:]
            used = [*(each for each in used if each != model), model]
        self.assertEqual(missed, loads_with_foresight(arrivals, slots, 0.0))

    def test_a_wait_allows_to_group(self) -> None:
        """Of two calls far apart one at least needs a load, whatever was loaded before, the first
        two need one each; who may let calls wait needs one for each model.
        """
        arrivals = [(100.0 * number, "AB"[number % 2]) for number in range(6)]
        self.assertEqual(2 + 1 + 1, least_loads_within(arrivals, 1, 10.0))
        self.assertEqual(2, least_loads_within(arrivals, 1, 1000.0))
        self.assertEqual(2, least_loads_within(arrivals, 2, 10.0))
        self.assertEqual(0, least_loads_within([], 1, 10.0))

    @settings(max_examples=60)
    @given(CALLS, st.integers(1, 3), st.integers(1, 2), st.sampled_from([(1,), (1, 2)]))
    def test_no_policy_does_better_and_all_keep_the_rules(
        self, calls: list[tuple[float, str, int]], nodes: int, slots: int, sizes: tuple[int, ...]
    ) -> None:
        """Every policy answers everybody without a violation, and no bound is above its loads; only
        LocalAI gives requests up.
        """
        fleet = fleet_of(nodes, max(slots, *sizes), "ABCDE", sizes=sizes)
        trace = trace_of(fleet, *calls)
        for name, make in POLICIES.items():
            run = play(trace, make(fleet))
            self.assertEqual(len(calls), run.answered + run.unanswered, name)
            self.assertTrue(name == "LocalAI" or not run.unanswered, name)
            least, _ = least_loads_of_fleet(run.begun, fleet)
            within = least_loads_within(run.arrivals, fleet.most_replicas, run.longest_wait)
            least_mb = least_loaded_mb(run.begun, fleet.sizes_mb, fleet.memory_mb)
            self.assertLessEqual(least, run.loads, name)
            self.assertTrue(run.unanswered or within <= run.loads, name)
            self.assertLessEqual(least_mb, run.loaded_mb, name)
            if name == "LRU, first come" and nodes == 1:
                self.assertEqual([model for _, model, _ in calls], run.begun)


class ReportTests(SynchronousTestCase):
    def test_a_row_tells_what_happened(self) -> None:
        """Counts, waits and the bound stand under their heads."""
        fleet = fleet_of()
        trace = trace_of(fleet, (0.0, "A", 5), (1.0, "B", 5), (30.0, "A", 5))
        head, row = table_rows({"LRU": play(trace, PlainLru(fleet))}, fleet)
        told = dict(zip(head, row, strict=True))
        expected = {"answered": "3", "loads": "3", "per answer": "1.000", "wait s p50": "41.0"}
        expected |= {"p95": "44.5", "wasted": "1", "MIN of its order": "3", "per hour": "142.1"}
        self.assertEqual(expected, {name: told[name] for name in expected})

    def test_unfairness_is_worst_over_middle(self) -> None:
        """It is the difference of the models' 95th percentiles; who never is answered adds all."""
        waits = [("A", 1.0), ("B", 2.0), ("C", 9.0)]
        self.assertEqual(7.0, unfairness(Run(waits=waits)))
        self.assertEqual(inf, unfairness(Run(waits=[*waits, ("C", inf)])))
        self.assertEqual(0.0, unfairness(Run()))

    def test_sizes_that_differ_are_told_in_gib(self) -> None:
        """Where a load is not like another, the row has what was loaded and the bound on that."""
        fleet = fleet_of(slots=2048, sizes=(1024, 2048))
        run = play(trace_of(fleet, (0.0, "A", 5), (50.0, "B", 5)), PlainLru(fleet))
        self.assertEqual(["3", "3"], run_row("LRU", run, fleet)[-2:])

    def test_every_kind_of_event_has_its_cost(self) -> None:
        """All decisions are timed, each under its kind, ticks apart from the others."""
        run = measure(TRACES["zipf"](Size(hours=0.2)))
        counts = {row[0]: row[1] for row in cost_rows(run)[1:]}
        expected = {
            "arrive": len(run.arrivals),
            "loaded": run.loads,
            "finished": run.answered,
            "unloaded": run.unloads,
        }
        expected["all of these"] = sum(expected.values())
        self.assertEqual(expected, {kind: int(counts[kind]) for kind in expected})

    def test_a_budget_is_kept_or_missed(self) -> None:
        """The mean of all decisions but ticks is held against it."""
        run = Run(decision_ns={"arrive": [50_000, 150_000], "tick": [9_000_000]})
        self.assertIn("100 us per decision", verdict(Budget("zipf", 3, 36, 100), run))
        self.assertTrue(verdict(Budget("zipf", 3, 36, 100), run).endswith("pass"))
        self.assertTrue(verdict(Budget("zipf", 3, 36, 99), run).endswith("miss"))
