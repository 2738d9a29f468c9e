"""An engine that speaks Anthropic's Messages alone, and loads its models as it likes."""

from __future__ import annotations

from collections.abc import Mapping

from cortexd.dialects.messages_passed.request import count_body, headers_for_node
from cortexd.dialects.nodes import messages
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.engines.engine import Abilities, Ask, Dialect, Engine
from cortexd.fleet.states import Observation


class MessagesServer(Engine):
    """A server of Anthropic's dialect."""

    name = "anthropic"
    abilities = Abilities(dialects=frozenset({Dialect.MESSAGES}), counts_tokens=True)

    def credentials(self, key: str) -> Mapping[str, str]:
        """Return the key in the header that the dialect has for it; see Engine."""
        return {"X-Api-Key": key}

    def listing(self) -> Ask[Observation]:
        """Ask for its models, all on one page; see Engine."""
        return Ask("GET", messages.MODELS_PATH, messages.read_listing, headers=messages.HEADERS)

    def count_tokens(self, fields: JsonObject, model: str, headers: Mapping[str, str]) -> Ask[int]:
        """Ask it to count; see Engine."""
        return Ask(
            "POST",
            messages.COUNT_PATH,
            messages.read_count,
            count_body(fields, model),
            tuple(headers_for_node(headers).items()),
        )
