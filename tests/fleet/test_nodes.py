from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.fleet import Fleet
from tests.support.nodes import LOADED, UNLOADED, fleet_of, replica_on

LONG = "acme/" + "x" * 10_000
LONGEST_REPR = 250


class ReprTests(SynchronousTestCase):
    def fleet(self) -> Fleet:
        """Return a node of 30 models, two of them loaded."""
        models = {f"acme/model-{number}": UNLOADED for number in range(28)}
        listing = {"acme/chat": LOADED, "acme/code": LOADED, **models}
        return fleet_of({"gpu-1": listing}, sizes=dict.fromkeys(listing, 5_000))

    def test_replica(self) -> None:
        """A replica shows its model, its node, its state and its leases, and not its fleet."""
        fleet = self.fleet()
        replica = replica_on(fleet, "gpu-1", "acme/chat")
        assert "<Replica acme/chat on gpu-1: loaded, 0 leases>" == repr(replica)

        fleet.grant(replica, "r1", 1)
        fleet.set_pin(replica.node, "acme/chat", pinned=True)
        assert "<Replica acme/chat on gpu-1: loaded, 1 lease, pinned>" == repr(replica)

    def test_node(self) -> None:
        """A node shows its health, models, memory and leases, and why it gets no work."""
        fleet = self.fleet()
        node = fleet.nodes["gpu-1"]
        fleet.grant(replica_on(fleet, "gpu-1", "acme/chat"), "r1", 1)
        shown = "<Node gpu-1: up, 2 of 30 models resident, 10000 of 24000 MiB, 1 lease"
        assert f"{shown}>" == repr(node)

        fleet.set_cordon(node, cordoned=True)
        fleet.note_unreachable(node)
        assert f"{shown}, cordoned, unreachable>" == repr(node)

    def test_lease(self) -> None:
        """A lease shows its number, its model, its node and its request."""
        fleet = self.fleet()
        lease = fleet.grant(replica_on(fleet, "gpu-1", "acme/chat"), "r1", 1)

        assert "<Lease 1: acme/chat on gpu-1 for r1>" == repr(lease)

    def test_short_and_on_one_line(self) -> None:
        """However long a name is, and whatever is in it, each is one short line."""
        for name in (LONG, "acme/\nchat\x1b[31m"):
            fleet = fleet_of({name: {name: LOADED}})
            node, replica = fleet.nodes[name], replica_on(fleet, name, name)
            lease = fleet.grant(replica, name, 1)
            for each in (node, replica, lease):
                assert repr(each).isprintable()
                assert len(repr(each)) < LONGEST_REPR
