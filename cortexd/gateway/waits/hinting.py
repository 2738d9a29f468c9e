"""What the scheduler is told of a request beside its model."""

from __future__ import annotations

from cortexd.dialects.prefixes.keys import keys_for
from cortexd.dialects.prefixes.sessions import session_key
from cortexd.dialects.wire.exchange import Exchange
from cortexd.scheduling.hints import NO_HINTS, Hints
from cortexd.telemetry.accounting import RequestRecord


def hints_of(exchange: Exchange, record: RequestRecord) -> Hints:
    """Return the hints for a request that needs a replica now.

    Conversations and prompts have other keys for each requester. A conversation that the headers
    name counts before that of the body. What the request has waited before, for a replica that then
    failed it, comes off its wait.
    """
    requester = record.caller.requester.name
    session = session_key(requester, record.session or exchange.session)
    prefixes = keys_for(requester, exchange.model, exchange.first.prefixes)
    if record.wait is None:
        return Hints(None, session, prefixes) if session or prefixes else NO_HINTS
    return Hints(max(0.0, record.wait - record.queued_seconds), session, prefixes)
