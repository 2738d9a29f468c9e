"""The outcome of the chaos bench as a table, the counts that must be zero last."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bench.report import Rows
from bench.soak.outcome import Outcome

NO_STATUS = "no status"


@dataclass
class ChaosOutcome:
    """All results at the end; ``soak`` has those that the soak has too.

    ``hazards``, ``actions`` and ``floods`` count what was done. ``longest_gap`` is the longest time
    in seconds in which the daemon answered no health check, ``resident_mb`` the memory of its
    process at the end.
    """

    soak: Outcome
    actions: Counter[str]
    floods: Counter[str]
    doubled: int
    spread_fatally: int
    wrongly_down: int
    unanswered: int
    intruded: int
    failures: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    longest_gap: float = 0.0
    most_gap: float = 1.0
    resident_mb: float = 0.0
    most_resident_mb: float = 400.0

    def musts(self) -> dict[str, int]:
        """Return the counts that must be zero."""
        lost = sum(
            count
            for ending, count in self.soak.endings.items()
            if ending.reason.startswith(NO_STATUS)
        )
        return {
            **self.soak.musts(),
            "requests without a status": lost,
            "requests that a node got twice, or that reached three": self.doubled,
            "fatal prompts that reached more than two engines": self.spread_fatally,
            "healthy nodes taken for down": self.wrongly_down,
            "clients of a storm without an answer": self.unanswered,
            "requests of foreign pages that were not refused": self.intruded,
            "restarts and reloads that ended wrongly": len(self.failures),
            "complaints of the supervisor": len(self.complaints),
            f"gaps above {self.most_gap:g} s": int(self.longest_gap > self.most_gap),
            f"memory above {self.most_resident_mb:g} MB": int(
                self.resident_mb > self.most_resident_mb
            ),
        }

    def rows(self) -> Rows:
        """Lay out the table: a label and a value in each row."""
        soak_musts = self.soak.musts()
        rows = [row for row in self.soak.rows() if row[0] not in soak_musts]
        for title, counts in (("actions", self.actions), ("floods", self.floods)):
            rows.append([title, str(sum(counts.values()))])
            rows += [[f"  {name}", str(count)] for name, count in sorted(counts.items())]
        rows.append(["longest gap between two health checks, s", f"{self.longest_gap:.2f}"])
        rows.append(["memory of the daemon at the end, MB", f"{self.resident_mb:.0f}"])
        rows += [[label, str(value)] for label, value in self.musts().items()]
        return rows
