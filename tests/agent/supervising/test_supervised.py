"""An engine that the agent runs, in a double of its machine."""

from __future__ import annotations

import gc
import os
import signal

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.engine_control import Health
from cortexd.agent.supervising.adopting import RunDirectoryError
from cortexd.agent.supervising.kernel import MARK
from cortexd.agent.supervising.shim import FAILED_MARK, FAILED_STATUS
from cortexd.link.contract import Failed
from cortexd.logs import fields_of
from tests.agent.supervising.scenes import COMMAND, Scene, scene
from tests.doubles.process_world import OneProcess


class StartTests(SynchronousTestCase):
    def test_the_engine_gets_its_own_environment(self) -> None:
        """It has the folder and variables of the file, and none that belong to the agent's unit."""
        with scene(directory="/srv", environment={"HF_HUB_OFFLINE": "1"}) as made:
            environment = made.engine.environment
            assert ("/srv", COMMAND) == (made.engine.directory, tuple(made.engine.command))
            assert "1" == environment["HF_HUB_OFFLINE"]
            assert "NOTIFY_SOCKET" not in environment
            assert environment[MARK].endswith("/run")
            assert (made.engine.pid,) == made.control.pids()
            assert ("", False) == (made.control.reason, made.control.is_given_up)

    def test_an_engine_that_ends_is_started_again(self) -> None:
        """The reason says how it ended, and what happens next."""
        with scene() as made:
            first = made.engine
            made.world.end(first, None, signal.SIGKILL)
            made.world.run(0.1)
            assert made.control.reason == (
                "the engine was ended by SIGKILL after 0.0 s (the kernel does this if memory is "
                "short); it is started again after a pause of 0.2 s"
            )
            assert () == made.control.pids()
            made.world.run(0.5)
            assert first.pid != made.engine.pid
            assert 1 == made.control.restarts
            assert (True, "") == made.changes[-1]

    def test_children_that_outlive_the_engine_are_ended(self) -> None:
        """Before the next start, also those with a session of their own that ignore SIGTERM."""
        with scene() as made:
            first = made.engine
            child = made.world.fork(first)
            stubborn = made.world.fork(first, ignored=[signal.SIGTERM], own_session=True)
            made.world.end(first, 1)
            made.world.run(1.0)
            assert [signal.SIGTERM] == child.signals
            assert [] == [each for each in made.world.living() if each is not stubborn]
            made.world.run(3.0)
            assert signal.SIGKILL == stubborn.signals[-1]
            assert [made.engine] == made.world.living()

    def test_too_many_starts(self) -> None:
        """The engine is given up, in words, until an order starts it again."""
        with scene(start_limit=2, start_interval=60.0) as made:
            for _ in range(2):
                made.world.end(made.engine, 1)
                made.world.run(1.0)
            assert made.control.is_given_up
            assert "2 starts within 60 s are the limit (start_limit" in made.control.reason
            made.world.run(1000.0, pace=10.0)
            assert [] == made.world.living()

            restarted = made.control.restart("1", "by hand", 10.0)
            made.world.run(1.0)
            assert self.successResultOf(restarted) < 1.0
            assert not made.control.is_given_up
            assert made.engine

    def test_a_command_that_cannot_be_run(self) -> None:
        """The reason is that of the system, not only a status."""

        def fails(process: OneProcess) -> None:
            words = f"{FAILED_MARK}cannot run engine: No such file or directory\n"
            descriptor = os.open(pipe, os.O_WRONLY)
            os.write(descriptor, words.encode())
            os.close(descriptor)
            made.world.end(process, FAILED_STATUS)

        with scene(starts=False) as made:
            pipe = made.folder / "run" / "engine.output"
            made.world.started = fails
            made.control.service.startService()
            made.world.run(0.1)
            assert made.control.reason.startswith(
                "the engine cannot be started: cannot run engine: No such file or directory"
            )

    def test_a_start_that_the_system_refuses(self) -> None:
        """It counts as an end, and is tried again."""
        with scene() as made:
            run = made.folder / "run"
            run.rename(made.folder / "away")
            made.world.end(made.engine, 1)
            made.world.run(0.5)
            words = "the engine cannot be started: No such file or directory; it is started again"
            assert words in made.control.reason
            assert 1 == made.control.restarts
            (made.folder / "away").rename(run)
            made.world.run(2.0)
            assert "" == made.control.reason
            assert made.engine

    def test_a_pipe_that_was_removed(self) -> None:
        """It is made anew for the next engine, whose output is read."""
        with scene() as made:
            pipe = made.folder / "run" / "engine.output"
            pipe.unlink()
            made.world.end(made.engine, 1)
            made.world.run(0.5)
            assert made.engine
            descriptor = os.open(pipe, os.O_WRONLY)
            os.write(descriptor, b"hello\n")
            os.close(descriptor)
            for reader in made.world.getReaders():
                reader.doRead()
            assert ["hello"] == self.successResultOf(made.control.tail(1, 5, None))


class StopTests(SynchronousTestCase):
    def test_a_stop_in_the_middle_of_a_restart(self) -> None:
        """Nothing of the restart goes on, and nothing of it is left."""
        with scene(stop_seconds=5.0) as made:
            made.engine.ignored = frozenset({signal.SIGTERM})
            restarted = made.control.restart("1", "", 60.0)
            made.world.run(1.0)
            made.stop()
            self.failureResultOf(restarted, Failed)
            assert [] == made.world.living()
        gc.collect()
        assert [] == self.flushLoggedErrors()

    def test_the_whole_group_is_ended(self) -> None:
        """By SIGTERM, and what is left after stop_seconds by SIGKILL."""
        with scene(stop_seconds=5.0) as made:
            engine = made.engine
            engine.ignored = frozenset({signal.SIGTERM})
            child = made.world.fork(engine)
            stopped = made.control.service.stopService()
            made.world.run(4.0)
            assert ([signal.SIGTERM], [signal.SIGTERM]) == (engine.signals, child.signals)
            assert stopped is not None
            self.assertNoResult(stopped)
            made.world.run(3.0)
            assert [signal.SIGTERM, signal.SIGKILL] == engine.signals
            self.successResultOf(stopped)
            assert [] == made.world.living()

    def test_two_agents_do_not_run_one_engine(self) -> None:
        """The second one does not start, and says why."""
        with scene() as made:
            second = Scene(made.folder, made.world, {})
            with self.assertRaises(RunDirectoryError) as caught:
                second.control.service.startService()
            assert "another agent runs the engine of this directory" in str(caught.exception)
            assert [made.engine] == made.world.living()


class AdoptionTests(SynchronousTestCase):
    def test_an_engine_outlives_its_agent(self) -> None:
        """The next agent takes charge of it, and sees its end."""
        with scene() as made:
            engine = made.engine
            after = made.restart_agent()
            assert (engine.pid,) == after.control.pids()
            assert [engine] == made.world.living()
            assert () == after.control.notes

            made.world.end(engine, 1)
            made.world.run(0.1)
            assert "the engine ended after 0" in after.control.reason
            made.world.run(1.0)
            assert engine.pid != made.engine.pid
            after.stop()

    def test_another_command(self) -> None:
        """The engine goes on with the old one, a note says so, and a restart uses the new one."""
        with scene() as made:
            after = made.restart_agent(command=("engine", "--port", "2"))
            assert "an earlier [engine] command" in after.control.notes[0]
            after.health.health = None
            after.control.restart("1", "", 10.0).addErrback(lambda _: None)
            made.world.run(1.0)
            assert () == after.control.notes
            assert [["engine", "--port", "2"]] == [each.command for each in made.world.living()]
            after.stop()

    def test_leftovers_without_a_main_process(self) -> None:
        """What an engine has left that ended without an agent is ended before the next start."""
        with scene() as made:
            child = made.world.fork(made.engine)
            engine = made.engine
            made.is_restarted = True
            made.control.service.stopService()
            made.world.end(engine, 1)
            made.world.run(0.1)
            after = Scene(made.folder, made.world, {})
            after.control.service.startService()
            made.world.run(1.0)
            assert [signal.SIGTERM] == child.signals
            assert engine.pid != made.engine.pid
            after.stop()


class RestartTests(SynchronousTestCase):
    def test_an_order_is_one_restart(self) -> None:
        """Given again, in the middle and later, it has the same outcome."""
        with scene() as made:
            first = made.engine
            restarted = made.control.restart("7", "leaked 400 MiB", 60.0)
            again = made.control.restart("7", "leaked 400 MiB", 60.0)
            other = made.control.restart("8", "stuck", 60.0)
            made.world.run(2.0)
            results = {self.successResultOf(each) for each in (restarted, again, other)}
            assert 1 == len(results)
            later = made.control.restart("7", "leaked 400 MiB", 60.0)
            assert results == {self.successResultOf(later)}
            assert 1 == made.control.restarts
            assert first.pid != made.engine.pid

            second = made.control.restart("9", "", 60.0)
            made.world.run(2.0)
            self.successResultOf(second)
            assert 2 == made.control.restarts

    def test_cancelling_ends_the_wait_only(self) -> None:
        """The link may end while the engine restarts."""
        with scene() as made:
            first = made.engine
            restarted = made.control.restart("7", "", 60.0)
            restarted.cancel()
            self.failureResultOf(restarted)
            made.world.run(2.0)
            assert first.pid != made.engine.pid
            assert self.successResultOf(made.control.restart("7", "", 60.0)) > 0.0

    def test_an_engine_that_does_not_get_well(self) -> None:
        """The restart fails in words: at its limit, after start_seconds, or when given up."""
        with scene(start_seconds=20.0, start_limit=2, start_interval=1e6) as made:
            made.health.health = Health(False, reason="/health answers 503")
            restarted = made.control.restart("1", "", 5.0)
            made.world.run(6.0)
            words = str(self.failureResultOf(restarted, Failed).value)
            assert "the restart took longer than 5.0 s: /health answers 503" == words
            assert words == str(self.failureResultOf(made.control.restart("1", "", 5.0)).value)

            restarted = made.control.restart("2", "", 60.0)
            made.world.run(30.0)
            words = str(self.failureResultOf(restarted, Failed).value)
            assert "the engine was not well within 20 s (start_seconds)" in words

            made.health.health = None
            made.world.started = lambda process: made.world.end(process, 1)
            restarted = made.control.restart("3", "", 60.0)
            made.world.run(10.0)
            words = str(self.failureResultOf(restarted, Failed).value)
            assert "the engine ended with status 1 after 0" in words
            assert "start_limit" in words

    def test_an_engine_that_cannot_be_started(self) -> None:
        """The order fails with the reason as soon as the engine is given up."""
        with scene(start_limit=1) as made:
            run = made.folder / "run"
            run.rename(made.folder / "away")
            restarted = made.control.restart("1", "", 60.0)
            made.world.run(1.0)
            words = str(self.failureResultOf(restarted, Failed).value)
            assert words.startswith("the engine cannot be started: No such file or directory")
            (made.folder / "away").rename(run)

    def test_an_engine_that_does_not_end(self) -> None:
        """SIGKILL ends it after stop_seconds, and the restart goes on."""
        with scene(stop_seconds=3.0) as made:
            made.engine.ignored = frozenset({signal.SIGTERM})
            restarted = made.control.restart("1", "", 60.0)
            made.world.run(2.0)
            self.assertNoResult(restarted)
            made.world.run(3.0)
            assert 3.0 <= self.successResultOf(restarted) < 5.0

    def test_the_agent_stops_in_the_middle(self) -> None:
        """The order fails, and the engine is ended."""
        with scene() as made:
            made.health.is_held = True
            restarted = made.control.restart("1", "", 60.0)
            made.control.service.stopService()
            made.world.run(1.0)
            assert "the agent stops" == str(self.failureResultOf(restarted, Failed).value)
            assert [] == made.world.living()

    def test_what_the_gateway_says_is_only_logged(self) -> None:
        """An order and its reason are one line of the log, and reach no command."""
        with scene() as made, capturedLogs() as events:
            made.control.restart("7\n;reboot", "because\n$(reboot)", 60.0)
            made.world.run(2.0)
            assert COMMAND == tuple(made.engine.command)
            fields = [fields_of(event) for event in events]
        (ordered,) = [each for each in fields if each and each["event"] == "engine_restart_ordered"]
        assert ("7\\n;reboot", "because\\n$(reboot)") == (ordered["order"], ordered["reason"])
