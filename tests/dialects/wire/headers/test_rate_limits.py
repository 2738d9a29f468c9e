"""What is left of a key's limits, in the headers of each dialect."""

from __future__ import annotations

import re
from datetime import datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.limits import Allowance, Standing
from cortexd.dialects.wire.envelopes import limit_headers
from cortexd.dialects.wire.headers.rate_limits import EXPOSED, duration, moment

STANDING = Standing(Allowance(60, 59, 1.0), Allowance(150_000, 149_984, 360.0), 1_790_000_000.5)
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class DialectTests(SynchronousTestCase):
    def test_openai(self) -> None:
        """The time until all is back is a duration."""
        assert {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-limit-tokens": "150000",
            "x-ratelimit-remaining-tokens": "149984",
            "x-ratelimit-reset-tokens": "6m0s",
        } == limit_headers("/v1/chat/completions", STANDING)

    def test_anthropic(self) -> None:
        """It is a moment, rounded up to seconds."""
        assert {
            "anthropic-ratelimit-requests-limit": "60",
            "anthropic-ratelimit-requests-remaining": "59",
            "anthropic-ratelimit-requests-reset": "2026-09-21T14:13:22Z",
            "anthropic-ratelimit-tokens-limit": "150000",
            "anthropic-ratelimit-tokens-remaining": "149984",
            "anthropic-ratelimit-tokens-reset": "2026-09-21T14:19:21Z",
        } == limit_headers("/v1/messages", STANDING)

    def test_only_limits_that_there_are(self) -> None:
        """And each of the names may be read by pages."""
        standing = Standing(None, STANDING.tokens, 0.0)
        for path in ("/v1/responses", "/v1/messages"):
            names = limit_headers(path, standing).keys()
            assert 3 == len(names) == len(names & set(EXPOSED))


class TimeTests(SynchronousTestCase):
    def test_durations(self) -> None:
        """As OpenAI writes them."""
        assert ["0ms", "1ms", "120ms", "1s", "1.5s", "59.999s", "6m0s", "1h0m0.001s"] == list(
            map(duration, (0.0, 0.0001, 0.12, 1.0, 1.5, 59.999, 360.0, 3600.0003))
        )

    @settings(max_examples=50)
    @given(st.floats(0, 400 * 86_400))
    def test_no_time_is_too_early(self, seconds: float) -> None:
        """And none is late by more than it is rounded."""
        parts = re.findall(r"([\d.]+)(ms|[hms])", duration(seconds))
        read = sum(float(number) * UNITS[unit] for number, unit in parts)

        assert -1e-6 <= read - seconds <= 0.0011
        at = datetime.fromisoformat(moment(1_790_000_000 + seconds)).timestamp()
        assert -1e-3 <= at - 1_790_000_000 - seconds <= 1
