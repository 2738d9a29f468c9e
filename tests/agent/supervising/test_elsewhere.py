"""An engine that another program runs."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.elsewhere import Elsewhere
from cortexd.agent.supervising.terms import ProcessTerms
from cortexd.link.contract import Failed
from tests.agent.supervising.scenes import COMMAND, Scene, scene
from tests.doubles.process_world import OneProcess, ProcessWorld

UNIT = "mistralrs.service"
RESTART = ("systemctl", "restart", UNIT)


class PidFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a folder for the pid file."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "engine.pid"

    def start_engine(self, world: ProcessWorld) -> OneProcess:
        """Let the init of the machine start an engine."""
        engine = OneProcess(900 + len(world.processes), 5, 1, "", COMMAND, {}, "")
        world.processes[engine.pid] = engine
        self.path.write_text(f"{engine.pid}\n")
        return engine

    def restarting(self, made: Scene, *, does: bool = True, status: int = 0) -> None:
        """Let restart_command do what it should, or not, and end with a status."""

        def started(process: OneProcess) -> None:
            assert RESTART == tuple(process.command)
            if does:
                for each in made.world.living():
                    if tuple(each.command) == COMMAND:
                        made.world.end(each, None, signal.SIGTERM)
                self.start_engine(made.world)
            made.world.write(process, b"first\n\nno such unit\n")
            made.world.end(process, status)

        made.world.started = started

    def test_the_process_is_watched(self) -> None:
        """It is found by the file, and its end is seen at once; another one is found later."""
        with scene(starts=False, command=(), pid_file=str(self.path)) as made:
            made.control.service.startService()
            assert () == made.control.pids()
            assert f"{self.path}: No such file or directory" == made.control.reason
            engine = self.start_engine(made.world)
            made.world.run(1.1)
            assert ((engine.pid,), "") == (made.control.pids(), made.control.reason)

            made.world.end(engine, None, signal.SIGKILL)
            made.world.run()
            assert () == made.control.pids()
            assert f"{self.path}: the process {engine.pid} has ended" == made.control.reason
            assert 1 == made.control.restarts
            after = self.start_engine(made.world)
            made.world.run(1.1)
            assert (after.pid,) == made.control.pids()

    def test_a_restart(self) -> None:
        """The command of the file runs once, and the engine is another process then."""
        with scene(command=(), restart_command=RESTART, pid_file=str(self.path)) as made:
            assert made.control.can_restart
            self.start_engine(made.world)
            made.world.run(1.1)
            self.restarting(made)
            restarted = made.control.restart("1", "", 60.0)
            made.world.run(3.0)
            assert self.successResultOf(restarted) < 3.0
            assert (made.engine.pid,) == made.control.pids()

    def test_a_command_that_fails(self) -> None:
        """The failure has the last words of the command."""
        with scene(command=(), restart_command=RESTART, pid_file=str(self.path)) as made:
            self.start_engine(made.world)
            self.restarting(made, does=False, status=1)
            restarted = made.control.restart("1", "", 60.0)
            made.world.run(1.0)
            words = str(self.failureResultOf(restarted, Failed).value)
            assert "restart_command: systemctl ended with status 1: first; no such unit" == words

    def test_a_command_that_does_nothing(self) -> None:
        """An engine that is well is no proof of a restart."""
        with scene(command=(), restart_command=RESTART, pid_file=str(self.path)) as made:
            engine = self.start_engine(made.world)
            made.world.run(1.1)
            self.restarting(made, does=False)
            restarted = made.control.restart("1", "", 10.0)
            made.world.run(11.0)
            words = str(self.failureResultOf(restarted, Failed).value)
            assert f"the engine's process is still the old one, {engine.pid}" in words

    def test_a_command_that_does_not_end(self) -> None:
        """It is killed with its children at the limit of the order."""
        with scene(command=(), restart_command=RESTART, pid_file=str(self.path)) as made:
            commands: list[OneProcess] = []
            made.world.started = commands.append
            restarted = made.control.restart("1", "", 10.0)
            made.world.run(1.0)
            child = made.world.fork(commands[0])
            made.world.run(10.0)
            words = str(self.failureResultOf(restarted, Failed).value)
            assert "the restart took longer than 10 s: restart_command has not ended" == words
            assert [] == [each for each in (commands[0], child) if each.is_alive]

    def test_without_any_command(self) -> None:
        """The agent says that it cannot restart, and how to let it."""
        with scene(command=()) as made:
            assert not made.control.can_restart
            assert not made.control.has_log
            assert not made.control.sees_process
            assert () == made.control.notes
            failure = self.failureResultOf(made.control.restart("1", "", 1.0), Failed)
            assert "neither command nor restart_command" in str(failure.value)


class UnitTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Watch a unit."""
        self.world = ProcessWorld()
        self.asked = 0
        self.answer = "LoadState=not-found\n"
        self.status = 0
        self.world.started = self.systemctl
        self.held: list[OneProcess] = []
        terms = ProcessTerms(run_directory=Path("/nonexistent"), unit=UNIT, restart_command=RESTART)
        self.runner = Elsewhere(self.world, self.world, terms, {}, ["systemctl"])
        self.runner.service.startService()
        self.addCleanup(self.runner.service.stopService)

    def systemctl(self, process: OneProcess) -> None:
        """Answer as systemctl does."""
        assert ["systemctl", "show"] == list(process.command[:2])
        self.asked += 1
        self.world.write(process, self.answer.encode())
        self.world.end(process, self.status)

    def test_a_unit_is_found_and_watched(self) -> None:
        """Systemd is asked only while there is no process."""
        self.world.run()
        assert not self.runner.sees_process
        assert (f"systemd says of {UNIT}: not-found",) == self.runner.notes

        engine = OneProcess(900, 5, 1, "", COMMAND, {}, "")
        self.world.processes[900] = engine
        self.answer = f"LoadState=loaded\nMainPID=900\nControlGroup=/system.slice/{UNIT}\n"
        self.world.run(1.2)
        assert (900,) == self.runner.pids()
        assert not self.runner.notes
        asked = self.asked
        self.world.run(30.0, pace=1.0)
        assert asked == self.asked

        self.answer = (
            "LoadState=loaded\nMainPID=0\nActiveState=failed\nResult=start-limit-hit\n"
            "ExecMainCode=2\nExecMainStatus=9\n"
        )
        self.world.end(engine, None, signal.SIGKILL)
        self.world.run()
        assert () == self.runner.pids()
        assert self.runner.is_given_up
        assert "was ended by SIGKILL; the unit is failed (start-limit-hit)" in self.runner.reason

    def test_a_unit_that_systemd_has_given_up(self) -> None:
        """Once restart_command has run, answers from before it do not count."""
        given_up = "LoadState=loaded\nMainPID=0\nActiveState=failed\nResult=start-limit-hit\n"
        self.answer = given_up
        self.world.run(1.2)
        assert self.runner.is_given_up

        self.world.started = self.held.append
        self.world.run(1.0)
        (asking,) = self.held
        restarted = self.runner.replace()
        self.world.end(self.held[1], 0)
        self.world.run()
        self.successResultOf(restarted)
        assert not self.runner.is_given_up
        self.world.write(asking, given_up.encode())
        self.world.end(asking, 0)
        self.world.run()
        assert not self.runner.is_given_up

        self.world.started = self.systemctl
        self.world.run(1.2)
        assert self.runner.is_given_up

    def test_systemctl_fails(self) -> None:
        """The note says so, with its last words."""
        self.answer, self.status = "Failed to connect to bus\n", 1
        self.world.run(1.2)
        assert (
            "systemctl cannot be asked: systemctl ended with status 1: Failed to connect to bus",
        ) == self.runner.notes

    def test_stopping_ends_the_question(self) -> None:
        """Nothing goes on after the stop, wherever it comes."""
        self.world.started = lambda _: None
        self.world.run(1.2)
        self.runner.service.stopService()
        self.world.run(0.1)
        assert [] == self.world.living()
        assert [] == self.world.getDelayedCalls()
