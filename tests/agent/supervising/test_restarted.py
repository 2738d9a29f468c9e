"""Whether an engine has been restarted."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.engine_control import Health
from cortexd.agent.supervising.kernel import ProcessId
from cortexd.agent.supervising.restarted import Seen, lack

OLD, NEW = ProcessId(10, 100), ProcessId(11, 9000)
WELL = Health(True, created=1000)


def seen(process: ProcessId | None, health: Health, started_at: float | None = None) -> Seen:
    """Return what is seen of a process that can be seen."""
    return Seen(True, process, started_at, health)


def unseen(health: Health) -> Seen:
    """Return what is seen where only the engine itself answers."""
    return Seen(False, None, None, health)


class LackTests(SynchronousTestCase):
    def test_another_process_that_is_well(self) -> None:
        """A number that is used again counts as another process by its start."""
        before = seen(OLD, WELL, 999.5)
        assert lack(before, seen(NEW, Health(True, 1200), 1199.0)) is None
        assert lack(before, seen(ProcessId(10, 9000), Health(True, 1200), 1199.0)) is None
        assert lack(seen(None, Health(False)), seen(NEW, WELL, 999.0)) is None

    def test_the_same_process(self) -> None:
        """A command that does nothing is no restart, however well the engine is."""
        words = lack(seen(OLD, WELL, 999.5), seen(OLD, WELL, 999.5))
        assert "the engine's process is still the old one, 10" == words

    def test_a_process_that_is_not_well(self) -> None:
        """The engine's own reason is what is missing."""
        before = seen(OLD, WELL)
        assert "refused" == lack(before, seen(NEW, Health(False, reason="refused")))
        assert "the engine has no process" == lack(before, seen(None, WELL))

    def test_another_process_answers_in_its_place(self) -> None:
        """An engine that started before its process is a leftover of the last one."""
        words = lack(seen(OLD, WELL, 999.5), seen(NEW, WELL, 1200.0))
        assert "a process of an earlier engine answers in place of the new one" == words

    def test_a_restart_within_one_second(self) -> None:
        """The engine tells whole seconds, which may be the same for both processes."""
        assert lack(seen(OLD, WELL, 1000.1), seen(NEW, WELL, 1000.9)) is None

    def test_without_a_process(self) -> None:
        """The engine's own start tells, where it says it."""
        assert lack(unseen(WELL), unseen(Health(True, 1200))) is None
        assert lack(unseen(Health(False)), unseen(WELL)) is None
        assert "has not been restarted" in (lack(unseen(WELL), unseen(WELL)) or "")
        assert "set unit or pid_file" in (lack(unseen(Health(True)), unseen(Health(True))) or "")
