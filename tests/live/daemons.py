"""The real daemon in a process of its own, on ports of the system's choice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from cortexd.config.listening import LISTEN, METRICS_LISTEN

TWISTD = Path(sys.executable).with_name("twistd")
# Starting takes half a second; a busy machine may need ten.
START_SECONDS = 30.0
STOP_SECONDS = 15.0
ANSWER_SECONDS = 10.0
# No node is down because the machine is busy.
POLLING = f"interval = 0.5\ntimeout = {ANSWER_SECONDS}"
POLL_SECONDS = 0.02
# What the kernel says a process ended with, once it has been killed by hand.
KILLED = -signal.SIGKILL

Result = TypeVar("Result")


def eventually(
    read: Callable[[], Result | None], what: str, seconds: float = START_SECONDS
) -> Result:
    """Return the first true thing that ``read`` gives; an AssertionError after ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        result = read()
        if result:
            return result
        assert time.monotonic() < until, f"{what} did not happen within {seconds:g} s"
        time.sleep(POLL_SECONDS)


def twistd(*arguments: str) -> list[str]:
    """Return the command line that runs the daemon in the foreground with JSON logs."""
    observer = "cortexd.logs.json_observer"
    return [str(TWISTD), "-n", "--pidfile=", "--logger", observer, "cortex", *arguments]


def importing_first(folder: Path) -> dict[str, str]:
    """Return the environment in which Python looks for modules in the folder first."""
    others = [path for path in [os.environ.get("PYTHONPATH")] if path]
    return {"PYTHONPATH": os.pathsep.join([str(folder), *others])}


def write_config(
    folder: Path,
    nodes: Mapping[str, str],
    gateway: Mapping[str, object] | None = None,
    extra: str = "",
    vram_mb: int = 24_576,
    *,
    probes: bool = False,
    polling: str = POLLING,
) -> Path:
    """Write a configuration for ``nodes``, endpoints by name, into the folder; return its path.

    ``gateway`` is laid over the keys of [gateway]; ``polling`` are the keys of [polling], and
    ``extra`` is TOML that goes to the end. Each node has ``vram_mb`` MiB, and no model is probed
    unless ``probes``.
    """
    keys: dict[str, object] = {
        "listen": "127.0.0.1:0",
        "metrics_listen": "127.0.0.1:0",
        "control_socket": str(folder / "control.sock"),
        "state_dir": str(folder / "state"),
        # No request is refused because the machine is busy.
        "max_delay": 0,
        **(gateway or {}),
    }
    lines = ["[gateway]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    lines += ["[polling]", polling]
    if not probes:
        # Questions of our own would stand in the nodes' journals beside those of the clients.
        probing = "[scheduling]\nprobe = false"
        if "[scheduling]" in extra:
            extra = extra.replace("[scheduling]", probing, 1)
        else:
            lines.append(probing)
    for name, endpoint in nodes.items():
        lines += [
            "[[nodes]]",
            f'name = "{name}"',
            f'endpoint = "{endpoint}"',
            f"vram_mb = {vram_mb}",
        ]
    path = folder / "cortex.toml"
    path.write_text("\n".join([*lines, extra, ""]))
    return path


@dataclass
class Daemon:
    """A daemon that runs: its process, its folder, and where it listens (no slash at the end).

    ``http`` is a client of it, for paths.
    """

    process: subprocess.Popen[bytes]
    folder: Path
    control_socket: Path
    http: httpx2.Client
    base_url: str = ""
    metrics_url: str = ""
    expected_status: int = 0
    is_stopping: bool = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the clients' side, for a raw socket."""
        host, _, port = self.base_url.partition("://")[2].rpartition(":")
        return host, int(port)

    def log(self) -> str:
        """Return all it has logged until now."""
        return (self.folder / "stdout").read_text()

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of the log, decoded; those of one event where it is given."""
        whole = self.log().rpartition("\n")[0].splitlines()
        decoded = [json.loads(line) for line in whole]
        return [line for line in decoded if event is None or line["event"] == event]

    def alarms(self) -> list[dict[str, Any]]:
        """Return the lines of its log that are worse than news: warnings, errors, tracebacks."""
        return [line for line in self.lines() if line["level"] != "info" or line.get("traceback")]

    def complaints(self) -> str:
        """Return what it has written to standard error."""
        return (self.folder / "stderr").read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, any of which is to end it."""
        self.is_stopping = True
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end and return its exit status, negative for a signal."""
        return self.process.wait(STOP_SECONDS)

    def runs(self) -> bool:
        """Tell whether it has not ended."""
        return self.process.poll() is None

    def is_ready(self) -> bool:
        """Tell whether it says that it can serve."""
        assert self.runs(), f"the daemon has ended: {self.complaints()}{self.log()}"
        try:
            return self.http.get("/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def answers(self) -> bool:
        """Wait until it answers, which it does from when on it heeds signals."""
        return self.http.get("/health").status_code == 200

    def _listeners(self) -> tuple[str, str] | None:
        """Return where it listens for metrics and for clients, once it does for both."""
        assert self.runs(), f"the daemon has ended: {self.complaints()}{self.log()}"
        lines = self.lines("listening")
        # A setting is a key with its value.
        found = {line["setting"].partition(" ")[0]: line["address"] for line in lines}
        if {METRICS_LISTEN, LISTEN} <= found.keys():
            return found[METRICS_LISTEN], found[LISTEN]
        return None


@contextmanager
def running_daemon(
    folder: Path,
    nodes: Mapping[str, str],
    *,
    gateway: Mapping[str, object] | None = None,
    extra: str = "",
    vram_mb: int = 24_576,
    probes: bool = False,
    polling: str = POLLING,
    environment: Mapping[str, str] | None = None,
    wait_until_ready: bool = True,
) -> Iterator[Daemon]:
    """Run a daemon before ``nodes`` until the block is left; then it must end with status 0.

    A block that has killed it says so by ``expected_status``. Arguments as ``write_config``. With
    a ``tls_certificate`` its clients speak TLS, and take any certificate.
    """
    is_tls = "tls_certificate" in (gateway or {})
    config = write_config(folder, nodes, gateway, extra, vram_mb, probes=probes, polling=polling)
    socket = Path(str((gateway or {}).get("control_socket", folder / "control.sock")))
    with (
        httpx2.Client(timeout=ANSWER_SECONDS, verify=not is_tls) as http,
        run(["--config", str(config)], folder, environment) as process,
    ):
        daemon = Daemon(process, folder, socket, http)
        metrics, clients = eventually(daemon._listeners, "listening")
        scheme = "https" if is_tls else "http"
        daemon.metrics_url, daemon.base_url = f"http://{metrics}", f"{scheme}://{clients}"
        http.base_url = daemon.base_url
        eventually(daemon.is_ready if wait_until_ready else daemon.answers, "readiness")
        yield daemon
        if not daemon.is_stopping:
            daemon.signal(signal.SIGTERM)
        assert daemon.expected_status == daemon.end(), daemon.log()
        assert daemon.complaints() == ""


@contextmanager
def run(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``twistd cortex`` with these arguments; it is killed when the block is left.

    What it writes goes to the files ``stdout`` and ``stderr`` of the folder.
    """
    with (
        (folder / "stdout").open("wb") as output,
        (folder / "stderr").open("wb") as complaints,
        subprocess.Popen(  # noqa: S603 - a fixed command of this environment's own twistd
            twistd(*arguments),
            cwd=folder,
            env={**os.environ, "HOME": str(folder), **(environment or {})},
            stdout=output,
            stderr=complaints,
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
