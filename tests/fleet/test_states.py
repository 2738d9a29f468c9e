from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.states import (
    ANSWERING_HEALTH,
    ANSWERING_STATES,
    HEALTH_TRANSITIONS,
    REPLICA_STATES,
    RESIDENT_STATES,
    NodeHealth,
    Operation,
    PollOutcome,
    ReplicaState,
)
from tests.support.nodes import (
    BUSY_LOADING,
    DOWN,
    DRAIN,
    DRAINING,
    LISTED_STATES,
    LOAD,
    LOADED,
    LOADING,
    STUCK,
    UNKNOWN,
    UNLOAD,
    UNLOADED,
    UNLOADING,
    UP,
)


class ReplicaTableTests(SynchronousTestCase):
    def rows(self, operation: Operation | None) -> dict[ReplicaState, ReplicaState]:
        """Return what each listed state makes under an operation."""
        return {listed: REPLICA_STATES[operation, listed] for listed in LISTED_STATES}

    def test_total(self) -> None:
        """Every operation has a state for everything that a node may list, and for no more."""
        assert set(product((None, *Operation), LISTED_STATES)) == set(REPLICA_STATES)

    def test_without_an_operation(self) -> None:
        """A replica to which we do nothing is what its node lists."""
        assert {
            LOADED: LOADED,
            LOADING: LOADING,
            UNLOADED: UNLOADED,
            STUCK: STUCK,
        } == self.rows(None)

    def test_load(self) -> None:
        """Our load is under way until it has ended, whatever a poll saw of it."""
        assert dict.fromkeys(LISTED_STATES, LOADING) == self.rows(LOAD)

    def test_drain(self) -> None:
        """Only what is loaded can drain: what became of it otherwise ends that."""
        assert {
            LOADED: DRAINING,
            LOADING: LOADING,
            UNLOADED: UNLOADED,
            STUCK: STUCK,
        } == self.rows(DRAIN)

    def test_unload(self) -> None:
        """Our unload is under way until it is verified, whatever a poll saw of it."""
        assert dict.fromkeys(LISTED_STATES, UNLOADING) == self.rows(UNLOAD)


class StateSetTests(SynchronousTestCase):
    def test_answering(self) -> None:
        """A stuck replica still answers; one that drains is given nothing new."""
        assert {LOADED, STUCK} == ANSWERING_STATES

    def test_resident(self) -> None:
        """Memory is taken from a load's beginning until an unload's end."""
        assert {LOADED, STUCK, DRAINING, LOADING, UNLOADING} == RESIDENT_STATES


class HealthTableTests(SynchronousTestCase):
    def row(self, outcome: PollOutcome) -> dict[NodeHealth, NodeHealth]:
        """Return what an outcome makes of each health that it can meet."""
        return {
            before: after
            for (before, given), after in HEALTH_TRANSITIONS.items()
            if given is outcome
        }

    def test_answer(self) -> None:
        """A node that answers is up, whatever it was."""
        assert dict.fromkeys(NodeHealth, UP) == self.row(PollOutcome.ANSWERED)

    def test_failure(self) -> None:
        """One failure changes nothing."""
        assert {health: health for health in NodeHealth} == self.row(PollOutcome.FAILED)

    def test_failure_too_often(self) -> None:
        """Too many failures make a node down, whatever it was."""
        assert dict.fromkeys(NodeHealth, DOWN) == self.row(PollOutcome.FAILED_TOO_OFTEN)

    def test_silence_while_loading(self) -> None:
        """A node is busy loading only if it answered before: one that did not has no excuse."""
        assert {UP: BUSY_LOADING, BUSY_LOADING: BUSY_LOADING} == self.row(
            PollOutcome.SILENT_WHILE_LOADING
        )

    def test_answering(self) -> None:
        """Requests go to nodes that were heard of and are not down."""
        assert set(NodeHealth) - {UNKNOWN, DOWN} == ANSWERING_HEALTH
