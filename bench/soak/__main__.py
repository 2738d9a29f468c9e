"""`python -m bench.soak`: run the real daemon for minutes before a fleet full of trouble.

Three simulated nodes have memory for a third of the models. Thirty clients request any model,
streamed or whole, and some leave before the answer. Nodes restart or go down for a while, free
memory late or never, stop answering during loads, and fail loads. Afterwards the nodes' own
journals show whether a forbidden event occurred.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from twisted.web.client import Agent, HTTPConnectionPool

from bench.processes import Child, ChildError
from bench.report import circumstances, markdown, plain
from bench.simulator.fleets import seeded
from bench.soak.clients import Client, Ending, Popularity
from bench.soak.fleet import (
    MEMORY,
    Troubles,
    config_text,
    given_footprints,
    simulated_models,
    simulated_nodes,
)
from bench.soak.outcome import Outcome, read_log, sum_of
from bench.soak.running import get, parse_arguments, progress, run
from bench.targets import free_ports
from cortexd.testing import together

TROUBLE_SECONDS = 8.0
PROGRESS_SECONDS = 30.0
READY_SECONDS = 20.0
# The daemon hears a little later than the last client that its request is over.
SETTLING_SECONDS = 2.0


class Soak:
    """One run: its daemon, with files in `directory`, and its `outcome` after the end."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        port, metrics_port, *node_ports = free_ports(2 + len(MEMORY))
        self._options = options
        self._url = f"http://127.0.0.1:{port}"
        self._metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
        self._ports = dict(zip(MEMORY, node_ports, strict=True))
        self.faults: list[str] = []
        self.outcome: Outcome | None = None
        config = directory / "cortex.toml"
        config.write_text(config_text(directory, port, metrics_port, self._ports))
        twistd = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile="]
        logger = ["--logger", "cortexd.logs.json_observer"]
        self.log = directory / "cortexd.log"
        self._daemon = Child([*twistd, *logger, "cortex", "--config", str(config)], self.log)

    def stop(self) -> None:
        """Stop the daemon in every case."""
        self._daemon.stop()

    async def run(self, reactor: Any) -> None:
        """Run clients and troubles, and collect the outcome. Raises ChildError."""
        nodes = simulated_nodes(reactor)
        for name, node in nodes.items():
            await node.listen(reactor, self._ports[name])
        http = HTTPClient(Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False)))
        await self._await_ready(reactor, http)
        troubles = Troubles(reactor, nodes, seeded("troubles", self._options.seed))
        endings = await self._bustle(reactor, http, troubles)
        await deferLater(reactor, SETTLING_SECONDS)
        self._daemon.check()
        _, metrics = await get(http, self._metrics_url)
        # In a thread, so that the nodes see the end of a probe or a poll that was under way.
        await deferToThread(self.stop)
        self.outcome = Outcome(
            endings,
            troubles.counts,
            together(node.journal.report() for node in nodes.values()),
            sum_of(metrics, "cortex_requests_in_flight"),
            sum_of(metrics, "cortex_queue_depth"),
            read_log(self._daemon.output().splitlines(), given_footprints()),
            self.faults,
        )
        for node in nodes.values():
            await node.close()

    async def _await_ready(self, reactor: Any, http: HTTPClient) -> None:
        deadline = reactor.seconds() + READY_SECONDS
        while reactor.seconds() < deadline:
            self._daemon.check()
            with suppress(ConnectError):
                status, _ = await get(http, f"{self._url}/ready")
                if status == 200:
                    return
            await deferLater(reactor, 0.1)
        raise ChildError(f"not ready within {READY_SECONDS:g} s:\n{self._daemon.output()}")

    async def _bustle(self, reactor: Any, http: HTTPClient, troubles: Troubles) -> Counter[Ending]:
        """Let clients ask and troubles strike for the time given; return how requests ended."""
        seed, seconds = self._options.seed, self._options.minutes * 60
        popularity = Popularity([model.id for model in simulated_models()], seed)
        clients = [
            Client(reactor, http, self._url, popularity, seeded("client", seed, number))
            for number in range(self._options.clients)
        ]
        began = reactor.seconds()

        def endings() -> Counter[Ending]:
            return sum((client.endings for client in clients), Counter())

        def tell() -> None:
            kinds: Counter[str] = Counter()
            for ending, count in endings().items():
                kinds[ending.kind] += count
            words = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            progress(f"{reactor.seconds() - began:4.0f} s: {words}")

        running: list[Deferred[Any]] = [
            Deferred.fromCoroutine(client.ask(seconds)) for client in clients
        ]
        for call, interval in ((tell, PROGRESS_SECONDS), (troubles.strike, TROUBLE_SECONDS)):
            loop = LoopingCall(call)
            running.append(loop.start(interval, now=False))
            reactor.callLater(seconds, loop.stop)
        await gatherResults(running, consumeErrors=True)
        await troubles.over()
        return endings()


def main() -> int:
    """Run the soak; return the exit status, 1 if a count is not zero that must be zero."""
    options = parse_arguments(sys.argv[1:], "bench.soak", __doc__, minutes=5.0, clients=30)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        soak = Soak(options, Path(directory))
        try:
            run(soak.run, soak.faults)
        finally:
            soak.stop()
            if options.log is not None:
                shutil.copy(soak.log, options.log)
    outcome = soak.outcome
    if outcome is None:
        return 1
    render = markdown if options.markdown else plain
    print(*circumstances(), sep="\n")
    print(f"{options.minutes:g} minutes, {options.clients} clients, seed {options.seed}\n")
    print(render(outcome.rows()))
    for line in outcome.log.faults:
        progress(line)
    return 1 if any(outcome.musts().values()) else 0


if __name__ == "__main__":
    sys.exit(main())
