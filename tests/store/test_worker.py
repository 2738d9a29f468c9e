"""The thread of the store."""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase

from cortexd.store.worker import Thread


class ThreadTests(TestCase):
    async def test_jobs_run_in_one_other_thread_in_order(self) -> None:
        """Each job's result, or its exception, comes back to the reactor's thread."""
        worker = Thread(reactor)
        worker.start()
        self.addCleanup(worker.stop)
        order: list[int] = []

        def job(number: int) -> Any:
            order.append(number)
            return threading.get_ident()

        threads = await gatherResults([worker.run(lambda n=n: job(n)) for n in range(20)])  # type: ignore[misc] # a lambda's default
        assert list(range(20)) == order
        assert 1 == len(set(threads))
        assert threading.get_ident() not in threads
        await self.assertFailure(worker.run(lambda: 1 // 0), ZeroDivisionError)
