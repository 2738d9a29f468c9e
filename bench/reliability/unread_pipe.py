"""A log pipe that is never read, and 5,000 requests of which each writes a line to it.

Standard output is a pipe of 64 KiB, as of a log collector that hangs. At commit 467c9f0 the daemon
stopped with the first line that did not fit, after some 150 requests, and SIGTERM did nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import time
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.processes import Address, answers_ok, get
from bench.reliability.daemons import CONFIG, NODE, command
from bench.reliability.scene import Figure
from bench.targets import READY_SECONDS, free_ports, start_upstream
from bench.wire import MODEL

REQUESTS = 5_000
ANSWER_SECONDS = 5.0
START_SECONDS = 3 * READY_SECONDS
MOST_STALL_SECONDS = 2.0
MOST_END_SECONDS = 15.0


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="cortex-scene-")))
        (directory / "node").mkdir()
        node = start_upstream(directory / "node")
        stack.callback(node.stop)
        port, metrics_port = free_ports(2)
        config = directory / "cortex.toml"
        config.write_text(
            CONFIG.format(
                port=port,
                metrics_port=metrics_port,
                directory=directory,
                gateway="",
                polling="",
                model=MODEL,
            )
            + NODE.format(name="node", host=node.address[0], port=node.address[1])
        )
        process = stack.enter_context(
            subprocess.Popen(command(config), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
        stack.callback(process.kill)
        address = ("127.0.0.1", port)
        _wait_until_ready(address)
        failed, longest = _ask(address)
        try:
            text = get(("127.0.0.1", metrics_port), "/metrics")[1].decode()
        except (OSError, HTTPException):
            text = ""
        dropped = re.findall(r"^cortex_log_lines_dropped_total (\S+)", text, re.MULTILINE)
        process.terminate()
        began = time.monotonic()
        try:
            status: int | None = process.wait(2 * MOST_END_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        ended = time.monotonic() - began
    return [
        Figure(f"failed of {REQUESTS} requests", failed, "", 0),
        Figure("longest request", round(longest, 3), "s", MOST_STALL_SECONDS),
        Figure("lines dropped", float(dropped[0]) if dropped else -1, ""),
        Figure("SIGTERM to the end", round(ended, 2), "s", MOST_END_SECONDS),
        Figure("ended by anything but SIGTERM", 0 if status == 0 else 1, "", 0),
    ]


def _wait_until_ready(address: Address) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers_ok(address, "/ready"):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the daemon was not ready within {START_SECONDS:g} s")
        time.sleep(0.05)


def _ask(address: Address) -> tuple[int, float]:
    """Send the requests one after the other; return how many failed, and the longest, in seconds.

    A daemon that does not answer any more fails all that are left.
    """
    connection = HTTPConnection(*address, timeout=ANSWER_SECONDS)
    longest = 0.0
    try:
        for number in range(REQUESTS):
            began = time.monotonic()
            try:
                connection.request("GET", "/v1/models")
                connection.getresponse().read()
            except (OSError, HTTPException):
                return REQUESTS - number, max(longest, time.monotonic() - began)
            longest = max(longest, time.monotonic() - began)
    finally:
        connection.close()
    return 0, longest
