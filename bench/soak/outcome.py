"""The outcome of a soak as a table: the clients' endings, the nodes' journals, the daemon's log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.figures import percentile
from bench.report import Rows
from bench.soak.clients import ENDLESS, WITHOUT_A_WORD, Ending
from cortexd.testing import Report

OUT_OF_MEMORY = "OUT_OF_MEMORY"


@dataclass
class Log:
    """A summary of the daemon's log.

    `waits` are the seconds that answered requests waited for a replica, `warnings` counts warnings
    by event, `faults` are lines that should not exist. `known_out_of_memory` counts loads that ran
    out of memory on the node although the daemon knew the model's footprint.
    """

    waits: list[float] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    known_out_of_memory: int = 0


def read_log(lines: Iterable[str], given: Iterable[str]) -> Log:
    """Read the lines of a daemon's JSON log; `given` are models with a configured footprint.

    A line that is not JSON comes from the interpreter, and counts as a fault, like every error.
    """
    log, known = Log(), set(given)
    for line in lines:
        try:
            fields: dict[str, Any] = json.loads(line)
        except ValueError:
            log.faults.append(line)
            continue
        event, level = fields["event"], fields["level"]
        if "traceback" in fields or level in ("error", "critical"):
            log.faults.append(line)
        elif level == "warning":
            log.warnings[event] += 1
        if event == "request" and fields["outcome"] == "200" and fields["route"].startswith("/v1/"):
            log.waits.append(fields.get("queued") or 0.0)
        elif event == "loaded" and fields.get("footprint_mb"):
            known.add(fields["model"])
        elif event == "load_failed" and OUT_OF_MEMORY in fields["reason"]:
            log.known_out_of_memory += fields["model"] in known
    return log


def sum_of(metrics: str, name: str) -> int:
    """Return the sum of all samples of one metric in the text that Prometheus reads."""
    samples = (line.rpartition(" ") for line in metrics.splitlines())
    return int(sum(float(value) for series, _, value in samples if series.startswith(f"{name}{{")))


@dataclass
class Outcome:
    """All results at the end.

    `leases` and `queued` count the requests that the daemon still has, `faults` are the errors in
    the process of the nodes and the clients.
    """

    endings: Counter[Ending]
    troubles: Counter[str]
    report: Report
    leases: int
    queued: int
    log: Log
    faults: list[str]

    def musts(self) -> dict[str, int]:
        """Return the counts that must be zero."""
        unended = self.endings[ENDLESS] + len(self.report.unended_requests)
        return {
            "answers cut by an unload": self.report.cut_answers,
            "overfilled nodes": self.report.overfilled,
            "overlapping loads": self.report.overlapping_loads,
            "requests that met a model unloaded": self.report.stray_requests,
            "reloads of what was not unloaded": self.report.wrong_reloads,
            "requests without an end": unended + self.leases + self.queued,
            "answers broken without a word": self.endings[WITHOUT_A_WORD],
            "faults in the log": len(self.log.faults) + len(self.faults),
        }

    def rows(self) -> Rows:
        """Lay out the table: a label and a value in each row, the counts that must be zero last."""
        report, log = self.report, self.log
        waits = (f"{percentile(log.waits, share):.2f}" for share in (0.5, 0.95, 0.99))
        no_memory = report.out_of_memory
        rows: list[tuple[str, object]] = [
            ("requests", sum(self.endings.values())),
            *self._endings("answered", "left", "refused", "broken"),
            ("wait for a replica, s: p50 / p95 / p99", " / ".join(waits)),
            ("loads", sum(report.loads.values())),
            ("  failed", sum(report.failed_loads.values()) - no_memory),
            ("  failed for want of memory", no_memory),
            ("  of these with a known footprint", log.known_out_of_memory),
            ("unloads", sum(report.unloads.values())),
            ("answers broken by a node's end", report.broken_answers),
            ("troubles", sum(self.troubles.values())),
            *((f"  {name}", count) for name, count in sorted(self.troubles.items())),
            ("warnings in the log", sum(log.warnings.values())),
            *((f"  {name}", count) for name, count in sorted(log.warnings.items())),
            *self.musts().items(),
        ]
        return [["", "count"], *([label, str(value)] for label, value in rows)]

    def _endings(self, *kinds: str) -> list[tuple[str, object]]:
        rows: list[tuple[str, object]] = []
        for kind in kinds:
            found = {each.reason: n for each, n in self.endings.items() if each.kind == kind}
            rows.append((f"  {kind}", sum(found.values())))
            rows += [(f"  {kind}: {why}", found[why]) for why in sorted(found) if why]
        return rows
