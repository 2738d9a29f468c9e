"""`python -m bench.turns FILE ARGUMENTS…`: twistd, with a gauge on each turn of its reactor.

A turn lasts from one return of `epoll_wait` to the next call of it: nothing else is served
meanwhile. Each turn of at least `NOTED_SECONDS` is a line in the file: when it ended on the
monotonic clock, its CPU seconds, and its seconds on the wall. On a busy machine, the wall also
counts the time in which other processes had the core; the CPU time does not.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from twisted.scripts.twistd import run

NOTED_SECONDS = 0.002


class Turn(NamedTuple):
    """One turn of the reactor: when it ended, its CPU time and its duration, in seconds."""

    at: float
    cpu: float
    wall: float


def read_turns(path: Path, since: float = 0.0) -> list[Turn]:
    """Return the noted turns that ended after ``since``, a time of the monotonic clock."""
    whole = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    turns = (Turn(*map(float, line.split())) for line in whole)
    return [turn for turn in turns if turn.at > since]


def longest(path: Path, since: float = 0.0) -> Turn:
    """Return the turn since ``since`` that took most CPU time."""
    return max(read_turns(path, since), key=lambda turn: turn.cpu, default=Turn(0.0, 0.0, 0.0))


class _Gauge:
    """Stands before the reactor's epoll object and measures the time between its polls."""

    def __init__(self, poller: Any, out: TextIO) -> None:
        self._poller = poller
        self._out = out
        self._cpu: float | None = None
        self._wall = 0.0

    def poll(self, timeout: float, most: int) -> Any:
        """Note the turn that ends, and wait for the next one."""
        now = time.monotonic()
        if self._cpu is not None:
            cpu = time.thread_time() - self._cpu
            if cpu >= NOTED_SECONDS:
                self._out.write(f"{now:.6f} {cpu:.6f} {now - self._wall:.6f}\n")
        try:
            return self._poller.poll(timeout, most)
        finally:
            self._cpu, self._wall = time.thread_time(), time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)


def main() -> None:
    """Run twistd with the remaining arguments, under the gauge."""
    from twisted.internet import reactor

    path, sys.argv = sys.argv[1], ["twistd", *sys.argv[2:]]
    driven: Any = reactor
    with Path(path).open("w", buffering=1) as out:
        driven._poller = _Gauge(driven._poller, out)  # noqa: SLF001 - Twisted has no public name
        run()


if __name__ == "__main__":
    main()
