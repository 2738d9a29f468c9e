"""Which restarts are due, and how urgent they are."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.agents import EngineLife
from cortexd.scheduling.terms import SchedulingTerms
from tests.scheduling.repairs.worlds import ONE, SIZES, Repaired, leaking
from tests.support.scheduling import LOADING, STUCK, UNLOADED, in_use


class PlannerTests(SynchronousTestCase):
    def test_idle(self) -> None:
        """A leak that harms nobody waits until its node was idle for a while."""
        repaired = leaking()
        (request,) = in_use(repaired.world, "a")
        repaired.idle()
        assert ["ada: unloads did not free 4 MiB"] == repaired.planned
        assert "due" == repaired.phase("ada")
        repaired.world.end(request)
        repaired.idle(59)
        assert [] == repaired.begun
        repaired.idle(1)

        assert ["ada"] == repaired.begun
        assert "restarting" == repaired.phase("ada")

    def test_nobody_waits(self) -> None:
        """Requests that wait for the node's models keep an idle window shut."""
        repaired = Repaired({"ada": 20, "bob": 20}, SIZES, {"ada": ["a", "b"]})
        repaired.leak("ada", "b", 4)
        repaired.world.submit("c", only=["bob"])
        repaired.idle()
        assert [] == repaired.begun
        restart = repaired.on("ada")
        assert restart is not None
        assert "requests wait for its models" == restart.waits_for
        repaired.world.finish_all()
        repaired.world.sweep()

        assert ["ada"] == repaired.begun

    def test_needed(self) -> None:
        """A request that fits into no node but for the leak closes the node at once."""
        repaired = Repaired(ONE, {"a": 8, "large": 18}, {"ada": ["a"]})
        (running,) = in_use(repaired.world, "a")
        repaired.world.end(running)
        repaired.leak("ada", "a", 4)
        assert [] == repaired.begun
        waiting = repaired.world.submit("large")

        assert [waiting] == repaired.world.waiting
        assert ["ada"] == repaired.begun
        repaired.come_back("ada")
        repaired.world.finish_all()
        assert waiting in repaired.world.leases

    def test_needed_while_a_request_runs(self) -> None:
        """The node takes no more work then, and its leases end first."""
        repaired = Repaired({"ada": 30}, {"a": 8, "b": 8, "large": 28}, {"ada": ["a", "b"]})
        (running,) = in_use(repaired.world, "a")
        repaired.leak("ada", "b", 4)
        waiting = repaired.world.submit("large")
        assert "draining" == repaired.phase("ada")
        late = repaired.world.submit("a")
        assert [] == repaired.begun
        repaired.world.end(running)
        assert ["ada"] == repaired.begun
        assert {waiting, late} == set(repaired.world.waiting)

    def test_poisoned(self) -> None:
        """A device that fails every request is closed and restarted at once."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a", "b"]})
        in_use(repaired.world, "a", "a")
        repaired.world.fail("a-0", fault="CUDA_ERROR_ILLEGAL_ADDRESS", poisoned=True)
        assert "draining" == repaired.phase("ada")
        repaired.world.fail("a-1", fault="CUDA_ERROR_ILLEGAL_ADDRESS", poisoned=True)
        assert ["ada"] == repaired.begun
        assert ["ada: poisoned: a (CUDA_ERROR_ILLEGAL_ADDRESS)"] == repaired.planned

    def test_poisoned_in_part(self) -> None:
        """A node that still answers other requests keeps them, and waits for an idle window."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a", "b"]})
        in_use(repaired.world, "a", "b")
        repaired.world.fail("a-0", fault="CUDA_ERROR_ILLEGAL_ADDRESS", poisoned=True)
        assert "due" == repaired.phase("ada")
        repaired.world.answer("b-0")
        assert "b-1" in in_use(repaired.world, "b")
        repaired.world.end("b-1")
        repaired.idle(59)
        assert [] == repaired.begun
        repaired.idle(1)
        assert ["ada"] == repaired.begun

    def test_poisoned_for_each_model(self) -> None:
        """One fault of each model that is in use shows that the whole device fails."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a", "b"]})
        in_use(repaired.world, "a", "b")
        for request in ("a-0", "b-0"):
            assert [] == repaired.begun
            repaired.world.fail(request, fault="CUDA_ERROR_ILLEGAL_ADDRESS", poisoned=True)

        assert ["ada"] == repaired.begun

    def test_stuck(self) -> None:
        """A request for an id that is stuck closes the node at once."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.world.drift("ada", b=LOADING)
        repaired.world.wait(101)
        waiting = repaired.world.submit("b")
        assert [waiting] == repaired.world.waiting
        assert ["ada"] == repaired.begun
        repaired.come_back("ada")
        repaired.world.finish_all()

        assert waiting in repaired.world.leases

    def test_stuck_and_loaded(self) -> None:
        """An id that is stuck and still answers waits for an idle window."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.world.drift("ada", a=STUCK)
        repaired.world.poll("ada")
        assert "a-0" in in_use(repaired.world, "a")
        repaired.world.end("a-0")
        repaired.world.sweep()
        assert ["ada: stuck: a"] == repaired.planned
        repaired.idle()

        assert ["ada"] == repaired.begun

    def test_in_pieces(self) -> None:
        """So does a request whose load runs out of memory although enough is free, but once."""
        repaired = Repaired(ONE, {"a": 8, "b": 8}, {"ada": ["a"]})
        repaired.leak("ada", "a", 0)
        waiting = repaired.world.submit("b")
        repaired.world.load_failed("ada", "out of memory", out_of_memory=True)
        assert [waiting] == repaired.world.waiting
        assert ["ada"] == repaired.begun
        repaired.come_back("ada", UNLOADED)
        assert ["load b on ada"] == repaired.world.started()[-1:]
        repaired.world.load_failed("ada", "out of memory", out_of_memory=True)
        assert waiting in repaired.world.errors
        repaired.idle()

        assert ["ada"] == repaired.begun

    def test_ended(self) -> None:
        """An engine that has ended is restarted if its agent does not bring it back by itself."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        in_use(repaired.world, "a")
        repaired.report("ada", EngineLife.ENDED, "exit status 1")
        assert ["ada: its engine has ended: exit status 1"] == repaired.planned
        repaired.world.poll_failed("ada")
        repaired.idle(20)
        assert [] == repaired.begun
        repaired.idle(10)

        assert ["ada"] == repaired.begun

    def test_comes_back(self) -> None:
        """Requests wait meanwhile, and get the engine as soon as it is back."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.report("ada", EngineLife.ENDED, "exit status 1")
        waiting = [repaired.world.submit("a"), repaired.world.submit("b")]
        assert waiting == repaired.world.waiting
        repaired.world.restart("ada")
        repaired.world.finish_all()
        assert set(waiting) == set(repaired.world.leases)

        assert [] == repaired.begun
        assert [""] == [each.failure for each in repaired.ended]

    def test_agent_is_wrong(self) -> None:
        """An engine that answers is not restarted, although its agent has said that it has ended.

        A request that runs there goes on.
        """
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        (running,) = in_use(repaired.world, "a")
        repaired.report("ada", EngineLife.ENDED, "no process")
        repaired.world.poll("ada")
        repaired.idle()

        assert running in repaired.world.leases
        assert [] == repaired.begun
        assert ["it is no longer needed"] == [each.failure for each in repaired.ended]

    def test_given_up(self) -> None:
        """One that its agent has given up is restarted at once."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.go_down("ada")
        repaired.report("ada", EngineLife.GIVEN_UP, "it ended 5 times in 60 s")

        assert ["ada"] == repaired.begun

    def test_a_wrong_agent_has_given_up(self) -> None:
        """Its words alone restart nothing: a poll must have failed first, and here one does not."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.report("ada", EngineLife.GIVEN_UP, "it ended 5 times in 60 s")
        waiting = repaired.world.submit("a")
        repaired.idle()
        assert [] == repaired.begun
        repaired.world.poll("ada")

        assert waiting in repaired.world.leases
        assert [] == repaired.begun
        assert ["it is no longer needed"] == [each.failure for each in repaired.ended]

    def test_a_wrong_agent_while_the_node_drains(self) -> None:
        """The requests that run on a node go on before a planned restart, until a poll fails."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        in_use(repaired.world, "a")
        repaired.order("ada")
        repaired.report("ada", EngineLife.GIVEN_UP, "it ended 5 times in 60 s")
        repaired.idle(1)
        assert "draining" == repaired.phase("ada")
        repaired.world.poll_failed("ada")
        repaired.idle(1)

        assert ["ada"] == repaired.begun

    def test_unloads(self) -> None:
        """So many unloads are a reason for an idle window."""
        terms = SchedulingTerms(defrag_after_cycles=2)
        repaired = Repaired(ONE, SIZES, {"ada": ["a", "b"]}, terms=terms)
        for model in ("a", "b"):
            repaired.leak("ada", model, 0)
        repaired.idle()

        assert ["ada: 2 unloads since its start"] == repaired.planned
        assert ["ada"] == repaired.begun
