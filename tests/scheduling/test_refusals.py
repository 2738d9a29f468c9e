from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import (
    RETRY_WHEN_DOWN,
    RETRY_WHEN_FULL,
    RETRY_WHEN_UNLOADED,
    CortexError,
    ModelDoesNotFit,
    ModelNotFound,
    ModelNotLoaded,
    Overloaded,
    QueueFull,
    QueueTimeout,
)
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import LearnedLoad
from cortexd.fleet.learning.load_times import ASSUMED_LOAD_SECONDS
from cortexd.fleet.states import Observation, ReplicaState
from cortexd.scheduling.placement import (
    EvictionTerms,
    Finding,
    may_pass,
    survey,
)
from cortexd.scheduling.refusals import (
    hopeless,
    load_seconds,
    no_free_slot,
    queue_full,
    queue_timeout,
)
from tests.support.nodes import (
    DOWN,
    LISTED_STATES,
    LOAD_TIMEOUT,
    LOADED,
    LOADING,
    REFUSED,
    STUCK,
    UNLOADED,
    fleet_of,
    replica_on,
)

NOW = 1_000.0


def found_for(fleet: Fleet, tried: tuple[str, ...] = (), now: float = NOW) -> list[Finding]:
    return survey(fleet, fleet.replicas("m"), EvictionTerms(), now, swapping=(), tried=tried)


def refusal(fleet: Fleet, now: float = NOW) -> CortexError:
    """Return what those are told who wait for a model in vain."""
    found = found_for(fleet, now=now)
    assert not may_pass(found)
    return hopeless(fleet, "m", found, now)


def seconds(**by_node: float) -> Mapping[tuple[str, str], LearnedLoad]:
    """Return that a load of the model ``m`` took these seconds on each node."""
    return {(node, "m"): LearnedLoad(0, 0, 0, 1, taken) for node, taken in by_node.items()}


class HopelessTests(SynchronousTestCase):
    def assert_told(
        self, kind: type[CortexError], words: str, retry_after: float | None, error: CortexError
    ) -> None:
        assert (kind, words, retry_after) == (type(error), error.message, error.retry_after)

    def test_on_no_node(self) -> None:
        """A model that vanished from every listing meanwhile is not found."""
        error = refusal(fleet_of({"ada": {}}))

        self.assert_told(
            ModelNotFound,
            "no node lists model 'm' any more; GET /v1/models lists the models",
            None,
            error,
        )
        assert "model" == error.param

    def test_failed_loads(self) -> None:
        """Those who wait are told in each node's own words, and when the first is tried again."""
        fleet = fleet_of({"ada": {"m": UNLOADED}, "bob": {"m": UNLOADED}, "cyd": {"m": UNLOADED}})
        fleet.note_load_failure(replica_on(fleet, "ada", "m"), "no such file", NOW + 40)
        fleet.note_load_failure(replica_on(fleet, "bob", "m"), "out of memory", NOW + 20)
        fleet.fail("cyd", REFUSED, NOW)

        self.assert_told(
            ModelNotLoaded,
            "model 'm' could not be loaded: node ada: no such file; node bob: out of memory",
            20.0,
            refusal(fleet),
        )

    def test_too_large(self) -> None:
        """What fits nowhere is told with its size and every budget; no later try would help."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED}, "bob": {"m": UNLOADED}},
            sizes={"m": 30_000},
            budget_mb={"ada": 24_000, "bob": 16_000},
        )

        self.assert_told(
            ModelDoesNotFit,
            "model 'm' needs 30000 MiB and does not fit beside the pinned models of any node: "
            "ada has 24000 MiB, bob has 16000 MiB",
            None,
            refusal(fleet),
        )

    def test_too_large_of_unknown_size(self) -> None:
        """Where what is pinned leaves nothing at all, no size is made up."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED, "p": LOADED}}, sizes={"p": 24_000}, pinned={"ada": ("p",)}
        )

        self.assert_told(
            ModelDoesNotFit,
            "model 'm' does not fit beside the pinned models of any node: ada has 24000 MiB",
            None,
            refusal(fleet),
        )

    def test_too_large_where_nodes_answer(self) -> None:
        """As long as a silent node might hold it, it is not said that none can."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED}, "bob": {"m": UNLOADED}, "cyd": {"m": UNLOADED}},
            sizes={"m": 30_000},
            budget_mb={"ada": 24_000, "bob": 48_000, "cyd": 48_000},
        )
        fleet.fail("bob", REFUSED, NOW)
        fleet.set_cordon(fleet.nodes["cyd"], cordoned=True)

        self.assert_told(
            Overloaded,
            "no node can serve model 'm' now: "
            "node ada can never hold it, node bob does not answer, node cyd is cordoned",
            RETRY_WHEN_DOWN,
            refusal(fleet),
        )

    def test_stuck(self) -> None:
        """A load that never ends needs a restart, which takes somebody's hand."""
        fleet = fleet_of({"ada": {"m": LOADING}, "bob": None}, now=NOW)

        self.assert_told(
            ModelNotLoaded,
            "model 'm' cannot be loaded until node ada is restarted",
            RETRY_WHEN_UNLOADED,
            refusal(fleet, now=NOW + LOAD_TIMEOUT + 1),
        )

    @settings(max_examples=200)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(LISTED_STATES),
                st.sampled_from(["up", "down", "cordoned", "failed"]),
            ),
            max_size=3,
        ),
        st.sampled_from([None, 8_000, 30_000]),
        st.sampled_from([NOW, NOW + LOAD_TIMEOUT + 1]),
    )
    def test_never_without_a_reason(
        self, nodes: list[tuple[ReplicaState, str]], size: int | None, now: float
    ) -> None:
        """Whatever is in the way, a node is named, and nobody is told to try again at once."""
        fleet = fleet_of(
            {f"node{number}": {"m": state} for number, (state, _) in enumerate(nodes)},
            sizes={} if size is None else {"m": size},
            now=NOW,
        )
        for node, (_, trouble) in zip(fleet.nodes.values(), nodes, strict=True):
            match trouble:
                case "down":
                    fleet.fail(node.name, REFUSED, NOW)
                    assert DOWN is node.health
                case "cordoned":
                    fleet.set_cordon(node, cordoned=True)
                case "failed":
                    fleet.note_load_failure(node.replicas["m"], "no memory", now + 7)
        found = found_for(fleet, now=now)
        if may_pass(found):
            return
        error = hopeless(fleet, "m", found, now)

        assert "'m'" in error.message
        assert error.retry_after is None or error.retry_after > 0
        assert (error.retry_after is None) == isinstance(error, ModelNotFound | ModelDoesNotFit)
        assert nodes == [] or any(name in error.message for name in fleet.nodes)


class NoWaitTests(SynchronousTestCase):
    def test_full_elsewhere(self) -> None:
        """A request that may not wait learns how many slots are in use, and to retry soon."""
        fleet = fleet_of(
            {"ada": {"m": LOADED}, "bob": {"m": LOADED}, "cyd": {"m": STUCK}}, capacity=3
        )
        error = no_free_slot("m", found_for(fleet, tried=("ada",)), footprints=fleet.footprints)

        assert (Overloaded, RETRY_WHEN_FULL) == (type(error), error.retry_after)
        assert "all 6 slots of model 'm' are in use; try again shortly" == error.message

    def test_not_loaded_elsewhere(self) -> None:
        """Where no other node has it, it would have to be loaded, which takes its time."""
        fleet = fleet_of({"ada": {"m": LOADED}, "bob": {"m": UNLOADED}}, learned=seconds(bob=12.0))
        error = no_free_slot("m", found_for(fleet, tried=("ada",)), footprints=fleet.footprints)

        assert (ModelNotLoaded, 12.0) == (type(error), error.retry_after)
        assert "model 'm' is not loaded on any other node; try again later" == error.message

    def test_queue(self) -> None:
        """A full queue is told with its length, a wait that was too long with its seconds."""
        fleet = fleet_of({"ada": {"m": UNLOADED}}, learned=seconds(ada=12.0))
        found = found_for(fleet)
        full = queue_full("m", 256, found, footprints=fleet.footprints)
        late = queue_timeout("m", 600.4, found, footprints=fleet.footprints)

        assert (QueueFull, 12.0) == (type(full), full.retry_after)
        assert "the queue of model 'm' is full with 256 requests; try again later" == full.message
        assert (QueueTimeout, 12.0) == (type(late), late.retry_after)
        assert "the request waited 600 s for a slot of model 'm'; try again later" == late.message

    def test_queue_of_a_closed_node(self) -> None:
        """A wait that was too long says that the node of the model was closed, and why."""
        fleet = fleet_of({"ada": {"m": UNLOADED}})
        fleet.close(fleet.nodes["ada"], "its engine is being restarted: stuck: m")
        late = queue_timeout("m", 600.4, found_for(fleet), footprints=fleet.footprints)

        assert (
            "the request waited 600 s for a slot of model 'm'; node ada: its engine is being "
            "restarted: stuck: m; try again later"
        ) == late.message


class LoadSecondsTests(SynchronousTestCase):
    def test_quickest(self) -> None:
        """A load takes what it takes on the quickest node that may do one."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED}, "bob": {"m": UNLOADED}, "cyd": {"m": UNLOADED}},
            learned=seconds(ada=30.0, bob=20.0, cyd=1.0),
        )
        fleet.fail("cyd", REFUSED, NOW)

        assert 20.0 == load_seconds(found_for(fleet), fleet.footprints)

    def test_where_none_can_begin(self) -> None:
        """Where nothing can be loaded now, what loads took is still known."""
        fleet = fleet_of(
            {"ada": {"m": LOADING}, "bob": {"m": LOADED}},
            learned=seconds(ada=40.0, bob=20.0),
            now=NOW,
        )

        assert 20.0 == load_seconds(found_for(fleet), fleet.footprints)
        for error in (
            queue_full("m", 1, found_for(fleet), footprints=fleet.footprints),
            queue_timeout("m", 1.0, found_for(fleet), footprints=fleet.footprints),
            no_free_slot("m", found_for(fleet, tried=("bob",)), footprints=fleet.footprints),
        ):
            assert error.retry_after == (40.0 if isinstance(error, ModelNotLoaded) else 20.0)

    def test_never_seen(self) -> None:
        """Where no load was ever seen, one is assumed."""
        fleet = fleet_of({"ada": {"m": LOADING}}, now=NOW)
        assert ASSUMED_LOAD_SECONDS == load_seconds(found_for(fleet), fleet.footprints)

        fleet.observe("ada", Observation(100, {}), NOW)
        assert ASSUMED_LOAD_SECONDS == load_seconds(found_for(fleet), fleet.footprints)
