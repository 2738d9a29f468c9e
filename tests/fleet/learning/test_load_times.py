"""Tests of how long loads are expected to take."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.learning.load_times import (
    ASSUMED_LOAD_SECONDS,
    MOST_DEARNESS,
    WARM_SECONDS,
    LoadTime,
    LoadTimes,
)
from cortexd.fleet.learning.timing import Timing

GIB = 1024


class Loads(SynchronousTestCase):
    def setUp(self) -> None:
        self.times = LoadTimes()
        self.now = 0.0

    def load(
        self, seconds: float, model: str = "a", node: str = "ada", process: int = 1
    ) -> LoadTime:
        self.now += 10.0
        return self.times.learn(node, model, seconds, self.now, size_mb=8 * GIB, process=process)

    def expected(self, model: str = "a", node: str = "ada", process: int = 1) -> float:
        found = self.times.expected(node, model, self.now, size_mb=8 * GIB, process=process)
        return round(found.seconds, 3)


class KindTests(Loads):
    def test_nothing_is_known(self) -> None:
        """Without any load a time is assumed, is as unsure as it is long, and says so."""
        found = self.times.expected("ada", "a", 0.0)

        assert (ASSUMED_LOAD_SECONDS, ASSUMED_LOAD_SECONDS, False) == (
            found.seconds,
            found.deviation,
            found.is_measured,
        )

    def test_cold_and_warm_loads_are_apart(self) -> None:
        """The first load in a process is cold, and the next ones are warm: two means, not one."""
        self.load(40.0)
        for seconds in (8.0, 10.0):
            self.load(seconds)

        assert 9.0 == self.expected()
        assert 40.0 == self.expected(process=2)

    def test_an_old_load_is_cold_again(self) -> None:
        """After WARM_SECONDS the weights are not expected in memory any more."""
        self.load(40.0)
        self.load(8.0)
        self.now += WARM_SECONDS + 1.0

        assert 40.0 == self.expected()

    def test_a_node_without_a_page_cache_has_one_kind(self) -> None:
        """Where the second load takes as long as the first, the third is expected to as well."""
        self.load(40.0)
        self.load(38.0)

        assert 39.0 == self.expected()

    def test_it_is_learned_how_much_a_node_caches(self) -> None:
        """Once a model was found cold after two others, it is expected cold after two others."""
        for _ in range(2):
            for model in ("a", "b", "c"):
                self.load(40.0, model)
        self.load(8.0, "c")

        assert 8.0 == self.expected("c")
        assert 40.0 == self.expected("a")

    def test_a_cache_that_outlives_the_process_is_learned(self) -> None:
        """Where a load was warm after a restart of the engine, the next one is expected to be."""
        self.load(40.0)
        self.load(8.0)
        self.load(8.0, process=2)

        assert 8.0 == self.expected(process=3)

    def test_a_model_that_was_loaded_by_others_is_warm(self) -> None:
        """A model that was resident in the process of the node counts as loaded there."""
        self.load(40.0, process=1)
        self.load(8.0, process=1)
        self.times.note_resident("ada", "a", 2, 8 * GIB)

        assert 8.0 == self.expected(process=2)


class FallBackTests(Loads):
    def test_the_other_kind_stands_in(self) -> None:
        """A model without a warm load is as much faster warm as the other models of the node."""
        self.load(40.0, "b")
        self.load(10.0, "b")
        self.load(20.0)

        assert 5.0 == self.expected()

    def test_another_node_stands_in(self) -> None:
        """A node that is half as fast takes twice as long for what only others have loaded."""
        self.load(10.0, "b", "ada")
        self.load(20.0, "b", "bob")
        self.load(15.0, "a", "ada")

        found = self.times.expected("bob", "a", self.now, size_mb=8 * GIB, process=1)
        assert found.is_measured
        assert 24.0 <= found.seconds <= 36.0
        assert found.deviation > 0.0

    def test_the_size_stands_in(self) -> None:
        """A model that was never loaded takes as long as its size at the pace of the node."""
        self.load(10.0, "b")

        found = self.times.expected("ada", "a", self.now, size_mb=16 * GIB)
        assert (20.0, False) == (found.seconds, found.is_measured)

    def test_a_load_of_unknown_size_stands_in_too(self) -> None:
        """Without sizes, the loads of other nodes are taken as they are."""
        self.times.learn("bob", "a", 25.0, 0.0)

        found = self.times.expected("ada", "a", 0.0)
        assert (25.0, True) == (found.seconds, found.is_measured)


class RememberTests(SynchronousTestCase):
    def test_what_was_learned_outlives_the_daemon(self) -> None:
        """Both kinds are known again, and the model is still warm in the same process."""
        times = LoadTimes()
        known = LoadTime(Timing(3, 40.0, 4.0), Timing(5, 8.0, 1.0), process=7)
        times.remember({("ada", "a"): known})

        assert known == times.known("ada", "a")
        assert 8.0 == times.expected("ada", "a", 0.0, process=7).seconds
        assert 40.0 == times.expected("ada", "a", 0.0, process=8).seconds


LOADS = st.lists(
    st.tuples(
        st.sampled_from(["ada", "bob"]),
        st.sampled_from(["a", "b", "c"]),
        st.floats(0.0, 1e5),
        st.one_of(st.none(), st.integers(1, 10**6)),
        st.sampled_from([None, 1, 2]),
    ),
    max_size=20,
)


class AnyLoadsTests(SynchronousTestCase):
    @settings(max_examples=100)
    @given(LOADS, st.one_of(st.none(), st.integers(0, 10**6)))
    def test_what_is_expected_is_a_time(
        self,
        loads: list[tuple[str, str, float, int | None, int | None]],
        size_mb: int | None,
    ) -> None:
        """Whatever was loaded, the expected time and its spread are finite and not negative."""
        times, again = LoadTimes(), LoadTimes()
        for at, (node, model, seconds, size, process) in enumerate(loads):
            for each in (times, again):
                each.learn(node, model, seconds, 10.0 * at, size_mb=size, process=process)

        for node in ("ada", "bob", "new"):
            for model in ("a", "b", "c", "new"):
                found = times.expected(node, model, 1e4, size_mb=size_mb, process=1)
                assert found == again.expected(node, model, 1e4, size_mb=size_mb, process=1)
                assert math.isfinite(found.seconds)
                assert found.seconds >= 0.0
                assert math.isfinite(found.deviation)
                assert found.deviation >= 0.0


class DearnessTests(Loads):
    def dearness(self, model: str, size_mb: int | None = 8 * GIB) -> float:
        return self.times.dearness("ada", model, size_mb)

    def test_nothing_is_known(self) -> None:
        """A model without a load on the node, or of unknown size, is as dear as any other."""
        assert 1.0 == self.dearness("a")
        self.load(10.0)

        assert (1.0, 1.0) == (self.dearness("a", None), self.dearness("b"))

    def test_slow_for_its_size(self) -> None:
        """It compares with all loads of the node, each for its size."""
        self.load(10.0, "fast")
        self.load(30.0, "slow")
        self.times.learn("ada", "large", 40.0, self.now, size_mb=16 * GIB, process=1)

        assert math.isclose(0.5, self.dearness("fast"))
        assert math.isclose(1.5, self.dearness("slow"))
        assert math.isclose(1.0, self.dearness("large", 16 * GIB))

    def test_bounded(self) -> None:
        """However slow one load was, its model counts four times at most."""
        for number in range(40):
            self.load(1.0, f"usual {number}")
        self.load(3_600.0, "hung")

        assert MOST_DEARNESS == self.dearness("hung")
        assert 1 / MOST_DEARNESS <= self.dearness("usual 1") <= 1
