"""The thread of the store."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.store.worker import Thread

PATIENCE_SECONDS = 30.0


class Loop:
    """A reactor whose turns the test takes; with ``runs`` it is running from the start."""

    def __init__(self, *, runs: bool = True) -> None:
        self._runs = runs
        self._starters: dict[object, Callable[[], None]] = {}
        self._calls: queue.Queue[Callable[[], None]] = queue.Queue()

    def callWhenRunning(self, call: Callable[[], None]) -> object:
        if self._runs:
            call()
            return None
        token = object()
        self._starters[token] = call
        return token

    def removeSystemEventTrigger(self, token: object) -> None:
        del self._starters[token]

    def callFromThread(self, call: Callable[..., None], *args: Any, **named: Any) -> None:
        self._calls.put(lambda: call(*args, **named))

    def start(self) -> None:
        for call in self._starters.values():
            call()

    def turn(self) -> None:
        """Wait for the next call of another thread, and make it."""
        self._calls.get(timeout=PATIENCE_SECONDS)()


class ThreadTests(SynchronousTestCase):
    def test_jobs_run_in_one_other_thread_in_order(self) -> None:
        """Each job's result, or its exception, comes back to the reactor's thread."""
        loop = Loop()
        worker = Thread(loop)
        worker.start()
        self.addCleanup(worker.stop)
        order: list[int] = []

        def job(number: int) -> int:
            order.append(number)
            return threading.get_ident()

        running = [worker.run(lambda n=n: job(n)) for n in range(20)]  # type: ignore[misc] # a lambda's default
        for _ in running:
            loop.turn()
        threads = {self.successResultOf(each) for each in running}
        assert list(range(20)) == order
        assert 1 == len(threads)
        assert threading.get_ident() not in threads
        failing = worker.run(lambda: 1 // 0)
        loop.turn()
        self.failureResultOf(failing, ZeroDivisionError)

    def test_no_thread_begins_before_the_reactor_runs(self) -> None:
        """A daemon whose start fails ends: no thread keeps its process."""
        before = threading.active_count()
        loop = Loop(runs=False)
        worker = Thread(loop)
        worker.start()
        running = worker.run(threading.get_ident)

        assert before == threading.active_count()
        loop.start()
        loop.turn()
        assert threading.get_ident() != self.successResultOf(running)
        worker.stop()

    def test_a_start_that_is_taken_back(self) -> None:
        """A thread that was stopped before the reactor ran never begins."""
        before = threading.active_count()
        loop = Loop(runs=False)
        worker = Thread(loop)
        worker.start()
        worker.stop()
        loop.start()

        assert before == threading.active_count()
