"""Writes docs/states.md from the tables of cortexd/fleet/states.py: run `make diagrams`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path

from cortexd.fleet.states import (
    ANSWERING_HEALTH,
    ANSWERING_STATES,
    HEALTH_TRANSITIONS,
    REPLICA_STATES,
    RESIDENT_STATES,
    NodeHealth,
    Operation,
    PollOutcome,
    ReplicaState,
)

PAGE = Path(__file__).with_name("states.md")
LISTED_STATES = [state for state in ReplicaState if (None, state) in REPLICA_STATES]

TEXT = """\
# States

`make diagrams` writes this page from the tables in `cortexd/fleet/states.py`, whose docstring says
what the words mean. Change the tables, not the page; `tests/test_diagrams.py` compares the two.

## The health of a node

Each poll is one step, and each arrow bears the outcome of the poll; *ended* is the word of the
node's agent. Outcomes that change nothing have no arrow.

{health_diagram}

The same with every outcome; `-` marks what cannot happen.

{health_table}

The gateway sends requests to a node that is {answering_health}.

## The state of a replica

Two facts decide it: which operation of ours is under way (left), and in which state the node lists
the model (arrow).

{replica_diagram}

The same as a table, with the listed state in the first row.

{replica_table}

A replica gets new requests while it is {answering_states}. It takes memory while it is
{resident_states}.
"""


def words(member: Enum | None) -> str:
    """Return a member's value as words."""
    return "no operation" if member is None else str(member.value).replace("_", " ")


def listing(members: Iterable[Enum], order: Iterable[Enum]) -> str:
    """Return members in this order, as a list in a sentence."""
    chosen = set(members)
    *first, last = [f"*{words(member)}*" for member in order if member in chosen]
    return f"{', '.join(first)} or {last}" if first else last


def diagram(lines: Iterable[str]) -> str:
    """Return a Mermaid diagram as a code block."""
    return "\n".join(("```mermaid", *lines, "```"))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose columns are as wide as they must be, the first row its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join((lines[0], rule, *lines[1:]))


def health_diagram() -> str:
    """Draw the steps that change a node's health; a node begins with the first member's."""
    steps = [
        f"    {before.value} --> {after.value}: {words(outcome)}"
        for (before, outcome), after in HEALTH_TRANSITIONS.items()
        if after is not before
    ]
    return diagram(("stateDiagram-v2", f"    [*] --> {next(iter(NodeHealth)).value}", *steps))


def health_table() -> str:
    """List every step of a node's health."""
    rows = [["health", *map(words, PollOutcome)]]
    for health in NodeHealth:
        steps = (HEALTH_TRANSITIONS.get((health, outcome)) for outcome in PollOutcome)
        rows.append([words(health), *("-" if step is None else words(step) for step in steps)])
    return table(rows)


def replica_diagram() -> str:
    """Draw which state an operation and a listing make; what no listing changes is one arrow."""
    lines = ["flowchart LR"]
    for operation in (None, *Operation):
        name = "none" if operation is None else operation.value
        lines.append(f"    {name}([{words(operation)}])")
        made = {listed: REPLICA_STATES[operation, listed] for listed in LISTED_STATES}
        if len(set(made.values())) == 1:
            lines.append(f"    {name} -- any listing --> {made[LISTED_STATES[0]].value}")
        else:
            lines += [
                f"    {name} -- listed {words(listed)} --> {state.value}"
                for listed, state in made.items()
            ]
    return diagram(lines)


def replica_table() -> str:
    """List the state that each operation and listing make."""
    rows = [["operation", *(f"listed {words(listed)}" for listed in LISTED_STATES)]]
    for operation in (None, *Operation):
        states = (REPLICA_STATES[operation, listed] for listed in LISTED_STATES)
        rows.append([words(operation), *map(words, states)])
    return table(rows)


def page() -> str:
    """Return the whole page."""
    return TEXT.format(
        health_diagram=health_diagram(),
        health_table=health_table(),
        answering_health=listing(ANSWERING_HEALTH, NodeHealth),
        replica_diagram=replica_diagram(),
        replica_table=replica_table(),
        answering_states=listing(ANSWERING_STATES, ReplicaState),
        resident_states=listing(RESIDENT_STATES, ReplicaState),
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
