"""What the scheduler is told of a request beside its model."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.callers import Caller
from cortexd.access.requesters import Requester
from cortexd.dialects.routes import chat, completions
from cortexd.dialects.wire.json_values import encode
from cortexd.gateway.waits.hinting import hints_of
from cortexd.scheduling.hints import Hints
from cortexd.telemetry.accounting import RequestRecord

CHAT: dict[str, Any] = {
    "model": "acme/chat",
    "messages": [
        {"role": "system", "content": "Be brief. " * 60},
        {"role": "user", "content": "hi"},
    ],
}


def hints(key: str = "alice", session: str = "", wait: float | None = None, **more: Any) -> Hints:
    """Give the hints of a chat with these fields, sent with a key and a session's header."""
    caller = Caller(None, frozenset(), Requester(key))
    record = RequestRecord("req", chat.ROUTE, "client", 0.0, caller, wait, session)
    parsed = chat.read_request(encode({**CHAT, **more}))
    return hints_of(parsed.exchange("acme/chat", random_id="1", now=0.0), record)


class HintsTests(SynchronousTestCase):
    def test_beginnings(self) -> None:
        """A request has a key for each beginning of its prompt, also if it will wait."""
        self.assertEqual(2, len(hints().prefixes))
        self.assertEqual(hints().prefixes, hints(wait=3.0).prefixes)
        self.assertEqual(3.0, hints(wait=3.0).wait)

    def test_requesters(self) -> None:
        """Another key has other keys for the same prompt and the same conversation."""
        self.assertFalse(set(hints("alice").prefixes) & set(hints("bob").prefixes))
        self.assertNotEqual(hints("alice", "one").session, hints("bob", "one").session)

    def test_session(self) -> None:
        """The headers' conversation counts before the body's; without either there is none."""
        in_body = hints(prompt_cache_key="one")
        self.assertEqual(hints(session="one").session, in_body.session)
        both = hints(session="two", prompt_cache_key="one")
        self.assertEqual(hints(session="two").session, both.session)
        self.assertEqual("", hints().session)

    def test_nothing(self) -> None:
        """A request of which nothing is known has no hints."""
        body = encode({"model": "acme/chat", "prompt": ""})
        parsed = completions.read_request(body)
        exchange = parsed.exchange("acme/chat", random_id="1", now=0.0)
        record = RequestRecord("req", completions.ROUTE, "client", 0.0)
        self.assertEqual(Hints(), hints_of(exchange, record))
