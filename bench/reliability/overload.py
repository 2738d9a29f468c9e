"""1500 streams of 50 tokens a second: more than one core can pass on.

The streams come from one node, and two others have nothing to do. A load generator of its own opens
them within seconds. Then new requests come, a few in each second.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from http.client import HTTPConnection, HTTPException, HTTPResponse

from bench.processes import Address, Child
from bench.reliability.daemons import daemon
from bench.reliability.scene import Figure
from bench.wire import MODEL

STREAMS = 1500
PER_SECOND = 250
GAP_MS = 20
NODES = 3
SETTLE_SECONDS = 12.0
SECONDS = 12.0
GIVE_UP_SECONDS = 15.0
PAUSE_SECONDS = 0.25
ANSWER_SECONDS = 5.0
CHAT = "/v1/chat/completions"
BODY = f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "hi"}}]}}'


class Asked:
    """The new requests: how many were refused properly, served or lost, and the slowest answer."""

    def __init__(self) -> None:
        self.refused = self.served = self.lost = self.rude = 0
        self.slowest = 0.0

    def ask(self, address: Address, method: str = "POST", path: str = CHAT) -> None:
        """Send one request on a new connection, and count its answer."""
        began = time.monotonic()
        connection = HTTPConnection(*address, timeout=GIVE_UP_SECONDS)
        try:
            connection.request(method, path, BODY if method == "POST" else None)
            response = connection.getresponse()
            response.read()
        except (OSError, HTTPException):
            self.lost += 1
        else:
            self._count(response)
        finally:
            connection.close()
        self.slowest = max(self.slowest, time.monotonic() - began)

    def _count(self, response: HTTPResponse) -> None:
        if response.status == 200:
            self.served += 1
        elif response.status == 503 and response.headers["Retry-After"]:
            self.refused += 1
        else:
            self.rude += 1


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene."""
    with daemon(NODES, polling="timeout = 2.0\ndown_after = 2") as played:
        command = [sys.executable, "-m", "bench.streams", *map(str, played.address)]
        command += [str(STREAMS), str(PER_SECOND), str(GAP_MS)]
        load = Child(command, played.directory / "streams.log")
        new, health = Asked(), Asked()
        try:
            time.sleep(SETTLE_SECONDS)
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                new.ask(played.address)
                health.ask(played.address, "GET", "/health")
                time.sleep(PAUSE_SECONDS)
            downs = len(played.events("node_down"))
            episodes = len(played.events("overloaded"))
        finally:
            load.stop()
        result = json.loads(load.output() or "{}")
    return [
        Figure("streams opened", result.get("opened", 0), ""),
        Figure("streams refused with 503", result.get("refused", 0), ""),
        Figure("streams broken", result.get("broken", STREAMS), "", 0),
        Figure("tokens a second", result.get("tokens", 0) / (SETTLE_SECONDS + SECONDS), ""),
        Figure("nodes down", downs, "", 0),
        Figure("episodes of overload in the log", episodes, ""),
        Figure("new requests refused with 503", new.refused, ""),
        Figure("new requests served", new.served, ""),
        Figure("new requests without a proper answer", new.lost + new.rude, "", 0),
        Figure("the slowest answer to a new request", new.slowest, "s", ANSWER_SECONDS),
        Figure("the slowest answer to /health", health.slowest, "s", ANSWER_SECONDS),
    ]
