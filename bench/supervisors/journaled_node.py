"""A simulated node in a process of its own, which writes its journal at its end.

``python -m bench.supervisors.journaled_node JOURNAL`` prints its URL. At SIGTERM it writes to the
file JOURNAL, as JSON, how many requests came with each X-Request-ID, and counts of its report.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from cortexd.testing import SimulatedModel, SimulatedNode
from cortexd.testing.journal import Journal

MODEL = "acme/chat"
TOKEN_SECONDS = 0.1
LARGE = 100_000


async def serve(reactor: Any, journal: Path) -> None:
    """Serve until the reactor stops, then write the journal."""
    model = SimulatedModel(id=MODEL, context_tokens=LARGE)
    node = SimulatedNode(reactor, models=[model], token_seconds=TOKEN_SECONDS, max_sequences=LARGE)
    node.journal = Journal(LARGE)
    port = await node.listen(reactor, 0)
    sys.stdout.write(f"http://127.0.0.1:{port}\n")
    sys.stdout.flush()
    stopping: Deferred[None] = Deferred()
    reactor.addSystemEventTrigger("before", "shutdown", stopping.callback, None)
    await stopping
    heads: list[Any] = [
        entry.detail["headers"] for entry in node.journal.requests("/v1/chat/completions")
    ]
    ids = Counter(head.get("x-request-id", "") for head in heads)
    report = node.journal.report()
    journal.write_text(
        json.dumps(
            {
                "ids": ids,
                "unended": len(report.unended_requests),
                "cut": report.cut_answers + report.broken_answers,
                "loads": sum(report.loads.values()),
            }
        )
    )
    await node.close()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(serve(reactor, Path(sys.argv[1]))))
