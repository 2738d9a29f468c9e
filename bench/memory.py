"""The measures of memory, each on fresh targets, because processes seldom return memory."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack

from bench.figures import Figures
from bench.harness import Harness
from bench.load import CONNECT_SECONDS, RECEIVE_BYTES, Client, Tally
from bench.targets import Target
from bench.wire import Knobs, chat_request

MIB = 1 << 20
# How many streams may be on their way to their first token at once: fewer than fit into the listen
# backlog of any target.
OPENING_AT_ONCE = 32
OPENING_SECONDS = 30.0
# How long a target has to close what its clients all left at once.
MASS_CLOSE_SECONDS = 1.0
STALLED_CHUNK_BYTES = 4096
STALLED_CHUNKS = 25_600
STALLED_READ_BYTES = 262_144
SAMPLE_SECONDS = 0.1


def idle(harness: Harness, target: Target) -> Figures:
    """Measure a target's resident MiB at its start, and after a few requests of every kind."""
    fresh = target.resident_bytes()
    harness.warm_up(target)
    return {"memory.fresh_mib": fresh / MIB, "memory.idle_mib": target.resident_bytes() / MIB}


def open_streams(harness: Harness, target: Target) -> Figures:
    """Measure the resident MiB that 1000 open streams add, each with one chunk a second.

    `streams_left` counts the streams that the upstream still serves after their clients have left.
    """
    wanted = harness.plan.open_streams
    before = target.resident_bytes()
    tally = Tally()
    request = chat_request(Knobs(chunks=10_000, gap_ms=1000), stream=True)
    clients: list[Client] = []

    def open_next() -> None:
        if len(clients) < wanted:
            client = Client(
                harness.loop,
                target.address,
                request,
                tally,
                streaming=True,
                on_first_token=open_next,
            )
            clients.append(client)
            client.open()

    with harness.closing(clients):
        for _ in range(OPENING_AT_ONCE):
            open_next()
        harness.loop.run(
            time.monotonic() + OPENING_SECONDS,
            lambda: bool(tally.failures) or len(tally.first_token_seconds) == wanted,
        )
        harness.loop.run(time.monotonic() + harness.plan.open_streams_seconds)
        grown = target.resident_bytes() - before
    established = len(tally.first_token_seconds)
    if established < wanted or tally.failures:
        harness.note(target, [f"{established} of {wanted} streams opened", *tally.failures])
    time.sleep(MASS_CLOSE_SECONDS)
    return {
        "memory.per_1000_streams_mib": grown / MIB * 1000 / max(established, 1),
        "memory.streams_left": float(len(harness.under_way())),
    }


class _StalledReader:
    """A client that reads the beginning of a stream of 100 MB, then nothing more."""

    def __init__(self, harness: Harness, target: Target) -> None:
        self.target = target
        self.id = harness.new_id()
        self.grown_bytes = 0
        self._before = target.resident_bytes()
        self._socket = socket.socket()

    def begin(self) -> None:
        """Send the request and read a little of the answer; OSError where it does not come."""
        knobs = Knobs(id=self.id, chunks=STALLED_CHUNKS, chunk_bytes=STALLED_CHUNK_BYTES)
        self._socket.settimeout(CONNECT_SECONDS)
        self._socket.connect(self.target.address)
        self._socket.sendall(chat_request(knobs, stream=True))
        left = STALLED_READ_BYTES
        while left > 0:
            data = self._socket.recv(min(left, RECEIVE_BYTES))
            if not data:
                raise ConnectionError("closed a stream that had just begun")
            left -= len(data)

    def sample(self) -> None:
        """Keep the most that the target has grown since before the request."""
        self.grown_bytes = max(self.grown_bytes, self.target.resident_bytes() - self._before)

    def close(self) -> None:
        """Leave."""
        self._socket.close()


def stalled_readers(harness: Harness, targets: Iterable[Target]) -> dict[str, Figures]:
    """Let one client of each target stop reading, all at the same time.

    Measures by how many resident MiB the target grows, and how many MiB the upstream can send.
    """
    with ExitStack() as stack:
        readers = []
        for target in targets:
            reader = _StalledReader(harness, target)
            stack.callback(reader.close)
            try:
                reader.begin()
            except OSError as error:
                harness.note(target, [f"a stream without gaps did not begin: {error}"])
            else:
                readers.append(reader)
        deadline = time.monotonic() + harness.plan.stalled_seconds
        while time.monotonic() < deadline:
            time.sleep(SAMPLE_SECONDS)
            for reader in readers:
                reader.sample()
        sent = {answer["id"]: answer["sent_bytes"] for answer in harness.under_way()}
    everything = STALLED_CHUNKS * STALLED_CHUNK_BYTES
    results: dict[str, Figures] = {}
    for reader in readers:
        figures = {"stalled.sent_mib": sent.get(reader.id, everything) / MIB}
        if reader.target.pids:
            figures["stalled.grown_mib"] = reader.grown_bytes / MIB
        results[reader.target.name] = figures
    return results
