"""The heartbeat among the timers of Twisted, with the time and the sockets of the test."""

from collections.abc import Callable
from math import inf

from twisted.internet.base import ReactorBase
from twisted.trial.unittest import SynchronousTestCase

from cortexd.admission.shedding import BEAT_SECONDS
from cortexd.service.heartbeat import HOLD_SECONDS, SLOWEST, Heartbeat, SteadyClock

UNIX_TIME = 1_790_000_000.0


class Machine:
    """A reactor without sockets: ``arrived`` has what the next read of the sockets will call.

    ``true_time`` is in seconds since the start; ``turn`` does what a reactor does in each turn.
    """

    def __init__(self) -> None:
        self.true_time = 0.0
        self.arrived: list[Callable[[], object]] = []
        self.clock = SteadyClock(lambda: UNIX_TIME, lambda: self.true_time)
        self.reactor = _Reactor(self)
        self.delays: list[float] = []
        self.fails = False
        self.heartbeat = Heartbeat(self.reactor, self.clock, self._note)
        self.heartbeat.startService()

    def _note(self, now: float, delay: float) -> None:
        self.delays.append(round(delay, 6))
        if self.fails:
            raise ZeroDivisionError

    def turn(self) -> None:
        """Run the timers that are due, then read the sockets."""
        self.reactor.runUntilCurrent()
        self.reactor.doIteration(0.0)

    def live(self, seconds: float) -> None:
        """Let time pass in turns of 10 ms."""
        for _ in range(round(seconds / 0.01)):
            self.true_time += 0.01
            self.turn()

    def stand_still(self, seconds: float) -> None:
        """Let time pass without a turn."""
        self.true_time += seconds


class _Reactor(ReactorBase):
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        super().__init__()
        self.running = True
        self.seconds = machine.clock.seconds

    def installWaker(self) -> None:
        """No thread wakes it."""

    def doIteration(self, delay: float | None) -> None:
        arrived, self._machine.arrived = self._machine.arrived, []
        for each in arrived:
            each()


class ClockTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.unix_time, self.monotonic = UNIX_TIME, 50.0
        self.clock = SteadyClock(lambda: self.unix_time, lambda: self.monotonic)

    def test_it_goes_on_evenly_from_where_it_was_set(self) -> None:
        """It shows unix seconds, and does not follow a clock that is set meanwhile."""
        assert UNIX_TIME == self.clock.seconds()
        self.unix_time -= 3600
        self.monotonic += 10

        assert UNIX_TIME + 10 == self.clock.seconds()

    def test_held(self) -> None:
        """It stands at the limit, goes on from there, and never goes back."""
        self.clock.hold(UNIX_TIME + 1)
        self.monotonic += 30
        assert (UNIX_TIME + 1, 29.0) == (self.clock.seconds(), self.clock.lost())

        self.clock.hold(inf)
        assert (UNIX_TIME + 1, 0.0) == (self.clock.seconds(), self.clock.lost())
        self.monotonic += 5
        assert UNIX_TIME + 6 == self.clock.seconds()


class HeartbeatTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.machine.live(1.0)
        self.happened: list[str] = []

    def timeout(self, seconds: float) -> Callable[[], None]:
        """Expect an answer within this time; return what its arrival calls."""
        call = self.machine.reactor.callLater(seconds, self.happened.append, "timed out")

        def arrive() -> None:
            self.happened.append("answered")
            if call.active():
                call.cancel()

        return arrive

    def test_it_measures(self) -> None:
        """A beat comes each tenth of a second, and notes how late it was."""
        assert 9 <= len(self.machine.delays) <= 10
        assert max(self.machine.delays) <= 0.02

        self.machine.stand_still(0.5)
        self.machine.turn()
        assert 0.35 <= self.machine.delays[-1] <= 0.5

    def test_a_stop_takes_no_answer(self) -> None:
        """Bytes that came during a stop are read before the timeout that passed in it is judged."""
        for seconds in (0.4, 2.0, 60.0):
            for stop in (seconds + 0.2, 3600.0):
                arrive = self.timeout(seconds)
                self.machine.live(0.05)
                self.machine.stand_still(stop)
                self.machine.arrived.append(arrive)
                self.machine.turn()
                self.machine.live(seconds)
                assert ["answered"] == self.happened, (seconds, stop)
                self.happened.clear()
                self.machine.live(1.0)

    def test_an_answer_in_several_reads(self) -> None:
        """After a stop a long answer is read whole, not only its first bytes."""
        arrive = self.timeout(0.4)
        self.machine.stand_still(10.0)
        self.machine.arrived.append(lambda: self.machine.arrived.append(arrive))
        self.machine.turn()

        assert ["answered"] == self.happened

    def test_a_stop_takes_no_time(self) -> None:
        """A node that was asked just before a stop has its time to answer after it."""
        arrive = self.timeout(2.0)
        self.machine.stand_still(60.0)
        self.machine.live(0.8)
        assert [] == self.happened
        self.machine.arrived.append(arrive)
        self.machine.live(2.0)

        assert ["answered"] == self.happened

    def test_stops_in_a_row(self) -> None:
        """Each of them takes no time, also one that comes before the first beat after another."""
        self.timeout(10.0)
        for _ in range(5):
            self.machine.stand_still(3600.0)
            self.machine.turn()

        assert [] == self.happened

    def test_silence_is_still_found(self) -> None:
        """Without an answer the timeout comes in its time, at most the hold early."""
        self.timeout(2.0)
        self.machine.stand_still(60.0)
        self.machine.live(2.0 - HOLD_SECONDS - 2 * BEAT_SECONDS)
        assert [] == self.happened
        self.machine.live(HOLD_SECONDS + 2 * BEAT_SECONDS)

        assert ["timed out"] == self.happened

    def test_overload_is_no_stop(self) -> None:
        """Where every turn is long, the clock slows down, so that each timeout has some turns."""
        for turn in (1.0, 2.0, 5.0):
            began = self.machine.true_time
            silent = self.machine.reactor.callLater(20.0, self.happened.append, "silent")
            while silent.active():
                arrive = self.timeout(1.5)
                self.machine.stand_still(turn)
                self.machine.arrived.append(arrive)
                self.machine.turn()
            passed = self.machine.true_time - began
            assert 20.0 <= passed <= 20.0 / SLOWEST + 2 * turn, turn
            assert "timed out" not in self.happened, turn
            self.machine.live(1.0)

    def test_a_failing_listener(self) -> None:
        """A mistake in what the beat calls is logged once, and the clock does not stop for it."""
        self.machine.fails = True
        before = self.machine.reactor.seconds()
        self.machine.live(5.0)

        assert 4.9 <= self.machine.reactor.seconds() - before <= 5.1
        assert 1 == len(self.flushLoggedErrors(ZeroDivisionError))

    def test_the_end(self) -> None:
        """After its stop no timer is left, and the clock is held no more."""
        self.machine.heartbeat.stopService()
        before = self.machine.reactor.seconds()
        self.machine.stand_still(60.0)

        assert [] == self.machine.reactor.getDelayedCalls()
        assert 60.0 == self.machine.reactor.seconds() - before
