"""Three clients that each send 49 MiB of 1.7 million one-letter messages at once.

The figures are the longest gap between two answers of `GET /health` in the meantime, the longest
turn of the daemon's reactor in CPU time, the most memory of the daemon, and the bodies that did not
get a 413 which names the limit. `max_body_mb` is raised to 50 for the scene.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.bodies import MEBIBYTE, Pinger, chat_node, post, resident_peak
from bench.daemons import running_daemon
from bench.processes import get
from bench.reliability.scene import Figure

CLIENTS = 3
GAP_SECONDS = 1.0
MOST_MEMORY_MB = 400.0
STALL_SECONDS = 0.05
BODY_BYTES = 49 * MEBIBYTE
MESSAGE = b'{"role":"user","content":"a"}'


def many_messages() -> bytes:
    """Return a body of 49 MiB with as many messages as fit."""
    head, end = b'{"model":"m","messages":[', b"]}"
    count = (BODY_BYTES - len(head) - len(end)) // (len(MESSAGE) + 1)
    return head + b",".join([MESSAGE] * count) + end


def run(options: argparse.Namespace) -> list[Figure]:
    """Send the bodies at once, once."""
    body = many_messages()
    answers: list[tuple[int, bytes]] = []
    with TemporaryDirectory() as folder, chat_node() as node:
        extra = "max_body_mb = 50\n"
        with running_daemon(Path(folder), {"a": node}, gateway=extra, path="/ready") as daemon:
            clients = [
                threading.Thread(
                    target=lambda: answers.append(
                        post(daemon.address, "/v1/chat/completions", body)
                    )
                )
                for _ in range(CLIENTS)
            ]
            began_at = time.monotonic()
            with Pinger(daemon.address) as pinger, resident_peak(daemon.child.pid) as peak:
                for client in clients:
                    client.start()
                for client in clients:
                    client.join()
            get(daemon.address, "/health")
            turn = daemon.longest_turn(began_at)
    refused = sum(status == 413 and b"500000 JSON values" in words for status, words in answers)
    return [
        Figure("longest gap between two answers of /health", pinger.longest, "s", GAP_SECONDS),
        Figure("longest turn of the reactor", 1000 * turn.cpu, "ms", 1000 * STALL_SECONDS),
        Figure("most memory of the daemon", peak.bytes / MEBIBYTE, "MiB", MOST_MEMORY_MB),
        Figure("bodies without an honest refusal", float(CLIENTS - refused), "", 0.0),
    ]
