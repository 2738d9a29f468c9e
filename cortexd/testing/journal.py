"""The journal of a simulated node: its events in order, for tests to read."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import reduce
from operator import add
from typing import Literal

Kind = Literal[
    "request",
    "request_ended",
    "reload",
    "load_started",
    "load_done",
    "load_failed",
    "unload",
    "overfilled",
    "stream_opened",
    "stream_ended",
    "generation_ended",
    "restarted",
    "died",
    "closed",
]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One event of the node.

    `at` is the time of the node's clock in seconds, `model` the id of the model ("" for none).
    `detail` depends on `kind`:

    - request: number, method, path, headers (lower-case names), body (the decoded JSON, None if it
      is not JSON)
    - request_ended: number, path, status (0 if none was sent), whole (whether the HTTP answer ended
      properly, which is true of an answer that an unload cut)
    - reload: state (the status before: only `unloaded` may be reloaded), automatic (whether an
      inference request caused it)
    - load_started: automatic, beside (how many other loads are running); load_done: seconds;
      load_failed: error, reason (told, out_of_memory, panic)
    - unload: leaked_mb, cut (how many answers it ended for which a client still waited)
    - overfilled: resident_mb, memory_mb
    - stream_opened: path; stream_ended: path, reason (finished, client_gone, cut, fault), chunks
    - generation_ended: tokens, reason (finished, canceled, cut); a stream may have ended earlier
    - restarted, closed: cut (as for unload)
    """

    at: float
    kind: Kind
    model: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The counts of a node's whole life; `together` sums up several nodes.

    - requests: requests that arrived; unended_requests: requests that are still open
    - cut_answers: answers that an unload ended while a client waited; broken_answers: answers that
      the end of the process broke
    - loads, failed_loads, unloads: counts by model; a load counts when it starts
    - out_of_memory: loads that failed for lack of memory
    - overlapping_loads: loads that started while another one was running
    - wrong_reloads: commands to reload a model that was not unloaded
    - stray_requests: inference requests for a model that was unloaded or being reloaded
    - overfilled: how often more than the memory was resident
    - peak_mb, memory_mb: the maximum that was ever resident, and the memory
    - restarts: processes after the first
    """

    requests: int = 0
    unended_requests: tuple[Entry, ...] = ()
    cut_answers: int = 0
    broken_answers: int = 0
    loads: Mapping[str, int] = field(default_factory=Counter)
    failed_loads: Mapping[str, int] = field(default_factory=Counter)
    unloads: Mapping[str, int] = field(default_factory=Counter)
    out_of_memory: int = 0
    overlapping_loads: int = 0
    wrong_reloads: int = 0
    stray_requests: int = 0
    overfilled: int = 0
    peak_mb: int = 0
    memory_mb: int = 0
    restarts: int = 0


def together(reports: Iterable[Report]) -> Report:
    """Return the sums of several nodes' reports, even though their peaks may differ in time."""
    every = list(reports)
    counts = [each.name for each in fields(Report)] if every else []
    return Report(**{name: reduce(add, [getattr(one, name) for one in every]) for name in counts})


class Journal:
    """The newest `capacity` entries, oldest first; it supports iteration, `len` and `of`.

    It is bounded, so that a demo or a benchmark can run for days. The counts of `report` include
    all events, also those whose entries are gone.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._entries: deque[Entry] = deque(maxlen=capacity)
        self._open_requests: dict[int, Entry] = {}
        self._counts: Counter[str] = Counter()
        self._loads: Counter[str] = Counter()
        self._failed_loads: Counter[str] = Counter()
        self._unloads: Counter[str] = Counter()
        self._peak_mb = 0
        self._memory_mb = 0

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
        entry = Entry(at=at, kind=kind, model=model, detail=detail)
        self._entries.append(entry)
        self._count(entry)

    def record_memory(self, at: float, resident_mb: int, memory_mb: int) -> None:
        """Record the resident memory, and append an entry if it is more than the node has."""
        self._peak_mb = max(self._peak_mb, resident_mb)
        self._memory_mb = memory_mb
        if resident_mb > memory_mb:
            self.record(at, "overfilled", resident_mb=resident_mb, memory_mb=memory_mb)

    def of(self, kind: Kind, model: str | None = None) -> list[Entry]:
        """Return the entries of one kind, optionally of one model, oldest first."""
        return [
            entry
            for entry in self._entries
            if entry.kind == kind and (model is None or entry.model == model)
        ]

    def requests(self, path: str | None = None) -> list[Entry]:
        """Return the requests that arrived, optionally for one path, oldest first."""
        return [
            entry for entry in self.of("request") if path is None or entry.detail["path"] == path
        ]

    def report(self) -> Report:
        """Return the counts of all events so far."""
        counts = self._counts
        return Report(
            requests=counts["request"],
            unended_requests=tuple(self._open_requests.values()),
            cut_answers=counts["cut"],
            broken_answers=counts["broken"],
            loads=self._loads.copy(),
            failed_loads=self._failed_loads.copy(),
            unloads=self._unloads.copy(),
            out_of_memory=counts["out_of_memory"],
            overlapping_loads=counts["overlapping"],
            wrong_reloads=counts["wrong_reload"],
            stray_requests=counts["stray"],
            overfilled=counts["overfilled"],
            peak_mb=self._peak_mb,
            memory_mb=self._memory_mb,
            restarts=counts["restarted"],
        )

    def clear(self) -> None:
        """Delete all entries; the report is unchanged."""
        self._entries.clear()

    def _count(self, entry: Entry) -> None:
        detail, counts = entry.detail, self._counts
        match entry.kind:
            case "request":
                counts["request"] += 1
                self._open_requests[_number(detail, "number")] = entry
            case "request_ended":
                del self._open_requests[_number(detail, "number")]
            case "reload" if detail["automatic"]:
                counts["stray"] += 1
            case "reload" if detail["state"] != "unloaded":
                counts["wrong_reload"] += 1
            case "load_started":
                self._loads[entry.model] += 1
                counts["overlapping"] += _number(detail, "beside") > 0
            case "load_failed":
                self._failed_loads[entry.model] += 1
                counts["out_of_memory"] += detail["reason"] == "out_of_memory"
            case "unload":
                self._unloads[entry.model] += 1
                counts["cut"] += _number(detail, "cut")
            case "restarted" | "closed":
                counts[entry.kind] += 1
                counts["broken"] += _number(detail, "cut")
            case "overfilled":
                counts["overfilled"] += 1


def _number(detail: Mapping[str, object], name: str) -> int:
    number = detail[name]
    assert isinstance(number, int)  # noqa: S101 - the node wrote it
    return number
