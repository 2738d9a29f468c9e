from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.composing import (
    CHANGE_MB,
    MAX_NOTES,
    MAX_WORDS,
    Accelerators,
    EngineSeen,
    ProcessSeen,
    compose,
    is_due,
    life,
)
from cortexd.fleet.agents import AgentReport, Device, EngineLife, EngineProcess
from cortexd.fleet.states import Hardware, SystemInfo

PROCESS = EngineProcess(pid=7, started_at=100.0, rss_mb=500, cpu_seconds=3.0)
RUNS = ProcessSeen(is_visible=True, process=PROCESS, limit_mb=16_000)
GONE = ProcessSeen(is_visible=True, reason="killed by SIGKILL", limit_mb=16_000)
UNSEEN = ProcessSeen()
ON_CPU = Hardware(SystemInfo("0.9.5", 16_000, 9_000), 0)
ON_GPU = Hardware(SystemInfo("0.9.5", 24_000, 20_000), 1)
CARD = Device(name="RTX", total_mb=24_576, free_mb=20_000, engine_mb=4_000, others_mb=500)
CARDS = Accelerators(source="nvml", devices=(CARD, replace(CARD, free_mb=100)))
NO_CARDS = Accelerators()


def well(hardware: Hardware | None = ON_GPU) -> EngineSeen:
    return EngineSeen(is_well=True, hardware=hardware)


class LifeTests(SynchronousTestCase):
    def test_an_answer_proves_most(self) -> None:
        """An engine that answers lives, whatever is seen of its process."""
        for process in (RUNS, GONE, UNSEEN, ProcessSeen(is_given_up=True)):
            assert EngineLife.ANSWERS is life(well(), process)

    def test_without_an_answer(self) -> None:
        """A process that runs is silent; none has ended, or nobody can tell."""
        silent = EngineSeen(is_well=False, reason="refused")
        given_up = ProcessSeen(is_visible=True, is_given_up=True)

        assert EngineLife.SILENT is life(silent, RUNS)
        assert EngineLife.ENDED is life(silent, GONE)
        assert EngineLife.GIVEN_UP is life(silent, given_up)
        assert EngineLife.UNKNOWN is life(silent, UNSEEN)

    def test_reason(self) -> None:
        """The reason is that of the process's end, or else why no answer came."""
        silent = EngineSeen(is_well=False, reason="its port refuses connections")

        assert "killed by SIGKILL" == compose(silent, GONE, NO_CARDS).reason
        assert "its port refuses connections" == compose(silent, RUNS, NO_CARDS).reason
        assert "" == compose(well(), RUNS, NO_CARDS).reason


class MemoryTests(SynchronousTestCase):
    def test_all_accelerators(self) -> None:
        """The memory of all accelerators is one amount, and that of others too."""
        report = compose(well(), RUNS, CARDS)

        assert ("nvml", 49_152, 20_100, 1_000) == (
            report.source,
            report.memory_total_mb,
            report.memory_free_mb,
            report.others_mb,
        )
        assert CARDS.devices == report.devices

    def test_others_unknown(self) -> None:
        """If one driver does not tell what others take, their sum is unknown."""
        devices = (CARD, replace(CARD, others_mb=None))

        assert compose(well(), RUNS, replace(CARDS, devices=devices)).others_mb is None

    def test_process(self) -> None:
        """An engine without accelerators takes its process's memory, also beside a card."""
        for cards in (NO_CARDS, CARDS):
            report = compose(well(ON_CPU), RUNS, cards)
            assert ("process", 16_000, 15_500) == (
                report.source,
                report.memory_total_mb,
                report.memory_free_mb,
            )
            assert () == report.devices

    def test_process_has_ended(self) -> None:
        """A process that has ended takes nothing; what it ran on is still known."""
        ended = EngineSeen(is_well=False, hardware=ON_CPU)

        assert 16_000 == compose(ended, GONE, NO_CARDS).memory_free_mb

    def test_engine(self) -> None:
        """Without library, or with a process that cannot be seen, the engine's figures count."""
        for seen, process in ((well(), RUNS), (well(ON_CPU), UNSEEN)):
            report = compose(seen, process, NO_CARDS)
            assert seen.hardware is not None
            system = seen.hardware.system
            assert ("engine", system.memory_total_mb, system.memory_free_mb) == (
                report.source,
                report.memory_total_mb,
                report.memory_free_mb,
            )

    def test_nothing(self) -> None:
        """An engine that tells nothing, without a library, has no memory in its report."""
        report = compose(well(None), RUNS, NO_CARDS)

        assert ("", None) == (report.source, report.system)

    def test_before_the_engine_says(self) -> None:
        """The cards count until an engine says that it does not use them."""
        assert "nvml" == compose(EngineSeen(is_well=False), RUNS, CARDS).source

    def test_words_are_bounded(self) -> None:
        """Notes and reasons are single lines of bounded length and number."""
        silent = EngineSeen(is_well=False, reason="a\nb" * 1_000)
        report = compose(silent, RUNS, NO_CARDS, [f"\x1b{n}" + "x" * 500 for n in range(99)])

        assert MAX_NOTES == len(report.notes)
        for words in (report.reason, *report.notes):
            assert words.isprintable()
            assert len(words) <= MAX_WORDS


class DueTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.report = compose(well(), RUNS, CARDS)

    def changed(self, **changes: object) -> AgentReport:
        return replace(self.report, **changes)  # type: ignore[arg-type] # fields by name

    def test_first(self) -> None:
        """The first report is always due, and the same again never."""
        assert is_due(self.report, None)
        assert not is_due(self.report, self.report)

    def test_values(self) -> None:
        """Each difference in life, process, version, source, notes or devices is due."""
        restarted = replace(PROCESS, restarts=1)
        for changes in (
            {"life": EngineLife.SILENT},
            {"reason": "why"},
            {"version": "0.9.6"},
            {"notes": ("a note",)},
            {"process": restarted},
            {"process": replace(PROCESS, pid=8)},
            {"process": None},
            {"devices": ()},
            {"memory_free_mb": None},
        ):
            assert is_due(self.changed(**changes), self.report), changes

    def test_fluctuation(self) -> None:
        """A few MiB of memory, or a little CPU time, is no change; more is."""
        for changes, due in (
            ({"memory_free_mb": 20_100 - CHANGE_MB + 1}, False),
            ({"memory_free_mb": 20_100 - CHANGE_MB}, True),
            ({"others_mb": 1_000 + CHANGE_MB}, True),
            ({"process": replace(PROCESS, cpu_seconds=7.9)}, False),
            ({"process": replace(PROCESS, cpu_seconds=8.0)}, True),
            ({"process": replace(PROCESS, rss_mb=500 + CHANGE_MB)}, True),
            ({"devices": (CARD, replace(CARD, free_mb=100 + CHANGE_MB))}, True),
        ):
            assert due is is_due(self.changed(**changes), self.report), changes

    @settings(max_examples=40)
    @given(st.lists(st.integers(-3, 3), max_size=40))
    def test_small_changes_add_up(self, steps: list[int]) -> None:
        """What the gateway knows is never further off than a fluctuation."""
        last, free = self.report, 20_100
        for step in steps:
            free += step
            new = self.changed(memory_free_mb=free)
            if is_due(new, last):
                last = new
            assert last.memory_free_mb is not None
            assert abs(last.memory_free_mb - free) < CHANGE_MB
