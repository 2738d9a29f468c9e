"""How hot a model is."""

from math import isclose

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.heat.heat import (
    DELAYED,
    FEW_VISITS,
    FEW_WEIGHT,
    HALF_HOUR,
    LASTING_WEIGHT,
    MANY_VISITS,
    MANY_WEIGHT,
    MINUTES,
    SILENCES,
    Heat,
)
from cortexd.fleet.heat.visits import Visits

Noted = list[tuple[float, bool]]
NOTED = st.lists(st.tuples(st.floats(0, 5_000), st.booleans()), max_size=20)


class World:
    """One model, and other models that sessions visit."""

    def __init__(self) -> None:
        self.visits = Visits()
        self.heat = Heat(self.visits)
        self.now = 0.0
        self.sessions = 0

    def visit(self, *, other: bool = False) -> None:
        """Let a new session request the model, or another one."""
        self.sessions += 1
        self.visits.note("other" if other else "m", f"{self.sessions}", self.now)
        if not other:
            self.heat.note(self.now, is_visit=True)


class HeatTests(SynchronousTestCase):
    def test_never_requested(self) -> None:
        """A model that was never requested is cold."""
        heat = World().heat

        assert (0.0, 0.0) == (heat.at(5.0), heat.per_second(5.0))

    def test_halves(self) -> None:
        """Each count decays by half after a time, or a number of visits, of its own."""
        world = World()
        world.visit()
        whole = 1 + LASTING_WEIGHT + FEW_WEIGHT + MANY_WEIGHT
        assert isclose(whole, world.heat.at(0.0))
        by_visits = FEW_WEIGHT + MANY_WEIGHT
        for seconds in (MINUTES, HALF_HOUR):
            requests = 2 ** (-seconds / MINUTES) + LASTING_WEIGHT * 2 ** (-seconds / HALF_HOUR)

            assert isclose(requests + by_visits, world.heat.at(seconds))

        for _ in range(int(FEW_VISITS)):
            world.visit(other=True)
        few = FEW_WEIGHT / 2 + MANY_WEIGHT * 2 ** (-FEW_VISITS / MANY_VISITS)
        assert isclose(1 + LASTING_WEIGHT + few, world.heat.at(0.0))

    def test_a_quiet_night(self) -> None:
        """A popular model stays the hotter one, however long nobody asks anything."""
        visits = Visits()
        popular, rare = Heat(visits), Heat(visits)
        for number in range(20):
            popular.note(float(number), is_visit=visits.note("popular", f"{number}", number))
        rare.note(30.0, is_visit=visits.note("rare", "one", 30.0))

        assert all(popular.at(now) > rare.at(now) for now in (3_600.0, 86_400.0, 1e6))

    def test_one_long_session(self) -> None:
        """A session of a hundred requests is soon forgotten beside as many sessions."""
        visits = Visits()
        one, many = Heat(visits), Heat(visits)
        for number in range(100):
            now = float(number)
            one.note(now, is_visit=visits.note("one", "same", now))
            many.note(now, is_visit=visits.note("many", f"{number}", now))

        assert isclose(1, many.at(99) / one.at(99), rel_tol=0.5)
        assert many.at(20_000) > 20 * one.at(20_000)

    def test_pace(self) -> None:
        """Of a model that is requested regularly, the pace is that of its requests."""
        world = World()
        for number in range(3_000):
            world.heat.note(number * 10.0, is_visit=False)

        assert isclose(DELAYED / 10, world.heat.per_second(30_000), rel_tol=0.05)

    def test_pace_after_a_silence(self) -> None:
        """A model that was requested every second, and then not for a minute, is at ease."""
        world = World()
        for number in range(3_000):
            world.heat.note(float(number), is_visit=False)

        assert isclose(DELAYED * SILENCES / 61, world.heat.per_second(3_060))

    @given(NOTED, st.floats(0, 1e6), st.floats(0, 1e6))
    def test_cools(self, noted: Noted, first: float, then: float) -> None:
        """Without requests a model only cools, and is never colder than cold."""
        heat = _noted(noted)
        begin = sum(pause for pause, _ in noted)

        assert heat.at(begin + first) >= heat.at(begin + first + then) >= 0
        assert heat.per_second(begin + first) >= heat.per_second(begin + first + then) >= 0

    @given(NOTED, st.floats(0, 1e6), st.integers(0, 3), st.floats(-1e9, 1e9))
    def test_restored(self, noted: Noted, since: float, others: int, ahead: float) -> None:
        """What another process goes on with is as hot at every later time."""
        began, restored = World(), World()
        for world in (began, restored):
            world.now = sum(pause for pause, _ in noted)
        began.heat = _noted(noted, began.visits)
        record = began.heat.record
        restored.heat.restore(record._replace(asked_at=record.asked_at + ahead))
        for world in (began, restored):
            for _ in range(others):
                world.visit(other=True)
        at = began.now + since

        for before, after in (
            (began.heat.at, restored.heat.at),
            (began.heat.per_second, restored.heat.per_second),
        ):
            assert isclose(before(at), after(at + ahead), rel_tol=1e-6, abs_tol=1e-12)

    @given(NOTED)
    def test_heats(self, noted: Noted) -> None:
        """A request makes a model hotter, by one at least."""
        heat = _noted(noted)
        now = sum(pause for pause, _ in noted)
        before = heat.at(now)
        heat.note(now, is_visit=False)

        assert heat.at(now) >= before + 1


def _noted(noted: Noted, visits: Visits | None = None) -> Heat:
    visits = visits or Visits()
    heat, now = Heat(visits), 0.0
    for number, (pause, is_visit) in enumerate(noted):
        now += pause
        if is_visit:
            visits.note("m", f"{number}", now)
        heat.note(now, is_visit=is_visit)
    return heat
