"""Which requests are visits."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.heat.visits import (
    MOST_SESSIONS,
    MOST_VISITS_OF_REQUESTER,
    VISIT_SECONDS,
    Visits,
)


class VisitsTests(SynchronousTestCase):
    def test_first_request(self) -> None:
        """The first request of a session for a model is a visit, the ones after it are not."""
        visits = Visits()

        assert [True, False, False] == [visits.note("m", "ann", now) for now in (0, 1, 60)]
        assert 1 == visits.count

    def test_other_session_or_model(self) -> None:
        """Another session visits too, and the same one visits another model."""
        visits = Visits()
        visits.note("m", "ann", 0)

        assert visits.note("m", "bob", 1)
        assert visits.note("n", "ann", 2)
        assert not visits.note("m", "ann", 3)

    def test_long_session(self) -> None:
        """A session that goes on makes a visit an hour, counted from the last visit."""
        visits = Visits()
        noted = [visits.note("m", "ann", now * VISIT_SECONDS / 2) for now in range(6)]

        assert [True, False, True, False, True, False] == noted

    def test_bounded(self) -> None:
        """However many sessions come, only so many visits are remembered."""
        visits = Visits()
        for number in range(MOST_SESSIONS + 50):
            visits.note("m", f"session {number}", 0)

        assert visits.note("m", "session 0", 1)
        assert not visits.note("m", f"session {MOST_SESSIONS + 49}", 1)

    def test_sessions_that_a_requester_makes_up(self) -> None:
        """One requester makes only so many visits an hour to a model, others are not kept from it.

        The name of a session is the client's choice: a new one with each request must not make a
        model popular, nor let the popularity of all others fade.
        """
        visits = Visits()
        noted = [
            visits.note("m", f"session {number}", number / 1000, "mallory")
            for number in range(1000)
        ]

        assert MOST_VISITS_OF_REQUESTER == sum(noted) == visits.count
        assert visits.note("n", "session 1", 1, "mallory")
        assert visits.note("m", "ann's", 1, "ann")

        pace = VISIT_SECONDS / MOST_VISITS_OF_REQUESTER
        assert [False, True, False] == [
            visits.note("m", f"late {when}", when, "mallory") for when in (2, pace + 1, pace + 2)
        ]

    def test_requesters_without_a_name(self) -> None:
        """Where no keys tell requesters apart, sessions are all that tells of them."""
        visits = Visits()

        assert all(visits.note("m", f"session {number}", 0) for number in range(1000))

    @given(
        st.lists(
            st.tuples(st.sampled_from("mn"), st.sampled_from("ab"), st.integers(0, 3_000)),
            max_size=30,
        )
    )
    def test_by_the_rule(self, requests: list[tuple[str, str, int]]) -> None:
        """A request is a visit where its session has not visited the model within an hour."""
        visits, now = Visits(), 0
        visited: dict[tuple[str, str], int] = {}
        for model, session, pause in requests:
            now += pause
            last = visited.get((model, session))
            expected = last is None or now - last >= VISIT_SECONDS
            if expected:
                visited[model, session] = now

            assert expected == visits.note(model, session, now)
