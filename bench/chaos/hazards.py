"""The troubles of nodes in the chaos bench: those of the soak, and nodes that hang or are sick."""

from __future__ import annotations

import time
from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar

from bench.chaos.watch import Sickness
from bench.soak.fleet import AWAY_SECONDS, TROUBLES, Troubles
from cortexd.testing import SimulatedNode

HANG_SECONDS = (1.0, 12.0)
SICK_SECONDS = (3.0, 12.0)
ERRORS = 10_000
"""More failing requests than a sick node gets before it is well again."""

BOOT_SECONDS = 2.0
"""How long a node whose engine died of a prompt takes to come back."""


class Hazards(Troubles):
    """Troubles of nodes; `sickness` has the times when a node could be taken for down."""

    kinds: ClassVar[tuple[str, ...]] = (*TROUBLES, "hang", "sick", "resets", "cut streams")

    def __init__(self, reactor: Any, nodes: Mapping[str, SimulatedNode], dice: Random) -> None:
        super().__init__(reactor, nodes, dice)
        self._clock = reactor
        self._dies = dice
        self.sickness = Sickness()

    def befall(self, node: SimulatedNode, trouble: str) -> None:
        """Let a trouble of one of our kinds befall a node."""
        faults, dice = node.faults, self._dies
        match trouble:
            case "hang":
                self._for_a_while(node, HANG_SECONDS, "hang", True, False)
            case "sick":
                self._for_a_while(node, SICK_SECONDS, "error_responses", ERRORS, 0)
            case "resets":
                self._for_a_while(node, SICK_SECONDS, "reset_after_chunks", 0, None)
            case "cut streams":
                chunks = dice.randint(1, 20)
                self._for_a_while(node, SICK_SECONDS, "eof_after_chunks", chunks, None)
            case "restart" | "vanish":
                self.note(node, AWAY_SECONDS[1] if trouble == "vanish" else 0.0)
                super().befall(node, trouble)
            case _:
                if trouble == "deaf while loading" and not faults.deaf_while_loading:
                    self.note(node, 60.0)
                super().befall(node, trouble)

    def note_death(self, node: SimulatedNode) -> None:
        """Note that a node's engine died of a prompt, and may be taken for down for a while."""
        self.counts["died of a prompt"] += 1
        self.note(node, BOOT_SECONDS)

    def note(self, node: SimulatedNode, seconds: float) -> None:
        """Note that a node may be taken for down for some seconds from now."""
        now = time.time()
        self.sickness.note(node.name, now - 1.0, now + seconds)

    def _for_a_while(
        self, node: SimulatedNode, span: tuple[float, float], fault: str, on: Any, off: Any
    ) -> None:
        seconds = self._dies.uniform(*span)
        self.note(node, seconds)
        setattr(node.faults, fault, on)
        self._clock.callLater(seconds, setattr, node.faults, fault, off)
