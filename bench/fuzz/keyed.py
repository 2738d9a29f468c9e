"""Runs the cases of keys through a whole gateway in memory that requires keys."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from bench.fuzz.gateway import GatewayInMemory, watched
from bench.fuzz.hearing import Wrong
from bench.fuzz.keys import KeyCase, KeyCases, may_pass
from bench.fuzz.verdicts import Answered
from bench.report import Rows

REFUSALS = {400, 401, 403, 413, 431}
SHOWN = 300
"""Of the shortest request that shows a finding, how much is printed."""


@dataclass(slots=True)
class KeyTally:
    """Counts by kind and status, and the faults with the shortest case of each."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrongs: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def note_wrong(self, case: KeyCase, words: str) -> None:
        """Count a fault."""
        what = f"{case.path}, {case.kind}: {words}"
        self.wrongs[what] += 1
        kept = self.examples.get(what)
        if kept is None or len(case.data) < len(kept[1]):
            self.examples[what] = case.number, case.data

    def add(self, other: KeyTally) -> None:
        """Add the counts of another tally."""
        self.outcomes += other.outcomes
        self.wrongs += other.wrongs
        for what, example in other.examples.items():
            self.examples.setdefault(what, example)

    def rows(self) -> Rows:
        """Lay out the counts: one row for each kind, one column for each status."""
        statuses = sorted({status for _, status in self.outcomes})
        table = [["requests with keys", *statuses]]
        for kind in sorted({kind for kind, _ in self.outcomes}):
            table.append([kind, *(str(self.outcomes[kind, status]) for status in statuses)])
        return table

    def findings(self) -> list[str]:
        """Return a line for each fault, and one with its shortest request."""
        lines = []
        for what, times in self.wrongs.most_common():
            number, data = self.examples[what]
            lines += [f"{times} times: {what}", f"  request {number}: {data[:SHOWN]!r}"]
        return lines


def run_keys(seed: int, first: int, end: int) -> KeyTally:
    """Run the cases from ``first`` up to ``end``; return the results."""
    cases, tally = KeyCases(seed), KeyTally()
    gateway = GatewayInMemory(keys=cases.ring.keys)
    secrets = [each.text for each in cases.ring.texts]
    lines: list[str] = []

    def take(event: LogEvent) -> None:
        lines.append(repr(event))

    observer = cast("ILogObserver", take)
    globalLogPublisher.addObserver(observer)
    try:
        with watched(gateway) as faults:
            for number in range(first, end):
                case = cases[number]
                _run_one(case, gateway, tally)
                for fault in faults:
                    tally.note_wrong(case, f"in the log: {fault.strip().splitlines()[-1][:200]}")
                if any(secret in line for line in lines for secret in secrets):
                    tally.note_wrong(case, "a key in the log")
                faults.clear()
                lines.clear()
    finally:
        globalLogPublisher.removeObserver(observer)
    return tally


def _run_one(case: KeyCase, gateway: GatewayInMemory, tally: KeyTally) -> None:
    try:
        answered = gateway.send(case.data)
        tally.outcomes[case.kind, str(answered.status)] += 1
        _check(case, answered)
    except Wrong as wrong:
        tally.note_wrong(case, str(wrong))
    except Exception as error:
        tally.outcomes[case.kind, "crashed"] += 1
        tally.note_wrong(case, f"crashed: {type(error).__name__}: {str(error)[:80]}")


def _check(case: KeyCase, answered: Answered) -> None:
    """Raise Wrong for a status that is not right, and for an error in a wrong envelope."""
    status = answered.status
    if case.status is not None and status != case.status:
        raise Wrong(f"{status} in place of {case.status}")
    if status not in REFUSALS:
        if status != 200:
            raise Wrong(f"{status}")
        if not may_pass(case):
            raise Wrong("passed without a key")
        return
    everything = answered.body.decode("utf-8", "replace") + repr(answered.headers)
    if any(each.text in everything for each in case.secrets):
        raise Wrong("a key in the answer")
    if status == 401 and not answered.headers.get("www-authenticate", "").startswith("Bearer"):
        raise Wrong("401 without a challenge")
    body = json.loads(answered.body)
    is_anthropic = case.path.startswith("/v1/messages") and status != 400
    if is_anthropic and body.get("type") != "error":
        raise Wrong("not the envelope of Messages")
    if not isinstance(body.get("error"), dict) or not body["error"].get("message"):
        raise Wrong("not an envelope")
