"""Two restarts, one with a wrong file and reloads, under 100 streams and 20 requests per second.

The daemon runs as a unit with sockets, under systemd where it can be booted, and under a double of
it. One client in two keeps its connection. The node's journal says whether a request came twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.processes import Address, Child
from bench.reliability.scene import Figure
from bench.supervisors.double import SystemdDouble
from bench.supervisors.real import RealSystemd
from bench.supervisors.unit import Supervisor, Unit, make_unit

MODEL = "acme/chat"
STREAMS = 100
ARRIVALS_PER_SECOND = 20
KEPT_CONNECTIONS = 10
STREAM_TOKENS = (30, 90)
QUIET_SECONDS = 2.0
ANSWER_SECONDS = 40.0
LOAD_KEYS = f'[[models]]\nid = "{MODEL}"\nmax_concurrency = 1000'
ALIASES = 'aliases = ["another-name"]\n'
SLOWEST_SECONDS = 2.0


@dataclass
class Tally:
    """What became of the requests: ids sent, answers by how they ended, seconds of arrivals."""

    ids: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def note(self, end: str, example: object = "") -> None:
        """Count an end, and keep the first few that were not good."""
        self.ends[end] += 1
        if end != "whole" and len(self.examples) < 5:
            self.examples.append(f"{end}: {example}")


class Connection:
    """A client's connection, opened when it is needed and kept until the server closes it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request_id: str, *, tokens: int, streams: bool, keeps: bool) -> str:
        """Send a chat and return how it ended: "whole", "refused", or "cut"."""
        body = json.dumps(
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": "some words to be repeated"}],
                "max_tokens": tokens,
                "ignore_eos": True,
                "stream": streams,
            }
        )
        connection = "keep-alive" if keeps else "close"
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Request-ID: {request_id}\r\n"
            f"Connection: {connection}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write((head + body).encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        lines = answer.decode().lower().split("\r\n")
        whole = await _body(reader, lines)
        if not keeps or "connection: close" in lines:
            self.close()
        if " 200 " not in lines[0]:
            return f"refused with {lines[0]} {whole[:200]!r}"
        is_whole = b"data: [DONE]" in whole if streams else b'"finish_reason":"length"' in whole
        return "whole" if is_whole else f"cut {whole[-300:]!r}"

    def close(self) -> None:
        """Close it."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _body(reader: asyncio.StreamReader, lines: list[str]) -> bytes:
    length = next((line.split(":")[1] for line in lines if line.startswith("content-length")), None)
    if length is not None:
        return await reader.readexactly(int(length))
    pieces = []
    while size := int(await reader.readline(), 16):
        pieces.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(pieces)


class Load:
    """The clients: they send until ``ending`` is set."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._numbers = itertools.count()
        self.ending = asyncio.Event()
        self.tally = Tally()
        self.busy = 0

    async def _ask(self, connection: Connection, kind: str, **how: Any) -> None:
        way = "kept" if how["keeps"] else "own"
        request_id = f"{kind}-{way}-{next(self._numbers)}"
        self.tally.ids.append(request_id)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                end = await connection.ask(request_id, **how)
            self.tally.note(*end.split(" ", 1))
        except TimeoutError:
            connection.close()
            self.tally.note("unanswered", request_id)
        except (OSError, EOFError, ValueError) as error:
            connection.close()
            self.tally.note("cut", f"{request_id}: {error!r}")

    async def stream(self, number: int) -> None:
        """Stream again and again, over one connection if the number is even."""
        low, high = STREAM_TOKENS
        tokens = low + number * (high - low) // STREAMS
        connection = Connection(self._address)
        self.busy += 1
        while not self.ending.is_set():
            await self._ask(
                connection, "stream", tokens=tokens, streams=True, keeps=number % 2 == 0
            )
        connection.close()

    async def arrive(self) -> None:
        """Send short requests, one in two on a connection that is kept."""
        kept = [Connection(self._address) for _ in range(KEPT_CONNECTIONS)]
        free = asyncio.Queue[Connection]()
        for each in kept:
            free.put_nowait(each)
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                if self.ending.is_set():
                    break
                group.create_task(self._arrival(free, keeps=number % 2 == 0))
                await asyncio.sleep(1 / ARRIVALS_PER_SECOND)
        for each in kept:
            each.close()

    async def _arrival(self, free: asyncio.Queue[Connection], *, keeps: bool) -> None:
        connection = await free.get() if keeps else Connection(self._address)
        began = time.monotonic()
        await self._ask(connection, "arrival", tokens=1, streams=False, keeps=keeps)
        self.tally.seconds.append(time.monotonic() - began)
        if keeps:
            free.put_nowait(connection)


async def play(unit: Unit, supervisor: Supervisor) -> tuple[Tally, list[float]]:
    """Load the gateway, restart it twice, in between with a wrong file; return what happened.

    Then a reload applies another file, and the reload of a wrong file fails. The second part of the
    result are the seconds that each good restart took.
    """
    load = Load(unit.address)
    good = unit.config.read_text()
    took = []
    async with asyncio.TaskGroup() as group:
        for number in range(STREAMS):
            group.create_task(load.stream(number))
        group.create_task(load.arrive())
        await asyncio.sleep(QUIET_SECONDS)
        for is_wrong in (False, True, False):
            began = time.monotonic()
            if is_wrong:
                unit.config.write_text(good.replace("[polling]", "[poling]"))
            status = await asyncio.to_thread(supervisor.restart)
            if bool(status) is not is_wrong:
                load.tally.note("wrong status of a restart", status)
            if is_wrong:
                unit.config.write_text(good)
                if not await asyncio.to_thread(supervisor.wait_until_ready):
                    load.tally.note("unit not ready again")
            else:
                took.append(time.monotonic() - began)
            await asyncio.sleep(QUIET_SECONDS)
        for is_wrong, text in (
            (False, good + ALIASES),
            (True, good.replace("[polling]", "[poling]")),
        ):
            unit.config.write_text(text)
            status = await asyncio.to_thread(supervisor.reload)
            if bool(status) is not is_wrong:
                load.tally.note("wrong status of a reload", status)
        if not any(line["changes"] for line in unit.events("reloaded")):
            load.tally.note("reload without a change")
        await asyncio.sleep(QUIET_SECONDS)
        load.ending.set()
    return load.tally, took


def measure(kind: type[Supervisor], name: str) -> list[Figure]:
    """Play the scene under one supervisor."""
    with TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        journal = Path(folder, "journal.json")
        command = [sys.executable, "-m", "bench.supervisors.journaled_node", str(journal)]
        node = Child(command, Path(folder, "node.log"))
        stack.callback(node.stop)
        node.wait_until(lambda: node.output().endswith("\n"), "URL of the node", ANSWER_SECONDS)
        unit = make_unit(Path(folder))
        unit.write_config({"node": node.output().strip()}, "grace_seconds = 3600", LOAD_KEYS)
        supervisor: Supervisor = stack.enter_context(kind(unit))
        if supervisor.start():
            raise RuntimeError(f"the unit has not started: {unit.output()[-2000:]}")
        tally, took = asyncio.run(play(unit, supervisor))
        supervisor.stop()
        faults = [line for line in unit.output().splitlines() if '"traceback"' in line]
        node.stop()
        came: dict[str, int] = json.loads(journal.read_text())["ids"]
    for line in [*tally.examples, *supervisor.complaints, *faults[:3]]:
        sys.stderr.write(f"{name}: {line}\n")
    seconds = sorted(tally.seconds)
    p99 = seconds[int(len(seconds) * 0.99)]
    doubled = sum(came.get(each, 0) > 1 for each in tally.ids)
    ends = tally.ends
    others = sum(ends.values()) - ends["whole"] - ends["refused"] - ends["cut"]
    return [
        Figure(f"{name}: requests", len(tally.ids), ""),
        Figure(f"{name}: refused", ends["refused"], "", 0),
        Figure(f"{name}: cut", ends["cut"], "", 0),
        Figure(f"{name}: unanswered, or a restart or reload that ended wrongly", others, "", 0),
        Figure(f"{name}: came to the node twice", doubled, "", 0),
        Figure(f"{name}: faults in the log", len(faults) + len(supervisor.complaints), "", 0),
        Figure(f"{name}: arrivals, p99", p99, "s", SLOWEST_SECONDS),
        Figure(f"{name}: arrivals, slowest", seconds[-1], "s"),
        Figure(f"{name}: longest restart", max(took), "s"),
    ]


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene under the double, and under systemd where this machine can boot it."""
    figures = measure(SystemdDouble, "double")
    if RealSystemd.can_boot():
        figures += measure(RealSystemd, "systemd")
    return figures
