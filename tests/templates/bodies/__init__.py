"""The bodies of a conversation in each dialect, as clients send them."""

from collections.abc import Callable
from typing import Final

from tests.templates.bodies import chat, messages, responses
from tests.templates.conversation import Dialect, JsonObject, Shape

MODEL: Final = "model"
_MAKERS: Final[dict[Dialect, Callable[[Shape], JsonObject]]] = {
    "chat": chat.body,
    "messages": messages.body,
    "responses": responses.body,
}


def body_of(shape: Shape, dialect: Dialect) -> JsonObject:
    """Return the body of a request in one of the dialects that have the shape."""
    changes: dict[Dialect, JsonObject] = {
        "chat": shape.chat,
        "messages": shape.messages,
        "responses": shape.responses,
    }
    return {"model": MODEL, "stream": True, **_MAKERS[dialect](shape), **changes[dialect]}
