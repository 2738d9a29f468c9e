"""Tests of what requests are told about their wait."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.scheduling.estimating.expectation import Expectation, Phase
from tests.support.scheduling import World, one_node

GIB = 1024


class ExpectTests(SynchronousTestCase):
    def expect(self, world: World, model: str, request_id: str | None = None) -> Expectation:
        return world.scheduler.expect(model, request_id, world.now)

    def test_a_free_slot_is_ready(self) -> None:
        """A request for a loaded model with a free slot need not wait."""
        world = one_node(24 * GIB, "a", a=8 * GIB)

        assert Expectation(Phase.READY, 0, world.now) == self.expect(world, "a")

    def test_a_load_ends_after_its_usual_time(self) -> None:
        """A request whose model is being loaded waits for the rest of the usual time."""
        world = one_node(24 * GIB, "", a=8 * GIB)
        world.load("a")
        world.wait(20.0)
        world.load_done("ada", seconds=20.0)
        world.unload("a")
        world.finish_all()
        first = world.submit("a")
        began = world.now
        world.wait(5.0)

        expected = self.expect(world, "a", first)
        assert Expectation(Phase.LOADING, 1, began + 20.0) == expected
        assert 15.0 == expected.seconds(world.now)
        assert 2 == self.expect(world, "a").place

    def test_a_load_that_was_never_seen_is_assumed(self) -> None:
        """Without any load seen, the told time is an assumption and says so."""
        world = one_node(24 * GIB, "", a=8 * GIB)
        first = world.submit("a")

        assert not self.expect(world, "a", first).is_measured

    def test_a_model_that_nobody_lists_has_failed(self) -> None:
        """A model without a node cannot be waited for."""
        world = one_node(24 * GIB, "", a=8 * GIB)

        assert Phase.FAILED is self.expect(world, "unknown").phase
