from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.nodes import ModelTerms, NodeTerms
from cortexd.fleet.states import NodeRestarted, ReplicaChanged, SystemInfo
from tests.support.nodes import (
    DOWN,
    DRAIN,
    DRAINING,
    LOAD,
    LOADED,
    LOADING,
    REFUSED,
    STUCK,
    UNLOAD,
    UNLOADED,
    UNLOADING,
    fleet_of,
    make_fleet,
    replica_on,
    seen,
    states_on,
)


class ListingTests(SynchronousTestCase):
    def test_changes(self) -> None:
        """Replicas that come, change and go are told, those that stay as they are are not."""
        fleet = make_fleet("ada")
        fleet.observe("ada", seen(), 0)

        assert (
            ReplicaChanged("ada", "m1", None, LOADED),
            ReplicaChanged("ada", "m2", None, UNLOADED),
        ) == fleet.observe("ada", seen(m1=LOADED, m2=UNLOADED), 1)
        assert (
            ReplicaChanged("ada", "m2", UNLOADED, None),
            ReplicaChanged("ada", "m1", LOADED, STUCK),
        ) == fleet.observe("ada", seen(m1=STUCK), 2)

    def test_order(self) -> None:
        """A model's replicas come by the order of the configuration, whoever answered first."""
        fleet = make_fleet("ada", "bob", "cyd")
        for name in ("bob", "cyd", "ada"):
            fleet.observe(name, seen(m1=LOADED), 0)

        assert ["ada", "bob", "cyd"] == [replica.node.name for replica in fleet.replicas("m1")]
        assert [] == list(fleet.replicas("m3"))

    def test_models(self) -> None:
        """Every model that some node lists is known, by id, and forgotten when none does."""
        fleet = fleet_of({"ada": {"m2": UNLOADED, "m1": LOADED}, "bob": {"m1": LOADED}})
        assert ["m1", "m2"] == list(fleet.models)
        assert "m2" in fleet

        fleet.observe("ada", seen(m1=LOADED), 1)
        assert ["m1"] == list(fleet.models)
        assert "m2" not in fleet
        assert fleet.replica("ada", "m1") is replica_on(fleet, "ada", "m1")
        assert (None, None) == (fleet.replica("bob", "m2"), fleet.replica("eve", "m1"))

    def test_terms(self) -> None:
        """A replica has its model's terms, or the default ones where the model has none."""
        terms = ModelTerms(2, priority=5, ttl=60.0)
        fleet = fleet_of({"ada": {"m1": LOADED, "m2": LOADED}}, models={"m2": terms}, capacity=9)

        assert ModelTerms(9) == replica_on(fleet, "ada", "m1").terms
        assert terms == replica_on(fleet, "ada", "m2").terms

    def test_listing_of_a_silent_node_is_kept(self) -> None:
        """A node that is down keeps what it listed, so that its models are not unknown."""
        fleet = fleet_of({"ada": {"m1": LOADED}})
        fleet.fail("ada", REFUSED, 1)

        assert ("m1",) == fleet.models
        assert [DOWN] == [replica.node.health for replica in fleet.replicas("m1")]

    def test_system(self) -> None:
        """What a node says of its system is kept with it."""
        fleet = make_fleet("ada")
        fleet.record_system("ada", SystemInfo("0.9.2", 24_000, 12_000))

        assert SystemInfo("0.9.2", 24_000, 12_000) == fleet.nodes["ada"].system

    def test_answers(self) -> None:
        """A replica is given requests while it is loaded on a node that answers and takes work."""
        fleet = fleet_of({"ada": {"m1": LOADED, "m2": STUCK, "m3": LOADING, "m4": UNLOADED}})
        replicas = fleet.nodes["ada"].replicas
        assert ["m1", "m2"] == [model for model, replica in replicas.items() if replica.answers]

        fleet.set_cordon(fleet.nodes["ada"], cordoned=True)
        assert not any(replica.answers for replica in replicas.values())
        fleet.set_cordon(fleet.nodes["ada"], cordoned=False)
        assert replicas["m1"].answers
        fleet.fail("ada", REFUSED, 1)
        assert not any(replica.answers for replica in replicas.values())

    def test_found_loaded(self) -> None:
        """Since when a replica was loaded that was found so, and when it was used, is not known."""
        replica = replica_on(fleet_of({"ada": {"m1": LOADED}}, now=1_000), "ada", "m1")

        assert (0, 0, 1_000) == (replica.loaded_at, replica.last_used_at, replica.since)

    def test_a_load_is_a_use(self) -> None:
        """A replica that we have loaded counts as used at the end of its load."""
        fleet = fleet_of({"ada": {"m1": UNLOADED}})
        replica = replica_on(fleet, "ada", "m1")
        fleet.note_loaded(replica, 7)

        assert 7 == replica.last_used_at

    def test_demand(self) -> None:
        """What a model is asked for is one account for all its replicas, and outlives them."""
        fleet = fleet_of({"ada": {"m1": LOADED, "m2": LOADED}, "bob": {"m1": UNLOADED}})
        for now in (1, 2, 3):
            fleet.note_request("m1", now)
        fleet.note_request("m9", 4)
        fleet.observe("ada", seen(m2=LOADED), 5)
        fleet.observe("ada", seen(m1=LOADED, m2=LOADED), 6)

        assert [1, 1] == [replica.demand.regular_since for replica in fleet.replicas("m1")]
        assert 0 == replica_on(fleet, "ada", "m2").demand.per_second(7)

    def test_loaded_by_somebody_else(self) -> None:
        """A load that polls saw has its beginning and its end, and is no load that failed."""
        fleet = fleet_of({"ada": {"m1": UNLOADED}})
        replica = replica_on(fleet, "ada", "m1")
        fleet.note_load_failure(replica, "no memory", retry_at=99)
        fleet.observe("ada", seen(m1=LOADING), 5)
        fleet.observe("ada", seen(m1=LOADED), 9)
        fleet.observe("ada", seen(m1=STUCK), 10)
        fleet.observe("ada", seen(m1=LOADED), 11)

        assert (5, 9) == (replica.load_began_at, replica.loaded_at)
        assert (0, "", 0) == (replica.failures, replica.failure, replica.retry_at)

    def test_stuck_polls(self) -> None:
        """Polls that see a replica stuck are counted in a row, for a moment of it is normal."""
        fleet = fleet_of({"ada": {"m1": STUCK}})
        replica = replica_on(fleet, "ada", "m1")
        assert 1 == replica.stuck_polls
        fleet.observe("ada", seen(m1=STUCK), 1)
        assert 2 == replica.stuck_polls

        fleet.observe("ada", seen(m1=LOADED), 2)
        assert 0 == replica.stuck_polls


class RestartTests(SynchronousTestCase):
    def test_told_by_the_start_time(self) -> None:
        """Another start time of the process is a restart; one that is not listed says nothing."""
        fleet = make_fleet("ada")
        fleet.observe("ada", seen(100), 0)

        assert () == fleet.observe("ada", seen(None), 1)
        assert () == fleet.observe("ada", seen(100), 2)
        assert (NodeRestarted("ada"),) == fleet.observe("ada", seen(90), 3)
        assert () == fleet.observe("ada", seen(90), 4)
        assert 1 == fleet.nodes["ada"].restarts

    def test_what_a_restart_mends(self) -> None:
        """A new process has leaked nothing, unloaded nothing, failed at nothing."""
        fleet = fleet_of({"ada": {"m1": UNLOADED, "m2": STUCK}})
        node, replica = fleet.nodes["ada"], replica_on(fleet, "ada", "m1")
        fleet.observe("ada", seen(m1=UNLOADED, m2=STUCK), 1)
        fleet.note_unload(node, 500)
        fleet.note_unload(node, 700)
        fleet.note_load_failure(replica, "no memory", retry_at=99)
        fleet.note_load_failure(replica, "no memory left", retry_at=199)
        fleet.note_unload_failure(replica, keep_until=50)
        fleet.note_refusal(replica)
        fleet.note_overdue(replica_on(fleet, "ada", "m1"))
        assert (1_200, 2) == (node.leaked_mb, node.unload_cycles)
        assert (2, "no memory left", 199) == (replica.failures, replica.failure, replica.retry_at)
        assert 50 == replica.keep_until

        fleet.observe("ada", seen(200, m1=UNLOADED, m2=STUCK), 2)

        assert (0, 0) == (node.leaked_mb, node.unload_cycles)
        assert (0, "", 0, 0) == (
            replica.failures,
            replica.failure,
            replica.retry_at,
            replica.keep_until,
        )
        assert (0, False) == (replica.refused_mb, replica.overdue)
        assert 1 == replica_on(fleet, "ada", "m2").stuck_polls


class StalenessTests(SynchronousTestCase):
    def test_asked_before_our_change(self) -> None:
        """A poll that was asked before a load of ours ended says nothing of that replica."""
        fleet = fleet_of({"ada": {"m1": UNLOADED, "m2": LOADED}})
        replica = replica_on(fleet, "ada", "m1")
        fleet.begin(replica, LOAD, 1)
        fleet.end(replica, LOADED, 6)

        assert (ReplicaChanged("ada", "m2", LOADED, UNLOADED),) == fleet.observe(
            "ada", seen(m1=UNLOADED, m2=UNLOADED), 7, asked_at=5
        )
        assert LOADED is replica.state
        assert () == fleet.observe("ada", seen(m2=UNLOADED), 7, asked_at=5)
        assert replica.is_listed

        assert (ReplicaChanged("ada", "m1", LOADED, UNLOADED),) == fleet.observe(
            "ada", seen(m1=UNLOADED, m2=UNLOADED), 9, asked_at=8
        )

    def test_stale_poll_sees_nothing_stuck(self) -> None:
        """The moment in which a reload of ours looked stuck does not count after its end."""
        fleet = fleet_of({"ada": {"m1": UNLOADED}})
        replica = replica_on(fleet, "ada", "m1")
        fleet.begin(replica, LOAD, 1)
        fleet.observe("ada", seen(m1=STUCK), 5, asked_at=5)
        fleet.end(replica, LOADED, 6)
        fleet.observe("ada", seen(m1=STUCK), 7, asked_at=5)

        assert (LOADED, 0) == (replica.state, replica.stuck_polls)

    def test_during_our_operations(self) -> None:
        """While ours loads or unloads a replica, polls say nothing of it, not even that it went."""
        for operation, state in ((LOAD, LOADING), (UNLOAD, UNLOADING)):
            fleet = fleet_of({"ada": {"m1": UNLOADED if operation is LOAD else LOADED}})
            replica = replica_on(fleet, "ada", "m1")
            fleet.begin(replica, operation, 1)
            for listed in (LOADED, LOADING, UNLOADED, STUCK):
                assert () == fleet.observe("ada", seen(m1=listed), 2)
            assert () == fleet.observe("ada", seen(), 3)

            assert {"m1": state} == states_on(fleet, "ada")

    def test_during_our_drain(self) -> None:
        """While a replica drains, polls count: somebody else may have unloaded it."""
        fleet = fleet_of({"ada": {"m1": LOADED}})
        replica = replica_on(fleet, "ada", "m1")
        assert [ReplicaChanged("ada", "m1", LOADED, DRAINING)] == fleet.begin(replica, DRAIN, 1)
        assert () == fleet.observe("ada", seen(m1=LOADED), 2)

        assert (ReplicaChanged("ada", "m1", DRAINING, UNLOADED),) == fleet.observe(
            "ada", seen(m1=UNLOADED), 3
        )

    def test_gone_while_draining(self) -> None:
        """A replica that vanished is being drained no more."""
        fleet = fleet_of({"ada": {"m1": LOADED}})
        replica = replica_on(fleet, "ada", "m1")
        fleet.begin(replica, DRAIN, 1)

        assert (ReplicaChanged("ada", "m1", DRAINING, None),) == fleet.observe("ada", seen(), 2)
        assert (False, None) == (replica.is_listed, replica.operation)

    def test_end_of_a_drain(self) -> None:
        """A drain that is called off leaves the replica as old and as used as it was."""
        fleet = fleet_of({"ada": {"m1": UNLOADED}})
        fleet.observe("ada", seen(m1=LOADED), 7)
        replica = replica_on(fleet, "ada", "m1")
        fleet.begin(replica, DRAIN, 8)

        assert [ReplicaChanged("ada", "m1", DRAINING, LOADED)] == fleet.end(replica, LOADED, 9)
        assert (7, None) == (replica.loaded_at, replica.operation)

    def test_unload_that_failed(self) -> None:
        """A replica whose unload failed is not freshly loaded."""
        fleet = fleet_of({"ada": {"m1": UNLOADED}})
        fleet.observe("ada", seen(m1=LOADED), 7)
        replica = replica_on(fleet, "ada", "m1")
        fleet.begin(replica, UNLOAD, 8)
        fleet.end(replica, LOADED, 9)

        assert (LOADED, 7) == (replica.state, replica.loaded_at)

    def test_operation_on_what_is_gone(self) -> None:
        """What its node does not list any more is not operated on: nothing would be booked."""
        fleet = fleet_of({"ada": {"m1": UNLOADED}})
        replica = replica_on(fleet, "ada", "m1")
        fleet.observe("ada", seen(), 1)

        with self.assertRaises(KeyError):
            fleet.begin(replica, LOAD, 2)
        assert None is replica.operation


class LeaseTests(SynchronousTestCase):
    def test_grant_and_release(self) -> None:
        """A lease counts on its replica and its node until it ends, and marks both as used."""
        fleet = fleet_of({"ada": {"m1": LOADED}})
        node, replica = fleet.nodes["ada"], replica_on(fleet, "ada", "m1")

        lease = fleet.grant(replica, "req-1", 7)

        assert (1, 7, 1, 7) == (
            replica.leases,
            replica.last_used_at,
            node.leases,
            node.last_used_at,
        )
        assert ("ada", "m1", "req-1", 7) == (
            lease.node,
            lease.model,
            lease.request_id,
            lease.granted_at,
        )
        assert (lease,) == fleet.leases
        assert replica is fleet.release(lease, 9)
        assert (0, 9, 0, 7) == (
            replica.leases,
            replica.last_used_at,
            node.leases,
            node.last_used_at,
        )
        assert not fleet.leases

    def test_a_lease_ends_once(self) -> None:
        """Releasing a lease twice is a mistake of the caller and changes nothing."""
        fleet = fleet_of({"ada": {"m1": LOADED}})
        replica = replica_on(fleet, "ada", "m1")
        kept, ended = fleet.grant(replica, "a", 0), fleet.grant(replica, "b", 0)
        fleet.release(ended, 1)

        with self.assertRaises(KeyError):
            fleet.release(ended, 2)
        assert (kept,) == fleet.leases
        assert (1, 1) == (fleet.nodes["ada"].leases, replica.leases)

    def test_grant_of_what_is_not_listed(self) -> None:
        """A grant on a replica that is gone is refused, and nothing is left of it."""
        fleet = fleet_of({"ada": {"m1": LOADED}})
        replica = replica_on(fleet, "ada", "m1")
        fleet.observe("ada", seen(), 1)

        with self.assertRaises(KeyError):
            fleet.grant(replica, "req-1", 2)
        assert ((), 0) == (fleet.leases, fleet.nodes["ada"].leases)

    def test_replica_that_goes(self) -> None:
        """A lease on a replica that is gone still ends, on its node."""
        fleet = fleet_of({"ada": {"m1": LOADED}})
        lease = fleet.grant(replica_on(fleet, "ada", "m1"), "a", 0)
        fleet.observe("ada", seen(), 1)
        assert 1 == fleet.nodes["ada"].leases

        assert None is fleet.release(lease, 2)
        assert ((), 0) == (fleet.leases, fleet.nodes["ada"].leases)

    def test_replica_that_goes_and_comes_back(self) -> None:
        """Leases outlive a replica's absence from the listing, and count when it is back."""
        fleet = fleet_of({"ada": {"m1": LOADED}})
        gone = replica_on(fleet, "ada", "m1")
        first, second = fleet.grant(gone, "a", 0), fleet.grant(gone, "b", 0)
        fleet.observe("ada", seen(), 1)
        fleet.release(first, 1)
        fleet.observe("ada", seen(m1=LOADED), 2)

        back = replica_on(fleet, "ada", "m1")
        assert (1, 2) == (back.leases, back.last_used_at)
        assert back is fleet.release(second, 3)
        assert 0 == back.leases


class PinTests(SynchronousTestCase):
    def test_pins_of_the_configuration(self) -> None:
        """What is pinned to a node is pinned there once it is listed."""
        fleet = make_fleet(NodeTerms("ada", "http://ada", 24_000, pinned=("m1",)), "bob")
        fleet.observe("ada", seen(m1=LOADED, m2=LOADED), 0)
        fleet.observe("bob", seen(m1=LOADED), 0)

        assert [True, False] == [replica.pinned for replica in fleet.replicas("m1")]
        assert not replica_on(fleet, "ada", "m2").pinned

    def test_pin_and_unpin(self) -> None:
        """A pin holds at once, and also for a model that comes back later."""
        fleet = fleet_of({"ada": {"m1": LOADED}})
        node = fleet.nodes["ada"]
        fleet.set_pin(node, "m1", pinned=True)
        fleet.set_pin(node, "m2", pinned=True)
        fleet.observe("ada", seen(m2=LOADED), 1)
        fleet.observe("ada", seen(m1=LOADED, m2=LOADED), 2)
        assert [True, True] == [replica.pinned for replica in node.replicas.values()]

        fleet.set_pin(node, "m1", pinned=False)
        fleet.set_pin(node, "m1", pinned=False)
        assert ({"m2"}, False) == (set(node.pins), replica_on(fleet, "ada", "m1").pinned)
