"""The process that translates large bodies, in the process of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, execute

from cortexd.bulk.child import Answer, answer
from cortexd.bulk.frames import pack, unpack
from cortexd.bulk.jobs import Desk, clear
from cortexd.bulk.process import Crashed


class InlineHelper:
    """Does jobs at once; what goes in and out is pickled as between processes.

    ``jobs`` has the names of those done so far.
    """

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.ends = 0
        self._desk = Desk()

    def do(self, job: Callable[..., Any], arguments: list[object]) -> Any:
        """Do a job."""
        self.jobs.append(job.__name__)
        job, given = unpack(*pack((job, arguments)))
        arguments.clear()
        done: Answer = unpack(*pack(answer(self._desk, job, given)))
        del given
        if done.crash:
            raise Crashed(done.crash)
        if done.error is not None:
            raise done.error
        return done.result

    def reconfigure(self, most_bytes: int) -> None:
        """Any length will do."""

    def clear(self) -> None:
        """Take the request off the desk."""
        clear(self._desk)

    def end(self) -> None:
        """Count."""
        self.ends += 1

    def close(self) -> None:
        """Let go of nothing."""


class InlineWorker:
    """A thread that does each job at once."""

    def start(self) -> None:
        """Begin."""

    def run(self, job: Callable[[], Any]) -> Deferred[Any]:
        """Do a job."""
        return execute(job)

    def stop(self) -> None:
        """End."""
