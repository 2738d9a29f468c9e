"""A double of systemd, for machines where it cannot be booted; stricter than the real one.

Checked against systemd 252: it holds the listening sockets and passes them with LISTEN_FDS,
LISTEN_FDNAMES and LISTEN_PID, in an order that changes. It makes them blocking at each start unless
the unit says NonBlocking=yes. At a stop it sends SIGTERM to the main process, and waits for the end
of this process only (KillMode=process). A restart starts the next process at once after that, and
has failed if this one ends before READY=1; then it is started again every RestartSec
(Restart=always, StartLimitIntervalSec=0). ``systemctl list-jobs`` and ``show`` tell what goes on.

It is stricter in this: it notes a complaint if a process other than those of the current start
sends a notification, because systemd would take that for one of the current start.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

from bench.processes import process_tree
from bench.supervisors.unit import UNIT, Supervisor, Unit

LAUNCHER = """
import os, sys
count = int(sys.argv[1])
for number in range(count):
    os.dup2(int(sys.argv[2 + number]), 3 + number, inheritable=True)
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
"""
SYSTEMCTL = """#!/bin/sh
case "$*" in
  *list-jobs*) cat "{folder}/systemd-jobs" ;;
  *show*) cat "{folder}/systemd-state" ;;
esac
"""
CREDENTIALS = struct.Struct("3i")
HIGH_DESCRIPTOR = 50
START_SECONDS = 60.0
STOP_SECONDS = 60.0
RESTART_SECONDS = 0.5
WATCHDOG_USEC = 30_000_000


class SystemdDouble(Supervisor):
    """Runs the processes of ``unit``; use it in a ``with``."""

    def __init__(self, unit: Unit, *, non_blocking: bool = True) -> None:
        super().__init__(unit)
        self.starts = 0
        self._non_blocking = non_blocking
        self._main: subprocess.Popen[bytes] | None = None
        self._all: list[int] = []
        self._ready = threading.Event()
        self._ending = threading.Event()
        self._wanted = threading.Event()
        self._lock = threading.Lock()
        self._sockets: list[tuple[str, socket.socket]] = []
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        folder = self.unit.folder
        for name, address in self.unit.addresses.items():
            listening = socket.create_server(address, backlog=4096)
            high = fcntl.fcntl(listening.fileno(), fcntl.F_DUPFD, HIGH_DESCRIPTOR)
            listening.close()
            self._sockets.append((name, socket.socket(fileno=high)))
        (folder / "bin").mkdir()
        program = folder / "bin" / "systemctl"
        program.write_text(SYSTEMCTL.format(folder=folder))
        program.chmod(0o755)
        self._show(job="", state="inactive")
        self._notified.bind(str(folder / "notify"))
        self._notified.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        for work in (self._listen, self._keep_running):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *exception: object) -> None:
        self._wanted.clear()
        self._ending.set()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self._main is not None:
            self._main.wait()
        self._notified.close()
        for _, listening in self._sockets:
            listening.close()

    def start(self) -> int:
        """Start the unit; return 0 once it is ready, and 1 if its process has ended before."""
        self._show(job="start", state="activating")
        status = self._started()
        self._wanted.set()
        return status

    def restart(self) -> int:
        """Restart the unit; return as ``start`` does."""
        self._wanted.clear()
        with self._lock:
            self._stopped("restart")
            status = self._started()
        self._wanted.set()
        return status

    def reload(self) -> int:
        """Reload the unit; return the status of its ExecReload=."""
        with self.unit.log.open("ab") as log:
            return subprocess.run(
                self.unit.reload_command(),
                env={**os.environ, **self.unit.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=START_SECONDS,
                check=False,
            ).returncode

    def stop(self) -> None:
        """Stop the unit."""
        self._wanted.clear()
        with self._lock:
            self._stopped("stop")
            self._show(job="", state="inactive")

    def processes(self) -> list[int]:
        """Return the pids of the unit that run, also those of earlier starts."""
        return [pid for pid in self._all if _runs(pid)]

    def wait_until_ready(self) -> bool:
        """Return whether a process gets ready in time."""
        return self._ready.wait(START_SECONDS)

    def _show(self, *, job: str, state: str) -> None:
        line = f"7 {UNIT} {job} running\n" if job else ""
        (self.unit.folder / "systemd-jobs").write_text(line)
        (self.unit.folder / "systemd-state").write_text(
            f"ActiveState={state}\nJob={7 if job else ''}\n"
        )

    def _started(self) -> int:
        self._ready.clear()
        self.starts += 1
        sockets = self._sockets if self.starts % 2 else self._sockets[::-1]
        for _, listening in sockets:
            listening.setblocking(not self._non_blocking)
        descriptors = [str(listening.fileno()) for _, listening in sockets]
        path = f"{self.unit.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {
            **os.environ,
            **self.unit.environment(),
            "PATH": path,
            "LISTEN_FDS": str(len(sockets)),
            "LISTEN_FDNAMES": ":".join(name for name, _ in sockets),
            "NOTIFY_SOCKET": str(self.unit.folder / "notify"),
            "WATCHDOG_USEC": str(WATCHDOG_USEC),
        }
        launcher = [sys.executable, "-c", LAUNCHER, str(len(sockets)), *descriptors]
        with self.unit.log.open("ab") as log:
            self._main = main = subprocess.Popen(
                [*launcher, *self.unit.command()],
                cwd=self.unit.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listening.fileno() for _, listening in sockets],
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready.wait(0.02):
            if main.poll() is not None or time.monotonic() > deadline:
                self._show(job="", state="activating")
                return 1
        self._all += process_tree(main.pid)
        self._show(job="", state="active")
        return 0

    def _stopped(self, job: str) -> None:
        self._show(job=job, state="deactivating")
        main = self._main
        if main is None or main.poll() is not None:
            return
        self._all += [pid for pid in process_tree(main.pid) if pid not in self._all]
        main.terminate()
        try:
            main.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.complaints.append("the main process has not ended in time")
            main.kill()
            main.wait()
        self._main = None

    def _keep_running(self) -> None:
        while not self._ending.wait(RESTART_SECONDS):
            with self._lock:
                main = self._main
                if self._wanted.is_set() and main is not None and main.poll() is not None:
                    self._started()

    def _listen(self) -> None:
        while True:
            try:
                data, ancillary, _flags, _address = self._notified.recvmsg(4096, 64)
            except OSError:
                return
            credentials = ancillary[0][2] if ancillary else bytes(CREDENTIALS.size)
            pid = CREDENTIALS.unpack(credentials[: CREDENTIALS.size])[0]
            main = self._main
            if main is None or (_runs(pid) and pid not in process_tree(main.pid)):
                self.complaints.append(f"{data.decode()} from process {pid}, of an earlier start")
            elif b"READY=1" in data.split(b"\n"):
                self._ready.set()


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"
