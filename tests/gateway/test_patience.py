from math import inf, nextafter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.gateway.patience import LEFTOVER_SECONDS, Patience, Verdict, Wait, due, verdict

PATIENCE = Patience(hold=5.0, keepalive=10.0, upstream=30.0)
LIMITS = st.floats(0.1, 100.0)
TIMES = st.floats(0.0, 1000.0)
MAYBE = st.none() | TIMES
WAITS = st.builds(
    Wait,
    st.builds(Patience, LIMITS, LIMITS, LIMITS),
    TIMES,
    st.booleans(),
    wrote_at=MAYBE,
    heard_at=MAYBE,
    paused_at=MAYBE,
    finished_at=MAYBE,
)


def at_node(*, takes_signs: bool = True) -> Wait:
    """Return the wait of a request that came at 100 and went to a node at once."""
    return Wait(PATIENCE, 100.0, takes_signs, heard_at=100.0)


class TableTests(SynchronousTestCase):
    def assert_due(self, expected: Verdict, when: float, wait: Wait) -> None:
        """See that this verdict is the next one, and at that time."""
        assert when == due(wait)
        assert (Verdict.NOTHING, expected) == (
            verdict(wait, nextafter(when, -inf)),
            verdict(wait, when),
        )

    def test_the_hold(self) -> None:
        """Before the first byte goes out, a sign of life is due ``hold`` after the request came."""
        self.assert_due(Verdict.SIGN_DUE, 105.0, at_node())

    def test_the_keepalive(self) -> None:
        """After that, one is due ``keepalive`` after the last byte."""
        wait = at_node()
        wait.wrote_at = 103.0
        self.assert_due(Verdict.SIGN_DUE, 113.0, wait)

    def test_a_silent_node(self) -> None:
        """A node is silent for too long ``upstream`` after its last byte."""
        wait = at_node(takes_signs=False)
        wait.heard_at = 107.0
        self.assert_due(Verdict.NODE_SILENT, 137.0, wait)

    def test_signs_of_life_stand_for_no_byte_of_the_node(self) -> None:
        """What goes out leaves the node's time as it is."""
        wait = at_node()
        wait.wrote_at = 125.0
        self.assert_due(Verdict.NODE_SILENT, 130.0, wait)

    def test_leftovers(self) -> None:
        """An answer is over LEFTOVER_SECONDS after the node stated why it ended."""
        wait = at_node()
        wait.finished_at = 101.0
        self.assert_due(Verdict.ANSWER_OVER, 101.0 + LEFTOVER_SECONDS, wait)

    def test_a_client_that_does_not_read(self) -> None:
        """It is gone after ``upstream``, and until then nothing else counts."""
        wait = at_node()
        wait.finished_at = 101.0
        wait.pause(102.0)
        self.assert_due(Verdict.READER_GONE, 132.0, wait)

    def test_a_pause_within_a_pause(self) -> None:
        """The first one counts."""
        wait = at_node()
        wait.pause(102.0)
        wait.pause(120.0)
        assert 132.0 == due(wait)

    def test_a_client_that_reads_again(self) -> None:
        """All that its pause held up has its whole time from then on."""
        wait = at_node(takes_signs=False)
        wait.pause(102.0)
        wait.resume(110.0)
        self.assert_due(Verdict.NODE_SILENT, 140.0, wait)
        wait.takes_signs, wait.wrote_at = True, 101.0
        wait.resume(111.0)
        self.assert_due(Verdict.SIGN_DUE, 121.0, wait)
        wait.finished_at = 101.0
        wait.resume(112.0)
        self.assert_due(Verdict.ANSWER_OVER, 112.0 + LEFTOVER_SECONDS, wait)

    def test_a_pause_before_the_first_byte(self) -> None:
        """It leaves the hold as it is, which counts from the request's coming."""
        wait = at_node()
        wait.pause(101.0)
        wait.resume(102.0)
        self.assert_due(Verdict.SIGN_DUE, 105.0, wait)

    def test_the_queue(self) -> None:
        """A request without a node waits for signs of life alone, or for nothing."""
        self.assert_due(Verdict.SIGN_DUE, 105.0, Wait(PATIENCE, 100.0, takes_signs=True))
        whole = Wait(PATIENCE, 100.0, takes_signs=False)
        assert (inf, Verdict.NOTHING) == (due(whole), verdict(whole, 1e9))

    def test_several_limits_at_once(self) -> None:
        """The first of the table decides."""
        wait = at_node()
        assert Verdict.NODE_SILENT is verdict(wait, 1000.0)
        wait.finished_at = 100.0
        assert Verdict.ANSWER_OVER is verdict(wait, 1000.0)
        wait.pause(100.0)
        assert Verdict.READER_GONE is verdict(wait, 1000.0)


class DueTests(SynchronousTestCase):
    @given(WAITS, st.just(0.0) | TIMES)
    def test_from_then_on_the_verdict_is_something(self, wait: Wait, later: float) -> None:
        """At the time that ``due`` gives, and at any time after it if nothing happens."""
        when = due(wait)
        if when < inf:
            assert Verdict.NOTHING is not verdict(wait, when + later)

    @given(WAITS, st.just(0.0) | TIMES)
    def test_before_it_the_verdict_is_nothing(self, wait: Wait, earlier: float) -> None:
        """However short before it."""
        when = min(due(wait), 1e9)
        assert Verdict.NOTHING is verdict(wait, nextafter(when - earlier, -inf))


class TimerTests(SynchronousTestCase):
    @given(
        st.builds(Patience, LIMITS, LIMITS, LIMITS),
        st.booleans(),
        st.lists(st.tuples(st.sampled_from("hhwwwpprf"), st.floats(0.0, 20.0)), max_size=40),
    )
    def test_one_timer_is_never_late(
        self, patience: Patience, takes_signs: bool, happens: list[tuple[str, float]]
    ) -> None:
        """It is armed anew when it fires and after the three things that bring ``due`` nearer."""
        now = 0.0
        wait = Wait(patience, now, takes_signs, heard_at=now)
        armed = due(wait)
        for what, seconds in happens:
            now += seconds
            while armed <= now:  # it fires, and what is due is carried out
                reached = verdict(wait, armed)
                if reached is not Verdict.SIGN_DUE and reached is not Verdict.NOTHING:
                    return
                if reached is Verdict.SIGN_DUE:
                    wait.wrote_at = armed
                armed = due(wait)
            brings_nearer = False
            match what:
                case "h":
                    wait.heard_at = now
                case "w":
                    brings_nearer = wait.wrote_at is None
                    wait.heard_at = wait.wrote_at = now
                case "p":
                    wait.pause(now)
                case "r":
                    brings_nearer = wait.paused_at is not None
                    wait.resume(now)
                case "f" if wait.finished_at is None:
                    brings_nearer = True
                    wait.heard_at = wait.finished_at = now
            if brings_nearer:
                armed = due(wait)
            assert armed <= due(wait)
