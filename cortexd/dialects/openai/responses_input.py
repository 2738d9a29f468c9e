"""The input of a response's request, converted so that every node accepts it.

The node's version is unknown when a request is translated, and a node rejects the whole body for an
item or a value of an unknown kind (nodes.md 4.1). So we send only what all versions accept:

- Tool results, and messages of any role but the user, become one text, because nodes do not know
the
  kinds of parts in a model's answer. A text replaces an image or a file in a tool result: no node
  accepts it there, and because it stays in the conversation, an error would end the conversation.
- Items of other kinds are left out, such as records of a node's own tools, which come back with the
  conversation if the client stores it. So is thinking of earlier turns: newer nodes ignore it,
  older ones reject it.
- ``reasoning.effort: minimal`` becomes ``low``, and values that nodes cannot ``include`` are left
  out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cortexd.dialects.openai.chat_checks import check_media
from cortexd.dialects.openai.responses_tools import joined
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import Profile

BETWEEN_TEXTS: Final = "\n\n"
"""The separator of nodes between several texts of one message."""

_TAKEN_ITEMS: Final = frozenset(
    {"message", "function_call", "function_call_output", "item_reference"}
)
_TAKEN_INCLUDES: Final = frozenset(
    {
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "reasoning.encrypted_content",
    }
)
_TEXTS: Final = {
    "input_text": "text",
    "output_text": "text",
    "text": "text",
    "refusal": "refusal",
}
"""The kinds of text parts, and the field with the text of each."""

_TOLD_IN_WORDS: Final = {"input_image": "image", "input_file": "file"}
"""The kinds of other parts in a tool result, and their names in the text that replaces them."""


def input_for_any_node(body: JsonObject, approximations: Approximations) -> JsonObject:
    """Return the fields of a request's body that must change.

    Fields with an unexpected format stay unchanged; the node rejects them.
    """
    changed: JsonObject = {}
    items = body.get("input")
    if isinstance(items, list):
        taken = (item for item in items if _is_taken(item, approximations))
        changed["input"] = [_plain_item(item, approximations) for item in taken]
    reasoning = body.get("reasoning")
    if isinstance(reasoning, dict) and reasoning.get("effort") == "minimal":
        changed["reasoning"] = {**reasoning, "effort": "low"}
    include = body.get("include")
    if isinstance(include, list):
        unknown = {name for name in include if isinstance(name, str)} - _TAKEN_INCLUDES
        approximations.note_unknown(dict.fromkeys(sorted(unknown), True), frozenset(), "include")
        changed["include"] = [
            name for name in include if not (isinstance(name, str) and name in unknown)
        ]
    return changed


def check_input(items: object, profile: Profile) -> None:
    """Raise BadRequest for media in a request's ``input`` that the profile does not allow."""
    for number, item in enumerate(items if isinstance(items, list) else ()):
        content = item.get("content") if isinstance(item, dict) else None
        for index, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict):
                check_media(part, f"input[{number}].content[{index}]", profile)


def _is_taken(item: object, approximations: Approximations) -> bool:
    kind = item.get("type") if isinstance(item, dict) else None
    if not isinstance(kind, str) or kind in _TAKEN_ITEMS:
        return True
    approximations.note_unknown({kind: True}, frozenset(), "input")
    return False


def _plain_item(item: object, approximations: Approximations) -> object:
    """Return an item of the input in a form that every node accepts."""
    if not isinstance(item, dict):
        return item
    kind = item.get("type")
    if kind == "function_call" and isinstance(item.get("namespace"), str):
        return joined(item)
    if kind == "function_call_output":
        return _in_one(_less_media(item, approximations), "output")
    return item if item.get("role") in (None, "user") else _in_one(item, "content")


def _less_media(item: JsonObject, approximations: Approximations) -> JsonObject:
    """Return a tool result in which a text replaces each image and file."""
    parts = item.get("output")
    if not isinstance(parts, list):
        return item
    return {**item, "output": [_in_words(part, approximations) for part in parts]}


def _in_words(part: object, approximations: Approximations) -> object:
    name = _by_kind(_TOLD_IN_WORDS, part)
    if name is None:
        return part
    approximations.note(f"tool_output_{name}")
    words = f"[{name} omitted: the result of a tool can only be text here]"
    return {"type": "input_text", "text": words}


def _in_one(item: JsonObject, field: str) -> JsonObject:
    """Return an item with the parts in a field joined to one text, if all of them are text."""
    parts = item.get(field)
    if not isinstance(parts, list):
        return item
    texts = [text for part in parts if isinstance(text := _text_of(part), str)]
    return {**item, field: BETWEEN_TEXTS.join(texts)} if len(texts) == len(parts) else item


def _text_of(part: object) -> object:
    name = _by_kind(_TEXTS, part)
    return part.get(name) if isinstance(part, dict) and name is not None else None


def _by_kind(names: Mapping[str, str], part: object) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else None
    return names.get(kind) if isinstance(kind, str) else None
