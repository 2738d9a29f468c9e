"""A request that ends every engine it reaches, before five nodes, by a client that retries.

The client retries as the SDKs do: twice, on status 408, 409, 429 and from 500 on, as late as
``Retry-After`` says. Another four send the same at the same time as others ask harmless things. A
node is down for a second after its engine's end.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.daemons import running_daemon
from bench.processes import Address, Child
from bench.reliability.scene import Figure

NODES = 5
RETRIES = 2
COMES_AGAIN = 3
START_SECONDS = 20.0
ANSWER_SECONDS = 15.0
MODEL = "acme/chat"
WORDS = "end the engine"
MOST_DELIVERIES = 2

NODES_PROGRAM = f"""
import json, sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from cortexd.testing import SimulatedModel, SimulatedNode

nodes = [
    SimulatedNode(reactor, name=f"n{{i}}", models=[SimulatedModel(id={MODEL!r})],
                  prompt_seconds=0.05, token_seconds=0.01)
    for i in range({NODES})
]

def deliveries():
    return sum(
        {WORDS!r} in str(each.detail["body"])
        for node in nodes for each in node.journal.requests("/v1/chat/completions")
    )

async def main():
    for node in nodes:
        node.faults.fatal_words = {WORDS.encode()!r}
        node.faults.fatal_down_seconds = 1.0
        print("node", await node.listen(reactor), flush=True)
    LoopingCall(lambda: print("deliveries", deliveries(), flush=True)).start(0.2)

Deferred.fromCoroutine(main())
reactor.run()
"""


def read(nodes: Child, word: str) -> list[int]:
    """Return the numbers behind a word in the lines of the nodes' program."""
    lines = [line.split() for line in nodes.output().splitlines()]
    return [int(line[1]) for line in lines if len(line) == 2 and line[0] == word]


def ask(address: Address, text: str) -> tuple[int, float]:
    """Ask for a chat; return the status and the seconds of Retry-After, 0 for no answer."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": text}]})
    with closing(HTTPConnection(*address, timeout=ANSWER_SECONDS)) as connection:
        try:
            connection.request(
                "POST", "/v1/chat/completions", body, {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            response.read()
        except (OSError, HTTPException):
            return 0, 0.0
        return response.status, float(response.headers.get("Retry-After", 0.5))


def ask_as_an_sdk(address: Address, text: str) -> int:
    """Ask for a chat with an SDK's retries, and return the last status."""
    for _ in range(1 + RETRIES):
        status, seconds = ask(address, text)
        if status < 500 and status not in (0, 408, 409, 429):
            break
        time.sleep(min(seconds, 5.0))
    return status


def play(address: Address, ends: Counter[int], stop: threading.Event) -> None:
    """Ask harmless things, one after the other."""
    number = 0
    while not stop.is_set():
        number += 1
        ends[ask_as_an_sdk(address, f"harmless {threading.get_ident()} {number}")] += 1


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene once."""
    with TemporaryDirectory(prefix="cortexd-bench-") as name:
        folder = Path(name)
        nodes = Child([sys.executable, "-c", NODES_PROGRAM], folder / "nodes.log")
        try:
            nodes.wait_until(lambda: len(read(nodes, "node")) == NODES, "nodes", START_SECONDS)
            ports = read(nodes, "node")
            endpoints = {f"n{i}": f"http://127.0.0.1:{port}" for i, port in enumerate(ports)}
            with running_daemon(folder, endpoints, "[polling]\ninterval = 1", "/ready") as daemon:
                return _play(daemon.address, nodes, daemon.child)
        finally:
            nodes.stop()


def _play(address: Address, nodes: Child, daemon: Child) -> list[Figure]:
    ends: Counter[int] = Counter()
    stop = threading.Event()
    others = [threading.Thread(target=play, args=(address, ends, stop)) for _ in range(4)]
    for thread in others:
        thread.start()
    statuses = [ask_as_an_sdk(address, WORDS) for _ in range(COMES_AGAIN)]
    time.sleep(3.0)  # the nodes come back
    harmless_before = ends[200]
    time.sleep(2.0)
    stop.set()
    for thread in others:
        thread.join()
    time.sleep(0.5)  # the nodes' program counts anew
    failed = sum(count for status, count in ends.items() if status != 200)
    told = sum('"request_fatal"' in line for line in daemon.output().splitlines())
    return [
        Figure("deliveries", max(read(nodes, "deliveries")), "", MOST_DELIVERIES),
        Figure("last answer to it, less 422", abs(statuses[-1] - 422), "", 0),
        Figure("times not said in the log", int(told == 0), "", 0),
        Figure("harmless requests that failed after retries", failed, "", 0),
        Figure("harmless requests in the last 2 s", ends[200] - harmless_before, ""),
    ]
