"""The labels of nodes, in words: pure.

A model with ``only_on`` is used only on nodes with one of these labels: it is loaded on no other
node, and gets no requests there. Of several nodes it is loaded on the one that it prefers
(``Option.key`` says how strongly).
"""

from __future__ import annotations

from collections.abc import Sequence


def only_words(only_on: Sequence[str]) -> str:
    """Return the labels of which a node needs one, in words."""
    return "the label " + " or ".join(f'"{label}"' for label in only_on)
