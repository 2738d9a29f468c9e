"""What the time that the gate takes tells of a key: nothing.

Samples of each kind come in a random order, so that whatever else the machine does meets all kinds
alike. The test of Mann and Whitney says how surely two kinds can be told apart, whatever the pace.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from itertools import combinations
from math import sqrt
from random import Random
from statistics import median

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from cortexd.access.keys import Key
from cortexd.access.ring import KeyRing
from cortexd.access.secret import hashed, id_of, new_key
from cortexd.downstream.gate import Denied, Gate, Unproven
from tests.support.stores import HeldWorker

SAMPLES = 60
COST = 8
"""The hashes take half a millisecond: a hundred times as long as all else."""

SURE = 5.0
"""How many standard deviations the ranks of two kinds may be apart: by chance they are in one of a
million runs. If all samples of one kind took longer, it would be 9.4."""

REPEATS = 40
"""How many looks at a repeated key make one sample."""


def deviations(one: list[int], other: list[int]) -> float:
    """Return by how many standard deviations the ranks of two samples differ (Mann, Whitney)."""
    places: dict[int, list[int]] = {}
    for place, value in enumerate(sorted([*one, *other])):
        places.setdefault(value, []).append(place)
    ranks = {value: sum(found) / len(found) + 1 for value, found in places.items()}
    n, m = len(one), len(other)
    u = sum(ranks[value] for value in one) - n * (n + 1) / 2
    return abs(u - n * m / 2) / sqrt(n * m * (n + m + 1) / 12)


def measured(kinds: Mapping[str, list[Callable[[], object]]]) -> dict[str, list[int]]:
    """Return the nanoseconds of this thread's time for each call, by kind."""
    calls = [(kind, call) for kind, found in kinds.items() for call in found]
    Random(20_261_130).shuffle(calls)  # noqa: S311 - an order, no secret
    spent: dict[str, list[int]] = {kind: [] for kind in kinds}
    gc.disable()
    try:
        for kind, call in calls:
            before = time.thread_time_ns()
            call()
            spent[kind].append(time.thread_time_ns() - before)
    finally:
        gc.enable()
    return spent


class TimingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.right = [new_key() for _ in range(SAMPLES)]
        self.wrong = [self._wrong(text) for text in self.right]
        self.unknown = [new_key() for _ in range(SAMPLES)]
        keys = [
            Key(str(i), id_of(text) or "", hashed(text, COST)) for i, text in enumerate(self.right)
        ]
        self.gate = Gate(KeyRing(keys), HeldWorker(), lambda: 0.0, Clock(), lambda *_: ())
        self.gate.startService()
        self.look(new_key())  # the first look at the keys makes the decoy

    def _wrong(self, text: str) -> str:
        return text[:-1] + ("b" if text[-1] == "a" else "a")

    def look(self, text: str) -> object:
        headers = Headers({b"Authorization": [b"Bearer " + text.encode()]})
        found = self.gate.look(headers)
        if isinstance(found, Unproven):
            proving = Deferred.fromCoroutine(self.gate.prove(found, "10.0.0.1"))
            return self.successResultOf(proving)
        return found

    def calls(self, texts: list[str], repeats: int = 1) -> list[Callable[[], object]]:
        def call(text: str) -> Callable[[], object]:
            return lambda: [self.look(text) for _ in range(repeats)]

        return [call(text) for text in texts]

    def test_keys_that_come_for_the_first_time(self) -> None:
        """A right key, a wrong one with the id of a right one, and an unknown id take as long."""
        spent = measured(
            {
                "right": self.calls(self.right),
                "wrong": self.calls(self.wrong),
                "unknown": self.calls(self.unknown),
            }
        )
        for one, other in combinations(spent, 2):
            assert deviations(spent[one], spent[other]) < SURE, (one, other)

    def test_keys_that_come_again(self) -> None:
        """What a wrong key has in common with a right one shows no more than for the first time.

        The answer to a right key differs anyway, but the gate takes about as long for it.
        """
        kinds = {"right": self.right, "wrong": self.wrong, "unknown": self.unknown}
        for texts in kinds.values():
            for text in texts:
                self.look(text)
        spent = measured({kind: self.calls(texts, REPEATS) for kind, texts in kinds.items()})

        assert deviations(spent["wrong"], spent["unknown"]) < SURE
        ratio = median(spent["right"]) / median(spent["wrong"])
        assert 0.7 < ratio < 1.4

    def test_the_statistic_tells(self) -> None:
        """Without the decoy, an unknown id would be told apart at once."""

        def refuse_at_once() -> object:
            return Denied("unknown", "")

        spent = measured({"wrong": self.calls(self.wrong), "none": [refuse_at_once] * SAMPLES})
        assert deviations(spent["wrong"], spent["none"]) > SURE
