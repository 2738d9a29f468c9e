"""How much the requests with one key may do: a meter for each key, which admits or refuses.

A rate is a bucket that holds a minute's worth and refills continuously. A key that was idle may
use a whole minute's worth at once, and then only what flows in. So in any ``s`` seconds at most
``limit * (1 + s / 60)`` requests are admitted. The bucket has no window whose end would let two
bursts follow each other, and the time until it is full again is exact.

The tokens of a request are known at its end alone. While it runs it reserves as many as the last
requests with the key used on average, so that a flood of them is refused once the reserves fill the
bucket. At its end the true number is taken, which may leave less than nothing: then the key waits
until the bucket has refilled that far.

A refused request takes nothing, so that a refusal never delays the next request.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from cortexd.access.keys import KeyLimits
from cortexd.access.usage import Spent

MINUTE: Final = 60.0

CONCURRENCY_SECONDS: Final = 1.0
"""Seconds after which to retry where too many requests run: nobody knows when one of them ends."""

FIRST_GUESS: Final = 1000.0
"""The tokens that a request reserves before any request with its key has ended."""

MEAN_OF: Final = 8
"""About how many of the last requests the mean of their tokens remembers."""

MOST_RESERVES: Final = 1000
"""How many reserves fill a bucket at least, however few tokens the last requests used."""

_ROUNDING: Final = 1e-6
"""What may be missing after a wait because floats are rounded."""


class Limit(StrEnum):
    """A limit of a key; RESERVED is the budget while requests that run may use the rest of it."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"
    BUDGET = "budget"
    RESERVED = "reserved"


class Refusal(NamedTuple):
    """Why a request is not admitted, and after how many ``seconds`` one would be."""

    limit: Limit
    seconds: float


class Allowance(NamedTuple):
    """What is left of a limit; after ``resets_in`` seconds without requests it is all there."""

    limit: int
    remaining: int
    resets_in: float


class Standing(NamedTuple):
    """What is left of the limits of a key; ``at`` is the time in unix seconds.

    ``tokens`` is the tighter one of the rate and the budget of tokens.
    """

    requests: Allowance | None
    tokens: Allowance | None
    at: float


class Bucket:
    """Holds ``limit`` units, refills as many in a minute, and may be taken below nothing."""

    __slots__ = ("_at", "_level", "limit")

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._at = now

    def level(self, now: float) -> float:
        """Return what the bucket holds."""
        if now > self._at:
            self._level = min(self.limit, self._level + (now - self._at) * self.limit / MINUTE)
            self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        """Take units out."""
        self._level = self.level(now) - amount

    def resize(self, limit: int, now: float) -> None:
        """Change the limit, and keep what was taken out."""
        taken = self.limit - self.level(now)
        self.limit = limit
        self._level = limit - taken

    def seconds_until(self, amount: float, now: float) -> float:
        """Return after how many seconds the bucket holds ``amount``, if nothing is taken."""
        return max(0.0, (amount - self.level(now)) * MINUTE / self.limit)


class Meter:
    """What the requests with one key use of its limits.

    ``now`` is always in seconds of a steady clock, ``at`` in unix seconds.
    """

    __slots__ = (
        "_mean",
        "_requests",
        "_reserve",
        "_reserved",
        "_tokens",
        "limits",
        "running",
        "spent",
    )

    def __init__(self, limits: KeyLimits, now: float) -> None:
        self.limits = KeyLimits()
        self.running = 0
        self.spent = Spent()
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self._reserved = 0
        self._mean = FIRST_GUESS
        self._reserve = 0
        self.reconfigure(limits, now)

    def reconfigure(self, limits: KeyLimits, now: float) -> None:
        """Let other limits hold from now on; what was used counts against them."""
        self.limits = limits
        self._requests = _resized(self._requests, limits.requests_per_minute, now)
        self._tokens = _resized(self._tokens, limits.tokens_per_minute, now)
        self._reserve = self._next_reserve()

    def begin(self, now: float) -> int:
        """Begin a request that may be admitted; return the tokens that it reserves."""
        self.running += 1
        if self._requests is not None:
            self._requests.take(1, now)
        self._reserved += self._reserve
        return self._reserve

    def refusal(self, now: float, at: float) -> Refusal | None:
        """Return why no request may be admitted now, ``None`` if one may.

        The refusal names the budget if that is used up, else the limit that lasts longest. Its
        ``seconds`` serve all limits. Reserves count as used, so a retry may be too late if the
        requests that run use less, and too early if they use more.
        """
        limits = self.limits
        found: list[Refusal] = []
        if self._requests is not None:
            wait = self._requests.seconds_until(1 - _ROUNDING, now)
            if wait > 0:
                found.append(Refusal(Limit.REQUESTS, wait))
        if self._tokens is not None:
            wait = self._tokens.seconds_until(self._reserved + 1 - _ROUNDING, now)
            if wait > 0:
                found.append(Refusal(Limit.TOKENS, wait))
        if limits.max_concurrency is not None and self.running >= limits.max_concurrency:
            found.append(Refusal(Limit.CONCURRENCY, CONCURRENCY_SECONDS))
        budget = limits.token_budget
        if budget is not None:
            left = budget - self.spent.within(limits.budget_hours, at)
            if left <= self._reserved:
                return self._over_budget(budget, left, found, at)
        return max(found, key=lambda each: each.seconds) if found else None

    def _over_budget(self, budget: int, left: int, found: list[Refusal], at: float) -> Refusal:
        """Return the refusal where the budget is used up, or reserved by requests that run."""
        if left > 0:
            # Some of it is free again as soon as a request ends that used less than its reserve.
            found.append(Refusal(Limit.RESERVED, CONCURRENCY_SECONDS))
            return max(found, key=lambda each: each.seconds)
        wait = self.spent.seconds_until(budget - 1, self.limits.budget_hours, at)
        return Refusal(Limit.BUDGET, max([wait, *(each.seconds for each in found)]))

    def end(self, reserve: int, tokens: int, now: float, at: float) -> None:
        """End a request that had reserved ``reserve`` tokens and has used ``tokens``."""
        self.running -= 1
        self._reserved -= reserve
        if tokens > 0:
            self.use(tokens, now, at)
            self._mean += (tokens - self._mean) / MEAN_OF
            self._reserve = self._next_reserve()

    def use(self, tokens: int, now: float, at: float) -> None:
        """Count tokens against the rate and the budget."""
        if self._tokens is not None:
            self._tokens.take(tokens, now)
        self.spent.add(tokens, at)

    def standing(self, now: float, at: float) -> Standing | None:
        """Return what is left of the limits, ``None`` where no limit has a number to show."""
        if self._requests is None and self._tokens is None and self.limits.token_budget is None:
            return None
        requests = None
        if self._requests is not None:
            requests = _allowance(self._requests, 0, now)
        tokens = self._budget_left(at)
        if self._tokens is not None:
            rate = _allowance(self._tokens, self._reserved, now)
            tokens = rate if tokens is None or rate.remaining <= tokens.remaining else tokens
        return Standing(requests, tokens, at)

    def _budget_left(self, at: float) -> Allowance | None:
        budget, hours = self.limits.token_budget, self.limits.budget_hours
        if budget is None:
            return None
        left = max(0, budget - self.spent.within(hours, at) - self._reserved)
        return Allowance(budget, left, self.spent.seconds_until(0, hours, at))

    def _next_reserve(self) -> int:
        """Return the tokens that a new request reserves: never more than all of a limit."""
        reserve = self._mean
        for limit in (self.limits.tokens_per_minute, self.limits.token_budget):
            if limit is not None:
                reserve = min(max(reserve, limit / MOST_RESERVES), limit)
        return int(reserve) or 1


def _resized(bucket: Bucket | None, limit: int | None, now: float) -> Bucket | None:
    if limit is None:
        return None
    if bucket is None:
        return Bucket(limit, now)
    if bucket.limit != limit:
        bucket.resize(limit, now)
    return bucket


def _allowance(bucket: Bucket, reserved: int, now: float) -> Allowance:
    remaining = int(max(0.0, bucket.level(now) - reserved + _ROUNDING))
    return Allowance(bucket.limit, remaining, bucket.seconds_until(bucket.limit, now))
