from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.demand import LONG_AGO, Demand, PastDemand


def asked_at(*times: float) -> Demand:
    """Return the demand for a model that was asked for at these times."""
    demand = Demand()
    for time in times:
        demand.note(time)
    return demand


class RegularUseTests(SynchronousTestCase):
    def test_fewer_than_three(self) -> None:
        """One or two requests are no regular use."""
        assert [LONG_AGO] * 3 == [asked_at(*times).regular_since for times in ((), (5,), (5, 6))]

    def test_the_third_last_counts(self) -> None:
        """However many came before, and whatever the last one was."""
        assert 1.0 == asked_at(1, 50, 99).regular_since
        assert 60.0 == asked_at(1, 2, 3, 60, 70, 99).regular_since


class RestoredTests(SynchronousTestCase):
    def test_with_its_heat(self) -> None:
        """It goes on by another clock, and no time in the future stands in its past."""
        past = asked_at(1, 50, 99).past
        demand, set_back = Demand(), Demand()
        demand.restore(past.shifted(1_000.0))
        set_back.restore(past.shifted(0.0, latest=60.0))

        assert (1_001.0, 1_050.0, 1_099.0) == demand.times
        assert 1_001.0 == demand.regular_since
        assert asked_at(1, 50, 99).heat.at(100.0) == demand.heat.at(1_100.0)
        assert (1.0, 50.0, 60.0) == set_back.times
        assert asked_at(1, 50, 99).heat.at(99.0) == set_back.heat.at(60.0)

    def test_without_its_heat(self) -> None:
        """The times of its last requests make a heat."""
        demand = Demand()
        demand.restore(PastDemand((1.0, 50.0)))

        assert asked_at(1, 50).heat.at(60.0) == demand.heat.at(60.0)


class PaceTests(SynchronousTestCase):
    def test_none(self) -> None:
        """No request has no pace, and a single one none yet."""
        assert [0.0, 0.0] == [asked_at(*times).per_second(10.0) for times in ((), (5,))]

    def test_it_falls_with_time(self) -> None:
        """The same requests are a slower pace the longer ago they were."""
        demand = asked_at(0, 10, 20)

        assert 0.1 == demand.per_second(20.0)
        assert 0.05 == demand.per_second(40.0)

    def test_a_burst_that_is_over(self) -> None:
        """A silence counts more than how fast requests came before it."""
        assert 0.1 == asked_at(0, 0.1, 0.2, 0.3).per_second(10.3)

    def test_all_at_once(self) -> None:
        """Requests of one moment are a pace, not a division by zero."""
        assert asked_at(5, 5, 5).per_second(5.0) > 1_000
