"""The events of affinity and of ghosts."""

from __future__ import annotations

from dataclasses import dataclass

from cortexd.fleet.nodes import Lease


@dataclass(frozen=True, slots=True)
class AnswerBegan:
    """The first content of an answer has come; told only where ghosts are before it."""

    lease: Lease
