"""What the scheduler is told of a request beside its model."""

from __future__ import annotations

from cortexd.dialects.wire.exchange import Exchange
from cortexd.scheduling.hints import NO_HINTS, Hints
from cortexd.telemetry.accounting import RequestRecord


def hints_of(exchange: Exchange, record: RequestRecord) -> Hints:
    """Return the hints for a request that needs a replica now.

    What it has waited before, for a replica that then failed it, comes off its wait.
    """
    if record.wait is None:
        return NO_HINTS
    return Hints(wait=max(0.0, record.wait - record.queued_seconds))
