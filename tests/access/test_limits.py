"""The meter of a key: what it admits, what it refuses, and until when."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.keys import KeyLimits
from cortexd.access.limits import FIRST_GUESS, Bucket, Limit, Meter, Refusal
from cortexd.access.usage import DAY, HOUR

AT = 1_790_000_000.0
"""A time in unix seconds, some hours into a day of UTC."""

Gap = st.sampled_from((0.0, 0.01, 0.4, 1.0, 3.0, 30.0, 70.0))


def meter(**limits: float) -> Meter:
    """Return a new meter at the time 0."""
    return Meter(KeyLimits(**limits), 0.0)  # type: ignore[arg-type]  # the names are all of numbers


def send(given: Meter, tokens: int, now: float = 0.0, at: float = AT) -> Refusal | None:
    """Let one request begin and end at once; return why it was refused, if it was."""
    refusal = given.refusal(now, at)
    if refusal is None:
        given.end(given.begin(now), tokens, now, at)
    return refusal


class RateTests(SynchronousTestCase):
    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 40), st.lists(Gap, min_size=1, max_size=150))
    def test_no_stretch_of_time_has_more_requests_than_burst_and_refill(
        self, limit: int, gaps: list[float]
    ) -> None:
        """In any ``s`` seconds at most limit * (1 + s / 60) are admitted."""
        given, now, admitted = meter(requests_per_minute=limit), 0.0, []
        for gap in gaps:
            now += gap
            if send(given, 0, now) is None:
                admitted.append(now)

        for first, began in enumerate(admitted):
            for last in range(first, len(admitted)):
                seconds = admitted[last] - began
                assert last - first + 1 <= limit * (1 + seconds / 60) + 0.001

    @settings(max_examples=60, deadline=None)
    @given(
        st.builds(
            KeyLimits,
            requests_per_minute=st.none() | st.integers(1, 30),
            tokens_per_minute=st.none() | st.integers(1, 5_000),
            token_budget=st.none() | st.integers(1, 20_000),
            budget_hours=st.none() | st.sampled_from((0.25, 1.0, 5.0, 48.0, 100.0)),
        ),
        st.lists(st.tuples(Gap, st.integers(0, 3_000)), min_size=1, max_size=60),
    )
    def test_a_retry_at_the_stated_time_is_admitted_and_no_earlier_one(
        self, limits: KeyLimits, sent: list[tuple[float, int]]
    ) -> None:
        """If nothing else was sent, and in whole seconds, as clients get the time."""
        given, now = Meter(limits, 0.0), 0.0
        for gap, tokens in sent:
            now += gap
            refusal = send(given, tokens, now, AT + now)
            if refusal is not None:
                early = refusal.seconds * 0.99 - 0.01
                assert early <= 0 or given.refusal(now + early, AT + now + early) is not None
                now += math.ceil(refusal.seconds)
                assert send(given, tokens, now, AT + now) is None

    def test_tokens_may_leave_less_than_nothing(self) -> None:
        """One request may use more than a minute's worth, and the next waits for the refill."""
        given = meter(tokens_per_minute=6_000)

        assert send(given, 9_000) is None
        refusal = send(given, 1)
        assert refusal is not None
        assert (Limit.TOKENS, 30.01) == (refusal.limit, round(refusal.seconds, 2))
        assert send(given, 1, 30.1) is None

    def test_a_flood_reserves_what_the_bucket_holds(self) -> None:
        """Requests that run at the same time cannot all count on the same tokens."""
        given = meter(tokens_per_minute=6_000)
        reserves = []
        while given.refusal(0.0, AT) is None:
            reserves.append(given.begin(0.0))
        assert [FIRST_GUESS] * 6 == reserves

        for reserve in reserves:
            given.end(reserve, 10, 0.0, AT)
        while given.refusal(0.0, AT) is None:
            reserves.append(given.begin(0.0))
        assert 6 + 12 < len(reserves) < 6 + 60, "small requests reserve less and less"

    def test_a_request_without_tokens_gives_its_reserve_back(self) -> None:
        """A request that fails counts as a request, and uses no tokens."""
        given = meter(tokens_per_minute=1_000, requests_per_minute=3)

        assert [None, None, None] == [send(given, 0) for _ in range(3)]
        refusal = send(given, 0)
        assert refusal is not None
        assert (Limit.REQUESTS, 20.0) == (refusal.limit, round(refusal.seconds, 3))

    def test_a_refused_request_takes_nothing(self) -> None:
        """So a client that does not wait is not punished."""
        given = meter(requests_per_minute=1)
        send(given, 0)
        waits = [refusal.seconds for _ in range(9) if (refusal := send(given, 0, 30.0))]

        assert [30.0] * 9 == [round(wait, 3) for wait in waits]

    def test_a_bucket_does_not_refill_backwards(self) -> None:
        """A time before the last one changes nothing."""
        bucket = Bucket(60, 10.0)
        bucket.take(60, 10.0)

        assert 0.0 == bucket.level(5.0)
        assert 1.0 == bucket.level(11.0)


class ConcurrencyTests(SynchronousTestCase):
    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 4), st.lists(st.booleans(), max_size=60))
    def test_no_more_requests_run_than_may(self, most: int, steps: list[bool]) -> None:
        """Whatever begins and ends."""
        given, running = meter(max_concurrency=most), []
        for begins in steps:
            if begins and given.refusal(0.0, AT) is None:
                running.append(given.begin(0.0))
            elif not begins and running:
                given.end(running.pop(), 0, 0.0, AT)
            assert given.running == len(running) <= most
            refused = given.refusal(0.0, AT)
            assert refused == (Refusal(Limit.CONCURRENCY, 1.0) if len(running) == most else None)


class BudgetTests(SynchronousTestCase):
    def test_a_daily_budget_ends_at_midnight(self) -> None:
        """In UTC; the refusal says when."""
        given = meter(token_budget=5_000)
        assert send(given, 5_000) is None

        refusal = send(given, 1)
        midnight = (AT // DAY + 1) * DAY
        assert Refusal(Limit.BUDGET, midnight - AT) == refusal
        assert send(given, 1, 0.0, midnight) is None

    def test_a_rolling_budget_counts_whole_hours(self) -> None:
        """Tokens leave it with the last second of the hour in which they were used."""
        given = meter(token_budget=5_000, budget_hours=5)
        began = AT // HOUR * HOUR
        send(given, 2_000, at=began + 600)
        send(given, 3_000, at=began + HOUR)

        refusal = send(given, 1, at=began + HOUR)
        assert Refusal(Limit.BUDGET, 5.0 * HOUR) == refusal
        assert send(given, 1, at=began + 6 * HOUR) is None

    def test_a_long_budget_counts_whole_days(self) -> None:
        """Above two days."""
        given = meter(token_budget=5_000, budget_hours=72)
        midnight = AT // DAY * DAY
        send(given, 5_000, at=midnight + HOUR)

        refusal = send(given, 1, at=midnight + DAY)
        assert Refusal(Limit.BUDGET, 3.0 * DAY) == refusal

    def test_requests_that_run_reserve_the_budget_and_only_delay_others(self) -> None:
        """A budget that is only reserved is no budget that is used up."""
        given = meter(token_budget=1_000)
        reserve = given.begin(0.0)

        assert Refusal(Limit.RESERVED, 1.0) == given.refusal(0.0, AT)
        given.end(reserve, 10, 0.0, AT)
        assert given.refusal(0.0, AT) is None

    def test_the_budget_is_named_before_a_rate(self) -> None:
        """And its time serves both."""
        given = meter(token_budget=10, budget_hours=0.5, tokens_per_minute=1)
        send(given, 600, at=AT // HOUR * HOUR)

        refusal = given.refusal(0.0, AT // HOUR * HOUR)
        assert refusal is not None
        assert (Limit.BUDGET, 600 * 60.0) == (refusal.limit, round(refusal.seconds, 2))


class StandingTests(SynchronousTestCase):
    def test_it_shows_what_is_left_and_when_all_of_it_is_back(self) -> None:
        """The reserve of a request that runs is not left, but is not used up either."""
        given = meter(requests_per_minute=60, tokens_per_minute=6_000)
        send(given, 600)
        given.begin(0.0)

        standing = given.standing(0.0, AT)
        assert standing is not None
        assert standing.requests is not None
        assert (60, 58, 2.0) == (
            standing.requests.limit,
            standing.requests.remaining,
            round(standing.requests.resets_in, 3),
        )
        assert standing.tokens is not None
        assert (6_000, 6_000 - 600 - 950, 6.0) == (
            standing.tokens.limit,
            standing.tokens.remaining,
            round(standing.tokens.resets_in, 3),
        )

    def test_the_tighter_of_rate_and_budget_is_shown(self) -> None:
        """The dialects have one set of headers for tokens."""
        given = meter(tokens_per_minute=6_000, token_budget=2_000)
        send(given, 500)

        standing = given.standing(0.0, AT)
        assert standing is not None
        assert standing.tokens is not None
        assert (2_000, 1_500) == (standing.tokens.limit, standing.tokens.remaining)

    def test_concurrency_alone_has_nothing_to_show(self) -> None:
        """No dialect has a header for it."""
        assert meter(max_concurrency=1).standing(0.0, AT) is None


class ReloadTests(SynchronousTestCase):
    def test_other_limits_keep_the_counts(self) -> None:
        """What was used counts against the new limits."""
        given = meter(requests_per_minute=10, token_budget=1_000)
        for _ in range(4):
            send(given, 100)
        given.reconfigure(replace(given.limits, requests_per_minute=5, token_budget=401), 0.0)

        assert send(given, 1) is None
        refusal = send(given, 1)
        assert refusal is not None
        assert Limit.BUDGET == refusal.limit
        given.reconfigure(KeyLimits(requests_per_minute=5), 0.0)
        refusal = send(given, 1)
        assert refusal is not None
        assert Limit.REQUESTS == refusal.limit
        given.reconfigure(KeyLimits(), 0.0)
        assert send(given, 1) is None
