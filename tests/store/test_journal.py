from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cortexd.fleet.demand import PastDemand
from cortexd.fleet.footprints import LearnedLoad
from cortexd.fleet.heat.heat import HeatRecord
from cortexd.logs import REDACTED
from cortexd.store.journal import JOURNAL_ROWS, TRIMMED_ROWS, JournalEntry, KnownAbilities, Listed
from tests.support.stores import LEARNED, NOW, StoreTestCase, database

# Files are slow, so an example does much and there are few of them.
few_examples = settings(max_examples=25)

hostile = st.one_of(
    st.text(min_size=1, max_size=40),
    st.text(st.sampled_from("'\"/\\;%_-\0\n\t é語🦙\u202e"), min_size=1, max_size=20),
    st.sampled_from(["x" * 1000, "語" * 1000, "acme/model:7b'; DROP TABLE pin_overrides; --"]),
)
measures = st.floats(allow_nan=False)
counts = st.integers(0, 2**63 - 1)
learned_loads = st.builds(LearnedLoad, counts, measures, measures, counts, measures)
plain_keys = st.sampled_from(["reason", "victims", "seconds", "ключ", 'quo"te', ""])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_keys, inner, max_size=3),
    max_leaves=8,
)

listed = st.builds(Listed, st.none() | hostile, measures)
finite = measures.filter(math.isfinite)
heats = st.builds(HeatRecord, finite, *[st.floats(0, 1e6)] * 4, st.integers(0, 1_000))
demands = st.builds(
    PastDemand, st.lists(finite, min_size=1, max_size=4).map(tuple), st.none() | heats
)
known_abilities = st.builds(KnownAbilities, hostile, hostile)

Change = tuple[str, tuple[Any, ...]]
changes = st.one_of(
    st.tuples(st.just("set_pin_override"), st.tuples(hostile, hostile, st.booleans())),
    st.tuples(st.sampled_from(["add_cordon", "remove_cordon"]), st.tuples(hostile)),
    st.tuples(st.just("put_learned"), st.tuples(hostile, hostile, learned_loads)),
    st.tuples(st.just("put_abilities"), st.tuples(hostile, hostile, st.none() | known_abilities)),
    st.tuples(
        st.just("put_catalogue"),
        st.tuples(
            st.dictionaries(st.tuples(hostile, hostile), st.none() | listed, max_size=3),
            st.dictionaries(hostile, st.none() | demands, max_size=3),
        ),
    ),
)


class StateTests(StoreTestCase):
    def test_pins(self) -> None:
        """A pin that was set or taken away is kept as the last word was."""
        opened = self.open()
        opened.set_pin_override("gpu-1", "acme/thinker", True)
        opened.set_pin_override("gpu-2", "acme/thinker", True)
        opened.set_pin_override("gpu-2", "acme/thinker", False)

        expected = {("gpu-1", "acme/thinker"): True, ("gpu-2", "acme/thinker"): False}
        assert expected == opened.pin_overrides()
        assert expected == self.reopened(opened).pin_overrides()

    def test_cordons(self) -> None:
        """A cordon is kept until it is lifted; either may be asked for twice."""
        opened = self.open()
        for node in ("gpu-1", "gpu-2", "gpu-2", "gpu-3"):
            opened.add_cordon(node)
        opened.remove_cordon("gpu-1")
        opened.remove_cordon("gpu-1")

        assert frozenset({"gpu-2", "gpu-3"}) == opened.cordons()
        assert frozenset({"gpu-2", "gpu-3"}) == self.reopened(opened).cordons()

    def test_learned(self) -> None:
        """What was learned last of a model on a node is kept."""
        opened = self.open()
        opened.put_learned("gpu-1", "acme/thinker", LearnedLoad())
        opened.put_learned("gpu-1", "acme/thinker", LEARNED)

        assert {("gpu-1", "acme/thinker"): LEARNED} == opened.learned()
        assert {("gpu-1", "acme/thinker"): LEARNED} == self.reopened(opened).learned()

    def test_copies(self) -> None:
        """What is given out is the caller's: changing it changes nothing that is kept."""
        opened = self.open()
        opened.pin_overrides()["gpu-1", "acme/thinker"] = True
        opened.learned()["gpu-1", "acme/thinker"] = LEARNED

        assert ({}, {}) == (opened.pin_overrides(), opened.learned())

    @few_examples
    @given(st.lists(changes, max_size=30))
    def test_round_trip(self, made: list[Change]) -> None:
        """Whatever names and numbers the changes hold, a restart finds what they came to."""
        self.move()
        pins: dict[tuple[str, str], bool] = {}
        cordons: set[str] = set()
        learned: dict[tuple[str, str], LearnedLoad] = {}
        abilities: dict[tuple[str, str], KnownAbilities] = {}
        catalogue: dict[Any, Any] = {}
        opened = self.open()
        for method, values in made:
            getattr(opened, method)(*values)
            match method, values:
                case "set_pin_override", (node, model, pinned):
                    pins[node, model] = pinned
                case "add_cordon", (node,):
                    cordons.add(node)
                case "remove_cordon", (node,):
                    cordons.discard(node)
                case "put_learned", (node, model, load):
                    learned[node, model] = load
                case "put_catalogue", (listed, demands):
                    catalogue.update(listed)
                    catalogue.update(demands)
                case _, (node, model, None):
                    abilities.pop((node, model), None)
                case _, (node, model, known):
                    abilities[node, model] = known

        expected = (pins, frozenset(cordons), learned)
        known_catalogue = {key: value for key, value in catalogue.items() if value is not None}
        assert abilities == opened.abilities()
        assert known_catalogue == dict([*opened.listed().items(), *opened.demands().items()])
        assert expected == (opened.pin_overrides(), opened.cordons(), opened.learned())
        found = self.reopened(opened)
        assert expected == (found.pin_overrides(), found.cordons(), found.learned())
        assert abilities == found.abilities()
        assert known_catalogue == dict([*found.listed().items(), *found.demands().items()])
        found.close()

    def test_mistake(self) -> None:
        """A number that is none is refused, and spoils no later change."""
        opened = self.open()
        with self.assertRaises(sqlite3.IntegrityError):
            opened.put_learned("gpu-1", "acme/thinker", LearnedLoad(1, math.nan, 0.0, 1, 2.0))
        opened.add_cordon("gpu-1")

        found = self.reopened(opened)

        assert ({}, frozenset({"gpu-1"})) == (found.learned(), found.cordons())


class JournalTests(StoreTestCase):
    def test_entries(self) -> None:
        """Entries are numbered from 1 and come back as they were, the oldest first."""
        opened = self.open()
        load = JournalEntry(1, NOW, "load", "gpu-1", "acme/thinker", {"seconds": 12.5})
        restart = JournalEntry(2, NOW + 1, "restart", None, None, {})
        numbers = [
            opened.append(entry.at, entry.kind, entry.node, entry.model, entry.fields)
            for entry in (load, restart)
        ]

        assert [1, 2] == numbers
        assert (2, [load, restart]) == (opened.last_number, opened.entries(0, 10))
        found = self.reopened(opened)
        assert (2, [load, restart]) == (found.last_number, found.entries(0, 10))

    def test_pages(self) -> None:
        """A page holds at most so many entries after a number, of one model where one is named."""
        opened = self.open()
        for number in range(1, 11):
            opened.append(NOW, "load", "gpu-1", f"model-{number % 2}", {})

        def page(after: int, limit: int, model: str | None = None) -> list[int]:
            return [entry.number for entry in opened.entries(after, limit, model)]

        assert [4, 5, 6] == page(3, 3)
        assert [9, 10] == page(8, 100)
        assert [5, 7] == page(3, 2, "model-1")
        assert [] == page(0, 10, "model-2")
        assert [[], [], []] == [page(10, 10), page(0, 0), page(0, -1)]

    @few_examples
    @given(
        st.lists(
            st.tuples(
                st.floats(0, 1e12),
                hostile,
                st.none() | hostile,
                st.none() | hostile,
                st.dictionaries(plain_keys, json_values, max_size=4),
            ),
            max_size=10,
        )
    )
    def test_round_trip(
        self, made: list[tuple[float, str, str | None, str | None, dict[str, object]]]
    ) -> None:
        """Whatever names and plain values entries hold, a restart finds them as they were."""
        self.move()
        opened = self.open()
        for entry in made:
            opened.append(*entry)
        expected = [JournalEntry(number, *entry) for number, entry in enumerate(made, start=1)]

        found = self.reopened(opened)

        assert expected == found.entries(0, 100)
        for model in {entry.model for entry in expected if entry.model is not None}:
            mine = [entry for entry in expected if entry.model == model]
            assert mine == found.entries(0, 100, model)
        found.close()

    def test_fields(self) -> None:
        """Fields are kept as plain data, and without what no log may hold."""
        opened = self.open()
        opened.append(NOW, "load", None, None, {"path": Path("a"), "prompt": "mine", "far": 2**70})

        (entry,) = opened.entries(0, 1)

        assert {"path": repr(Path("a")), "prompt": REDACTED, "far": repr(2**70)} == entry.fields

    def test_bounded(self) -> None:
        """The journal keeps the newest entries, and loses old ones many at a time."""
        opened = self.open()
        kept = []
        for _ in range(JOURNAL_ROWS + TRIMMED_ROWS + 1):
            last = opened.append(NOW, "load", "gpu-1", "acme/thinker", {})
            if last in (JOURNAL_ROWS, JOURNAL_ROWS + 1, JOURNAL_ROWS + TRIMMED_ROWS + 1):
                numbers = [entry.number for entry in opened.entries(0, 2 * JOURNAL_ROWS)]
                assert list(range(numbers[0], last + 1)) == numbers
                kept.append(len(numbers))

        fewest = JOURNAL_ROWS - TRIMMED_ROWS + 1
        assert [JOURNAL_ROWS, fewest, fewest] == kept

    def test_bounded_over_restarts(self) -> None:
        """A journal that was filled before the start is still bounded."""
        self.open().close()
        with closing(database(self.directory)) as connection:
            connection.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                " INSERT INTO journal SELECT i, i, 'load', 'n', 'm', '{}' FROM n",
                (JOURNAL_ROWS + 5_000,),
            )
        opened = self.open()

        assert JOURNAL_ROWS + 5_001 == opened.append(NOW, "load", "n", "m", {})
        assert JOURNAL_ROWS - TRIMMED_ROWS + 1 == len(opened.entries(0, 2 * JOURNAL_ROWS))
