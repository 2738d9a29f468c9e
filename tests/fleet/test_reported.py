"""What the reports of agents change in the books and in the health of a node."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.agents import MOST_MB, AgentAbilities, AgentReport, EngineLife, EngineProcess
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.memory import TOLERATED_MISSING_MB, over_mb
from cortexd.fleet.nodes import ModelTerms, Node, NodeTerms
from cortexd.fleet.reconfiguring import FleetTerms, is_overfull
from cortexd.fleet.reported import (
    LONGEST_WORDS,
    REPORT_LAG_SECONDS,
    WRONG_SECONDS,
    life_words,
    shows_more,
)
from cortexd.fleet.states import HealthChanged, NodeHealth
from tests.support.nodes import (
    BUDGET_MB,
    LOAD,
    LOADED,
    REFUSED,
    SILENT,
    UNLOADED,
    fleet_of,
    memory,
    replica_on,
    seen,
)

ABILITIES = AgentAbilities(version="1")
ANSWERS, QUIET, UNKNOWN = EngineLife.ANSWERS, EngineLife.SILENT, EngineLife.UNKNOWN
ENDED, GIVEN_UP = EngineLife.ENDED, EngineLife.GIVEN_UP
SIZE_MB = 8_000
BEYOND_MB = 2_000
"""What the node has beyond its budget."""


def report(
    used_mb: int | None = None, others_mb: int | None = 0, life: EngineLife = ANSWERS, **more: Any
) -> AgentReport:
    """Return a report; ``used_mb`` is what the engine takes, None without amounts."""
    total_mb = BUDGET_MB + BEYOND_MB
    free_mb = None if used_mb is None else total_mb - used_mb - (others_mb or 0)
    return AgentReport(
        life=life,
        memory_total_mb=None if used_mb is None else total_mb,
        memory_free_mb=free_mb,
        others_mb=others_mb,
        **more,
    )


class BooksTestCase(SynchronousTestCase):
    """A node with an agent on which one of two models is loaded."""

    def setUp(self) -> None:
        self.fleet: Fleet = fleet_of(
            {"ada": {"m1": LOADED, "m2": UNLOADED}}, sizes={"m1": SIZE_MB, "m2": SIZE_MB}
        )
        self.fleet.note_agent("ada", ABILITIES)
        self.ada: Node = self.fleet.nodes["ada"]


class OthersTests(BooksTestCase):
    def test_what_others_take(self) -> None:
        """It lowers what models may fill at once, but for the memory beyond the budget."""
        self.fleet.take_report("ada", report(SIZE_MB, 5_000), 60.0)
        assert (3_000, 0) == (self.ada.others_mb, self.ada.missing_mb)
        assert BUDGET_MB - 3_000 == self.ada.usable_mb
        assert BUDGET_MB - 3_000 - SIZE_MB == self.ada.free_mb

        self.fleet.take_report("ada", report(SIZE_MB, BEYOND_MB), 61.0)
        assert (0, BUDGET_MB) == (self.ada.others_mb, self.ada.usable_mb)

    def test_what_the_engine_takes_too_much(self) -> None:
        """It is still missing: after two reports, and without what others take."""
        much = report(SIZE_MB + 3_000, BEYOND_MB + 1_000)
        self.fleet.take_report("ada", much, 60.0)
        assert (1_000, 0) == (self.ada.others_mb, self.ada.missing_mb)
        self.fleet.take_report("ada", much, 61.0)
        assert (1_000, 3_000) == (self.ada.others_mb, self.ada.missing_mb)

    def test_leak(self) -> None:
        """A leak is taken back by what the engine takes, whatever others take."""
        self.fleet.note_unload(self.ada, 2_000)
        self.fleet.take_report("ada", report(SIZE_MB + 500, 6_000), 60.0)
        assert 500 == self.ada.leaked_mb

    def test_unknown_footprints(self) -> None:
        """What others take is not booked for a model of unknown footprint."""
        fleet = fleet_of({"ada": {"m1": LOADED, "m2": LOADED}})
        fleet.note_agent("ada", ABILITIES)
        fleet.take_report("ada", report(6_000, 9_000), 60.0)
        assert [3_000, 3_000] == [replica_on(fleet, "ada", m).footprint_mb for m in ("m1", "m2")]

    def test_a_reading_that_does_not_tell(self) -> None:
        """What others took is missing then, without a moment in which it counts as free."""
        self.fleet.take_report("ada", report(SIZE_MB, 5_000), 60.0)
        free_mb = self.ada.free_mb
        self.fleet.note_agent("ada", None)
        assert free_mb == self.ada.free_mb
        used = memory(SIZE_MB + 5_000, BUDGET_MB + BEYOND_MB)
        self.fleet.record_system("ada", used, 70.0)
        assert (0, 3_000, free_mb) == (
            self.ada.others_mb,
            self.ada.missing_mb,
            self.ada.free_mb,
        )
        self.fleet.record_system("ada", memory(SIZE_MB, BUDGET_MB + BEYOND_MB), 80.0)
        assert (0, BUDGET_MB - SIZE_MB) == (self.ada.missing_mb, self.ada.free_mb)

    def test_over(self) -> None:
        """A node is over what it may fill by others too, but not by the breadth of a reading."""
        room_mb = BUDGET_MB - SIZE_MB
        for others_mb, excess_mb in (
            (room_mb, 0),
            (room_mb + TOLERATED_MISSING_MB, 0),
            (room_mb + TOLERATED_MISSING_MB + 1, TOLERATED_MISSING_MB + 1),
        ):
            # What the engine has booked is more than it takes.
            used_mb = SIZE_MB - 2 * TOLERATED_MISSING_MB
            self.fleet.take_report("ada", report(used_mb, BEYOND_MB + others_mb), 60.0)
            assert others_mb == self.ada.others_mb
            assert (excess_mb, excess_mb > 0) == (over_mb(self.ada), is_overfull(self.ada))

    def test_another_budget(self) -> None:
        """A new configuration leaves others the same memory, so that less of the budget is left."""
        self.fleet.take_report("ada", report(SIZE_MB, 5_000), 60.0)
        for budget_mb, others_mb in ((BUDGET_MB + BEYOND_MB, 5_000), (20_000, 0)):
            terms = FleetTerms(
                (NodeTerms("ada", "http://ada:1234", budget_mb),),
                {},
                ModelTerms(4),
                lambda node, model: SIZE_MB,
                down_after=1,
                load_timeout=100.0,
            )
            self.fleet.reconfigure(terms, 61.0)
            assert (others_mb, budget_mb - others_mb) == (self.ada.others_mb, self.ada.usable_mb)

    def test_another_endpoint(self) -> None:
        """An agent speaks for its node's name: it stays where a reload makes the node anew."""
        self.fleet.take_report("ada", report(SIZE_MB, 5_000), 60.0)
        terms = FleetTerms(
            (NodeTerms("ada", "http://ada:4321", BUDGET_MB), NodeTerms("bob", "http://b", 1)),
            {},
            ModelTerms(4),
            lambda node, model: SIZE_MB,
            down_after=1,
            load_timeout=100.0,
        )
        self.fleet.reconfigure(terms, 61.0)
        ada = self.fleet.nodes["ada"]
        assert ada is not self.ada
        assert (ABILITIES, self.ada.report, 60.0) == (ada.agent, ada.report, ada.reported_at)
        assert (3_000, None) == (ada.others_mb, self.fleet.nodes["bob"].agent)

    def test_unmanaged(self) -> None:
        """A node that loads and unloads as it likes has no budget for others to take."""
        fleet = fleet_of({"ada": {"m1": LOADED}}, budget_mb=0, unmanaged=("ada",))
        fleet.take_report("ada", report(SIZE_MB, 5_000), 60.0)
        ada = fleet.nodes["ada"]
        assert (0, 0, 0) == (ada.others_mb, ada.free_mb, over_mb(ada))


class AgeTests(BooksTestCase):
    def load(self, now: float) -> None:
        """Load the other model."""
        replica = replica_on(self.fleet, "ada", "m2")
        self.fleet.begin(replica, LOAD, now - 5.0)
        self.fleet.end(replica, LOADED, now)

    def test_a_report_from_before_a_load(self) -> None:
        """It says nothing of what is resident now; what others take counts all the same."""
        self.load(60.0)
        before = report(SIZE_MB - 1_000, 5_000)
        for now, asked_at in ((60.0 + REPORT_LAG_SECONDS / 2, None), (61.0, 59.0)):
            self.fleet.note_unload(self.ada, 3_000)
            self.fleet.take_report("ada", before, now, asked_at)
            assert (3_000, 3_000) == (self.ada.leaked_mb, self.ada.others_mb)
            self.ada.leaked_mb = 0

    def test_a_report_from_after_a_load(self) -> None:
        """It counts: one that was asked for at once, one that comes by itself after a moment."""
        self.load(60.0)
        for now, asked_at in ((60.0 + REPORT_LAG_SECONDS, None), (60.1, 60.0)):
            self.fleet.note_unload(self.ada, 3_000)
            self.fleet.take_report("ada", report(2 * SIZE_MB), now, asked_at)
            assert 0 == self.ada.leaked_mb
            assert self.ada.read_at >= self.ada.moved_at

    def test_an_engine_that_starts(self) -> None:
        """While the engine does not answer, its memory says nothing of the models that it lists."""
        for life in (QUIET, ENDED, GIVEN_UP):
            self.fleet.note_unload(self.ada, 3_000)
            self.fleet.take_report("ada", report(0, life=life), 60.0)
            assert 3_000 == self.ada.leaked_mb
            self.ada.leaked_mb = 0

    def test_amounts_of_the_engine(self) -> None:
        """The agent may have asked the engine long ago, so they count only if we asked for them."""
        old = report(0, None, source="engine")
        for asked_at, leaked_mb in ((None, 3_000), (60.0, 0)):
            self.fleet.note_unload(self.ada, 3_000 - self.ada.leaked_mb)
            self.fleet.take_report("ada", old, 60.0, asked_at)
            assert leaked_mb == self.ada.leaked_mb

    def test_a_node_that_is_down(self) -> None:
        """What it listed last need not be resident any more, so that its memory says nothing."""
        self.fleet.fail("ada", REFUSED, 50.0)
        self.fleet.note_unload(self.ada, 3_000)
        self.fleet.take_report("ada", report(0, life=UNKNOWN), 60.0)
        assert 3_000 == self.ada.leaked_mb

    def test_amounts_that_cannot_be(self) -> None:
        """They are no amounts."""
        for total_mb, free_mb, others_mb in (
            (None, 5, 0),
            (5, None, 0),
            (5, 6, 0),
            (5, -1, 0),
            (5, 1, -1),
            (MOST_MB + 1, 1, 0),
        ):
            wrong = AgentReport(
                life=ANSWERS,
                memory_total_mb=total_mb,
                memory_free_mb=free_mb,
                others_mb=others_mb,
            )
            assert wrong.system is None
            self.fleet.take_report("ada", wrong, 60.0)
            assert self.ada.system is None

    def test_version(self) -> None:
        """A report that does not know the engine's version leaves it as it was."""
        self.fleet.record_system("ada", memory(SIZE_MB), 50.0)
        self.fleet.take_report("ada", report(SIZE_MB), 60.0)
        assert self.ada.system is not None
        assert "0.9.2" == self.ada.system.version


class LifeTests(BooksTestCase):
    def test_end(self) -> None:
        """An engine that has ended takes its node down, with a reason; a poll brings it back."""
        for created, life, words in (
            (101, ENDED, "its engine has ended: exit status 1"),
            (
                102,
                GIVEN_UP,
                "its engine has ended so often that its agent does not start it again: "
                "exit status 1",
            ),
        ):
            (change,) = self.fleet.take_report(
                "ada", report(life=life, reason="exit status 1"), 60.0
            )
            assert HealthChanged("ada", NodeHealth.UP, NodeHealth.DOWN, words) == change
            assert (words, False) == (self.ada.reason, self.ada.takes_work)
            self.fleet.take_report("ada", report(), 61.0)
            assert NodeHealth.DOWN is self.ada.health
            self.fleet.observe("ada", seen(created, m1=LOADED, m2=UNLOADED), 62.0, 61.5)
            assert self.ada.takes_work

    def test_an_answer_from_before_the_end(self) -> None:
        """A poll that was sent before the end does not bring work back."""
        self.fleet.take_report("ada", report(life=ENDED), 60.0)
        self.fleet.observe("ada", seen(m1=LOADED, m2=UNLOADED), 60.5, 59.0)
        assert not self.ada.takes_work
        self.fleet.observe("ada", seen(m1=LOADED, m2=UNLOADED), 61.5, 61.0)
        assert self.ada.takes_work

    def test_the_same_word_again(self) -> None:
        """A node that answers polls stays up, however often its agent says that it has ended."""
        self.fleet.take_report("ada", report(life=ENDED), 60.0)
        self.fleet.observe("ada", seen(m1=LOADED, m2=UNLOADED), 61.0)
        for life in (ENDED, GIVEN_UP, ENDED):
            assert [] == self.fleet.take_report("ada", report(life=life), 62.0)
        assert NodeHealth.UP is self.ada.health

    def test_a_word_that_was_wrong(self) -> None:
        """An agent whose word an answer has refuted is not believed again for a while.

        Otherwise one that says in turn that the engine has ended and answers would keep requests
        from it. A new process of the engine shows that the word was right.
        """
        for at, created, is_believed in (
            (60.0, 100, True),
            (70.0, 100, False),
            (71.0 + WRONG_SECONDS, 100, True),
            (80.0 + WRONG_SECONDS, 107, False),
            (85.0 + WRONG_SECONDS, 107, True),
        ):
            self.fleet.take_report("ada", report(), at)
            changes = self.fleet.take_report("ada", report(life=ENDED), at)
            assert is_believed is bool(changes), at
            listing = seen(created, m1=LOADED, m2=UNLOADED)
            self.fleet.observe("ada", listing, at + 1.0, at + 0.5)
            assert self.ada.takes_work

    def test_words(self) -> None:
        """Why a node is down has the agent's words, on one line, short and without keys."""
        self.fleet.take_report("ada", report(life=ENDED, reason="it\nexited"), 60.0)
        self.fleet.fail("ada", SILENT, 62.0)
        assert r"its engine has ended: it\nexited" == self.ada.reason
        self.fleet.take_report("ada", report(life=QUIET), 63.0)
        self.fleet.fail("ada", SILENT, 64.0)
        assert (
            "no answer within 2 s; its agent sees that the engine runs and does not answer"
            == self.ada.reason
        )
        words = "api_key=abcdef " + "x" * 2 * LONGEST_WORDS
        self.fleet.take_report("ada", report(life=ENDED, reason=words, notes=(words,)), 65.0)
        assert self.ada.report is not None
        for shown in (self.ada.report.reason, *self.ada.report.notes):
            assert ("abcdef" in shown, LONGEST_WORDS) == (False, len(shown))
        assert "" == life_words(report(reason="all is well"))

    def test_polls_at_once(self) -> None:
        """A poll is worth its while where an engine has ended, come back, or been replaced."""
        first = EngineProcess(pid=1, started_at=1.0, rss_mb=1, cpu_seconds=0.0)
        second = EngineProcess(pid=1, started_at=2.0, rss_mb=1, cpu_seconds=0.0)
        for before, after, is_wanted in (
            (None, report(), False),
            (None, report(life=UNKNOWN), False),
            (None, report(life=ENDED), True),
            (report(), report(life=ENDED), True),
            (report(life=ENDED), report(life=GIVEN_UP), True),
            (report(life=ENDED), report(life=QUIET), False),
            (report(life=QUIET), report(), True),
            (report(process=first), report(used_mb=1, process=first), False),
            (report(process=first), report(process=second), True),
            (report(), report(process=second), False),
        ):
            assert is_wanted is shows_more(before, after, self.ada), (before, after)
        self.fleet.take_report("ada", report(life=ENDED), 60.0)
        assert shows_more(None, report(), self.ada)
        assert not shows_more(None, report(life=ENDED), self.ada)
