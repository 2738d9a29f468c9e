"""The engine of servers that speak only Anthropic's Messages, and load models by themselves."""

from __future__ import annotations

from collections.abc import Mapping

from cortexd.dialects.messages_passed.request import count_body, headers_for_node
from cortexd.dialects.nodes import messages
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.engines.engine import Abilities, Ask, Dialect, Engine
from cortexd.fleet.states import Observation


class MessagesServer(Engine):
    """A server that speaks only Anthropic's dialect."""

    name = "anthropic"
    abilities = Abilities(dialects=frozenset({Dialect.MESSAGES}), counts_tokens=True)

    def credentials(self, key: str) -> Mapping[str, str]:
        """Return the key in the dialect's own header; see Engine."""
        return {"X-Api-Key": key}

    def listing(self) -> Ask[Observation]:
        """Ask for the server's models, all on one page; see Engine."""
        return Ask("GET", messages.MODELS_PATH, messages.read_listing, headers=messages.HEADERS)

    def count_tokens(self, fields: JsonObject, model: str, headers: Mapping[str, str]) -> Ask[int]:
        """Ask the server to count; see Engine."""
        return Ask(
            "POST",
            messages.COUNT_PATH,
            messages.read_token_count,
            count_body(fields, model),
            tuple(headers_for_node(headers).items()),
        )
