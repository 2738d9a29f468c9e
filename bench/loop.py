"""A small epoll loop with timers, shared by the upstream and the load generator of the bench.

Both share the cores with the measured target, so they do as little per chunk as Python allows.
asyncio's transports would cost several times as much, and asyncio rounds timers up to whole
milliseconds, which bunches events that should be spread.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable
from math import inf

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Loop:
    """Calls handlers when their file descriptors are ready and callbacks when they are due; one
    thread, no futures.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._stopped = False

    def watch(self, fd: int, handler: Callable[[int], None], events: int = READ) -> None:
        """Call `handler(events)` whenever `fd` is ready for `events`, hung up or in error, until
        `forget`.
        """
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def modify(self, fd: int, events: int) -> None:
        """Change the events that `fd` is watched for."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching `fd`; to be called before it is closed."""
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Call `callback` once `time.monotonic()` has reached `when` (seconds). It cannot be
        cancelled.
        """
        heapq.heappush(self._timers, (when, next(self._order), callback))

    def stop(self) -> None:
        """End `run` after the current turn."""
        self._stopped = True

    def run(self, deadline: float, finished: Callable[[], bool] | None = None) -> bool:
        """Run until `deadline` (`time.monotonic()` seconds), until `stop()`, or until `finished()`
        is true after a turn.

        Returns whether `finished` was true; timers that are not due stay for the next run.
        """
        self._stopped = False
        while True:
            if finished is not None and finished():
                return True
            now = time.monotonic()
            if now >= deadline or self._stopped:
                return False
            self._turn(now, deadline)

    def clear_timers(self) -> None:
        """Drop every callback that is not due yet."""
        self._timers.clear()

    def close(self) -> None:
        """Release the epoll descriptor."""
        self._epoll.close()

    def _turn(self, now: float, deadline: float) -> None:
        timers = self._timers
        wake = min(timers[0][0], deadline) if timers else deadline
        if wake > now:
            # epoll_wait counts in milliseconds, select in microseconds, and an epoll descriptor can
            # itself be selected.
            select.select([self._epoll], [], [], None if wake == inf else wake - now)
        handlers = self._handlers
        for fd, events in self._epoll.poll(0):
            handler = handlers.get(fd)
            if handler is not None:
                handler(events)
        if not timers:
            return
        # Bounded, so that a callback that comes due again at once cannot starve the sockets.
        now = time.monotonic()
        for _ in range(len(timers)):
            if not timers or timers[0][0] > now:
                break
            heapq.heappop(timers)[2]()
