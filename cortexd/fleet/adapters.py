"""The LoRA adapters of nodes: listed while their base is loaded only (nodes.md 1.10)."""

from __future__ import annotations

from collections.abc import Container, Iterable

from cortexd.fleet.nodes import Node


def unlisted(nodes: Iterable[Node], listed: Container[str]) -> dict[str, str]:
    """Return the base of each adapter that no node lists now, but that a load of its base brings.

    ``listed`` are the models that any node lists.
    """
    found: dict[str, str] = {}
    for node in nodes:
        for adapter, base in node.adapters.items():
            if adapter not in listed and base in listed:
                found.setdefault(adapter, base)
    return found
