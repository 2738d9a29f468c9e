"""Whether a fleet can serve requests, in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cortexd.fleet.nodes import Node
from cortexd.fleet.states import ANSWERING_HEALTH


def not_ready_reason(nodes: Collection[Node], not_polled: Sequence[str]) -> str | None:
    """Return why no node can serve a request yet, or ``None`` once one can."""
    if not_polled:
        return f"not polled yet: {', '.join(not_polled)}"
    if any(node.health in ANSWERING_HEALTH for node in nodes):
        return None
    return "no node answers: " + "; ".join(f"{node.name}: {node.reason}" for node in nodes)
