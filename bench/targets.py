"""The measured targets: a direct connection, nginx, cortexd and, where given, vllm-router, each
before the same upstream.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import (
    Address,
    Child,
    ChildError,
    answers_ok,
    cpu_nanoseconds,
    process_tree,
    resident_bytes,
)
from bench.wire import MODEL

READY_SECONDS = 20.0
# Above what any measure opens at once, so that no target queues or refuses where the others do not.
MAX_STREAMS = 4096


class TargetMissingError(Exception):
    """A target is not installed here; the bench continues without it."""


@dataclass
class Target:
    """One way to the upstream: the address for clients, and the processes that carry the bytes
    (`direct` has no process).
    """

    name: str
    address: Address
    child: Child | None = None
    pids: list[int] = field(default_factory=list)

    def cpu_nanoseconds(self) -> int:
        """Return the CPU time of its processes so far, in ns. Raises `ChildError` if it ended."""
        self._check()
        return cpu_nanoseconds(self.pids)

    def resident_bytes(self) -> int:
        """Return its processes' resident memory, in bytes. Raises `ChildError` if it ended."""
        self._check()
        return resident_bytes(self.pids)

    def _check(self) -> None:
        if self.child is not None:
            self.child.check()

    def stop(self) -> None:
        """End its processes."""
        if self.child is not None:
            self.child.stop()


Starter = Callable[[Path, Address], Target]


def free_ports(count: int) -> list[int]:
    """Return different ports of 127.0.0.1 that are free now."""
    with ExitStack() as listeners:
        return [
            listeners.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for _ in range(count)
        ]


def _started(name: str, port: int, child: Child, ready_path: str) -> Target:
    """Wait until the child serves `ready_path` on its port; on failure it is stopped before the
    error leaves here.
    """
    address = ("127.0.0.1", port)
    try:
        child.wait_until(
            lambda: answers_ok(address, ready_path),
            f"200 from http://127.0.0.1:{port}{ready_path}",
            READY_SECONDS,
        )
    except BaseException:
        child.stop()
        raise
    return Target(name, address, child, process_tree(child.pid))


def start_upstream(directory: Path) -> Target:
    """Start the bench's own upstream; the target named `upstream` measures its share of the
    machine.
    """
    child = Child([sys.executable, "-m", "bench.upstream"], directory / "upstream.log")
    try:
        child.wait_until(
            lambda: child.output().endswith("\n"), "the upstream's port", READY_SECONDS
        )
        port = int(child.output().split()[0])
    except ValueError as error:
        child.stop()
        raise ChildError(f"the upstream printed {child.output()!r} for a port") from error
    except BaseException:
        child.stop()
        raise
    return Target("upstream", ("127.0.0.1", port), child, [child.pid])


def start_direct(_directory: Path, upstream: Address) -> Target:
    """Return the upstream itself: the baseline for the overhead of the other targets."""
    return Target("direct", upstream)


NGINX_CONFIG = """\
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile {open_files};
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections {open_files}; }}
http {{
    access_log off;
    client_body_temp_path {directory}/client_body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    upstream node {{
        server {host}:{upstream_port};
        keepalive 512;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://node;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


def nginx_program() -> str:
    """Return the path of nginx. Raises `TargetMissingError` where it is not installed."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise TargetMissingError("nginx is not installed (Debian: apt-get install nginx-light)")
    return program


def start_nginx(directory: Path, upstream: Address) -> Target:
    """Start nginx as a plain reverse proxy with one worker, without buffering, with keep-alive
    connections to the upstream.
    """
    program = nginx_program()
    directory.mkdir()
    [port] = free_ports(1)
    config = directory / "nginx.conf"
    config.write_text(
        NGINX_CONFIG.format(
            # As root the worker would become `nobody`, who may not enter the bench's temporary
            # folder.
            user="user root;" if os.geteuid() == 0 else "",
            open_files=4 * MAX_STREAMS,
            directory=directory,
            host=upstream[0],
            upstream_port=upstream[1],
            port=port,
        )
    )
    command = [program, "-p", str(directory), "-c", str(config), "-e", "stderr"]
    child = Child(command, directory / "nginx.log")
    return _started("nginx", port, child, "/health")


CORTEXD_CONFIG = """\
[gateway]
listen = "127.0.0.1:{port}"
metrics_listen = "127.0.0.1:{metrics_port}"
control_socket = "{directory}/control.sock"
state_dir = "{directory}/state"

[scheduling]
probe = false

[[nodes]]
name = "bench"
endpoint = "http://{host}:{upstream_port}"
vram_mb = 49152

[[models]]
id = "{model}"
max_concurrency = {max_streams}
"""


def cortexd_starter(name: str, twistd: Path) -> Starter:
    """Return the starter of the cortexd that is installed beside a `twistd` program.

    It uses the command line of the systemd unit. Raises `TargetMissingError` where there is none.
    """
    if not twistd.is_file():
        raise TargetMissingError(f"there is no twistd at {twistd}")

    def start(directory: Path, upstream: Address) -> Target:
        return _start_cortexd(name, twistd, directory, upstream)

    return start


def start_cortexd(directory: Path, upstream: Address) -> Target:
    """Start the cortexd of this environment."""
    twistd = Path(sys.executable).parent / "twistd"
    return _start_cortexd("cortexd", twistd, directory, upstream)


def start_with_keys(directory: Path, upstream: Address, keys_file: str | None) -> Target:
    """Start the cortexd of this environment with the text of a keys file, `None` for no file."""
    twistd = Path(sys.executable).parent / "twistd"
    return _start_cortexd(directory.name, twistd, directory, upstream, keys_file)


def _start_cortexd(
    name: str, twistd: Path, directory: Path, upstream: Address, keys_file: str | None = None
) -> Target:
    directory.mkdir()
    auth = ""
    if keys_file is not None:
        path = directory / "keys.toml"
        path.write_text(keys_file)
        path.chmod(0o600)
        auth = f'[auth]\nkeys_file = "{path}"\n'
    port, metrics_port = free_ports(2)
    config = directory / "cortex.toml"
    config.write_text(
        CORTEXD_CONFIG.format(
            port=port,
            metrics_port=metrics_port,
            directory=directory,
            host=upstream[0],
            upstream_port=upstream[1],
            model=MODEL,
            max_streams=MAX_STREAMS,
        )
        + auth
    )
    logger = ["--logger", "cortexd.logs.json_observer"]
    command = [str(twistd), "-n", "--pidfile=", *logger, "cortex", "--config", str(config)]
    child = Child(command, directory / "cortexd.log")
    return _started(name, port, child, "/ready")


def vllm_router_starter(program: Path) -> Starter:
    """Return the starter of the vllm-router at `program`. Raises `TargetMissingError` where that
    program is missing.
    """
    if not program.is_file():
        raise TargetMissingError(f"there is no vllm-router at {program}")

    def start(directory: Path, upstream: Address) -> Target:
        directory.mkdir()
        port, prometheus_port = free_ports(2)
        command = [
            str(program),
            "--host=127.0.0.1",
            f"--port={port}",
            f"--worker-urls=http://{upstream[0]}:{upstream[1]}",
            "--policy=round_robin",
            "--log-level=warning",
            f"--max-concurrent-requests={MAX_STREAMS}",
            f"--prometheus-port={prometheus_port}",
        ]
        child = Child(command, directory / "vllm-router.log")
        return _started("vllm-router", port, child, "/health")

    return start


STARTERS: dict[str, Starter] = {
    "direct": start_direct,
    "nginx": start_nginx,
    "cortexd": start_cortexd,
}
