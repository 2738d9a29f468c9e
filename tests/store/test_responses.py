"""The store of responses: readable at once, written behind, and never in the way of a request."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import Overloaded
from cortexd.store import responses
from cortexd.store.response_file import FILE_NAME, Limits, StoredResponse
from cortexd.store.responses import (
    FLUSH_SECONDS,
    RETRY_SECONDS,
    SWEEP_SECONDS,
    ResponseStore,
)
from tests.store.test_response_file import stored
from tests.support.stores import NOW, HeldWorker, names, reasons, without_privileges


def failed(response: bytes) -> bytes | None:
    return None if b"?" in response else b"failed:" + response


class StoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.path = self.directory / FILE_NAME
        self.clock = Clock()
        self.worker = HeldWorker()

    def make(self, *, max_bytes: int = 1_000_000, max_age: float = 1_000.0) -> ResponseStore:
        limits = Limits(max_age, max_bytes)
        worker = self.worker = HeldWorker()
        return ResponseStore(
            self.directory, limits, worker, self.clock, lambda: NOW + self.clock.seconds(), failed
        )

    def start(self, **limits: Any) -> ResponseStore:
        made = self.make(**limits)
        made.startService()
        self.addCleanup(self.stop, made)
        return made

    def stop(self, started: ResponseStore) -> None:
        if started.running:
            self.worker.release()
            self.successResultOf(started.stopService())
        assert [] == self.clock.getDelayedCalls()

    def get(self, store: ResponseStore, name: str) -> StoredResponse | None:
        return self.successResultOf(Deferred.fromCoroutine(store.get(name)))

    def chain(self, store: ResponseStore, name: str) -> list[str]:
        return [each.id for each in self.successResultOf(Deferred.fromCoroutine(store.chain(name)))]

    def test_a_response_is_readable_at_once(self) -> None:
        """Before it is written, while it is written, and from the file, also after a restart."""
        store = self.start()
        self.worker.is_held = True
        store.put(stored("resp_1"))
        assert stored("resp_1") == self.get(store, "resp_1")
        self.clock.advance(FLUSH_SECONDS)
        assert stored("resp_1") == self.get(store, "resp_1")
        self.worker.release()
        assert stored("resp_1") == self.get(store, "resp_1")
        self.stop(store)

        assert stored("resp_1") == self.get(self.start(), "resp_1")

    def test_a_kill_loses_half_a_second_at_most(self) -> None:
        """What is older is in the file, without a stop of the daemon."""
        store = self.start()
        store.put(stored("old"))
        self.clock.advance(FLUSH_SECONDS)
        store.put(stored("new"))
        left_by_a_kill = self.directory.with_name(f"{self.directory.name}-killed")
        shutil.copytree(self.directory, left_by_a_kill)
        self.addCleanup(shutil.rmtree, left_by_a_kill)
        self.stop(store)

        self.directory = left_by_a_kill
        after = self.start()
        assert stored("old") == self.get(after, "old")
        assert None is self.get(after, "new")

    def test_chains_cross_from_memory_into_the_file(self) -> None:
        """In order, the first response first, wherever each of them is."""
        store = self.start()
        store.put(stored("a"))
        store.put(stored("b", "a"))
        self.clock.advance(FLUSH_SECONDS)
        store.put(stored("c", "b"))
        store.put(stored("d", "c"))

        for name, expected in (("d", "abcd"), ("b", "ab"), ("none", "")):
            assert list(expected) == self.chain(store, name)
        assert self.successResultOf(Deferred.fromCoroutine(store.delete("b")))
        assert ["c", "d"] == self.chain(store, "d"), "a gap, though the file still has b"
        assert not self.successResultOf(Deferred.fromCoroutine(store.delete("b")))

    def test_a_conversation_that_goes_on_stays(self) -> None:
        """A response is as young as the last one that continues it; reading it does not count."""
        store = self.start(max_age=100.0)
        for name in ("a", "x"):
            store.put(stored(name))
        self.clock.advance(60)
        store.put(stored("b", "a", at=NOW + 60))
        assert ["a", "b"] == self.chain(store, "b")
        assert self.get(store, "x")
        self.clock.advance(60)

        assert None is self.get(store, "x")
        assert ["a", "b"] == self.chain(store, "b")

    def test_old_responses_go_without_any_request(self) -> None:
        """The file is swept now and then."""
        store = self.start(max_age=100.0)
        store.put(StoredResponse("a", None, "m", NOW, NOW, b"a secret word", b"[]"))
        self.clock.advance(FLUSH_SECONDS)
        assert (
            b"secret"
            in self.path.read_bytes() + self.path.with_name(f"{FILE_NAME}-wal").read_bytes()
        )
        self.clock.advance(SWEEP_SECONDS)
        self.stop(store)

        assert b"secret" not in self.path.read_bytes()

    def test_work_that_the_last_daemon_left_has_failed(self) -> None:
        """Its response says so; one that cannot be read is gone."""
        store = self.start()
        store.put(replace(stored("cut"), is_unfinished=True))
        store.put(replace(stored("odd"), response=b"???", is_unfinished=True))
        store.put(stored("whole"))
        self.stop(store)

        again = self.start()
        cut = self.get(again, "cut")
        assert cut is not None
        assert (b"failed:" + stored("cut").response, False) == (cut.response, cut.is_unfinished)
        assert None is self.get(again, "odd")
        assert stored("whole") == self.get(again, "whole")

    def test_a_response_that_is_too_large(self) -> None:
        """It is not stored, and takes the place of no other; the log has its id and its size."""
        store = self.start(max_bytes=1_000)
        store.put(stored("small"))
        with capturedLogs() as events:
            assert not store.put(stored("large", size=1_001))

        assert ["response_too_large"] == names(events)
        assert None is self.get(store, "large")
        assert self.get(store, "small")

    def test_without_a_file(self) -> None:
        """Before its start the store is in memory, under the same limits."""
        store = self.make(max_bytes=250)
        for name in ("a", "b", "c"):
            store.put(stored(name))

        assert [None, "b", "c"] == [
            found and found.id for found in (self.get(store, name) for name in "abc")
        ]
        assert ["c"] == self.chain(store, "c")
        assert [] == self.clock.getDelayedCalls()

    def test_a_file_that_cannot_be_written(self) -> None:
        """Responses stay readable in memory, the log says so once, and all is written later."""
        self.directory.chmod(0o755)
        store = self.make()
        with without_privileges(), capturedLogs() as events:
            store.startService()
            for number in range(3):
                store.put(stored(f"resp_{number}"))
                self.clock.advance(RETRY_SECONDS)
                assert self.get(store, f"resp_{number}")
            self.failureResultOf(Deferred.fromCoroutine(store.get("resp_none")), Overloaded)
        assert ["Permission denied"] == reasons(events, "responses_failed")
        with capturedLogs() as events:
            self.clock.advance(RETRY_SECONDS)
        assert ["responses_written_again"] == names(events)
        self.stop(store)

        assert self.get(self.start(), "resp_2")

    def test_a_disk_that_is_slow_for_long(self) -> None:
        """The oldest response in memory goes, and the log names it, before memory runs out."""
        self.patch(responses, "UNWRITTEN_BYTES", 250)
        store = self.start()
        self.worker.is_held = True
        with capturedLogs() as events:
            for name in ("a", "b", "c"):
                store.put(stored(name))
        assert ["response_lost"] == names(events)
        assert self.get(store, "c")
        self.worker.release()
