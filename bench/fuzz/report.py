"""The results of a fuzz run, as a table and a list."""

from __future__ import annotations

from bench.fuzz.trials import GATEWAY, TRANSLATION, Tally
from bench.report import Rows
from cortexd.dialects.wire.profile import Speaks

EXAMPLE_CHARACTERS = 300
"""Of the shortest body that shows a finding, how much is printed."""

_NODES = {
    Speaks.CHAT.value: "at nodes that speak chat",
    Speaks.BOTH.value: "at nodes that speak both",
    Speaks.MESSAGES.value: "at nodes that speak Messages alone",
}


def rows(tally: Tally) -> Rows:
    """Lay out the counts: one column for the translation, one for the gateway."""
    table = [["", TRANSLATION, GATEWAY]]
    table.append(["bodies", *_counts(tally)])
    for route in sorted({key[1] for key in tally.outcomes}):
        table.append([f"  for {route}", *_counts(tally, route=route)])
    for node in sorted({key[2] for key in tally.outcomes}):
        table.append([f"  {_NODES[node]}", *_counts(tally, node=node)])
    for kind in sorted({key[3] for key in tally.outcomes}):
        table.append([f"  {kind}", *_counts(tally, kind=kind)])
    for outcome in sorted({key[4] for key in tally.outcomes}):
        table.append([f"answered {outcome}", *_counts(tally, outcome=outcome)])
    return table


def _counts(
    tally: Tally, route: str = "", node: str = "", kind: str = "", outcome: str = ""
) -> list[str]:
    wanted = (route, node, kind, outcome)
    return [
        str(
            sum(
                count
                for (found_at, *found), count in tally.outcomes.items()
                if found_at == where
                and all(not want or want == have for want, have in zip(wanted, found, strict=True))
            )
        )
        for where in (TRANSLATION, GATEWAY)
    ]


def findings(tally: Tally) -> list[str]:
    """Return a line for each fault: its count, and the shortest body that shows it."""
    lines = []
    for what, times in tally.wrongs.most_common():
        number, kind, body = tally.examples[what]
        lines.append(f"{times} times: {what}")
        lines.append(f"  body {number}, {kind}, {len(body)} bytes: {body[:EXAMPLE_CHARACTERS]!r}")
    return lines
