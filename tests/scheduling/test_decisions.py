from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import ModelTerms
from cortexd.scheduling.decisions import (
    CANDIDATES_KEPT,
    DECISIONS_KEPT,
    REQUESTS_KEPT,
    RESIDENT,
    Candidate,
    Decisions,
    RequestTrail,
    candidates,
)
from cortexd.scheduling.placement import EvictionTerms, Finding, best, survey
from tests.support.nodes import LOADED, REFUSED, UNLOADED, fleet_of, replica_on

SIZES = {"m": 8_000, "a": 10_000, "b": 12_000, "large": 30_000}
NOW = 1_000.0


def found_for(fleet: Fleet, model: str = "m", *, may_drain: bool = False) -> list[Finding]:
    return survey(
        fleet, fleet.replicas(model), EvictionTerms(), NOW, swapping=(), may_drain=may_drain
    )


def trail(request_id: str, outcome: str = RESIDENT) -> RequestTrail:
    return RequestTrail(request_id, "m", NOW, outcome, "ada", 0.0, None)


class WordTests(SynchronousTestCase):
    def words(self, fleet: Fleet, model: str = "m", *, may_drain: bool = False) -> list[str]:
        """Return what each candidate for a model would cost, the best first."""
        found = found_for(fleet, model, may_drain=may_drain)
        return [f"{each.node}: {each.cost}" for each in candidates(found, NOW)]

    def test_fits(self) -> None:
        """Where it fits, it is told into how much of how much."""
        fleet = fleet_of({"ada": {"m": UNLOADED, "a": LOADED}}, sizes=SIZES)

        assert ["ada: fits into 14000 free MiB of 24000"] == self.words(fleet)

    def test_victims(self) -> None:
        """What would go is told with its size, its last use and what its loss means."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED, "a": LOADED, "b": LOADED}},
            sizes={**SIZES, "m": 20_000},
            models={"a": ModelTerms(4, priority=3)},
        )
        fleet.note_request("a", 900)
        fleet.release(fleet.grant(replica_on(fleet, "ada", "a"), "request", 900), 960)

        assert [
            "ada: evicts b (12000 MiB, not used yet), a (10000 MiB, unused for 40 s, priority 3)"
        ] == self.words(fleet)

    def test_victims_in_use(self) -> None:
        """Of what answers now, it is told how many requests it answers."""
        fleet = fleet_of({"ada": {"m": UNLOADED, "a": LOADED, "b": LOADED}}, sizes=SIZES)
        for model, leases in (("a", 1), ("b", 3)):
            for _ in range(leases):
                fleet.grant(replica_on(fleet, "ada", model), "request", 900)
        fleet.set_pin(fleet.nodes["ada"], "a", pinned=True)
        assert ["ada: evicts b (12000 MiB, 3 requests)"] == self.words(fleet, may_drain=True)

        fleet.set_pin(fleet.nodes["ada"], "a", pinned=False)
        assert ["ada: evicts a (10000 MiB, 1 request)"] == self.words(fleet, may_drain=True)

    def test_obstacles(self) -> None:
        """What is in the way is told with what the node said, where it said something."""
        fleet = fleet_of(
            {name: {"m": UNLOADED} for name in ("ada", "bob", "cyd", "dan")}, sizes=SIZES
        )
        fleet.set_cordon(fleet.nodes["ada"], cordoned=True)
        fleet.fail("bob", REFUSED, 1)
        fleet.note_load_failure(replica_on(fleet, "cyd", "m"), "no such file", NOW + 9)
        for _ in range(2):
            fleet.note_load_failure(replica_on(fleet, "dan", "m"), "no memory", NOW + 20)

        assert [
            "ada: is cordoned",
            "bob: does not answer: connection refused",
            "cyd: failed to load it once, next try in 9 s: no such file",
            "dan: failed to load it 2 times, next try in 20 s: no memory",
        ] == self.words(fleet)

    def test_obstacle_after_a_failure(self) -> None:
        """A load that failed is not told of where something else is in the way."""
        fleet = fleet_of({"ada": {"m": UNLOADED}}, sizes=SIZES)
        fleet.note_load_failure(replica_on(fleet, "ada", "m"), "no memory", NOW + 20)
        fleet.fail("ada", REFUSED, 1)

        assert ["ada: does not answer: connection refused"] == self.words(fleet)


class CandidateTests(SynchronousTestCase):
    def test_order(self) -> None:
        """Options come before obstacles, the best first."""
        full = {"m": UNLOADED, "a": LOADED, "b": LOADED}
        fleet = fleet_of(
            {"ada": {"m": LOADED}, "bob": full, "cyd": {"m": UNLOADED}, "dan": None}, sizes=SIZES
        )
        told = candidates(found_for(fleet), NOW)

        assert [("cyd", True, ()), ("bob", True, ("a",)), ("ada", False, ())] == [
            (each.node, each.possible, each.victims) for each in told
        ]

    def test_kept(self) -> None:
        """Of a large fleet's candidates the best are kept, the chosen one among them."""
        names = [f"node{number}" for number in range(2 * CANDIDATES_KEPT)]
        fleet = fleet_of(
            {name: {"m": LOADED if name in names[:5] else UNLOADED} for name in names},
            sizes=SIZES,
        )
        found = found_for(fleet)
        option = best(found)
        assert option is not None

        told = candidates(found, NOW)
        assert CANDIDATES_KEPT == len(told)
        assert (option.replica.node.name, True) == (told[0].node, all(c.possible for c in told))
        assert CANDIDATES_KEPT == len(candidates([*found[:5], *found[:5] * 9], NOW))

    @given(st.integers(0, 12), st.integers(0, 12))
    def test_a_few_are_all_kept(self, possible: int, impossible: int) -> None:
        """As long as there are few, every node is told of once."""
        states = {
            f"node{n}": UNLOADED if n < possible else LOADED for n in range(possible + impossible)
        }
        fleet = fleet_of({name: {"m": state} for name, state in states.items()}, sizes=SIZES)
        told = candidates(found_for(fleet), NOW)

        assert min(CANDIDATES_KEPT, len(states)) == len({each.node for each in told}) == len(told)
        assert min(CANDIDATES_KEPT, possible) == sum(each.possible for each in told)


class DecisionTests(SynchronousTestCase):
    def test_record(self) -> None:
        """A decision is kept with its number, its option and what else there was."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED, "a": LOADED, "b": LOADED}, "bob": {"m": LOADED}}, sizes=SIZES
        )
        found = found_for(fleet)
        decisions = Decisions()

        decision = decisions.record(
            "load", "m", "ada", "requests wait for it", NOW, option=best(found), found=found
        )

        assert (1, NOW, "load", "m", "ada", "requests wait for it", ("a",), 30.0) == (
            decision.number,
            decision.at,
            decision.action,
            decision.model,
            decision.node,
            decision.reason,
            decision.victims,
            decision.seconds,
        )
        assert "evicts a (10000 MiB, not used yet)" == decision.cost
        assert (
            Candidate("ada", True, decision.cost, ("a",)),
            Candidate("bob", False, "has it loaded", ()),
        ) == decision.candidates
        assert decision is decisions.number(1)

    def test_record_without_an_option(self) -> None:
        """An unload has its victims and costs nothing."""
        decision = Decisions().record("unload", "m", "ada", "idle", NOW, victims=["m"])

        assert (("m",), "", 0.0, ()) == (
            decision.victims,
            decision.cost,
            decision.seconds,
            decision.candidates,
        )

    def test_about(self) -> None:
        """What was decided about a model is what loaded it or gave it up, the latest first."""
        decisions = Decisions()
        decisions.record("load", "a", "ada", "", 1)
        decisions.record("load", "b", "ada", "", 2, victims=["a", "c"])
        decisions.record("unload", "b", "ada", "", 3, victims=["b"])

        assert {"a": [2, 1], "b": [3, 2], "c": [2], "d": []} == {
            model: [decision.number for decision in decisions.about(model)] for model in "abcd"
        }

    def test_bounded(self) -> None:
        """Only the last decisions are kept, however long the daemon runs."""
        decisions = Decisions()
        for number in range(DECISIONS_KEPT + 3):
            decisions.record("load", "m", "ada", "", float(number))

        kept = decisions.about("m")
        assert DECISIONS_KEPT == len(kept)
        assert (DECISIONS_KEPT + 3, 4) == (kept[0].number, kept[-1].number)
        assert [None, 4] == [
            found.number if found else None for found in (decisions.number(3), decisions.number(4))
        ]


class RequestTests(SynchronousTestCase):
    def test_last_word(self) -> None:
        """A request that is told of twice is remembered as it ended."""
        decisions = Decisions()
        decisions.note_request(trail("r1"))
        decisions.note_request(trail("r1", "rejected: full"))

        assert trail("r1", "rejected: full") == decisions.request("r1")
        assert None is decisions.request("r2")

    def test_bounded(self) -> None:
        """Only the last requests are remembered, by when they were last told of."""
        decisions = Decisions()
        decisions.note_request(trail("first"))
        decisions.note_request(trail("second"))
        for number in range(REQUESTS_KEPT - 2):
            decisions.note_request(trail(f"r{number}"))
        decisions.note_request(trail("first"))
        decisions.note_request(trail("one more"))

        assert [None, trail("first"), trail("r0")] == [
            decisions.request(name) for name in ("second", "first", "r0")
        ]
