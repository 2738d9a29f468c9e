import math
import statistics

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.footprints import UNMEASURED, Footprints, LearnedLoad


def nothing_configured(node: str, model: str) -> None:
    """Know no footprint."""


def after(*loads: tuple[float, int | None]) -> LearnedLoad:
    """Return what is known after loads of these seconds and footprints."""
    learned = UNMEASURED
    for seconds, footprint_mb in loads:
        learned = learned.with_load(seconds, footprint_mb)
    return learned


class LearnedLoadTests(SynchronousTestCase):
    def test_nothing_yet(self) -> None:
        """Before a load nothing is known."""
        assert (None, 0.0) == (UNMEASURED.footprint_mb, UNMEASURED.spread_mb)

    def test_one_load(self) -> None:
        """One measure is booked as it is."""
        assert (4_000, 0.0, 12.0) == (
            after((12, 4_000)).footprint_mb,
            after((12, 4_000)).spread_mb,
            after((12, 4_000)).mean_seconds,
        )

    def test_spread_is_booked(self) -> None:
        """Of loads that differ the mean and one standard deviation are booked, rounded up."""
        learned = after((1, 4_000), (1, 4_100))

        assert math.ceil(4_050 + statistics.stdev([4_000, 4_100])) == learned.footprint_mb

    def test_unmeasured_load(self) -> None:
        """A load whose footprint could not be read still shows how long it took."""
        learned = after((10, None), (20, 4_000), (30, None))

        assert (3, 20.0, 1, 4_000) == (
            learned.loads,
            learned.mean_seconds,
            learned.footprints,
            learned.footprint_mb,
        )

    def test_measure_of_nothing(self) -> None:
        """Where free memory did not fall while a model loaded, nothing was measured."""
        for footprint_mb in (0, -300):
            assert (None, 1) == (
                after((1, footprint_mb)).footprint_mb,
                after((1, footprint_mb)).loads,
            )

    @given(st.lists(st.tuples(st.floats(0, 1e5), st.integers(1, 10**6)), min_size=1, max_size=50))
    def test_as_the_textbook_has_it(self, loads: list[tuple[float, int]]) -> None:
        """Learning one load after the other comes to what all of them at once come to."""
        learned = after(*loads)
        seconds, sizes = [each for each, _ in loads], [size for _, size in loads]
        spread = statistics.stdev(sizes) if len(sizes) > 1 else 0.0

        assert (len(loads), len(loads)) == (learned.loads, learned.footprints)
        assert math.isclose(statistics.fmean(seconds), learned.mean_seconds, abs_tol=1e-6)
        assert math.isclose(statistics.fmean(sizes), learned.mean_mb, rel_tol=1e-9)
        assert math.isclose(spread, learned.spread_mb, rel_tol=1e-6, abs_tol=1e-3)
        assert learned.footprint_mb is not None
        assert min(sizes) <= learned.footprint_mb <= math.ceil(max(sizes) + spread + 1e-3)


class FootprintTests(SynchronousTestCase):
    def test_precedence(self) -> None:
        """The configuration counts first, then what this node has shown, then what others have."""
        learned = {
            ("ada", "m1"): after((10, 1_000)),
            ("ada", "m2"): after((10, 2_000)),
            ("bob", "m2"): after((10, 2_500)),
            ("bob", "m3"): after((10, 3_000)),
            ("cyd", "m3"): after((10, 3_500)),
        }
        footprints = Footprints(
            lambda node, model: 111 if (node, model) == ("ada", "m1") else None, learned
        )

        assert [111, 2_000, 3_500, None] == [
            footprints.known_mb("ada", model) for model in ("m1", "m2", "m3", "m4")
        ]
        assert 2_500 == footprints.known_mb("cyd", "m2")

    def test_another_size_elsewhere(self) -> None:
        """What no node of this size could hold does not stand in here; its own measure counts."""
        learned = {("bob", "m1"): after((10, 3_000)), ("ada", "m2"): after((10, 3_000))}
        footprints = Footprints(nothing_configured, learned)
        for budget_mb, expected in ((3_000, 3_000), (2_999, None)):
            footprints.note_budget("ada", budget_mb)
            assert expected == footprints.known_mb("ada", "m1")
        assert 3_000 == footprints.known_mb("ada", "m2")
        footprints.learn("ada", "m1", 5.0, 1_000)

        assert [1_000, 3_000] == [footprints.known_mb(node, "m1") for node in ("ada", "bob")]

    def test_load_that_was_not_measured_here(self) -> None:
        """A node on which loads were seen but not measured books what another node has shown."""
        footprints = Footprints(nothing_configured, {("bob", "m1"): after((10, 3_000))})
        footprints.learn("ada", "m1", 20.0, None)

        assert 3_000 == footprints.known_mb("ada", "m1")

    def test_measured_nowhere(self) -> None:
        """Loads that were never measured leave the footprint unknown."""
        footprints = Footprints(nothing_configured, {})
        footprints.learn("ada", "m1", 20.0, None)

        assert [None, None] == [footprints.known_mb(node, "m1") for node in ("ada", "bob")]

    def test_learn(self) -> None:
        """What a load shows counts from then on, and is returned to be kept."""
        footprints = Footprints(nothing_configured, {("ada", "m1"): after((10, 1_000))})

        learned = footprints.learn("ada", "m1", 20.0, 1_000)

        assert after((10, 1_000), (20, 1_000)) == learned
        assert (1_000, 15.0) == (
            footprints.known_mb("ada", "m1"),
            footprints.load_seconds("ada", "m1"),
        )

    def test_remember(self) -> None:
        """What was kept counts as if it had just been learned."""
        footprints = Footprints(nothing_configured, {})
        footprints.remember({("ada", "m1"): after((10, 1_000))})

        assert 1_000 == footprints.known_mb("ada", "m1")
        assert after((10, 1_000), (20, 3_000)) == footprints.learn("ada", "m1", 20.0, 3_000)

    def test_measured(self) -> None:
        """What this node itself has shown is told apart: the mean, rounded, and nobody else's."""
        footprints = Footprints(
            lambda node, model: 111,
            {
                ("ada", "m1"): after((10, 1_000), (10, 1_101)),
                ("ada", "m2"): after((10, None)),
                ("bob", "m2"): after((10, 5)),
            },
        )

        assert [1_050, None, None] == [
            footprints.measured_mb("ada", model) for model in ("m1", "m2", "m3")
        ]

    def test_load_seconds(self) -> None:
        """A load takes as long as loads here took, else as long as it took on the slowest node."""
        footprints = Footprints(
            nothing_configured,
            {
                ("ada", "m1"): after((10, None), (20, None)),
                ("bob", "m1"): after((40, None)),
                ("cyd", "m1"): after((30, None)),
                ("bob", "m2"): UNMEASURED,
            },
        )

        assert 15.0 == footprints.load_seconds("ada", "m1")
        assert 40.0 == footprints.load_seconds("eve", "m1")
        assert [None, None] == [footprints.load_seconds("bob", model) for model in ("m2", "m3")]
