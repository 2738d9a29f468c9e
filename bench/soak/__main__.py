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
from typing import Any, cast

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.task import LoopingCall, deferLater, react
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner
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
from bench.targets import free_ports
from cortexd.testing import together

TROUBLE_SECONDS = 8.0
PROGRESS_SECONDS = 30.0
READY_SECONDS = 20.0
HTTP_SECONDS = 5.0
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

    def take_event(self, event: LogEvent) -> None:
        """Record faults in this process, as an observer of its log."""
        if event["log_level"] >= LogLevel.error:
            failure = event.get("log_failure")
            self.faults.append(formatEvent(event) if failure is None else failure.getTraceback())

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
        _, metrics = await _get(http, self._metrics_url)
        self.stop()
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
                status, _ = await _get(http, f"{self._url}/ready")
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


async def _get(http: HTTPClient, url: str) -> tuple[int, str]:
    response = await http.get(url, timeout=HTTP_SECONDS)
    return response.code, await response.text()


def progress(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, metavar="M", help="(default: 5)")
    parser.add_argument("--clients", type=int, default=30, metavar="N", help="(default: 30)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of another making")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the daemon's log there")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for the docs")
    options = parser.parse_args(arguments)
    if not (0 < options.minutes < 1e4 and options.clients > 0):
        parser.error("--minutes and --clients take numbers above 0")
    return options


def main() -> int:
    """Run the soak; return the exit status, 1 if a count is not zero that must be zero."""
    options = parse_arguments(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        soak = Soak(options, Path(directory))
        observer = cast("ILogObserver", soak.take_event)
        globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
        try:
            react(soak.run)
        except SystemExit:
            for fault in soak.faults:
                progress(fault)
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
