from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.requesters import Requester
from cortexd.scheduling.events import Charged, Grant, LeaseAdopted, LeaseEnded, SharesAdopted
from tests.support.scheduling import World, in_use, one_node

ANN, BOB = Requester("ann"), Requester("bob")


def charges(world: World) -> list[Charged]:
    return [effect for effect in world.effects if isinstance(effect, Charged)]


class LeaseTests(SynchronousTestCase):
    def test_each_lease_is_charged_as_it_ends(self) -> None:
        """To its requester, for its part of the time of the replica."""
        world = one_node(20, "a", a=10)
        first, second = world.submit("a", by=ANN), world.submit("a", by=BOB)
        world.wait(4.0)
        world.end(first)
        world.wait(3.0)
        world.end(second)

        assert charges(world) == [
            Charged("ann", "a", "ada", 2.0),
            Charged("bob", "a", "ada", 5.0),
        ]

    def test_an_adopted_lease(self) -> None:
        """It is charged with what it used before, and counts among what its requester used."""
        scheduler = one_node(20, "a", a=10).scheduler
        scheduler.handle(SharesAdopted({"ann": 40.0}), 1000.0)
        adopted = LeaseAdopted("r", "ada", "a", None, ANN, gpu_seconds=6.0)
        (grant,) = scheduler.handle(adopted, 1000.0)
        assert isinstance(grant, Grant)
        assert 41.9 < scheduler.shares.used("ann", 1002.0) < 42.0

        ended = scheduler.handle(LeaseEnded(grant.lease), 1002.0)
        assert [Charged("ann", "a", "ada", 8.0)] == list(ended)

    def test_a_probe(self) -> None:
        """A question of our own is charged to nobody."""
        world = one_node(20, "a", a=10)
        probe = world.probe("a", "ada")
        world.wait(1.0)
        world.end(probe)

        assert [] == charges(world)


class LoadTests(SynchronousTestCase):
    def test_the_requests_that_wait_for_a_load_bear_it(self) -> None:
        """Each the same part; a request that has left bears nothing."""
        world = one_node(20, "", a=10)
        left = world.submit("a", by=Requester("cyd"))
        for requester in (ANN, BOB, ANN, ANN):
            world.submit("a", by=requester)
        world.cancel(left)
        world.load_done("ada", seconds=8.0)

        assert charges(world) == [
            Charged("ann", "a", "ada", 0.0, 6.0, 0.75),
            Charged("bob", "a", "ada", 0.0, 2.0, 0.25),
        ]
        assert 6.0 == world.scheduler.shares.used("ann", world.now)

    def test_only_those_that_the_node_serves(self) -> None:
        """A request that waits for another node bears no part of a load here."""
        world = one_node(20, "", a=10)
        world.submit("a", by=ANN)
        world.submit("a", by=BOB, only=["elsewhere"])
        world.load_done("ada", seconds=8.0)

        assert [Charged("ann", "a", "ada", 0.0, 8.0, 1.0)] == charges(world)

    def test_what_an_operator_wants(self) -> None:
        """An ordered load and that of a pinned model are charged to nobody."""
        world = one_node(20, "", a=10, b=10)
        world.load("a")
        world.submit("a", by=ANN)
        world.load_done("ada")
        world.pin("b", "ada")
        world.load_done("ada")

        assert [] == charges(world)

    def test_what_fails(self) -> None:
        """A load that fails is charged to nobody."""
        world = one_node(20, "", a=10)
        world.submit("a", by=ANN)
        world.load_failed("ada")

        assert [] == charges(world)


class ForgettingTests(SynchronousTestCase):
    def test_a_requester_that_has_used_nothing_for_a_day(self) -> None:
        """A sweep forgets it, so that names which come and go take no memory."""
        world = one_node(20, "a", a=10)
        in_use(world, "a")
        world.wait(60.0)
        world.end(*list(world.leases))
        world.wait(24 * 3600.0)
        world.sweep()

        assert {} == world.scheduler.shares.all_used(world.now)
