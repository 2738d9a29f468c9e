"""The gate of the gateway: who sends each request, by the key in its head.

A key that came before costs a look into the verdicts. One that comes for the first time is compared
by scrypt in a thread, and until then its request waits. Keys that strangers make up wait too, so
the queue for the thread is bounded, and its turns go round among the addresses of clients. A key
with an unknown id is compared with a decoy, so that it takes as long as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import unquote_to_bytes

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from cortexd.access.callers import ANYBODY, NOBODY, Caller
from cortexd.access.credentials import NoKey, key_in, usual_key
from cortexd.access.keys import Scope
from cortexd.access.ring import KeyRing
from cortexd.access.secret import decoy, id_of, matches
from cortexd.access.turns import Turns, client_group
from cortexd.access.verdicts import WRONG, Proven, Verdict, Verdicts, verdict_on
from cortexd.admission.lines import LineLimit
from cortexd.errors import CortexError, Forbidden, GatewayBusy, InternalError, Unauthenticated
from cortexd.logs import get_logger
from cortexd.store.worker import Worker

RETRY_SECONDS: Final = 2.0
"""After which time a client should try again whose key found no room in the queue."""

HOW: Final = "send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
BY_WHOM: Final = "whoever runs this gateway makes keys with 'cortexctl key add'"

log = get_logger("cortexd.http")


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request has no caller: a word for metrics and log, and ``words`` for the client."""

    reason: str
    words: str


@dataclass(frozen=True, slots=True)
class Unproven:
    """A key of the right form that comes for the first time."""

    digest: bytes = field(repr=False)
    key: str = field(repr=False)


_WITHOUT: Final = {
    kind: Denied(kind.name.lower(), f"the request has {kind.value}: {HOW}; {BY_WHOM}")
    for kind in NoKey
}
_UNKNOWN: Final = Denied("unknown", f"the gateway does not know this key; {BY_WHOM}")
SCOPE: Final = "scope"


class Gate(Service):
    """Finds the caller of each request with the keys of ``ring``.

    ``worker`` is the thread that compares, ``unix_time`` the time of day. ``scopes_at`` returns the
    scopes of the route at a method and a path. ``denied`` counts requests that were refused, by
    reason.
    """

    name = "gate"

    def __init__(
        self,
        ring: KeyRing,
        worker: Worker,
        unix_time: Callable[[], float],
        clock: IReactorTime,
        scopes_at: Callable[[str, str], Collection[Scope]],
    ) -> None:
        self.ring = ring
        self.denied = dict.fromkeys(
            [*(each.reason for each in _WITHOUT.values()), "unknown", "expired", "former", SCOPE], 0
        )
        self.scopes_at = scopes_at
        self._worker = worker
        self._unix_time = unix_time
        self._clock = clock
        self._lines = LineLimit()
        self._verdicts = Verdicts()
        self._generation = -1
        self._decoy = ""
        self._comparisons: dict[bytes, _Comparison] = {}
        self._turns: Turns[_Comparison] = Turns()
        self._is_comparing = False
        self._is_stopped = False

    def startService(self) -> None:
        """Begin to compare."""
        super().startService()
        self._worker.start()

    def stopService(self) -> None:
        """Refuse the keys that wait, and end the thread after the comparison under way."""
        super().stopService()
        self._is_stopped = True
        while (comparison := self._turns.take()) is not None:
            self._forget(comparison)
            comparison.fail(_busy)
        self._worker.stop()

    def is_needed(self, method: bytes, path: bytes) -> bool:
        """Return whether the route at a path needs a key; there need not be one."""
        text = unquote_to_bytes(path).decode("utf-8", "replace")
        return bool(self.scopes_at(method.decode("ascii", "replace"), text))

    # The change from one process to the next.

    def proven(self) -> Proven:
        """Return the right keys that came, so that the next process need not compare them."""
        return self._verdicts.proven()

    def adopt(self, proven: Proven) -> None:
        """Take the right keys of the process before this one, before the first request."""
        self._verdicts.adopt(proven, self.ring)

    # The short way of each request.

    def look(self, headers: Headers) -> Caller | Denied | Unproven:
        """Return who sends a request with these headers, as far as that is known."""
        ring = self.ring
        if not ring.is_required:
            return ANYBODY
        if self._generation != ring.generation:
            self._follow()
        values, verdicts = headers.getRawHeaders, self._verdicts
        authorization, api_key = values(b"authorization", ()), values(b"x-api-key", ())
        usual = usual_key(authorization, api_key)
        if usual is not None:
            verdict = verdicts.find(verdicts.digest(usual))
            if verdict is not None:
                return self._judge(verdict)
        key = key_in(authorization, api_key)
        if isinstance(key, NoKey):
            return _WITHOUT[key]
        digest = verdicts.digest(key.encode())
        verdict = verdicts.find(digest)
        return Unproven(digest, key) if verdict is None else self._judge(verdict)

    def _judge(self, verdict: Verdict) -> Caller | Denied:
        if verdict.caller is NOBODY:
            return _UNKNOWN
        if verdict.until is not None and verdict.until <= self._unix_time():
            name = verdict.caller.name
            if verdict.is_former:
                return Denied("former", f"the key '{name}' was rotated: use the new one")
            return Denied("expired", f"the key '{name}' has expired; {BY_WHOM}")
        return verdict.caller

    def _follow(self) -> None:
        """Take the change of the keys."""
        self._generation = self.ring.generation
        self._verdicts.follow(self.ring)
        self._decoy = decoy(key.hash for key in self.ring.keys.values())

    # The long way of a key that comes for the first time.

    async def prove(self, unproven: Unproven, host: str) -> Caller | Denied:
        """Compare a key, at the turn of the client at ``host``; return who sends it.

        Requests with the same key wait for one comparison. Cancelling leaves the queue. Raises
        GatewayBusy where too many keys wait.
        """
        if not self.ring.is_required:
            return ANYBODY
        if self._generation != self.ring.generation:
            self._follow()
        verdict = self._verdicts.find(unproven.digest)
        if verdict is None:
            verdict = await self._compared(unproven, client_group(host))
        return ANYBODY if verdict is None else self._judge(verdict)

    async def _compared(self, unproven: Unproven, client: str) -> Verdict | None:
        if self._is_stopped:
            raise _busy()
        comparison = self._comparisons.get(unproven.digest)
        if comparison is None:
            comparison = self._comparisons[unproven.digest] = _Comparison(unproven, client)
            waiting = comparison.wait()
            self._queue(comparison)
        else:
            waiting = comparison.wait()
        if not self._is_comparing:
            self._is_comparing = True
            Deferred.fromCoroutine(self._compare_all()).addErrback(_crashed)
        try:
            return await waiting
        finally:
            if not comparison.leave(waiting) and not comparison.has_begun:
                self._turns.remove(client, comparison)
                self._forget(comparison)

    def _queue(self, comparison: _Comparison) -> None:
        refused = self._turns.add(comparison.client, comparison)
        if refused is not None:
            self._forget(refused)
            refused.fail(_busy)

    def _forget(self, comparison: _Comparison) -> None:
        """Let the next request with this key begin a comparison of its own."""
        digest = comparison.unproven.digest
        if self._comparisons.get(digest) is comparison:
            del self._comparisons[digest]

    async def _compare_all(self) -> None:
        """Compare the keys that wait, one after the other."""
        try:
            while (comparison := self._turns.take()) is not None:
                comparison.has_begun = True
                await self._compare(comparison)
        finally:
            self._is_comparing = False

    async def _compare(self, comparison: _Comparison) -> None:
        """Compare one key. If the keys change meanwhile, it is compared once more."""
        digest, key = comparison.unproven.digest, comparison.unproven.key
        key_id, verdict, generation = id_of(key) or "", WRONG, -1
        while self.ring.is_required and generation != self.ring.generation:
            generation = self.ring.generation
            found = self.ring.find(key_id)
            key_hash = self._decoy if found is None else found[1]
            try:
                is_right = await self._worker.run(partial(matches, key, key_hash))
            except Exception:
                log.exception("key_comparison_failed")
                self._forget(comparison)
                comparison.fail(_failed)
                return
            verdict = verdict_on(key_id, key_hash, self.ring) if is_right else WRONG
        self._forget(comparison)
        if self.ring.is_required:
            if self._generation != self.ring.generation:
                self._follow()
            self._verdicts.learn(digest, verdict)
        comparison.end(verdict if self.ring.is_required else None)

    # What is told of requests that are refused.

    def denial(self, denied: Denied, request_id: str, host: str) -> Unauthenticated:
        """Count and log that a request is refused, and return the error for its client."""
        self.denied[denied.reason] += 1
        error = Unauthenticated(denied.words)
        left_out = self._lines.admit(self._clock.seconds())
        if left_out is not None:
            log.info(
                "request_refused",
                request_id=request_id,
                status=error.status,
                reason=error.code,
                key=denied.reason,
                client=host,
                left_out=left_out or None,
            )
        return error

    def lack(self, caller: Caller, scopes: frozenset[Scope]) -> Forbidden:
        """Count that a key has none of the scopes that a route wants, and return the error."""
        self.denied[SCOPE] += 1
        wanted = " or ".join(f"'{scope}'" for scope in sorted(scopes))
        return Forbidden(
            f"the key '{caller.name}' lacks the scope {wanted}, which this route needs"
        )


class _Comparison:
    """The comparison of one key, and the requests that wait for it."""

    def __init__(self, unproven: Unproven, client: str) -> None:
        self.unproven = unproven
        self.client = client
        self.has_begun = False
        self._waiting: list[Deferred[Verdict | None]] = []

    def wait(self) -> Deferred[Verdict | None]:
        """Return when it has ended, with the verdict, or ``None`` if no key is required now."""
        waiting: Deferred[Verdict | None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def leave(self, waiting: Deferred[Verdict | None]) -> bool:
        """Forget one that waits; return whether another does."""
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        return bool(self._waiting)

    def end(self, verdict: Verdict | None) -> None:
        """Let all that wait go on."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(verdict)

    def fail(self, error: Callable[[], CortexError]) -> None:
        """Fail all that wait, each with an error of its own."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.errback(error())


def _busy() -> GatewayBusy:
    return GatewayBusy(
        "too many keys that come for the first time wait to be checked; try again shortly",
        retry_after=RETRY_SECONDS,
    )


def _failed() -> InternalError:
    return InternalError("the key could not be checked; see the log of the gateway")


def _crashed(failure: Failure) -> None:
    log.error("key_comparison_crashed", failure=failure)
