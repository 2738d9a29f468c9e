"""`python -m bench.chaos`: run the real daemon for minutes while everything goes wrong at once.

The nodes and most clients are those of the soak. Nodes also hang, answer with errors, and reset
connections; some prompts end every engine that reads them. Hostile clients flood the gateway with
connections, half requests, garbage and huge bodies. Meanwhile the daemon is reloaded and restarted,
also with a wrong file, models are pinned, nodes cordoned, and the disk is full for a while. A
double of systemd runs the daemon. Afterwards the nodes' journals, the clients and the log show
whether something happened that must never happen.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from twisted.web.client import Agent, HTTPConnectionPool

from bench.chaos.floods import Floods
from bench.chaos.hazards import BOOT_SECONDS, Hazards
from bench.chaos.operator import WRONG_KEY, Operator
from bench.chaos.outcome import ChaosOutcome
from bench.chaos.watch import Deliveries, wrongly_down
from bench.processes import resident_bytes
from bench.report import circumstances, markdown, plain
from bench.simulator.fleets import seeded
from bench.soak.clients import Client, Ending, Popularity
from bench.soak.fleet import (
    MEMORY,
    config_text,
    given_footprints,
    simulated_models,
    simulated_nodes,
)
from bench.soak.outcome import Outcome, read_log, sum_of
from bench.soak.running import get, parse_arguments, progress, run
from bench.supervisors.double import SystemdDouble
from bench.supervisors.unit import make_unit
from bench.targets import free_ports
from cortexd.testing import together

HAZARD_SECONDS = 6.0
FLOOD_SECONDS = 9.0
ACTION_SECONDS = 7.0
FATAL_SECONDS = 25.0
PROGRESS_SECONDS = 30.0
WATCH_SECONDS = 0.05
PING_SECONDS = 0.1
SETTLING_SECONDS = 3.0
SDK_TRIES = 3
FATAL = "deadly-prompt-"
EXPECTED = (
    "store_unavailable",
    "store_still_unavailable",
    "store_failed",
    "responses_failed",
    "reload_refused",
)
"""The faults in the log that follow from a full disk and from a wrong file."""

PREFIX = "chaos-"
UPSTREAM_SECONDS = 20.0
MEBIBYTE = 1024 * 1024


class Chaos:
    """One run: the daemon under a double of systemd, with files in `directory`."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self._options = options
        self._unit = make_unit(directory)
        self._ports = dict(zip(MEMORY, free_ports(len(MEMORY)), strict=True))
        self._unit.config.write_text(self.config(0))
        self._url = f"http://127.0.0.1:{self._unit.address[1]}"
        self._deliveries = Deliveries()
        self._gaps: list[float] = []
        self.faults: list[str] = []
        self.outcome: ChaosOutcome | None = None

    @property
    def log(self) -> Path:
        """The log of all processes of the daemon."""
        return self._unit.log

    def config(self, number: int) -> str:
        """Return the text of a good configuration; a few terms differ with its number."""
        text = config_text(self._unit.folder, 1, 2, self._ports)
        for key, name in (("listen", "http"), ("metrics_listen", "metrics")):
            port = 1 if key == "listen" else 2
            text = text.replace(
                f'{key} = "127.0.0.1:{port}"', f'{key} = "systemd:domain=INET:name={name}"', 1
            )
        gateway = f"grace_seconds = 120\nupstream_timeout = {UPSTREAM_SECONDS}\n"
        text = text.replace("[gateway]\n", f"[gateway]\n{gateway}", 1)
        text = text.replace("max_wait = 8.0", f"max_wait = {8.0 + number % 3}")
        return text + f'aliases = ["version-{number}"]\n'

    async def run(self, reactor: Any) -> None:
        """Run everything, and collect the outcome."""
        nodes = simulated_nodes(reactor)
        for name, node in nodes.items():
            node.faults.fatal_words = FATAL.encode()
            node.faults.fatal_down_seconds = BOOT_SECONDS
            await node.listen(reactor, self._ports[name])
        with SystemdDouble(self._unit) as supervisor:
            if await deferToThread(supervisor.start):
                raise RuntimeError(f"the daemon does not start:\n{self._unit.output()[-3000:]}")
            await self._bustle(reactor, nodes, supervisor)
        for node in nodes.values():
            await node.close()

    async def _bustle(self, reactor: Any, nodes: Any, supervisor: SystemdDouble) -> None:
        seed, seconds = self._options.seed, self._options.minutes * 60
        http = HTTPClient(Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False)))
        hazards = Hazards(reactor, nodes, seeded("hazards", seed))
        floods = Floods(reactor, self._unit.address[1], seeded("floods", seed))
        models = [model.id for model in simulated_models()]
        operator = Operator(reactor, supervisor, self.config, models, seeded("operator", seed))
        popularity = Popularity(models, seed)
        clients = [
            Client(reactor, http, self._url, popularity, seeded("client", seed, n), f"{PREFIX}{n}")
            for n in range(self._options.clients)
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

        def watch() -> None:
            for name, node in nodes.items():
                entries = list(node.journal)
                node.journal.clear()
                self._deliveries.take(name, entries, PREFIX, FATAL)
                if any(each.kind == "died" for each in entries):
                    hazards.note_death(node)

        running: list[Deferred[Any]] = [
            Deferred.fromCoroutine(client.ask(seconds)) for client in clients
        ]
        running += [
            Deferred.fromCoroutine(self._send_fatal_prompts(reactor, http, models, seconds)),
            Deferred.fromCoroutine(self._ping(reactor, http, seconds)),
            Deferred.fromCoroutine(self._operate(reactor, operator, seconds)),
        ]
        watching = LoopingCall(watch)
        watched = watching.start(WATCH_SECONDS)
        for call, interval in (
            (tell, PROGRESS_SECONDS),
            (hazards.strike, HAZARD_SECONDS),
            (floods.flood, FLOOD_SECONDS),
        ):
            loop = LoopingCall(call)
            running.append(loop.start(interval, now=False))
            reactor.callLater(seconds, loop.stop)
        await gatherResults(running, consumeErrors=True)
        await hazards.over()
        await floods.over()
        await deferLater(reactor, SETTLING_SECONDS)
        watching.stop()
        await watched
        _, metrics = await get(
            http, f"http://127.0.0.1:{self._unit.addresses['metrics'][1]}/metrics"
        )
        resident = max(
            (resident_bytes([pid]) / MEBIBYTE for pid in supervisor.processes()), default=0.0
        )
        await deferToThread(supervisor.stop)
        self._deliveries.restarts = operator.restarts
        down = wrongly_down(_timed(self._unit.output().splitlines()), hazards.sickness)
        lines = [line for line in self._unit.output().splitlines() if not self._is_expected(line)]
        self.outcome = ChaosOutcome(
            Outcome(
                endings(),
                hazards.counts,
                together(node.journal.report() for node in nodes.values()),
                sum_of(metrics, "cortex_requests_in_flight"),
                sum_of(metrics, "cortex_queue_depth"),
                read_log(lines, given_footprints()),
                self.faults,
            ),
            operator.counts,
            floods.counts,
            self._deliveries.doubled,
            self._deliveries.spread_fatally,
            len(down),
            floods.unanswered(),
            floods.intruded(),
            operator.failures,
            supervisor.complaints,
            [*self._deliveries.stories(), *(f"wrongly down: {line}" for line in down)],
            max(self._gaps, default=0.0),
            resident_mb=resident,
        )

    def _is_expected(self, line: str) -> bool:
        """Return whether a fault in the log follows from what this bench does."""
        if line.startswith(str(self._unit.config)):
            return WRONG_KEY in line
        return any(f'"event":"{event}"' in line for event in EXPECTED)

    async def _operate(self, reactor: Any, operator: Operator, seconds: float) -> None:
        began = reactor.seconds()
        while reactor.seconds() - began < seconds:
            await deferLater(reactor, ACTION_SECONDS)
            await operator.act()

    async def _send_fatal_prompts(
        self, reactor: Any, http: HTTPClient, models: list[str], seconds: float
    ) -> None:
        """Send prompts that end their engine, each again as SDKs do."""
        dice, began = seeded("fatal", self._options.seed), reactor.seconds()
        number = 0
        while reactor.seconds() - began < seconds:
            await deferLater(reactor, FATAL_SECONDS)
            number += 1
            chats = [model for model in models if "embed" not in model]
            body = {
                "model": dice.choice(chats),
                "messages": [{"role": "user", "content": f"{FATAL}{number}"}],
            }
            for _ in range(SDK_TRIES):
                with suppress(Exception):
                    response = await http.post(
                        f"{self._url}/v1/chat/completions", json=body, timeout=60
                    )
                    await response.content()
                    if response.code < 500:
                        break
                await deferLater(reactor, 0.5)

    async def _ping(self, reactor: Any, http: HTTPClient, seconds: float) -> None:
        """Ask for health again and again, and note how long each answer took.

        This process stalls too, so that the gap between the timers is taken off.
        """
        began = reactor.seconds()
        while reactor.seconds() - began < seconds:
            asked = reactor.seconds()
            stall = _Stall(reactor)
            with suppress(Exception):
                await get(http, f"{self._url}/health")
            self._gaps.append(reactor.seconds() - asked - stall.end())
            await deferLater(reactor, PING_SECONDS)


class _Stall:
    """Sums up how long this process itself was busy, beyond a tick of a timer."""

    TICK = 0.05

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._due = reactor.seconds() + self.TICK
        self._held = 0.0
        self._timer = reactor.callLater(self.TICK, self._tick)

    def _tick(self) -> None:
        now = self._reactor.seconds()
        self._held += max(0.0, now - self._due)
        self._due = now + self.TICK
        self._timer = self._reactor.callLater(self.TICK, self._tick)

    def end(self) -> float:
        """Stop, and return the seconds."""
        self._held += max(0.0, self._reactor.seconds() - self._due)
        self._timer.cancel()
        return self._held


def _timed(lines: list[str]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            fields = json.loads(line)
            fields["at"] = datetime.fromisoformat(fields["time"]).timestamp()
            found.append(fields)
    return found


def main() -> int:
    """Run the chaos; return the exit status, 1 if a count is not zero that must be zero."""
    options = parse_arguments(sys.argv[1:], "bench.chaos", __doc__, minutes=10.0, clients=25)
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        chaos = Chaos(options, Path(directory))
        try:
            run(chaos.run, chaos.faults)
        finally:
            if options.log is not None and chaos.log.exists():
                shutil.copy(chaos.log, options.log)
    outcome = chaos.outcome
    if outcome is None:
        return 1
    render = markdown if options.markdown else plain
    print(*circumstances(), sep="\n")
    print(
        f"{options.minutes:g} minutes, {options.clients} clients, seed {options.seed}, "
        f"{time.time() - began:.0f} s\n"
    )
    print(render(outcome.rows()))
    for line in (
        *outcome.soak.log.faults,
        *outcome.failures,
        *outcome.complaints,
        *outcome.details,
        *chaos.faults,
    ):
        progress(line)
    return 1 if any(outcome.musts().values()) else 0


if __name__ == "__main__":
    sys.exit(main())
