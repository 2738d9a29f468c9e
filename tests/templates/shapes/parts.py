"""The turns of which the shapes are made."""

from typing import Final

from tests.templates.conversation import (
    Assistant,
    Call,
    Dialect,
    JsonObject,
    Result,
    System,
    User,
)

CHAT: Final[frozenset[Dialect]] = frozenset({"chat"})
MESSAGES: Final[frozenset[Dialect]] = frozenset({"messages"})
RESPONSES: Final[frozenset[Dialect]] = frozenset({"responses"})
OPENAI: Final[frozenset[Dialect]] = CHAT | RESPONSES
EVERY: Final[frozenset[Dialect]] = OPENAI | MESSAGES

SYSTEM = System(("sysone",))
ASKED = User(("useone",))
ANSWERED = Assistant(("ansone",))
AGAIN = User(("usetwo",))
CALL = Call("call_1", '{"path":"argone"}', shown=("argone",))
OTHER = Call("call_2", '{"path":"argtwo"}', shown=("argtwo",))
RESULT = Result("call_1", ("resone",))
OTHER_RESULT = Result("call_2", ("restwo",))


def tool(name: str = "lookup", parameters: JsonObject | None = None) -> JsonObject:
    """Return a tool as a function of OpenAI, without the layer around it."""
    properties = {"path": {"type": "string", "description": "Where."}}
    usual = {"type": "object", "properties": properties, "required": ["path"]}
    return {
        "name": name,
        "description": "Looks a thing up.",
        "parameters": usual if parameters is None else parameters,
    }


LOOKUP: Final = (tool(),)
