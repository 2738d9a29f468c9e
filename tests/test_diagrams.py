"""docs/states.md is what docs/diagrams.py makes of the tables."""

import re
import runpy
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.states import HEALTH_TRANSITIONS, REPLICA_STATES

DOCS = Path(__file__).parents[1] / "docs"


class DiagramTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.page: str = runpy.run_path(str(DOCS / "diagrams.py"))["page"]()

    def test_committed(self) -> None:
        """The committed page is that of today's tables; `make diagrams` writes it anew."""
        assert self.page == (DOCS / "states.md").read_text(encoding="utf-8")

    def test_every_step_of_health_is_drawn(self) -> None:
        """Each outcome that changes a node's health is one arrow."""
        drawn = re.findall(r"^    (\w+) --> (\w+): (.+)$", self.page, re.MULTILINE)
        steps = {
            (before.value, after.value, outcome.value.replace("_", " "))
            for (before, outcome), after in HEALTH_TRANSITIONS.items()
            if before is not after
        }
        assert len(steps) == len(drawn)
        assert steps == set(drawn)

    def test_every_replica_state_is_drawn(self) -> None:
        """Each state of the table has an arrow from each operation that makes it."""
        drawn = re.findall(r"^    (\w+) -- .* --> (\w+)$", self.page, re.MULTILINE)
        made = {
            ("none" if operation is None else operation.value, state.value)
            for (operation, _), state in REPLICA_STATES.items()
        }
        assert made == set(drawn)
