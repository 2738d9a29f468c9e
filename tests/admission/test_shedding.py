from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.admission.shedding import CALM_SECONDS, INTERVAL_SECONDS, Shedder, is_sheddable

TARGET = 0.25


class Beats:
    """A shedder that hears one beat after another, each 0.1 s and its delay after the last."""

    def __init__(self, target: float = TARGET) -> None:
        self.shedder = Shedder(target)
        self.now = 0.0

    def come(self, delays: Iterable[float]) -> list[bool]:
        """Let beats come with these delays; return whether requests are refused after each."""
        after = []
        for delay in delays:
            self.now += 0.1 + delay
            before = self.shedder.is_shedding
            changed = self.shedder.note(self.now, delay)
            assert changed == (before is not self.shedder.is_shedding)
            after.append(self.shedder.is_shedding)
        return after


class ShedderTests(SynchronousTestCase):
    def test_a_lasting_delay(self) -> None:
        """Requests are refused once each beat of an interval was late."""
        beats = Beats()

        assert [False] * 5 + [True] * 2 == beats.come([0.3] * 5 + [0.4, 0.3])
        assert [False, False, True] == Beats().come([2.0] * 3)

    def test_one_pause(self) -> None:
        """A single late beat refuses nothing, however late it is."""
        assert not any(Beats().come([0.0, 60.0, 0.0, 0.01, 30.0, 0.0]))

    def test_load_that_gets_done(self) -> None:
        """Late beats with early ones between them are bursts, after which all work was done."""
        assert not any(Beats().come([0.5, 1.9, 0.1] * 20))

    def test_recovery(self) -> None:
        """Requests are served again after a calm time, which half a delay interrupts."""
        beats = Beats()
        beats.come([1.0] * 4)

        assert all(beats.come([0.2] * 30))
        assert all(beats.come([0.0] * 15 + [0.2]))
        calm = int(CALM_SECONDS / 0.1)
        assert all(beats.come([0.0] * calm))
        assert [False] * 5 == beats.come([0.0] * 6)[1:]

    def test_never(self) -> None:
        """Without a target nothing is refused."""
        assert not any(Beats(target=0.0).come([9.0] * 9))

    @settings(max_examples=60)
    @given(st.lists(st.floats(0, 3), max_size=60))
    def test_any_course(self, delays: list[float]) -> None:
        """A change needs an interval of late beats to refuse, and a calm time to serve again."""
        beats = Beats()
        states = beats.come(delays)
        times, now = [], 0.0
        for delay in delays:
            now += 0.1 + delay
            times.append(now)
        for i, state in enumerate(states):
            if state is (states[i - 1] if i else False):
                continue
            needed = INTERVAL_SECONDS if state else CALM_SECONDS
            since = times[i] - needed
            recent = [d for d, at in zip(delays, times, strict=True) if since <= at <= times[i]]
            if state:
                assert min(recent) > TARGET
            else:
                assert max(recent) <= TARGET / 2


class SheddableTests(SynchronousTestCase):
    def test_only_work(self) -> None:
        """Health, lists, status and orders are always served."""
        for method, path, sheddable in [
            (b"POST", b"/v1/chat/completions", True),
            (b"POST", b"/v1/messages", True),
            (b"PUT", b"/v1/sessions/a", True),
            (b"GET", b"/v1/models", False),
            (b"GET", b"/health", False),
            (b"HEAD", b"/", False),
            (b"POST", b"/api/models/unload", False),
            (b"DELETE", b"/v1/responses/resp_1", False),
        ]:
            assert sheddable is is_sheddable(method, path), path
