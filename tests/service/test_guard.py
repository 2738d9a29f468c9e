"""The decisions of the guard; ``tests/live/units/test_restart.py`` runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.service import guard
from cortexd.service.guard import can_share, job_of, own_variables, systemctl_command

UNIT = "cortexd.service"
JOBS = """14 other.service      start   waiting
15 cortexd.service restart running
16 cortexd.service.d   stop running
"""
SLEEPER = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
print("up", flush=True)
time.sleep(60)
"""


class DecisionTests(SynchronousTestCase):
    def test_the_job_of_the_unit_tells_a_restart_from_a_stop(self) -> None:
        """As systemctl list-jobs --no-legend --plain --full of systemd 252 prints it."""
        assert "restart" == job_of(JOBS, UNIT)
        assert "stop" == job_of("15 cortexd.service stop running\n", UNIT)
        assert job_of("15 cortexd.service.d stop running\n", UNIT) is None
        assert job_of("No jobs running.\n", UNIT) is None

    @given(st.text())
    def test_any_text_is_read(self, text: str) -> None:
        """An answer that nobody expects is no restart, unless it says so."""
        assert job_of(text, UNIT) is None or UNIT in text

    def test_a_users_manager_is_asked_where_it_runs_the_unit(self) -> None:
        """The control group of the process shows it."""
        own = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/cortexd.service\n"
        systems = "0::/system.slice/cortexd.service\n"
        if systemctl_command(UNIT, systems) is not None:  # without systemctl there is no command
            assert ["--user"] == (systemctl_command(UNIT, own) or [])[1:]
            assert [] == (systemctl_command(UNIT, systems) or [])[1:]
        assert systemctl_command("", systems) is None

    def test_only_sockets_of_systemd_that_do_not_block_are_shared(self) -> None:
        """Two processes cannot listen on others at the same time."""
        assert can_share({"LISTEN_FDS": "2"}, lambda _: False)
        assert not can_share({"LISTEN_FDS": "2"}, lambda descriptor: descriptor == 4)
        for environ in ({}, {"LISTEN_FDS": "0"}, {"LISTEN_FDS": "x"}, {"LISTEN_FDS": ""}):
            assert not can_share(environ, lambda _: False)
        with socket.socket() as closed:
            number = closed.fileno()
        assert not can_share({"LISTEN_FDS": "1"}, lambda _: os.get_blocking(number))

    def test_the_daemon_gets_the_variables_that_name_its_process(self) -> None:
        """Those that name another process, and a missing one, stay as they are."""
        environ = {"LISTEN_PID": "10", "WATCHDOG_PID": "7", "PATH": "10"}
        assert {"LISTEN_PID": "11"} == own_variables(environ, 10, 11)
        assert {} == own_variables({}, 10, 11)


class ProcessTests(SynchronousTestCase):
    """The guard as a process, without systemd: every end of the daemon is its own end."""

    def run_guard(self, code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", guard.__name__, "--", sys.executable, "-c", code]
        process = subprocess.Popen(  # noqa: S603 - this environment's own Python
            command, stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_the_status_of_the_daemon_is_that_of_the_guard(self) -> None:
        """Systemd sees why the daemon has ended."""
        with self.run_guard("raise SystemExit(7)") as process:
            assert 7 == process.wait()

    def test_signals_are_passed_on(self) -> None:
        """A stop is a stop, and a watchdog's SIGABRT ends the daemon and then the guard."""
        for number in (15, 6, 2):
            with self.run_guard(SLEEPER) as process:
                assert process.stdout is not None
                assert "up\n" == process.stdout.readline()
                process.send_signal(number)
                assert process.wait() in (-number, 1, 130)

    def test_a_command_that_is_missing_is_an_error(self) -> None:
        """With the status that shells use."""
        command = [sys.executable, "-m", guard.__name__, "--", "/no/such/program"]
        done = subprocess.run(  # noqa: S603 - likewise
            command, capture_output=True, text=True, check=False
        )
        assert (127, "/no/such/program: No such file or directory\n") == (
            done.returncode,
            done.stderr,
        )

    def test_a_wrong_command_line_is_an_error(self) -> None:
        """One line says how it is used."""
        for arguments in ([], ["--unit", "--", "x"], ["twistd"]):
            command = [sys.executable, "-m", guard.__name__, *arguments]
            done = subprocess.run(  # noqa: S603 - likewise
                command, capture_output=True, text=True, check=False
            )
            assert (2, 1) == (done.returncode, done.stderr.count("\n")), arguments

    def test_it_is_small(self) -> None:
        """It imports nothing of Twisted, which would take three times its memory."""
        code = f"import sys; import {guard.__name__}; print('twisted' in sys.modules)"
        done = subprocess.run(  # noqa: S603 - likewise
            [sys.executable, "-c", code], capture_output=True, check=True
        )
        assert b"False\n" == done.stdout
