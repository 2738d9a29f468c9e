"""What a key has used: the sums, and the tokens that a budget counts."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.usage import DAY, FINE_HOURS, HOUR, KEPT, Spent, Usage

AT = 1_790_000_000.0
Budget = st.none() | st.sampled_from((0.5, 1.0, 5.0, 24.0, 48.0, 49.0, 200.0))
Uses = st.lists(st.tuples(st.floats(0, 2 * DAY), st.integers(1, 1000)), min_size=1, max_size=30)


def counts(used_at: float, budget_hours: float | None, at: float) -> bool:
    """Whether tokens count that were used at a time: what the rule says, in one line each."""
    if budget_hours is None:
        return used_at // DAY >= at // DAY
    span = HOUR if budget_hours <= FINE_HOURS else DAY
    return (used_at // span + 1) * span > at - budget_hours * HOUR


class SpentTests(SynchronousTestCase):
    @settings(max_examples=80, deadline=None)
    @given(Uses, Budget, Budget)
    def test_a_budget_counts_what_its_rule_says(
        self, uses: list[tuple[float, int]], first: float | None, second: float | None
    ) -> None:
        """At each use, also after the budget was changed to another."""
        spent, at, used = Spent(), AT, []
        for number, (gap, tokens) in enumerate(uses):
            at += gap
            spent.add(tokens, at)
            used.append((at, tokens))
            budget = first if number < len(uses) // 2 else second
            expected = sum(tokens for then, tokens in used if counts(then, budget, at))
            assert expected == spent.within(budget, at)

    @settings(max_examples=80, deadline=None)
    @given(Uses, Budget, st.integers(0, 2000))
    def test_tokens_leave_when_it_says(
        self, uses: list[tuple[float, int]], budget: float | None, most: int
    ) -> None:
        """Neither a second early nor late."""
        spent, at = Spent(), AT
        for gap, tokens in uses:
            at += gap
            spent.add(tokens, at)
        seconds = spent.seconds_until(most, budget, at)
        if seconds > 1:
            assert spent.within(budget, at + seconds - 1) > most
        assert spent.within(budget, at + math.ceil(seconds) + 0.001) <= most

    def test_no_key_fills_the_memory(self) -> None:
        """Hours and days that no budget can count are forgotten."""
        spent = Spent()
        for number in range(3 * KEPT[DAY]):
            spent.add(1, AT + number * DAY)

        assert len(spent.spans[HOUR]) <= KEPT[HOUR] + 1
        assert len(spent.spans[DAY]) <= KEPT[DAY] + 1


class UsageTests(SynchronousTestCase):
    @given(st.tuples(*[st.integers(0, 1000)] * 14))
    @settings(max_examples=20)
    def test_sum_and_difference(self, numbers: tuple[int, ...]) -> None:
        """Field by field, without a change of either."""
        one, two = Usage(*numbers[:7]), Usage(*numbers[7:])
        same = one.copy()

        assert one == (one + two) - two == same
        assert bool(one) == any(numbers[:7])
        same.requests += 1
        assert one != same
