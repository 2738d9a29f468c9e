"""LoRA adapters: listed like models, they live on their base."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import OperationRefused
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import Footprints
from cortexd.fleet.nodes import ModelTerms, NodeTerms
from cortexd.fleet.states import Observation, ReplicaState
from cortexd.scheduling.events import (
    Effect,
    Event,
    Grant,
    LeaseEnded,
    LoadWanted,
    Observed,
    PinWanted,
    StartLoad,
    StartUnload,
    Submit,
    Sweep,
    Tick,
    UnloadWanted,
)
from cortexd.scheduling.scheduler import Scheduler
from cortexd.scheduling.terms import SchedulingTerms

ADAPTER = "base::code"
LISTED = {
    "base": ReplicaState.LOADED,
    ADAPTER: ReplicaState.LOADED,
    "other": ReplicaState.UNLOADED,
}


class AdapterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.fleet = Fleet(
            [NodeTerms("ada", "http://ada", 1000)],
            {"base": ModelTerms(4, ttl=50.0), ADAPTER: ModelTerms(4, ttl=20.0)},
            Footprints(lambda node, model: {"base": 800, "other": 700}.get(model), {}),
            default_terms=ModelTerms(4),
            now=0.0,
            down_after=2,
            load_timeout=600.0,
        )
        self.scheduler = Scheduler(self.fleet, SchedulingTerms(max_wait=30.0))
        self.tell(Observed("ada", Observation(1, LISTED, {ADAPTER: "base"}), 0.0))

    def tell(self, event: Event, now: float = 0.0) -> tuple[Effect, ...]:
        return self.scheduler.handle(event, now)

    def lease_on_adapter(self) -> Grant:
        (grant,) = (e for e in self.tell(Submit("one", ADAPTER), 1.0) if isinstance(e, Grant))
        return grant

    def test_it_takes_no_memory(self) -> None:
        """Only the base is booked."""
        assert (1, 800) == (self.fleet.nodes["ada"].resident, self.fleet.nodes["ada"].resident_mb)

    def test_its_requests_hold_the_base(self) -> None:
        """While one runs the base is not given up; once it has ended the base may go, not it."""
        grant = self.lease_on_adapter()

        assert not any(isinstance(e, StartUnload) for e in self.tell(Submit("two", "other"), 2.0))
        unloads = [
            e.model for e in self.tell(LeaseEnded(grant.lease), 3.0) if isinstance(e, StartUnload)
        ]
        assert ["base"] == unloads

    def test_a_base_that_drains_takes_no_requests_for_it(self) -> None:
        """They wait, as those for the base itself do."""
        self.lease_on_adapter()
        self.tell(Submit("two", "other"), 2.0)
        self.tell(Tick(), 40.0)

        assert self.fleet.replica("ada", "base") is not None
        assert not any(isinstance(e, Grant) for e in self.tell(Submit("three", ADAPTER), 41.0))

    def test_it_vanishes_while_it_is_held(self) -> None:
        """The base is free again once the lease has ended, listed or not."""
        grant = self.lease_on_adapter()
        self.tell(Observed("ada", Observation(1, {"base": ReplicaState.LOADED}), 2.0), 2.0)
        self.tell(LeaseEnded(grant.lease), 3.0)

        base = self.fleet.replica("ada", "base")
        assert base is not None
        assert 0 == base.leases

    def test_the_operator_moves_the_base(self) -> None:
        """It can neither be unloaded nor pinned by itself, and is told so."""
        for wish in (UnloadWanted(ADAPTER), PinWanted(ADAPTER, "ada", True)):
            error = self.assertRaises(OperationRefused, self.tell, wish)
            assert "is an adapter" in str(error)
        error = self.assertRaises(OperationRefused, self.tell, LoadWanted(ADAPTER))
        assert "already loaded" in str(error)

    def unlist(self) -> None:
        """Let the base be unloaded, as the node sees it: the adapter is in no list."""
        unloaded = {"base": ReplicaState.UNLOADED, "other": ReplicaState.UNLOADED}
        self.tell(Observed("ada", Observation(1, unloaded), 2.0), 2.0)

    def test_it_is_remembered(self) -> None:
        """Once listed it is known while its base is, and the operator's load of it loads that."""
        self.unlist()
        assert {ADAPTER: "base"} == self.fleet.adapters
        assert ("base", ["ada"]) == (
            self.fleet.base_of(ADAPTER),
            [node.name for node in self.fleet.bringing(ADAPTER)],
        )

        (load,) = (e for e in self.tell(LoadWanted(ADAPTER), 3.0) if isinstance(e, StartLoad))
        assert "base" == load.model

    def test_it_is_forgotten(self) -> None:
        """An adapter that is missing beside its loaded base has gone, and so has one without it."""
        gone: tuple[dict[str, ReplicaState], ...] = ({"base": ReplicaState.LOADED}, {})
        for listed in gone:
            self.setUp()
            self.unlist()
            self.tell(Observed("ada", Observation(1, listed), 4.0), 4.0)
            assert {} == self.fleet.adapters
            assert None is self.fleet.base_of(ADAPTER)

    def test_no_time_of_its_own(self) -> None:
        """Idle for its ttl it stays; its base's own ends both."""
        assert not self.swept(25.0)
        assert ["base"] == self.swept(60.0)

    def swept(self, now: float) -> list[str]:
        effects = self.tell(Sweep(), now)
        return [e.model for e in effects if isinstance(e, (StartLoad, StartUnload))]
