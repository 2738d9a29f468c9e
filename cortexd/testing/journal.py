"""What a simulated node saw and did, in order, for tests to read."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "request",
    "load_started",
    "load_done",
    "load_failed",
    "unload",
    "reload_of_not_unloaded",
    "overfilled",
    "stream_opened",
    "stream_ended",
    "generation_ended",
    "restarted",
    "closed",
]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that happened on the node.

    `at` is the node's clock in seconds, `model` the id concerned ("" where there is none). `detail`
    depends on `kind`:

    - request: method, path, headers (lower-case names), body (the decoded JSON, None where it is
      none)
    - load_started: automatic (whether an inference request caused it); load_done: seconds;
      load_failed: error
    - unload: leaked_mb
    - reload_of_not_unloaded: was_loaded (else the id is unknown)
    - overfilled: resident_mb, memory_mb
    - stream_opened: path; stream_ended: path, reason (finished, client_gone, cut, fault), chunks
    - generation_ended: tokens, reason (finished, canceled, cut); a stream may have ended before
    """

    at: float
    kind: Kind
    model: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)


class Journal:
    """The newest `capacity` entries, oldest first: iterate it, take its length, or ask `of`.

    It is bounded so that a demo or a benchmark may run for days.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._entries: deque[Entry] = deque(maxlen=capacity)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Entry:
        return self._entries[index]

    def __repr__(self) -> str:
        return f"<Journal of {len(self)}: {', '.join(entry.kind for entry in self)}>"

    def record(self, at: float, kind: Kind, model: str = "", **detail: object) -> None:
        """Append one entry at `at` seconds."""
        self._entries.append(Entry(at=at, kind=kind, model=model, detail=detail))

    def of(self, kind: Kind, model: str | None = None) -> list[Entry]:
        """Give the entries of one kind, of one model where `model` is given, oldest first."""
        return [
            entry
            for entry in self._entries
            if entry.kind == kind and (model is None or entry.model == model)
        ]

    def requests(self, path: str | None = None) -> list[Entry]:
        """Give the requests that arrived, of one path where `path` is given, oldest first."""
        return [
            entry for entry in self.of("request") if path is None or entry.detail["path"] == path
        ]

    def clear(self) -> None:
        """Forget every entry."""
        self._entries.clear()
