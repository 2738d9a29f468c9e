"""Admits each request with a key under the limits of the key, and counts what it uses.

A request of an inference route is admitted once, before anything of it is translated, and ends
once, whatever becomes of it: it may be retried at another node, or go on in the background.
Questions, lists and the counting of tokens are free. A request without a key is neither limited nor
counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, NamedTuple, Protocol

from twisted.internet.interfaces import IReactorTime

from cortexd.access.callers import Caller
from cortexd.access.keys import Key, KeyLimits
from cortexd.access.limits import Limit, Meter, Refusal, Standing
from cortexd.access.ring import KeyRing
from cortexd.access.usage import Usage
from cortexd.dialects.routes import (
    chat,
    completions,
    embeddings,
    images,
    messages,
    responses,
    speech,
)
from cortexd.errors import CortexError, KeyLimited, KeyOverBudget
from cortexd.scheduling.events import Charged, Effect
from cortexd.telemetry.accounting import RequestRecord
from cortexd.telemetry.key_metrics import KeyFigures
from cortexd.telemetry.metrics import MOST_BORN
from cortexd.text import counted

METERED: Final = frozenset(
    each.ROUTE for each in (chat, completions, embeddings, images, speech, responses, messages)
)
"""The routes whose requests count."""

NO_LIMITS: Final = KeyLimits()


class Metered:
    """One key: its ``meter``, its ``usage`` since this process has known it, and the ``refused``.

    ``written`` is the part of the usage that is in the store already. ``is_restored`` says whether
    the budget has lost what the store knows of.
    """

    __slots__ = (
        "adopted",
        "is_limited",
        "is_restored",
        "meter",
        "name",
        "refused",
        "usage",
        "written",
    )

    def __init__(self, name: str, meter: Meter) -> None:
        self.name = name
        self.meter = meter
        self.is_limited = meter.limits != NO_LIMITS
        self.is_restored = meter.limits.token_budget is None
        self.usage = Usage()
        self.written = Usage()
        self.refused: dict[Limit, int] = {}
        self.adopted = 0
        """How many of the requests that run are in the process before this one."""

    def reconfigure(self, limits: KeyLimits, now: float) -> None:
        """Let other limits hold; a budget that is new or has other hours is restored again."""
        before = self.meter.limits
        self.meter.reconfigure(limits, now)
        self.is_limited = limits != NO_LIMITS
        if limits.token_budget is None:
            self.is_restored = True
        elif before.token_budget is None or before.budget_hours != limits.budget_hours:
            self.is_restored = False


class Admission(NamedTuple):
    """A request that was admitted; it has ``reserve`` tokens reserved until it ends."""

    metered: Metered
    reserve: int


class Report(NamedTuple):
    """What another process has begun (``running`` above 0), ended (below 0) or used with a key."""

    name: str
    running: int
    usage: Usage = Usage()


class Request(Protocol):
    """A client's request, as far as it is metered."""

    caller: Caller
    standing: Callable[[], Standing | None] | None


class Meters:
    """The meters of all keys of ``ring``; ``clock`` measures rates, and ``unix_time`` budgets.

    The ``successor`` gets the reports of this process once another one has taken over.
    ``restore_budget`` calls ``restore`` with what the store has of the key with a name and limits.
    """

    def __init__(self, ring: KeyRing, clock: IReactorTime, unix_time: Callable[[], float]) -> None:
        self._ring = ring
        self._clock = clock
        self._unix_time = unix_time
        self._metered: dict[str, Metered] = {}
        self.successor: Callable[[Report], None] | None = None
        self.restore_budget: Callable[[str, KeyLimits], None] = lambda name, limits: None

    # Requests.

    def begin(self, request: Request, route: str) -> Admission | None:
        """Admit a request of a route, ``None`` where it does not count.

        Raises KeyLimited or KeyOverBudget. In any case the response gets the headers of the limits.
        """
        key = request.caller.key
        if key is None or route not in METERED:
            return None
        metered, now = self._of(key), self._clock.seconds()
        meter = metered.meter
        if metered.is_limited:
            if not metered.is_restored:
                metered.is_restored = True
                self.restore_budget(key.name, key.limits)
            request.standing = partial(self._standing, meter)
            refusal = meter.refusal(now, self._unix_time())
            if refusal is not None:
                metered.refused[refusal.limit] = metered.refused.get(refusal.limit, 0) + 1
                raise refused(key, refusal)
        reserve = meter.begin(now)
        if self.successor is not None:
            self.successor(Report(metered.name, 1))
        return Admission(metered, reserve)

    def end(self, admission: Admission, record: RequestRecord) -> None:
        """End an admitted request, with what its record says of it.

        Without the node's counts, an answer that was begun, or whose client left a node at work
        on it, counts as what was reserved for it. Otherwise a client could leave early for free.
        """
        metered, reserve = admission
        usage, counted = metered.usage, record.usage
        usage.requests += 1
        prompt = completion = uncounted = 0
        if counted is not None:
            prompt, completion = counted.prompt_tokens, counted.completion_tokens
            usage.prompt_tokens += prompt
            usage.completion_tokens += completion
        elif record.first_content_at is not None or (record.client_gone and record.attempts):
            uncounted = reserve
            usage.uncounted_tokens += uncounted
        tokens = prompt + completion + uncounted
        metered.meter.end(reserve, tokens, self._clock.seconds(), self._unix_time())
        if self.successor is not None:
            self.successor(Report(metered.name, -1, Usage(1, prompt, completion, uncounted)))

    def _of(self, key: Key) -> Metered:
        """Return the meter of a key, under the limits that the key has now."""
        metered = self._metered.get(key.name)
        if metered is None:
            meter = Meter(key.limits, self._clock.seconds())
            metered = self._metered[key.name] = Metered(key.name, meter)
        elif metered.meter.limits is not key.limits:
            metered.reconfigure(key.limits, self._clock.seconds())
        return metered

    def _standing(self, meter: Meter) -> Standing | None:
        return meter.standing(self._clock.seconds(), self._unix_time())

    # What nodes have done for keys.

    def follow(self, effect: Effect) -> None:
        """Count the time in models, and the loads, that a request with a key has caused."""
        match effect:
            case Charged(requester_name=name) if name:
                charged = Usage(
                    gpu_seconds=effect.gpu_seconds,
                    load_seconds=effect.load_seconds,
                    loads=effect.loads,
                )
                self._named(name).usage += charged

    def _named(self, name: str) -> Metered:
        """Return the meter of a key by its name, also of one that was removed meanwhile."""
        key = self._ring.keys.get(name)
        if key is not None:
            return self._of(key)
        metered = self._metered.get(name)
        if metered is None:
            meter = Meter(NO_LIMITS, self._clock.seconds())
            metered = self._metered[name] = Metered(name, meter)
        return metered

    # The store.

    @property
    def all(self) -> Iterable[Metered]:
        """All keys that were used since the start, and removed ones until they are forgotten."""
        return self._metered.values()

    def figures(self) -> Iterator[KeyFigures]:
        """Yield what the metrics show of each key that there is; a small file's keys from 0 on."""
        keys = self._ring.keys
        if len(keys) <= MOST_BORN:
            for key in keys.values():
                self._of(key)
        for name, metered in self._metered.items():
            if name in keys:
                yield KeyFigures(name, metered.usage, metered.meter.running, metered.refused)

    @property
    def keys(self) -> Mapping[str, Key]:
        """The keys that there are, by their names."""
        return self._ring.keys

    def forget_removed(self) -> None:
        """Forget the keys that were removed, once their last request has ended."""
        keys = self._ring.keys
        for name, metered in list(self._metered.items()):
            if name not in keys and not metered.meter.running:
                del self._metered[name]

    def forget_restored(self) -> None:
        """Let each budget be restored once more, when the next request of its key comes."""
        for metered in self._metered.values():
            metered.is_restored = metered.meter.limits.token_budget is None

    def restore(self, span: int, tokens: Mapping[str, Mapping[int, int]]) -> None:
        """Count what the store has of the keys' tokens, by hours or by days, against budgets."""
        for name in self._ring.keys.keys() & tokens.keys():
            metered = self._named(name)
            unwritten = (metered.usage - metered.written).tokens
            number = int(self._unix_time() // span)
            counts = dict(tokens[name])
            counts[number] = counts.get(number, 0) + unwritten
            metered.meter.spent.restore(span, counts)

    # The change from one process to the next.

    def hand_over(self, send: Callable[[Report], None]) -> None:
        """Report to a successor from now on, first of all the requests that run."""
        self.successor = send
        for metered in self._metered.values():
            if metered.meter.running:
                send(Report(metered.name, metered.meter.running))

    def take(self, report: Report) -> None:
        """Count what the process before this one reports."""
        name, running, usage = report
        metered = self._named(name)
        metered.meter.running += running
        metered.adopted += running
        metered.usage += usage
        metered.meter.use(usage.tokens, self._clock.seconds(), self._unix_time())
        if self.successor is not None:
            self.successor(report)

    def lose_predecessor(self) -> None:
        """End the requests of the process before this one, which is gone."""
        for metered in self._metered.values():
            running, metered.adopted = metered.adopted, 0
            metered.meter.running -= running
            if self.successor is not None and running:
                self.successor(Report(metered.name, -running))


def refused(key: Key, refusal: Refusal) -> CortexError:
    """Return the error for a request that goes over a limit of its key."""
    limits, name = key.limits, key.name
    match refusal.limit:
        case Limit.REQUESTS:
            words = f"may send {counted(limits.requests_per_minute or 0, 'requests per minute')}"
        case Limit.TOKENS:
            words = f"may use {counted(limits.tokens_per_minute or 0, 'tokens per minute')}"
        case Limit.CONCURRENCY:
            words = (
                f"may have {counted(limits.max_concurrency or 0, 'requests in progress')} at a time"
            )
        case Limit.RESERVED:
            words = (
                f"may use {limits.token_budget} tokens, and its requests in progress may use up "
                "the rest of them"
            )
        case Limit.BUDGET:
            hours = limits.budget_hours
            span = "a day (UTC)" if hours is None else f"{hours:g} hours"
            words = f"may use {limits.token_budget} tokens in {span}, which are used up"
    kind = KeyOverBudget if refusal.limit is Limit.BUDGET else KeyLimited
    seconds = max(1, math.ceil(refusal.seconds))
    return kind(f"the key '{name}' {words}; try again in {seconds} s", retry_after=seconds)
