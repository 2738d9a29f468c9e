"""Runs cases one by one, through the translation alone or through the whole gateway."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from bench.fuzz.cases import Case, Cases
from bench.fuzz.gateway import GatewayInMemory, InstantNode, watched
from bench.fuzz.hearing import Wrong
from bench.fuzz.judging import check_asked, expected_of, outcome_of
from bench.fuzz.translating import translate
from bench.fuzz.verdicts import check
from cortexd.dialects.wire.profile import Speaks

TRANSLATION = "translation"
GATEWAY = "gateway"


@dataclass(slots=True)
class Tally:
    """The results of the cases: counts by kind and outcome, and the faults.

    ``examples`` has for each fault the number and the body of its shortest case.
    """

    outcomes: Counter[tuple[str, str, str, str, str]] = field(default_factory=Counter)
    wrongs: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, str, bytes]] = field(default_factory=dict)

    def note(self, where: str, case: Case, outcome: str) -> None:
        """Count a case."""
        self.outcomes[where, case.route, case.speaks.value, case.kind, outcome] += 1

    def note_wrong(self, where: str, case: Case, words: str) -> None:
        """Count a fault, and store the body if it is the shortest that shows the fault."""
        node = "" if case.speaks is Speaks.CHAT else f" at a node of {case.speaks.value}"
        what = f"{where}: {case.route}{node}: {words}"
        self.wrongs[what] += 1
        kept = self.examples.get(what)
        if kept is None or len(case.body) < len(kept[2]):
            self.examples[what] = (case.number, case.kind, case.body)

    def add(self, other: Tally) -> None:
        """Add the counts of another tally."""
        self.outcomes += other.outcomes
        self.wrongs += other.wrongs
        for what, example in other.examples.items():
            kept = self.examples.get(what)
            if kept is None or len(example[2]) < len(kept[2]):
                self.examples[what] = example


def run(seed: int, first: int, end: int, every: int) -> Tally:
    """Run the cases from ``first`` up to ``end`` through the translation, and one in ``every``
    through the gateway; return the results.
    """
    cases, tally = Cases(seed), Tally()
    gateways = {speaks: GatewayInMemory(InstantNode(speaks)) for speaks in Speaks}
    last: Case | None = None
    with watched(*gateways.values()) as faults:
        for number in range(first, end):
            case = cases[number]
            _try(TRANSLATION, case, tally, translate)
            if number % every == 0:
                _try(GATEWAY, case, tally, partial(_through, gateways[case.speaks]))
                last = case
                for fault in faults:
                    tally.note_wrong(GATEWAY, case, f"in the log: {_last_line(fault)}")
                faults.clear()
    if last is not None:
        for fault in faults:
            tally.note_wrong(GATEWAY, last, f"in the log at the end: {_last_line(fault)}")
        for gateway in gateways.values():
            if gateway.fleet.leases:
                tally.note_wrong(GATEWAY, last, "leases left at the end")
            if gateway.clock.getDelayedCalls():
                tally.note_wrong(GATEWAY, last, "delayed calls left at the end")
    return tally


def _try(where: str, case: Case, tally: Tally, ask: Callable[[Case], str]) -> None:
    try:
        tally.note(where, case, ask(case))
    except Wrong as wrong:
        tally.note(where, case, "wrong")
        tally.note_wrong(where, case, str(wrong))
    except Exception as error:
        tally.note(where, case, "crashed")
        place = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__} in {place.name}: {str(error)[:80]}"
        tally.note_wrong(where, case, f"crashed: {words}")


def _last_line(fault: str) -> str:
    return fault.strip().splitlines()[-1][:200]


def _through(gateway: GatewayInMemory, case: Case) -> str:
    """Take a case through the whole gateway; return its outcome. Raises Wrong."""
    node = gateway.node
    node.expect(case.answers)
    answered = gateway.ask(case.path, case.body)
    check_asked(case, node.asked, has_first_profile=True)
    check(answered, expected_of(case, node.said, node_refused=node.refused))
    return outcome_of(answered)
