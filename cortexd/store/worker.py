"""A thread for work that may wait for the disk, so that the reactor never does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")


class Worker(Protocol):
    """Does jobs one after the other, in the order in which it gets them."""

    def start(self) -> None:
        """Begin to accept jobs."""

    def run(self, job: Callable[[], T]) -> Deferred[T]:
        """Do a job; the Deferred fires with its result, in the reactor's thread."""

    def stop(self) -> None:
        """Accept no more jobs. The last one must have ended."""


class Thread:
    """One thread of its own. SQLite's connections belong to the thread that opened them."""

    def __init__(self, reactor: Any, name: str = "store") -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=1, name=name)
        self._begin: object = None

    def start(self) -> None:
        """Begin to accept jobs; the thread begins with the first one, once the reactor runs.

        A daemon whose start fails never runs its reactor. A thread would keep the process alive.
        """
        self._begin = self._reactor.callWhenRunning(self._pool.start)

    def run(self, job: Callable[[], T]) -> Deferred[T]:
        """Do a job; see Worker."""
        return deferToThreadPool(self._reactor, self._pool, job)

    def stop(self) -> None:
        """End the thread."""
        if self._begin is not None and not self._pool.started:
            self._reactor.removeSystemEventTrigger(self._begin)
        self._pool.stop()
