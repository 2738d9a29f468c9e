"""The gate alone: what it finds out about a key, and how long others wait for that."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from cortexd.access.callers import ANYBODY, Caller
from cortexd.access.ring import KeyRing
from cortexd.access.turns import MOST_EACH
from cortexd.downstream.gate import Denied, Gate, Unproven
from cortexd.errors import GatewayBusy, InternalError
from tests.access.making import Given, bearer, given, rotated
from tests.support.stores import HeldWorker

NOW = 1_790_000_000.0


class GateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.alice, self.bob = given("alice"), given("bob")
        self.ring = KeyRing([self.alice.key, self.bob.key])
        self.worker = HeldWorker()
        self.now = NOW
        self.gate = Gate(self.ring, self.worker, lambda: self.now, Clock(), lambda *_: ())
        self.gate.startService()
        self.compared: list[object] = []
        run = self.worker.run

        def counted(job: Any) -> Deferred[Any]:
            self.compared.append(job)
            return run(job)

        self.patch(self.worker, "run", counted)

    def look(self, text: str) -> Caller | Denied | Unproven:
        return self.gate.look(Headers(_raw(bearer(text))))

    def proving(self, text: str, host: str = "10.0.0.1") -> Deferred[Caller | Denied]:
        found = self.look(text)
        assert isinstance(found, Unproven)
        return Deferred.fromCoroutine(self.gate.prove(found, host))

    def proven(self, text: str, host: str = "10.0.0.1") -> Caller | Denied:
        return self.successResultOf(self.proving(text, host))

    def test_a_key_is_compared_once(self) -> None:
        """What was found about a right or a wrong key serves its next requests."""
        wrong = _wrong(self.alice)
        for text, found in ((self.alice.text, self.ring.caller("alice")), (wrong, "unknown")):
            first = self.proven(text)
            assert first == found or (isinstance(first, Denied) and first.reason == found)
            assert first == self.look(text)
        assert 2 == len(self.compared)

    def test_the_short_way(self) -> None:
        """A key that came before costs few calls, right or wrong, however many keys there are."""
        self.ring.take([self.alice.key, *(given(str(i)).key for i in range(50))])
        for text in (self.alice.text, _wrong(self.alice)):
            self.proven(text)
            basic = b"Basic " + b64encode(b"me:" + text.encode())
            for sent in (_raw(bearer(text)), {b"Authorization": [basic]}):
                assert self.calls_of_look(Headers(sent)) <= 30

    def calls_of_look(self, headers: Headers) -> int:
        """Return how many functions a look calls."""
        calls = 0

        def count(_: object, event: str, __: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            self.gate.look(headers)
        finally:
            sys.setprofile(before)
        return calls

    def test_a_successor_compares_nothing_again(self) -> None:
        """A right key is known to the next process at its first request, a wrong one is not."""
        wrong = _wrong(self.alice)
        for text in (self.alice.text, self.bob.text, wrong):
            self.proven(text)
        old, self.ring = self.gate, KeyRing([self.alice.key, rotated(self.bob).key])
        self.gate = Gate(self.ring, self.worker, lambda: self.now, Clock(), lambda *_: ())
        self.gate.adopt(old.proven())
        assert self.look(self.alice.text) is self.ring.caller("alice")
        assert self.look(self.bob.text) is self.ring.caller("bob")
        assert isinstance(self.look(wrong), Unproven)

    def test_an_unknown_id_costs_the_same(self) -> None:
        """It is compared with a decoy on the terms of the keys, and its next request is not."""
        stranger = given().text
        assert "unknown" == _reason(self.proven(stranger))
        assert "unknown" == _reason(self.look(stranger))
        assert 1 == len(self.compared)

    def test_what_has_not_the_form_of_a_key(self) -> None:
        """Nothing is compared."""
        assert "foreign" == _reason(self.look("sk-proj-1"))
        assert "absent" == _reason(self.gate.look(Headers()))
        both = Headers({b"Authorization": [f"Bearer {self.alice.text}".encode()]})
        both.addRawHeader(b"X-Api-Key", self.bob.text.encode())
        assert "several" == _reason(self.gate.look(both))

    def test_expiry(self) -> None:
        """The time is looked at on each request, and only who has the key learns of its end."""
        late = given("late", expires=NOW + 10)
        self.ring.take([late.key])
        assert self.ring.caller("late") == self.proven(late.text)
        self.now += 10
        assert "expired" == _reason(self.look(late.text))
        assert "unknown" == _reason(self.proven(_wrong(late)))

    def test_a_rotated_key(self) -> None:
        """Both texts are valid for a while, then the client is told to use the new one."""
        after = rotated(self.alice, NOW + 10)
        self.ring.take([after.key])
        for text in (self.alice.text, after.text):
            assert self.ring.caller("alice") == self.proven(text)
        self.now += 10
        assert "former" == _reason(self.look(self.alice.text))
        assert self.ring.caller("alice") == self.look(after.text)

    def test_a_change_of_the_keys(self) -> None:
        """A revoked key is refused at its next request; the others are not compared again."""
        for each in (self.alice, self.bob):
            self.proven(each.text)
        self.ring.take([self.bob.key])

        assert self.ring.caller("bob") == self.look(self.bob.text)
        assert "unknown" == _reason(self.proven(self.alice.text))

    def test_a_change_while_a_key_is_compared(self) -> None:
        """The keys of now decide, and none does once none is required."""
        self.worker.is_held = True
        proving = self.proving(self.alice.text)
        self.ring.take([self.bob.key])
        self.worker.release()
        assert "unknown" == _reason(self.successResultOf(proving))

        self.worker.is_held = True
        proving = self.proving(self.bob.text)
        self.ring.take(None)
        self.worker.release()
        assert ANYBODY is self.successResultOf(proving)

    def test_requests_with_the_same_key(self) -> None:
        """They wait for one comparison, and one that leaves takes it from none of the others."""
        self.worker.is_held = True
        ours = [self.proving(self.alice.text) for _ in range(3)]
        ours[0].cancel()
        self.failureResultOf(ours[0], CancelledError)
        self.worker.release()

        assert [self.ring.caller("alice")] * 2 == [self.successResultOf(each) for each in ours[1:]]
        assert 1 == len(self.compared)

    def test_a_flood_of_wrong_keys(self) -> None:
        """It neither fills the memory nor keeps the keys of other clients from their turn."""
        self.worker.is_held = True
        flood = [self.proving(given().text, "10.6.6.6") for _ in range(MOST_EACH + 10)]
        alice = self.proving(self.alice.text, "10.0.0.1")
        refused = [each for each in flood if each.called]
        waiting = [each for each in flood if not each.called]
        for each in refused:
            assert self.failureResultOf(each, GatewayBusy).value.retry_after
        assert 9 == len(refused)  # one is in the thread

        done: list[object] = []
        alice.addCallback(done.append)
        for each in waiting:
            each.addCallback(done.append)
        self.worker.release()
        assert self.ring.caller("alice") in done[:3]
        assert MOST_EACH + 2 == len(done)

    def test_clients_that_leave(self) -> None:
        """Their keys are not compared, unless that has begun; then what is found is kept."""
        self.worker.is_held = True
        first, second = self.proving(self.alice.text), self.proving(self.bob.text)
        for each in (first, second):
            each.cancel()
            self.failureResultOf(each, CancelledError)
        self.worker.release()

        assert 1 == len(self.compared)
        assert self.ring.caller("alice") == self.look(self.alice.text)
        assert self.ring.caller("bob") == self.proven(self.bob.text)

    def test_a_thread_that_fails(self) -> None:
        """The request fails with our own error, and the next key is compared all the same."""
        self.patch(self.worker, "run", lambda job: fail(MemoryError()))
        self.failureResultOf(self.proving(self.alice.text), InternalError)
        assert 1 == len(self.flushLoggedErrors(MemoryError))
        self.patch(self.worker, "run", HeldWorker.run.__get__(self.worker))
        assert self.ring.caller("alice") == self.proven(self.alice.text)

    def test_the_end(self) -> None:
        """Keys that wait are refused then, and those that come later."""
        self.worker.is_held = True
        first, second = self.proving(self.alice.text), self.proving(self.bob.text)
        self.worker.release()
        assert self.ring.caller("alice") == self.successResultOf(first)
        assert self.ring.caller("bob") == self.successResultOf(second)
        self.gate.stopService()
        self.failureResultOf(self.proving(_wrong(self.bob)), GatewayBusy)

    def test_no_text_of_a_key_is_shown(self) -> None:
        """Not in the representation of anything that an error or a log could hold."""
        assert self.alice.text not in repr(self.look(self.alice.text))


def _raw(headers: Mapping[str, str]) -> dict[bytes, list[bytes]]:
    return {name.encode(): [value.encode()] for name, value in headers.items()}


def _reason(found: Caller | Denied | Unproven) -> str | None:
    return found.reason if isinstance(found, Denied) else None


def _wrong(key: Given) -> str:
    return key.text[:-1] + ("b" if key.text[-1] == "a" else "a")
