"""A load generator of its own: open streams at a steady rate, and count their tokens.

`python -m bench.streams HOST PORT STREAMS PER_SECOND GAP_MS` opens STREAMS streams, PER_SECOND a
second, whose tokens come every GAP_MS, and keeps each open. It ends at SIGTERM, or when its
standard input closes. Then it prints one line of JSON: `opened`, `refused` (with 503), `broken`
(all other ends) and `tokens`.
"""

from __future__ import annotations

import json
import signal
import sys
import time

from bench.load import Client, Tally
from bench.loop import Loop
from bench.processes import Address, raise_open_files_limit
from bench.wire import Knobs, chat_request

ENDLESS_CHUNKS = 10_000_000
FOREVER_SECONDS = 3600.0


class Streams:
    """Streams that open one after the other on a loop."""

    def __init__(
        self, loop: Loop, address: Address, streams: int, per_second: float, gap_ms: float
    ) -> None:
        self.tally = Tally()
        self._request = chat_request(Knobs(chunks=ENDLESS_CHUNKS, gap_ms=gap_ms), stream=True)
        began = time.monotonic()
        self.clients: list[Client] = []
        for number in range(streams):
            client = Client(loop, address, self._request, self.tally, streaming=True)
            self.clients.append(client)
            loop.call_at(began + number / per_second, client.open)

    def result(self) -> dict[str, int]:
        """Return the counts so far."""
        refused = sum(failure.startswith("HTTP/1.1 503") for failure in self.tally.failures)
        return {
            "opened": len(self.clients),
            "refused": refused,
            "broken": len(self.tally.failures) - refused,
            "tokens": self.tally.tokens,
        }


def main() -> None:
    """Open the streams of the command line until standard input closes."""
    host, port, streams, per_second, gap_ms = sys.argv[1:]
    raise_open_files_limit()
    loop = Loop()
    opened = Streams(loop, (host, int(port)), int(streams), float(per_second), float(gap_ms))
    loop.watch(sys.stdin.fileno(), lambda _events: loop.stop())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        loop.run(time.monotonic() + FOREVER_SECONDS)
    finally:
        print(json.dumps(opened.result()))


if __name__ == "__main__":
    main()
