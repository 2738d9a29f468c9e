from collections.abc import Collection

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dispatcher import Dispatcher
from cortexd.errors import ModelNotLoaded, Overloaded
from cortexd.fleet import Fleet, Lease, Observation, ReplicaState
from cortexd.metrics import Metrics

MODEL = "acme/chat"


class DispatcherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.fleet = Fleet(
            [(name, f"http://{name}", 1000) for name in "ab"],
            now=0.0,
            down_after=2,
            load_timeout=60.0,
            default_capacity=2,
            capacities={},
        )
        for name in "ab":
            self.list_as(name, ReplicaState.LOADED)
        self.dispatcher = Dispatcher(self.fleet, self.clock, self.metrics)

    def list_as(self, name: str, state: ReplicaState) -> None:
        self.fleet.observe(name, Observation(1, {MODEL: state}), self.clock.seconds())

    def acquiring(self, tried: Collection[str] = ()) -> Deferred[Lease]:
        return Deferred.fromCoroutine(self.dispatcher.acquire(MODEL, "req_1", tried))

    def in_flight(self, node: str) -> float | None:
        labels = {"model": MODEL, "node": node}
        return self.metrics.registry.get_sample_value("cortex_requests_in_flight", labels)

    def test_a_lease_says_who_holds_what_since_when(self) -> None:
        """It is granted at the clock's time, and the fleet knows of it."""
        self.clock.advance(7.5)
        lease = self.successResultOf(self.acquiring())

        assert ("a", MODEL, "req_1", 7.5) == (
            lease.node,
            lease.model,
            lease.request_id,
            lease.granted_at,
        )
        assert (lease,) == self.fleet.leases

    def test_requests_spread_over_the_nodes(self) -> None:
        """Each goes where the fewest are; the gauge shows where."""
        leases = [self.successResultOf(self.acquiring()) for _ in range(4)]

        assert ["a", "b", "a", "b"] == [lease.node for lease in leases]
        assert (2.0, 2.0) == (self.in_flight("a"), self.in_flight("b"))
        for lease in leases:
            self.dispatcher.release(lease)
        assert (0.0, 0.0) == (self.in_flight("a"), self.in_flight("b"))
        assert () == self.fleet.leases

    def test_no_node_is_tried_twice(self) -> None:
        """One that was tried gets no lease, though it has fewer."""
        assert "b" == self.successResultOf(self.acquiring(["a"])).node
        assert "b" == self.successResultOf(self.acquiring(["a"])).node
        self.failureResultOf(self.acquiring(["a"]), Overloaded)
        self.failureResultOf(self.acquiring(["a", "b"]), Overloaded)
        assert 2 == len(self.fleet.leases)

    def test_a_refusal_holds_nothing(self) -> None:
        """Full or not loaded: neither a lease nor the gauge has changed."""
        for _ in range(4):
            self.successResultOf(self.acquiring())
        self.failureResultOf(self.acquiring(), Overloaded)
        assert 4 == len(self.fleet.leases)
        for name in "ab":
            self.list_as(name, ReplicaState.UNLOADED)
        self.failureResultOf(self.acquiring(), ModelNotLoaded)
        assert 4 == len(self.fleet.leases)
        assert (2.0, 2.0) == (self.in_flight("a"), self.in_flight("b"))

    def test_a_place_is_free_again_at_once(self) -> None:
        """The next request gets what was released."""
        leases = [self.successResultOf(self.acquiring()) for _ in range(4)]
        self.dispatcher.release(leases[1])
        assert "b" == self.successResultOf(self.acquiring()).node

    def test_a_lease_outlives_its_replica(self) -> None:
        """It is released all the same when the node lists the model no more."""
        lease = self.successResultOf(self.acquiring())
        self.fleet.observe("a", Observation(1, {}), 1.0)
        self.dispatcher.release(lease)
        assert ((), 0.0) == (self.fleet.leases, self.in_flight("a"))
