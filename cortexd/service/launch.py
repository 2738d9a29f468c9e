"""The start under twistd: its log, its pidfile, and a start that fails after the fork.

twistd without ``-n`` forks, and its first process waits for a word of the daemon through a pipe.
It hears only of exceptions, cuts them after 100 bytes, and waits forever for a daemon that ends by
itself. So a start that fails says so in two ways: with a line for the caller, and in the pipe.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from twisted.logger import ILogObserver

from cortexd.logs import file_observer, get_logger, text_observer
from cortexd.service.processes import is_of_twistd

LOG_FILE: Final = "twistd.log"
"""The log of a daemon without ``--logfile``, as twistd names it."""

log = get_logger("cortexd.launch")


class LaunchError(Exception):
    """Raised when the start cannot go on; the message is one line for the operator."""


class Launch:
    """The start of this process under twistd, whose options are ``twistd``; empty without twistd.

    Make it before twistd forks. Call ``done`` once the daemon runs.
    """

    def __init__(self, twistd: Mapping[str, Any] | None) -> None:
        self._twistd = {} if twistd is None else twistd
        # The fork connects the descriptors 0 to 2 with /dev/null.
        self._caller = os.dup(2) if self._forks else -1

    @property
    def _forks(self) -> bool:
        return bool(self._twistd) and not self._twistd.get("nodaemon")

    def observer(self, reactor: Any) -> ILogObserver | None:
        """Return the observer of the log, None if the command line has chosen another.

        It writes where twistd would write. Raises LaunchError if the file cannot be opened.
        """
        options = self._twistd
        if not options or options.get("syslog") or options.get("logger"):
            return None
        path = options.get("logfile")
        if not self._forks and path in (None, "", "-"):
            return text_observer()
        if path == "-":
            return None  # twistd says what is wrong with that
        try:
            observer, output = file_observer(path or LOG_FILE)
        except OSError as error:
            raise LaunchError(
                f"{path or LOG_FILE}: the log cannot be written: {error.strerror}; choose another "
                "file with twistd's --logfile"
            ) from None
        if not signal.getsignal(signal.SIGUSR1):
            signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(output.rotate))
        return observer

    def give_up(self, error: Exception) -> NoReturn:
        """Print an error's message as one line for the caller, and exit with status 1."""
        log.error("start_failed", reason=str(error))
        line = f"{error}\n"
        if self._caller >= 0:
            with suppress(OSError):
                os.write(self._caller, line.encode("utf-8", "backslashreplace"))
        elif sys.__stderr__ is not None:  # twistd has redirected sys.stderr to the log
            sys.__stderr__.write(line)
        status_pipe = self._twistd.get("statusPipe")
        if status_pipe is not None:
            with suppress(OSError):
                os.write(status_pipe, b"1 see the line above")
        self._remove_pidfile()
        raise SystemExit(1) from None

    def _remove_pidfile(self) -> None:
        """Remove the pidfile of this process, as twistd does after an exception."""
        path = self._twistd.get("pidfile")
        if path and _pid_in(Path(path)) == os.getpid():
            with suppress(OSError):
                Path(path).unlink()

    def done(self) -> None:
        """Leave the caller's terminal."""
        caller, self._caller = self._caller, -1
        if caller >= 0:
            os.close(caller)


def remove_stale_pidfile(
    path: Path, is_daemon: Callable[[int, float], bool] = is_of_twistd
) -> None:
    """Remove a pidfile of twistd whose process has ended, although its id is in use again.

    twistd itself checks only whether a process of that id exists. ``is_daemon`` says whether a
    process can have written the file at the time of its last change, in Unix seconds.
    """
    pid = _pid_in(path)
    with suppress(OSError):
        if pid is not None and not is_daemon(pid, path.stat().st_mtime):
            path.unlink()


def _pid_in(path: Path) -> int | None:
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):
        return None
