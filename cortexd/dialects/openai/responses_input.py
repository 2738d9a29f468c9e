"""What is said in a request for a response, made such as every node takes it.

No version of a node is known when a request is translated, and a node refuses the whole body for an
item, or a word, of a kind unknown to it (nodes.md 4.1). So what goes up is what all take:

- What a tool gave, and what is said by others than the user, as one text: parts of the kinds that a
  model's answer has are not known to nodes. An image or a file that a tool gave is told in words:
  no node takes it there, and refused it would end the conversation, of which it is a part from then
  on.
- No item of another kind, such as a record of what a node ran by itself: those come back with the
  conversation where the client keeps it. Thinking of former turns is one too: newer nodes skip it,
  older ones refuse it.
- ``reasoning.effort: minimal`` becomes ``low``, and what nodes cannot ``include`` is left out.
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
"""What nodes put between the texts of one message, where they take several."""

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
"""The kinds of parts that are text, and the field in which each has it."""

_TOLD_IN_WORDS: Final = {"input_image": "image", "input_file": "file"}
"""The kinds of parts of a tool's result that are no text, and what they are called."""


def input_for_any_node(body: JsonObject, approximations: Approximations) -> JsonObject:
    """Return the fields of a request's body that every node takes otherwise.

    What is not of the known shape stays as it is, for the node to refuse.
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
    """Raise BadRequest for media in a request's ``input`` that may not go to such an upstream."""
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
    """Return an item of the input as every node takes it."""
    if not isinstance(item, dict):
        return item
    kind = item.get("type")
    if kind == "function_call" and isinstance(item.get("namespace"), str):
        return joined(item)
    if kind == "function_call_output":
        return _in_one(_less_media(item, approximations), "output")
    return item if item.get("role") in (None, "user") else _in_one(item, "content")


def _less_media(item: JsonObject, approximations: Approximations) -> JsonObject:
    """Return what a tool gave with words for each image and file in it."""
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
    """Return an item with the parts in a field as one text, where all of them are text."""
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
