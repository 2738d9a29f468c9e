"""The process between systemd and the daemon, so that a restart cuts no answer.

``python -m cortexd.service.guard --unit NAME -- twistd …`` runs the daemon as its child and waits.

systemd starts the next process of a unit only once the main process of the last one has ended, but
the daemon must end its streams first, and serve until the next one can. So the main process is this
guard. At SIGTERM it asks systemd for the job of the unit. At a restart it tells the daemon to serve
on until its successor takes over (SIGUSR2), and ends at once. At a stop, without sockets from
systemd, and if systemd gives no answer, it passes SIGTERM on, and ends when the daemon does, with
the daemon's status.

It imports nothing of Twisted and of the rest of cortexd, and so takes 9 MB.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

HAND_OVER: Final = signal.SIGUSR2
"""The signal after which the daemon serves on until a successor takes over."""

PASSED_ON: Final = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT, signal.SIGUSR1}
)
FIRST_SOCKET: Final = 3
"""The descriptor of the first socket that systemd passes (sd_listen_fds(3))."""

ANSWER_SECONDS: Final = 5.0
"""How long systemd may take to name the job; it usually takes some 10 ms."""

START_SECONDS: Final = 10.0
FAILED_START_SECONDS: Final = 1.0
"""How long the guard outlives a daemon that fails in its first START_SECONDS.

A client that connects to a socket makes systemd start the unit at once, without RestartSec. While a
file is wrong, one failed start would follow the other and take the time of the old process."""

ABORT_SECONDS: Final = 10
"""Seconds after which a daemon that systemd has aborted, and that has not ended, is killed."""

USAGE: Final = "usage: python -m cortexd.service.guard [--unit NAME] -- COMMAND [ARGUMENT…]"


def job_of(jobs: str, unit: str) -> str | None:
    """Return the type of a unit's job, such as "restart", from the text of ``list-jobs``."""
    for line in jobs.splitlines():
        fields = line.split()
        if len(fields) >= 3 and fields[1] == unit:  # its number, unit, type and state
            return fields[2]
    return None


def systemctl_command(unit: str, cgroup: str) -> list[str] | None:
    """Return the command that asks the manager of ``unit`` for jobs, ``None`` without systemctl.

    ``cgroup`` is the text of /proc/self/cgroup, which shows whether a user's manager runs the unit.
    """
    systemctl = shutil.which("systemctl")
    if systemctl is None or not unit:
        return None
    return [systemctl, *(["--user"] if "/user@" in cgroup else [])]


def is_restart(unit: str) -> bool:
    """Return whether systemd stops ``unit`` in order to start it again at once."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:  # noqa: PTH123 - pathlib is large
            command = systemctl_command(unit, file.read())
        if command is None:
            return False
        asked = subprocess.run(  # noqa: S603 - systemctl with fixed arguments
            [*command, "list-jobs", "--no-legend", "--plain", "--full"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return job_of(asked.stdout.decode("utf-8", "replace"), unit) == "restart"


def can_share(
    environ: Mapping[str, str], is_blocking: Callable[[int], bool] = os.get_blocking
) -> bool:
    """Return whether systemd has passed sockets on which two processes may listen at once.

    Without ``NonBlocking=yes``, systemd makes a socket blocking whenever it passes it to a process,
    and so blocks the process that has it already: the mode belongs to the socket.
    """
    count = environ.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdecimal()) or int(count) == 0:
        return False
    try:
        return not any(is_blocking(FIRST_SOCKET + number) for number in range(int(count)))
    except OSError:
        return False


def own_variables(environ: Mapping[str, str], parent: int, own: int) -> dict[str, str]:
    """Return the variables of systemd that name a process, for a child instead of its parent.

    They are LISTEN_PID (sd_listen_fds(3)) and WATCHDOG_PID (sd_watchdog_enabled(3)).
    """
    names = ("LISTEN_PID", "WATCHDOG_PID")
    return {name: str(own) for name in names if environ.get(name) == str(parent)}


def _become_daemon(command: list[str], parent: int) -> NoReturn:
    os.environ.update(own_variables(os.environ, parent, os.getpid()))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _watched())
    try:
        os.execvp(command[0], command)  # noqa: S606 - the unit's own command
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        os._exit(127)


def _watched() -> set[signal.Signals]:
    return {*PASSED_ON, signal.SIGCHLD, signal.SIGALRM}


def _end_like(status: int) -> int:
    """Return the exit status of a child, or end by the signal that has ended the child."""
    if not os.WIFSIGNALED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    with contextlib.suppress(OSError, ValueError):  # no handler can be set for SIGKILL
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number


def guard(unit: str, command: list[str]) -> int:
    """Run ``command`` until it ends, or until systemd restarts the unit; return the exit status."""
    parent, began_at = os.getpid(), time.monotonic()
    is_shared = can_share(os.environ)  # later, the daemon has changed the sockets' mode
    signal.pthread_sigmask(signal.SIG_BLOCK, _watched())
    child = os.fork()
    if child == 0:
        _become_daemon(command, parent)
    while True:
        number = signal.sigwait(_watched())
        if number == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid == child:
                if status and time.monotonic() < began_at + START_SECONDS:
                    signal.sigtimedwait({signal.SIGTERM}, FAILED_START_SECONDS)
                return _end_like(status)
        elif number == signal.SIGALRM:
            os.kill(child, signal.SIGKILL)
        elif number == signal.SIGTERM and is_shared and is_restart(unit):
            os.kill(child, HAND_OVER)
            return 0
        else:
            os.kill(child, number)
            if number == signal.SIGABRT:  # the watchdog's: the daemon may be stuck in the kernel
                signal.alarm(ABORT_SECONDS)


def main(arguments: Sequence[str]) -> int:
    """Read the command line and guard its command."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    options, command = arguments[:at], arguments[at + 1 :]
    unit = options[1] if len(options) == 2 and options[0] == "--unit" else ""
    if not command or (options and not unit):
        sys.stderr.write(f"{USAGE}\n")
        return 2
    return guard(unit, list(command))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
