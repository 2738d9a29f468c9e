import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.devices.thread import DriverThread, Hangs

SECONDS = 20.0


class Reactor(Clock):
    """A clock whose calls from threads wait until the test runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.from_thread: list[Callable[[], object]] = []
        self.came = threading.Event()

    def callFromThread(self, function: Callable[..., object], *args: Any) -> None:
        self.from_thread.append(lambda: function(*args))
        self.came.set()

    def run(self) -> None:
        assert self.came.wait(SECONDS)
        self.came.clear()
        self.from_thread.pop(0)()


class DriverThreadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.thread: DriverThread[int] = DriverThread(self.reactor)

    def test_result(self) -> None:
        """What a function returns, or raises, comes back."""
        returned = self.thread.call(lambda: 7, 5.0)
        self.reactor.run()
        raised = self.thread.call(lambda: 1 // 0, 5.0)
        self.reactor.run()

        assert 7 == self.successResultOf(returned)
        self.failureResultOf(raised, ZeroDivisionError)
        assert [] == self.reactor.getDelayedCalls()

    def test_hangs(self) -> None:
        """A call that hangs fails at its limit; no further one begins until it has returned."""
        release = threading.Event()

        def hang() -> int:
            release.wait(SECONDS)
            return 1

        hanging = self.thread.call(hang, 5.0)
        self.reactor.advance(5.0)
        refused = self.thread.call(lambda: 2, 5.0)

        words = str(self.failureResultOf(hanging, Hangs).value)
        assert "the driver does not answer within 5 s" == words
        self.failureResultOf(refused, Hangs)
        release.set()
        self.reactor.run()
        again = self.thread.call(lambda: 3, 5.0)
        self.reactor.run()
        assert 3 == self.successResultOf(again)

    def test_does_not_hold_the_process(self) -> None:
        """The process may end while a call hangs."""
        self.thread.call(lambda: 1, 5.0)
        self.reactor.run()

        (thread,) = [each for each in threading.enumerate() if each.name == "driver"][-1:]
        assert thread.daemon
