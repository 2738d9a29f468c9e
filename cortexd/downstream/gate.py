"""The gate of the gateway: who sends each request, by the key in its head."""

from __future__ import annotations

from collections.abc import Callable

from twisted.web.http_headers import Headers

from cortexd.access.callers import ANYBODY, NOBODY, Caller
from cortexd.access.credentials import NoKey, key_in
from cortexd.access.ring import KeyRing
from cortexd.access.secret import id_of, matches
from cortexd.access.verdicts import WRONG, Verdict, Verdicts


class Gate:
    """Finds the caller of each request with the keys of ``ring``. ``unix_time`` is the time."""

    def __init__(self, ring: KeyRing, unix_time: Callable[[], float]) -> None:
        self.ring = ring
        self._unix_time = unix_time
        self._verdicts = Verdicts()
        self._generation = ring.generation

    def caller(self, headers: Headers) -> Caller:
        """Return who sends a request with these headers; NOBODY without a valid key."""
        if not self.ring.is_required:
            return ANYBODY
        key = key_in(
            headers.getRawHeaders(b"authorization", ()), headers.getRawHeaders(b"x-api-key", ())
        )
        if isinstance(key, NoKey):
            return NOBODY
        if self._generation != self.ring.generation:
            self._generation = self.ring.generation
            self._verdicts.forget()
        digest = self._verdicts.digest(key)
        verdict = self._verdicts.find(digest)
        if verdict is None:
            verdict = self._compare(key)
            self._verdicts.learn(digest, verdict)
        if verdict.until is not None and verdict.until <= self._unix_time():
            return NOBODY
        return verdict.caller

    def _compare(self, key: str) -> Verdict:
        found = self.ring.find(id_of(key) or "")
        if found is None or not matches(key, found[1]):
            return WRONG
        return Verdict(self.ring.caller(found[0].name), found[2])
