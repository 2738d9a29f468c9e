"""How planned restarts go on and end."""

from itertools import pairwise
from math import inf

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.agents import EngineLife
from cortexd.fleet.nodes import NodeTerms
from cortexd.fleet.states import Observation
from cortexd.scheduling.events import Abandon
from cortexd.scheduling.repairs.events import RestartDone, RestartEnded, StartRestart
from cortexd.scheduling.repairs.reasons import STUCK_POLLS
from cortexd.scheduling.repairs.repairer import NO_ANSWER
from cortexd.scheduling.repairs.restarts import BUDGET_SECONDS
from cortexd.scheduling.repairs.terms import RepairTerms
from tests.scheduling.repairs.worlds import ONE, SIZES, TWO, Repaired, leaking
from tests.support.scheduling import LOADED, STUCK, UNLOADED, in_use


class RepairerTests(SynchronousTestCase):
    def test_models_come_back(self) -> None:
        """What was loaded before is loaded afterwards, and nothing else, before requests come."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        waiting = repaired.world.submit("a")
        repaired.world.end(waiting)
        repaired.order("ada")
        repaired.come_back("ada")
        assert ["unload b on ada"] == repaired.world.started()[-1:]
        early = repaired.world.submit("a")
        assert [early] == repaired.world.waiting
        repaired.world.finish_all()

        assert ["unload b on ada", "unload c on ada"] == repaired.world.started()[-2:]
        assert early in repaired.world.leases
        (ended,) = repaired.ended
        assert RestartEnded("ada", ended.number, "", 20.0, ("a",)) == ended
        assert "" == repaired.world.fleet.nodes["ada"].closed

    def test_leaking_node(self) -> None:
        """Where unloads leave memory behind, a restart brings it back only if it unloads little."""
        repaired = leaking()
        repaired.order("ada")
        repaired.come_back("ada")
        repaired.world.finish_all()

        assert ["unload b on ada"] == repaired.world.started()[1:]
        assert [("a", "c")] == [each.models for each in repaired.ended]
        assert 0 == repaired.world.fleet.nodes["ada"].leaked_mb

    def test_leaking_node_cold(self) -> None:
        """A cold start leaves only pinned models loaded there too."""
        repaired = leaking()
        repaired.order("ada", cold=True)
        repaired.come_back("ada")
        repaired.world.finish_all()

        assert [()] == [each.models for each in repaired.ended]

    def test_missing_models(self) -> None:
        """What an engine does not bring is loaded into free memory, also if a load fails."""
        repaired = Repaired({"ada": 30}, SIZES, {"ada": ["a", "b", "c"]})
        repaired.order("ada")
        repaired.come_back("ada", UNLOADED)
        assert "loading" == repaired.phase("ada")
        repaired.world.load_failed("ada")
        repaired.world.finish_all()

        assert ["load a on ada", "load b on ada", "load c on ada"] == repaired.world.started()
        assert [("", ("b", "c"))] == [(each.failure, each.models) for each in repaired.ended]

    def test_cold(self) -> None:
        """A cold start leaves only pinned models loaded."""
        repaired = Repaired({"ada": 30}, SIZES, {"ada": ["a", "b"]}, pinned={"ada": ["b"]})
        repaired.order("ada", cold=True)
        repaired.come_back("ada")
        repaired.world.finish_all()

        assert [("b",)] == [each.models for each in repaired.ended]

    def test_now(self) -> None:
        """An operator need not wait for leases, nor for a load."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        in_use(repaired.world, "a")
        repaired.world.submit("b")
        repaired.order("ada")
        assert [] == repaired.begun
        repaired.order("ada", now=True)
        assert [Abandon("ada", "b")] == repaired.world.of_kind(Abandon)
        repaired.world.load_failed("ada", "cancelled")

        assert ["ada"] == repaired.begun

    def test_failed(self) -> None:
        """A restart that fails opens the node again, and the next one comes later."""
        repaired = leaking()
        repaired.idle()
        repaired.fail("ada", "exit status 1")
        assert "" == repaired.world.fleet.nodes["ada"].closed
        assert ["exit status 1"] == [each.failure for each in repaired.ended]
        assert "a-0" in in_use(repaired.world, "a")
        repaired.world.end("a-0")
        repaired.idle(59)
        assert 1 == len(repaired.begun)
        repaired.idle(1)
        assert 2 == len(repaired.begun)
        repaired.fail("ada")
        repaired.idle(119)
        assert 2 == len(repaired.begun)
        repaired.idle(1)
        assert 3 == len(repaired.begun)

    def test_same_process(self) -> None:
        """A restart after which the same process answers has failed."""
        repaired = leaking()
        repaired.idle()
        (start,) = repaired.world.of_kind(StartRestart)
        assert isinstance(start, StartRestart)
        repaired.world.tell(RestartDone("ada", start.number, 5.0))
        repaired.world.poll("ada")

        assert ["the same process as before answers after it"] == [
            each.failure for each in repaired.ended
        ]
        assert "a-0" in in_use(repaired.world, "a")

    def test_an_engine_without_a_start_time(self) -> None:
        """Where an engine does not say when it started, the agent's report is taken as proof."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        world = repaired.world
        world.reconfigure([NodeTerms("bob", "http://bob:1234", 20)])
        world.listings["bob"] = {"a": LOADED, "b": UNLOADED}
        unsaid = Observation(None, world.listings["bob"])
        world.poll_from("bob", unsaid, inf)
        repaired.join("bob")
        repaired.order("bob")
        (start,) = world.of_kind(StartRestart)
        assert isinstance(start, StartRestart)
        world.tell(RestartDone("bob", start.number, 5.0))
        world.poll_from("bob", unsaid, inf)
        world.finish_all()

        assert [("", ("a",))] == [(each.failure, each.models) for each in repaired.ended]

    def test_no_answer(self) -> None:
        """A restart after which the node answers no poll ends as failed, and opens the node."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.order("ada")
        repaired.go_down("ada")
        (start,) = repaired.world.of_kind(StartRestart)
        assert isinstance(start, StartRestart)
        repaired.world.tell(RestartDone("ada", start.number, 5.0))
        repaired.idle(59)
        assert [] == repaired.ended
        repaired.idle(1)

        assert [NO_ANSWER] == [each.failure for each in repaired.ended]
        assert "" == repaired.world.fleet.nodes["ada"].closed

    def test_no_answer_while_trimming(self) -> None:
        """A node that falls silent before it is trimmed is given up after a while."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.order("ada")
        repaired.come_back("ada")
        assert "trimming" == repaired.phase("ada")
        repaired.go_down("ada")
        repaired.world.unload_failed("ada")
        repaired.idle(59)
        assert [] == repaired.ended
        repaired.idle(1)

        assert [NO_ANSWER] == [each.failure for each in repaired.ended]

    def test_an_engine_that_starts_twice(self) -> None:
        """An engine that starts again while models are loaded is trimmed anew."""
        repaired = Repaired({"ada": 30}, SIZES, {"ada": ["a", "b"]})
        repaired.order("ada")
        repaired.come_back("ada", UNLOADED)
        assert "loading" == repaired.phase("ada")
        repaired.world.restart("ada")
        repaired.world.load_failed("ada", "cancelled")
        assert "trimming" == repaired.phase("ada")
        repaired.world.finish_all()

        assert "unload c on ada" in repaired.world.started()
        assert [""] == [each.failure for each in repaired.ended]

    def test_no_moment_to_load(self) -> None:
        """A restart on a cordoned node loads nothing, and ends after a while."""
        repaired = Repaired({"ada": 30}, SIZES, {"ada": ["a"]})
        repaired.order("ada")
        repaired.world.cordon("ada")
        repaired.come_back("ada", UNLOADED)
        repaired.idle(59)
        assert ("loading", []) == (repaired.phase("ada"), repaired.ended)
        repaired.idle(1)

        assert [("", ())] == [(each.failure, each.models) for each in repaired.ended]
        assert [] == repaired.world.started()

    def test_a_late_report(self) -> None:
        """What an agent reports of a restart that has been given up changes nothing."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.order("ada")
        repaired.idle(960)
        (ended,) = repaired.ended
        repaired.fail("ada", "too late")
        repaired.world.tell(RestartDone("ada", ended.number, 5.0))

        assert [ended] == repaired.ended
        assert "" == repaired.phase("ada")

    def test_agent_leaves(self) -> None:
        """A node that waits for its leases opens if its agent leaves; a restart goes on."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        in_use(repaired.world, "a")
        repaired.order("ada")
        repaired.leave("ada")
        assert "" == repaired.phase("ada")
        assert "a-1" in in_use(repaired.world, "a")
        repaired.world.end("a-0", "a-1")
        repaired.join("ada")
        repaired.order("ada")
        repaired.leave("ada")
        assert "restarting" == repaired.phase("ada")
        repaired.come_back("ada")
        repaired.world.finish_all()

        assert "" == repaired.ended[-1].failure

    def test_an_agent_that_starts_the_engine(self) -> None:
        """While the engine that it has started boots, nothing orders it to start it once more."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.report("ada", EngineLife.ENDED, "signal 9")
        repaired.report("ada", EngineLife.SILENT, "its port refuses connections")
        waiting = repaired.world.submit("a")
        repaired.idle(120)
        assert ([], "due", [waiting]) == (
            repaired.begun,
            repaired.phase("ada"),
            repaired.world.waiting,
        )
        repaired.report("ada", EngineLife.ANSWERS)
        assert [waiting] == repaired.world.waiting
        repaired.world.restart("ada")
        repaired.world.finish_all()

        assert ([], [waiting]) == (repaired.begun, list(repaired.world.leases))
        assert [""] == [each.failure for each in repaired.ended]

    def test_a_restart_that_another_daemon_has_ordered(self) -> None:
        """Its successor sees the node come back: nothing stays closed, and nothing is repeated."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.report("ada", EngineLife.ENDED, "a restart was ordered")
        repaired.go_down("ada")
        waiting = repaired.world.submit("a")
        repaired.idle(20)
        repaired.report("ada", EngineLife.SILENT, "it starts")
        repaired.idle(20)
        repaired.report("ada", EngineLife.ANSWERS)
        repaired.world.restart("ada")
        repaired.world.finish_all()
        repaired.idle()

        assert waiting in repaired.world.leases
        assert "" == repaired.world.fleet.nodes["ada"].closed
        assert repaired.on("ada") is None
        assert [] == repaired.begun

    def test_an_engine_that_ends_while_it_boots(self) -> None:
        """Its agent has its time anew."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.report("ada", EngineLife.ENDED, "signal 9")
        repaired.report("ada", EngineLife.SILENT, "its port refuses connections")
        repaired.idle(120)
        repaired.report("ada", EngineLife.ENDED, "signal 9")
        repaired.world.poll_failed("ada")
        repaired.idle(20)
        assert [] == repaired.begun
        repaired.idle(10)

        assert ["ada"] == repaired.begun

    def test_an_engine_that_boots_for_ever(self) -> None:
        """What has not answered within the limit of a restart is its agent's to end."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.report("ada", EngineLife.ENDED, "signal 9")
        repaired.report("ada", EngineLife.SILENT, "its port refuses connections")
        repaired.idle(900)

        assert [] == repaired.begun
        assert ["it is no longer needed"] == [each.failure for each in repaired.ended]

    def test_nothing_is_heard(self) -> None:
        """A restart of which nothing is heard any more opens the node."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.order("ada")
        repaired.idle(959)
        assert "restarting" == repaired.phase("ada")
        repaired.idle(1)

        assert ["its agent did not report the end of the restart"] == [
            each.failure for each in repaired.ended
        ]
        assert "a-0" in in_use(repaired.world, "a")

    def test_lease_without_end(self) -> None:
        """A lease that does not end stops an automatic restart after a while."""
        repaired = Repaired({"ada": 30}, {"a": 8, "b": 8, "large": 28}, {"ada": ["a", "b"]})
        in_use(repaired.world, "a")
        repaired.leak("ada", "b", 4)
        waiting = repaired.world.submit("large")
        repaired.idle(599)
        assert "draining" == repaired.phase("ada")
        repaired.idle(1)

        assert ["1 request did not end"] == [each.failure for each in repaired.ended]
        assert waiting in repaired.world.errors

    def test_restarts_by_itself(self) -> None:
        """A node that restarts while its leases end need not be restarted again."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        in_use(repaired.world, "a")
        repaired.order("ada")
        repaired.world.restart("ada")
        assert "trimming" == repaired.phase("ada")
        repaired.world.end("a-0")
        repaired.world.finish_all()

        assert [] == repaired.begun
        assert [""] == [each.failure for each in repaired.ended]

    def test_node_leaves(self) -> None:
        """A reload that removes the node ends its restart."""
        repaired = Repaired(TWO, SIZES, {"ada": ["a"]})
        repaired.order("ada")
        repaired.world.reconfigure([NodeTerms("bob", "http://bob:1234", 20)])

        assert ["the node has left the configuration"] == [each.failure for each in repaired.ended]
        assert 0 == len(repaired.world.scheduler.restarts)

    def test_decisions(self) -> None:
        """Each restart is explained, for the models that it concerns."""
        repaired = leaking()
        repaired.idle()
        decision = repaired.world.scheduler.decisions.about("a")[0]
        assert ("restart", "ada", "unloads did not free 4 MiB") == (
            decision.action,
            decision.node,
            decision.reason,
        )
        (start,) = repaired.world.of_kind(StartRestart)
        assert StartRestart("ada", decision.number, decision.reason) == start


class RelapseTests(SynchronousTestCase):
    def test_a_reason_that_comes_back(self) -> None:
        """A restart whose reason is back at once was in vain: the next ones come ever later."""
        repair = RepairTerms(restart_budget=100)
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]}, repair=repair)
        world = repaired.world
        began_at: list[float] = []
        while world.now < 3 * BUDGET_SECONDS:
            world.change("ada", "b", STUCK)
            for _ in range(STUCK_POLLS):
                world.poll("ada")
            repaired.idle(10.0)
            world.finish_all()
            if repaired.phase("ada") == "restarting":
                began_at.append(world.now)
                repaired.come_back("ada")

        pauses = [after - before for before, after in pairwise(began_at)]
        assert 6 <= len(began_at) <= 9, pauses  # not a hundred
        assert sorted(pauses) == pauses
