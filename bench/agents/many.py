"""What many agents cost one gateway, while they come and while they are idle."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import LoopingCall, deferLater
from zope.interface import directlyProvides, providedBy

from bench.processes import parse_resident_bytes, parse_stat
from cortexd.fleet.agents import AgentAbilities, AgentReport, Device, EngineLife, EngineProcess
from cortexd.link.certificates import agent_pair, authority_of, gateway_pair, new_authority
from cortexd.link.contract import Failed
from cortexd.link.dialling import Dialler, Take
from cortexd.link.enrolment import tls_of
from cortexd.link.identities import Identity

REPORT_SECONDS = (60.0, 10.0)
"""How often an agent may report, besides its beats: an idle one has nothing new."""

COMING = 16
"""How many agents connect at a time."""

YEAR = 365 * 86_400.0
TICKS = os.sysconf("SC_CLK_TCK")

reactor: Any = installed


class Idle:
    """An agent that is never asked for anything."""

    abilities = AgentAbilities(version="bench", can_restart=True, has_log=True)

    def read_memory(self) -> Deferred[AgentReport]:
        """Fail."""
        return fail(Failed("an agent of the bench only reports"))

    def restart(self, order: str, reason: str, limit: float) -> Deferred[float]:
        """Fail."""
        return fail(Failed("an agent of the bench only reports"))

    def suspend(self, order: str) -> Deferred[None]:
        """Fail."""
        return fail(Failed("an agent of the bench only reports"))

    def tail(self, stream: int, lines: int, take: Take | None) -> Deferred[Sequence[str]]:
        """Fail."""
        return fail(Failed("an agent of the bench only reports"))

    def end_log(self, stream: int) -> None:
        """Do nothing."""

    def end_logs(self) -> None:
        """Do nothing."""


class Machine:
    """The reactor as one machine of many: its connections come from an address of its own."""

    def __init__(self, number: int) -> None:
        directlyProvides(self, providedBy(reactor))
        self._address = f"127.1.{number // 250}.{1 + number % 250}"

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def connectTCP(self, *given: Any, **named: Any) -> Any:  # noqa: N802 - Twisted's name
        """Connect from the machine's own address."""
        return reactor.connectTCP(*given, **{**named, "bindAddress": (self._address, 0)})


class Gateway:
    """The process of the gateway, and what it takes."""

    def __init__(self, folder: Path, agents: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.agents.gateway", str(folder), str(agents)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        output: Any = self.process.stdout
        self.port = int(output.readline())

    def seconds(self) -> float:
        """Return the CPU time that it has used."""
        text = Path(f"/proc/{self.process.pid}/stat").read_text("ascii")
        return parse_stat(text)[1] / TICKS

    def rss(self) -> int:
        """Return its memory in bytes."""
        return parse_resident_bytes(Path(f"/proc/{self.process.pid}/status").read_text("ascii"))

    def close(self) -> None:
        """End it."""
        self.process.communicate()


def identities(folder: Path, agents: int) -> list[Identity]:
    """Write the gateway's files, and return who the agents are."""
    now = time.time()
    authority = authority_of(new_authority(now))
    own = gateway_pair(authority, [], now)
    (folder / "ca.pem").write_text(authority.pem, "ascii")
    (folder / "gateway.pem").write_text(own.certificate, "ascii")
    (folder / "gateway-key.pem").write_text(own.key, "ascii")
    pairs = [agent_pair(authority, f"n{n}", now - 60, now + YEAR) for n in range(agents)]
    return [
        Identity(f"n{n}", tls=tls_of(pair.certificate, pair.key, authority.pem))
        for n, pair in enumerate(pairs)
    ]


def report(number: int) -> AgentReport:
    """Return a report of a node with eight accelerators, other than the one before."""
    devices = tuple(
        Device(name=f"H100 {i}", total_mb=81_559, free_mb=80_000 - number % 7, others_mb=0)
        for i in range(8)
    )
    return AgentReport(
        life=EngineLife.ANSWERS,
        process=EngineProcess(
            pid=4242, started_at=1.79e9, rss_mb=2000 + number % 5, cpu_seconds=float(number)
        ),
        devices=devices,
        source="nvml",
        memory_total_mb=652_472,
        memory_free_mb=640_000 - number % 7,
        others_mb=0,
        version="0.9.0",
    )


async def measured(gateway: Gateway, known: list[Identity], seconds: float) -> list[list[str]]:
    """Let all agents come, and be idle; return the rows of the table."""
    address = ("127.0.0.1", gateway.port)
    rss, cpu, since = gateway.rss(), gateway.seconds(), time.monotonic()
    diallers = [
        Dialler(Machine(number), address, identity, Idle()) for number, identity in enumerate(known)
    ]
    for number, dialler in enumerate(diallers):
        dialler.report(report(number))
        # All handshakes of the agents run in this process, as on no machine of a fleet.
        while number >= COMING + sum(each.is_connected for each in diallers[:number]):
            await deferLater(reactor, 0.02)
        dialler.startService()
    while not all(dialler.is_connected for dialler in diallers):
        await deferLater(reactor, 0.05)
    came, joining = time.monotonic() - since, gateway.seconds() - cpu
    await deferLater(reactor, 2.0)
    grown = gateway.rss() - rss
    rows = [
        ["agents", str(len(known))],
        ["until all are admitted, s", f"{came:.1f}"],
        ["CPU of the gateway for each, ms", f"{joining / len(known) * 1000:.1f}"],
        ["memory of the gateway for each, KiB", f"{grown / len(known) / 1024:.0f}"],
        ["idle, beats only: % of a core", await idle(gateway, seconds)],
    ]
    course = iter(range(10**9))

    def one() -> None:
        number = next(course)
        diallers[number % len(diallers)].report(report(number))

    for period in REPORT_SECONDS:
        reporting = LoopingCall(one)
        ended = reporting.start(period / len(diallers))
        words = f"a report of each in {period:g} s beside: % of a core"
        rows.append([words, await idle(gateway, seconds)])
        reporting.stop()
        await ended
    for dialler in diallers:
        dialler.stopService()
    await deferLater(reactor, 3.0)
    return rows


async def idle(gateway: Gateway, seconds: float) -> str:
    """Return what the gateway takes of a core for some seconds, in percent."""
    cpu, since = gateway.seconds(), time.monotonic()
    await deferLater(reactor, seconds)
    return f"{(gateway.seconds() - cpu) / (time.monotonic() - since) * 100:.1f}"


def measure(agents: int, seconds: float) -> list[list[str]]:
    """Return the rows of a table, none if a part has failed; each idle time has ``seconds``."""
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        known = identities(Path(folder), agents)
        gateway = Gateway(Path(folder), agents)

        def begin() -> None:
            measuring = Deferred.fromCoroutine(measured(gateway, known, seconds))
            measuring.addCallback(rows.extend)
            measuring.addErrback(lambda failure: failure.printTraceback(sys.stderr))
            measuring.addBoth(lambda _: reactor.stop())

        reactor.callWhenRunning(begin)
        reactor.run()
        gateway.close()
    return rows
