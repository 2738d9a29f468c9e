"""Child processes of the bench, with their CPU time and resident memory from /proc."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

Address = tuple[str, int]

PROC = Path("/proc")
HTTP_SECONDS = 5.0
# cortexd lets streams end within a grace time; none is left when the bench stops it.
STOP_SECONDS = 10.0
LOG_TAIL_LINES = 10


class ChildError(Exception):
    """A child failed to start, or ended by itself; the text has the end of its output."""


def parse_run_nanoseconds(schedstat: str) -> int:
    """Return the time on a CPU, in ns, from the text of `/proc/PID/task/TID/schedstat`: its first
    field.
    """
    return int(schedstat.split()[0])


def parse_stat(stat: str) -> tuple[int, int]:
    """Return the parent's pid, and user plus system time in clock ticks, from the text of
    `/proc/PID/stat`.

    The second field is the program's name in parentheses and may itself contain blanks and
    parentheses.
    """
    fields = stat[stat.rindex(")") + 2 :].split()
    return int(fields[1]), int(fields[11]) + int(fields[12])


def parse_resident_bytes(status: str) -> int:
    """Return the resident memory in bytes from the text of `/proc/PID/status` (kB there); 0 for a
    process that ended.
    """
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def parse_cpu_model(cpuinfo: str) -> str:
    """Return the name of the first CPU in the text of `/proc/cpuinfo`, else "unknown"."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"


def parse_busy_ticks(stat: str) -> int:
    """Return the busy time of all cores, in clock ticks, from the text of `/proc/stat`.

    Its first line has, in this order, user, nice, system, idle, iowait, irq, softirq and steal. The
    time stolen by the host counts as busy, because we could not use it.
    """
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split()[1:9])
    return user + nice + system + irq + softirq + steal


def descendants(root: int, parents: dict[int, int]) -> list[int]:
    """Return `root` and all its descendants, given the parent of each process."""
    found = [root]
    for each in found:
        found.extend(pid for pid, parent in parents.items() if parent == each)
    return found


def process_tree(root: int) -> list[int]:
    """Return the pids of `root` and of all its current descendants."""
    parents = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = parse_stat((entry / "stat").read_text())[0]
            except OSError:  # it ended meanwhile
                continue
    return descendants(root, parents)


def cpu_nanoseconds(pids: Iterable[int]) -> int:
    """Return the sum of the CPU time, in ns, of every live thread in these processes.

    A kernel without schedstat leaves `/proc/PID/stat`, whose ticks are 10 ms.
    """
    total = 0
    for pid in pids:
        try:
            total += sum(
                parse_run_nanoseconds((task / "schedstat").read_text())
                for task in (PROC / str(pid) / "task").iterdir()
            )
        except FileNotFoundError:
            total += _nanoseconds(parse_stat((PROC / str(pid) / "stat").read_text())[1])
    return total


def machine_nanoseconds() -> int:
    """Return the sum of the busy time of this machine's cores since its start, in ns."""
    return _nanoseconds(parse_busy_ticks((PROC / "stat").read_text()))


def _nanoseconds(ticks: int) -> int:
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def resident_bytes(pids: Iterable[int]) -> int:
    """Return the sum of these processes' resident memory, in bytes; a page that two processes share
    counts twice.
    """
    return sum(parse_resident_bytes((PROC / str(pid) / "status").read_text()) for pid in pids)


def raise_open_files_limit() -> int:
    """Raise the limit of open files as far as allowed, for this process and its future children;
    return the limit.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Child:
    """A child process: its output goes to a file, and `stop` always ends it."""

    def __init__(
        self, command: list[str], log: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.command = command
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                # Ctrl-C is for the bench, which then stops its children in order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The pid of the process itself."""
        return self._process.pid

    def output(self) -> str:
        """Return the output of the process so far."""
        return self._log.read_text(errors="replace")

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        """Poll `ready` until it is true. Raises `ChildError` when the process ends first or the
        time is over.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ChildError(self._told(f"no {what} within {seconds:g} s"))
            time.sleep(0.05)

    def check(self) -> None:
        """Raise `ChildError` if the process has ended."""
        if self._process.poll() is not None:
            raise ChildError(self._told(f"ended with status {self._process.returncode}"))

    def _told(self, what: str) -> str:
        tail = "\n".join(self.output().splitlines()[-LOG_TAIL_LINES:])
        return f"{self.command[0]}: {what}; its last output:\n{tail}"

    def stop(self) -> None:
        """Terminate the process, and kill it if it does not end."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def get(address: Address, path: str) -> tuple[int, bytes]:
    """GET a path within a few seconds; return status and body. Raises OSError or HTTPException."""
    connection = HTTPConnection(*address, timeout=HTTP_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def answers_ok(address: Address, path: str) -> bool:
    """Return whether the address answers a GET with 200."""
    try:
        return get(address, path)[0] == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
