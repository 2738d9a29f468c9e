"""The reactor's heartbeat: how late timers fire, and fair timers after the reactor was held up.

Twisted runs the timers that are due first, and reads the sockets after them. Once the reactor was
held up for longer than a timeout, by a large body or because the whole process was stopped, the
timers would therefore declare nodes and clients dead whose bytes have long been there. Two rules
prevent this for all timers at once:

- The clock of the timers waits for the beat: it never runs ahead of it by more than HOLD_SECONDS.
  A stop of the process therefore takes no time from a node that has just been asked, and between
  two beats every socket is read. Where each turn of the reactor is too long, the process is not
  stopped but overloaded: the clock then keeps at least SLOWEST of the true pace.
- The first beat that is late reads the sockets before any other timer is judged: the beat is due at
  most BEAT_SECONDS after the reactor last ran timers, so that it comes before them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall

from cortexd.admission.shedding import BEAT_SECONDS
from cortexd.logs import get_logger

LATE_SECONDS: Final = 0.1
"""A beat that is later than this reads the sockets first."""

HOLD_SECONDS: Final = 0.5
"""How far the clock may run ahead of a beat: a timeout of 2 s lasts for at least four turns."""

SLOWEST: Final = 0.25
"""The pace of the clock in an overload: keepalives of 10 s still come within a minute."""

LONGEST_TURN: Final = 10.0
"""A turn of more seconds is a stop, even just after another one."""

READS_AFTER_STOP: Final = 4
"""How often each socket is read after a stop, 64 KiB each time: the answer to a poll is whole."""

log = get_logger("cortexd.services")


class SteadyClock:
    """A clock of unix seconds that is set once, now, and then advances steadily.

    Its ``seconds`` replaces a reactor's, which times all delayed calls. Twisted uses the machine's
    clock: if that is set back by an hour, no timer fires for an hour, and if it is set ahead, every
    timeout expires at once (Twisted's issue 2424).
    """

    def __init__(self, unix_time: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._set_to = unix_time() - monotonic()
        self._limit = inf

    def seconds(self) -> float:
        """Return the time, in seconds; while the clock is held, no more than its limit."""
        now = self._set_to + self._monotonic()
        return now if now < self._limit else self._limit

    def lost(self) -> float:
        """Return by how many seconds the true time has passed the limit."""
        return max(0.0, self._set_to + self._monotonic() - self._limit)

    def hold(self, limit: float, regained: float = 0.0) -> None:
        """Hold the clock at ``limit``, ``inf`` for nowhere.

        It goes on from where it was held, or ``regained`` seconds of the lost ones later.
        """
        self._set_to -= max(0.0, self.lost() - regained)
        self._limit = limit


class Heartbeat(Service):
    """Beats every BEAT_SECONDS while it runs, and calls ``note(now, delay)`` with how late it was.

    ``clock`` gives the reactor its time; without one, the timers keep true time.
    """

    def __init__(
        self, reactor: Any, clock: SteadyClock | None, note: Callable[[float, float], None]
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._note = note
        self._due = 0.0
        self._was_late = True
        self._is_failing = False
        self._next: IDelayedCall | None = None

    def startService(self) -> None:
        """Begin to beat once the reactor runs: a slow start is no delay."""
        super().startService()
        self._reactor.callWhenRunning(self._begin)

    def stopService(self) -> None:
        """Stop, and let the clock run free: nothing would release it."""
        super().stopService()
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._hold(inf)

    def _begin(self) -> None:
        if self.running:
            self._expect_next()

    def _expect_next(self) -> None:
        self._due = self._reactor.seconds() + BEAT_SECONDS
        self._next = self._reactor.callLater(BEAT_SECONDS, self._beat)

    def _hold(self, limit: float, regained: float = 0.0) -> None:
        if self._clock is not None:
            self._clock.hold(limit, regained)

    def _beat(self) -> None:
        lost = 0.0 if self._clock is None else self._clock.lost()
        delay = max(0.0, self._reactor.seconds() + lost - self._due)
        is_late = delay > LATE_SECONDS
        regained = 0.0
        if is_late and self._was_late:
            turn = min(BEAT_SECONDS + delay, LONGEST_TURN)
            regained = max(0.0, turn * SLOWEST - BEAT_SECONDS - HOLD_SECONDS)
        self._hold(self._reactor.seconds() + regained + HOLD_SECONDS, regained)
        if is_late and not self._was_late:
            self._read()
        self._expect_next()
        self._hold(self._due + HOLD_SECONDS)
        self._was_late = is_late
        try:
            self._note(self._reactor.seconds(), delay)
        except Exception:
            if not self._is_failing:
                log.exception("beat_failed")
            self._is_failing = True

    def _read(self) -> None:
        """Let the reactor read all sockets that have bytes, before the other timers that are due.

        Not all reactors can do this within a timer; those of Linux can.
        """
        read = getattr(self._reactor, "doIteration", None)
        if read is None:
            return
        try:
            for _ in range(READS_AFTER_STOP):
                read(0)
        except Exception:  # the heart must beat on, or the clock would stand still
            log.exception("reading_failed")
