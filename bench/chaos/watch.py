"""What the chaos bench watches from outside: deliveries, and nodes that were taken for down."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cortexd.testing.journal import Entry

MOST_NODES = 2
"""How many nodes may get one request: the first, and one other after a failure."""

LONGEST_WAIT = 60.0
"""How long a request may wait in a queue, in seconds."""

GRACE_SECONDS = 15.0
"""How long after the end of its trouble a node may still count as down: two polls must fail before
it does, the first that is answered brings it up, and the log line is written in between."""


@dataclass
class Deliveries:
    """Counts how often each request reached a node, by the id that its client gave it.

    ``by_fatal`` counts prompts that end the engine that reads them. A daemon knows the deaths that
    it has seen itself, so that each of its ``restarts``, in unix seconds, allows two more.
    """

    by_request: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    by_fatal: Counter[str] = field(default_factory=Counter)
    fatal_visits: list[tuple[float, str, str]] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)

    def take(self, node: str, entries: Iterable[Entry], prefix: str, fatal: str) -> None:
        """Take the new entries of a node's journal.

        Ids of clients begin with ``prefix``; a fatal prompt contains the word ``fatal``.
        """
        for entry in entries:
            if entry.kind != "request" or entry.detail["method"] != "POST":
                continue
            headers: Any = entry.detail["headers"]
            request_id = headers.get("x-request-id", "")
            if request_id.startswith(prefix):
                self.by_request[request_id][node] += 1
            text = str(entry.detail["body"])
            if fatal in text:
                prompt = text[text.index(fatal) :].split("'")[0]
                self.by_fatal[prompt] += 1
                self.fatal_visits.append((entry.at, node, prompt))

    @property
    def doubled(self) -> int:
        """How many requests reached a node twice, or more than MOST_NODES nodes."""
        return sum(
            max(nodes.values()) > 1 or len(nodes) > MOST_NODES for nodes in self.by_request.values()
        )

    def stories(self) -> list[str]:
        """Return how each fatal prompt spread that reached too many engines."""
        return [
            f"{prompt}: {[visit for visit in self.fatal_visits if visit[2] == prompt]}"
            for prompt, count in self.by_fatal.items()
            if count > MOST_NODES * (1 + self._restarts_beside(prompt))
        ]

    def _restarts_beside(self, prompt: str) -> int:
        """Return how many restarts lie between the first and the last request of a prompt."""
        at = [visit[0] for visit in self.fatal_visits if visit[2] == prompt]
        return sum(min(at) - LONGEST_WAIT <= each <= max(at) for each in self.restarts)

    @property
    def spread_fatally(self) -> int:
        """How many fatal prompts reached too many engines."""
        return len(self.stories())


@dataclass
class Sickness:
    """When each node was in trouble, by the clock of the log: unix seconds."""

    spans: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def note(self, node: str, since: float, until: float) -> None:
        """Note that a node is in trouble for some time."""
        self.spans[node].append((since, until))

    def excuses(self, node: str, at: float) -> bool:
        """Return whether a node may be taken for down at that time."""
        return any(since <= at <= until + GRACE_SECONDS for since, until in self.spans[node])


def wrongly_down(lines: Iterable[Mapping[str, Any]], sickness: Sickness) -> list[Mapping[str, Any]]:
    """Return the log lines that take a node for down that was in no trouble.

    A line has its ``event``, its ``node`` and ``at``, the time in unix seconds.
    """
    return [
        line
        for line in lines
        if line["event"] == "node_down" and not sickness.excuses(line["node"], line["at"])
    ]
