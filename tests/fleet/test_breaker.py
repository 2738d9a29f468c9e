"""When a replica that fails is ejected, and when it comes back."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import (
    BadGateway,
    BadRequest,
    CannotForceCall,
    LastingNodeError,
    NodeError,
    NodeTimeout,
    Overloaded,
    RateLimited,
)
from cortexd.fleet.breaker import (
    ANSWERED,
    LONGEST_ALONE_SECONDS,
    SAYS_NOTHING,
    Breaker,
    BreakerTerms,
    Outcome,
    Step,
    may_be_of_request,
    outcome_of,
)

FAULT = Outcome(fault="broke off")
POISONED = Outcome(fault="poisoned", poisoned=True)
TERMS = BreakerTerms(eject_after=3, eject_seconds=10.0, max_eject_seconds=300.0)
SOUND: Sequence[Breaker | None] = (None,)
"""Another replica of the model answers, and has not failed."""


class Course:
    """A breaker and a clock; each end is that of a lease which was granted just now."""

    def __init__(self, rivals: Sequence[Breaker | None] = SOUND) -> None:
        self.breaker = Breaker()
        self.rivals = rivals
        self.now = 100.0
        self.lease = 0

    def end(self, outcome: Outcome) -> Step:
        self.now += 0.1
        self.lease += 1
        if self.breaker.is_ejected:
            self.breaker.begin_trial(self.lease)
        return self.breaker.take(outcome, self.lease, self.now, self.now, TERMS, self.rivals)

    def ends(self, *outcomes: Outcome) -> list[Step]:
        return [self.end(outcome) for outcome in outcomes]


class RepeatedRequestTests(SynchronousTestCase):
    """A request that may be the cause of its faults, which its client repeats."""

    AGAIN = Outcome(fault="it fell over", request="again")

    def test_alone(self) -> None:
        """Before a replica that is alone it counts once, and again after an answer."""
        course = Course(rivals=())
        assert [Step.NOTHING] * 5 == course.ends(*[self.AGAIN] * 5)
        assert 1 == course.breaker.faults
        course.ends(ANSWERED, self.AGAIN)
        assert 1 == course.breaker.faults
        assert Step.EJECTED is course.ends(FAULT, Outcome(fault="x", request="other"))[-1]

    def test_trial(self) -> None:
        """As a trial it says nothing, so that the next request gets one at once."""
        course = Course(rivals=())
        course.ends(self.AGAIN, FAULT, FAULT)
        until = course.breaker.alone_until
        assert Step.NOTHING is course.end(self.AGAIN)
        assert (None, until) == (course.breaker.trial, course.breaker.alone_until)
        assert Step.RETURNED is course.end(ANSWERED)

    def test_beside_another(self) -> None:
        """Another replica can take its place, so each of its faults counts."""
        assert Step.EJECTED is Course().ends(*[self.AGAIN] * 3)[-1]

    def test_which(self) -> None:
        """What another node would spare a request is no fault of it, unless it is cut off."""
        cut = BadGateway("x", elsewhere=True)
        cut.is_cut = cut.ends_engine = True
        poisoned = NodeError("x", elsewhere=True)
        poisoned.is_poisoned = poisoned.ends_engine = True
        for error, expected in (
            (cut, True),
            (poisoned, False),
            (NodeError("x"), True),
            (NodeError("x", elsewhere=True), False),
            (BadGateway("x", elsewhere=True), False),
            (LastingNodeError("x"), False),
            (None, False),
        ):
            assert expected is may_be_of_request(error), error


class BreakerTests(SynchronousTestCase):
    def test_share(self) -> None:
        """Three faults, and a fifth of the ends, are too many while another replica does better."""
        course = Course()
        steps = course.ends(*[ANSWERED, ANSWERED, FAULT] * 3)
        assert [Step.NOTHING] * 8 + [Step.EJECTED] == steps

        rare = Course()
        assert {Step.NOTHING} == set(rare.ends(*[*[ANSWERED] * 6, FAULT] * 5))

    def test_share_of_all(self) -> None:
        """Where the other replicas fail as often, the requests are at fault: none is ejected."""
        rival = Course()
        rival.rivals = ()
        rival.ends(*[ANSWERED, FAULT] * 10)
        course = Course([rival.breaker])

        assert {Step.NOTHING} == set(course.ends(*[ANSWERED, FAULT] * 10))

    def test_old_ends(self) -> None:
        """After a minute without an end, earlier ends no longer count for the share."""
        course = Course()
        course.ends(*[ANSWERED, FAULT] * 2)
        course.now += 61

        assert [Step.NOTHING] * 4 == course.ends(*[ANSWERED, FAULT] * 2)

    def test_probation(self) -> None:
        """A replica that came back is ejected by its next fault, until ten answers in a row."""
        course = Course()
        course.ends(FAULT, FAULT, FAULT)
        assert Step.RETURNED is course.end(ANSWERED)
        assert Step.EJECTED is course.end(FAULT)
        assert 20 == round(course.breaker.until - course.now)

        course.ends(*[ANSWERED] * 11)
        assert Step.NOTHING is course.end(FAULT)
        course.ends(FAULT, FAULT)
        assert 10 == round(course.breaker.until - course.now)

    def test_alone_on_probation(self) -> None:
        """A replica that is alone is not ejected by the first fault after it came back."""
        course = Course(())
        course.ends(FAULT, FAULT, FAULT, ANSWERED)

        assert [Step.NOTHING, Step.NOTHING, Step.EJECTED] == course.ends(*[FAULT] * 3)

    def test_trusted(self) -> None:
        """After twenty answers in a row nothing is left to remember."""
        course = Course()
        course.end(FAULT)
        course.ends(*[ANSWERED] * 19)
        assert not course.breaker.is_trusted
        course.end(ANSWERED)
        assert course.breaker.is_trusted

    def test_switched_off(self) -> None:
        """With ``eject_after`` 0 no replica is ever ejected."""
        breaker = Breaker()
        off = BreakerTerms(eject_after=0)

        steps = {breaker.take(POISONED, n, n, n, off, SOUND) for n in range(50)}
        assert {Step.NOTHING} == steps
        assert not breaker.is_suspect(50)


class OutcomeTests(SynchronousTestCase):
    def test_faults(self) -> None:
        """Only failures of node kind count against a replica."""
        for error in (BadGateway("x"), NodeError("x"), NodeTimeout("x")):
            assert "x" == outcome_of(error).fault, error
            assert SAYS_NOTHING == outcome_of(error, is_known_fatal=True), error
        for harmless in (
            BadRequest("x"),
            Overloaded("x"),
            RateLimited("x"),
            LastingNodeError("x"),
            CannotForceCall("x"),
        ):
            assert SAYS_NOTHING == outcome_of(harmless), harmless
        assert ANSWERED == outcome_of(None)

    def test_words(self) -> None:
        """The words of a fault are one short line, and never empty."""
        assert 200 == len(outcome_of(BadGateway("\n" * 300)).fault)
        assert "\n" not in outcome_of(BadGateway("a\nb")).fault
        assert "BadGateway" == outcome_of(BadGateway("")).fault


@st.composite
def courses(draw: st.DrawFn) -> list[tuple[Outcome, float, bool]]:
    """Draw ends, each with the seconds before it and whether another replica answers."""
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from([FAULT, FAULT, POISONED, ANSWERED, ANSWERED, SAYS_NOTHING]),
                st.sampled_from([0.0, 0.5, 5.0, 11.0, 100.0, 1000.0]),
                st.booleans(),
            ),
            max_size=60,
        )
    )


class InvariantTests(SynchronousTestCase):
    @settings(max_examples=60, deadline=None)
    @given(courses())
    def test_any_course(self, ends: list[tuple[Outcome, float, bool]]) -> None:
        """Whatever ends how and when, these hold.

        An ejection is bounded, an answer resets the faults in a row, three faults in a row eject,
        and while a trial runs there is no second one.
        """
        breaker, now, in_a_row = Breaker(), 0.0, 0
        for lease, (outcome, seconds, has_rival) in enumerate(ends):
            now += seconds
            if breaker.is_ejected:
                assert now >= breaker.ejected_at
                if not breaker.may_try(now, is_alone=not has_rival):
                    continue
                breaker.begin_trial(lease)
                assert not breaker.may_try(now + 1e9, is_alone=True)
                stranger = breaker.take(FAULT, -1, breaker.ejected_at - 1, now, TERMS, ())
                assert Step.NOTHING is stranger
            was_ejected = breaker.is_ejected
            rivals = SOUND if has_rival else ()
            step = breaker.take(outcome, lease, now, now, TERMS, rivals)
            assert None is breaker.trial
            if outcome.answered:
                in_a_row = 0
                assert 0 == breaker.faults
                assert not breaker.is_ejected
                assert (Step.RETURNED if was_ejected else Step.NOTHING) is step
            elif outcome.fault:
                in_a_row += 1
                if in_a_row >= TERMS.eject_after or was_ejected or outcome.poisoned:
                    assert Step.EJECTED is step
            else:
                assert (Step.NOTHING, was_ejected) == (step, breaker.is_ejected)
            if step is Step.EJECTED:
                assert 0 < breaker.until - now <= TERMS.max_eject_seconds
                assert 0 < breaker.alone_until - now <= LONGEST_ALONE_SECONDS
