"""What is wrong with agents as a whole, in lines for the operator: pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

MOST_NODES: Final = 10
"""How many nodes without an agent a notice names."""

MISTAKES: Final = {
    "certificate": "a certificate that is not valid",
    "token": "a token that is not valid",
    "tls": "a handshake that failed",
    "version": "another version",
}
"""Why an agent is refused that was set up wrong; anyone may send garbage."""


def agent_notices(
    nodes: Sequence[str],
    enrolled: Collection[str],
    connected: Collection[str],
    refused: Mapping[str, int],
) -> list[str]:
    """Return the notices of a gateway that listens for agents.

    ``nodes`` are those that agents may be beside. Those of them that are ``enrolled`` should have
    one, and all of them where agents need no enrolment. ``connected`` have one. ``refused`` counts
    connections since the start, by the reasons of late.
    """
    expected = [node for node in nodes if node in enrolled] if enrolled else nodes
    missing = [node for node in expected if node not in connected]
    found: list[str] = []
    if missing:
        further = f" and {len(missing) - MOST_NODES} more" if len(missing) > MOST_NODES else ""
        names = ", ".join(missing[:MOST_NODES])
        found.append(
            f"no agent is connected on {names}{further}: only polls show what happens there, and "
            "nothing restarts an engine there"
        )
    mistakes = [
        f"for {words} ({count} {'time' if count == 1 else 'times'} since the start)"
        for each, words in MISTAKES.items()
        if (count := refused.get(each, 0))
    ]
    if mistakes:
        found.append(
            f"agents were refused in the last hour: {', '.join(mistakes)}; the log says from where"
        )
    return found
