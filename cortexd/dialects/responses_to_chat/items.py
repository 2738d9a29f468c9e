"""The input of a response's request as a list of items, each with a type and an id.

This is what a client lists by ``input_items``, and what later requests continue from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from cortexd.dialects.wire.fields import refused
from cortexd.dialects.wire.json_values import JsonObject, encode, type_name
from cortexd.errors import BadRequest

MESSAGE: Final = "message"
REASONING: Final = "reasoning"
FUNCTION_CALL: Final = "function_call"
FUNCTION_OUTPUT: Final = "function_call_output"
CUSTOM_CALL: Final = "custom_tool_call"
CUSTOM_OUTPUT: Final = "custom_tool_call_output"
REFERENCE: Final = "item_reference"
UNKNOWN: Final = "unknown"
"""The type of an item whose own is no string."""

MORE_TOOLS: Final = ("additional_tools", "tool_search_output")
"""The items that bring tools."""

ID_PREFIXES: Final = {
    MESSAGE: "msg",
    REASONING: "rs",
    FUNCTION_CALL: "fc",
    FUNCTION_OUTPUT: "fco",
    CUSTOM_CALL: "ctc",
    CUSTOM_OUTPUT: "ctco",
}
"""The beginning of an item's id, by its type."""

_OTHER_PREFIX: Final = "item"
_ID_DIGITS: Final = 32


def read_items(given: object, previous_id: str | None) -> list[JsonObject]:
    """Return the items of a request's ``input``; a string is one message of the user.

    An item without an id gets one, made of its content, its place and ``previous_id``: the same
    request gives the same ids. Raises BadRequest.
    """
    if isinstance(given, str):
        text = {"type": "input_text", "text": given}
        given = [{"type": MESSAGE, "role": "user", "content": [text]}]
    if not isinstance(given, list):
        if given is None:
            raise BadRequest("'input' is required", param="input")
        raise refused("input", f"must be a string or an array of items; found {type_name(given)}")
    return [_item(item, index, previous_id) for index, item in enumerate(given)]


def _item(value: object, index: int, previous_id: str | None) -> JsonObject:
    if not isinstance(value, dict):
        raise refused(f"input[{index}]", f"must be an object; found {type_name(value)}")
    kind = value.get("type")
    if kind is None:
        kind = REFERENCE if value.keys() <= {"id", "type"} else MESSAGE
    if not isinstance(kind, str):
        kind = UNKNOWN
    item = {**value, "type": kind}
    given_id = value.get("id")
    if not isinstance(given_id, str) or not given_id:
        item["id"] = _made_id(item, kind, index, previous_id)
    if kind == MESSAGE:
        item.setdefault("status", "completed")
        content = item.get("content")
        if isinstance(content, str):
            item["content"] = [{"type": _text_kind(item), "text": content}]
    return item


def _text_kind(message: JsonObject) -> str:
    return "output_text" if message.get("role") == "assistant" else "input_text"


def _made_id(item: JsonObject, kind: str, index: int, previous_id: str | None) -> str:
    seed = encode([previous_id, index, item])
    prefix = ID_PREFIXES.get(kind, _OTHER_PREFIX)
    return f"{prefix}_{hashlib.sha256(seed).hexdigest()[:_ID_DIGITS]}"


def unresolved(items: Sequence[JsonObject]) -> list[str]:
    """Return the ids of the items that are only referred to, each once."""
    known = _standing(items)
    named = [item["id"] for item in items if item.get("type") == REFERENCE]
    return [name for name in dict.fromkeys(named) if name not in known]


def resolved(
    items: Sequence[JsonObject], known: Mapping[str, JsonObject], before: Sequence[JsonObject] = ()
) -> list[JsonObject]:
    """Return the items, with the items of ``known`` in place of references to them.

    ``before`` are the items of the conversation before these. An item stands in it once: any other
    reference to it stays a reference.
    """
    standing = _standing([*before, *items])
    found: list[JsonObject] = []
    for item in items:
        if item.get("type") == REFERENCE and item["id"] not in standing and item["id"] in known:
            standing.add(item["id"])
            item = known[item["id"]]
        found.append(item)
    return found


def _standing(items: Sequence[JsonObject]) -> set[object]:
    return {item.get("id") for item in items if item.get("type") != REFERENCE}
