"""The tools that a Messages request offers to the model at the end of its conversation.

A request declares all tools in ``tools``, so that the vendor's prompt cache keeps them. Which ones
the model sees depends on the conversation:

- A tool with ``defer_loading`` is shown once the conversation refers to it: by a ``tool_reference``
  in the result of a search, by a call, by an addition, or by ``tool_choice``. These tools stand
  after all others, in the order of their references, so that the beginning of the prompt stays the
  same.
- ``tool_addition`` and ``tool_removal`` in a system turn change what is offered from there on. A
  node has one list of tools for the whole conversation, so that it gets the last state.

The Anthropic SDK 2.14 has the fields of these blocks. They are part of the history, so that an
unknown name or shape in them is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from cortexd.dialects.messages_to_chat.told import COMPACTION, compacted_at
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.fields import read_dict, read_list
from cortexd.dialects.wire.json_values import JsonObject

ADDITION = "tool_addition"
REMOVAL = "tool_removal"


class Offered(NamedTuple):
    """A tool, and the path of its definition."""

    path: str
    tool: JsonObject


def offered_tools(body: JsonObject, approximations: Approximations) -> list[Offered]:
    """Return the tools that the model of a request shall see, in their order.

    Raises BadRequest if ``tools`` is not a list of objects.
    """
    given = body.get("tools")
    declared = [
        Offered(f"tools[{index}]", read_dict(tool, f"tools[{index}]"))
        for index, tool in enumerate(read_list(given, "tools") if given is not None else ())
    ]
    is_plain = not any(each.tool.get("defer_loading") for each in declared)
    blocks = list(_blocks(body.get("messages")))
    changes = [each for each in blocks if each[1].get("type") in (ADDITION, REMOVAL)]
    if is_plain and not changes:
        return declared
    declared, removed = _after(changes, declared, approximations)
    referenced = dict.fromkeys([*_referenced(blocks), *_chosen(body.get("tool_choice"))])
    order = {name: place for place, name in enumerate(referenced)}
    shown: list[Offered] = []
    late: list[tuple[int, Offered]] = []
    for each in declared:
        name = each.tool.get("name")
        known = isinstance(name, str)
        if known and name in removed:
            continue
        if each.tool.get("defer_loading") is not True:
            shown.append(each)
        elif known and name in order:
            late.append((order[name], each))
        else:
            approximations.note("defer_loading")
    return shown + [each for _, each in sorted(late, key=lambda found: found[0])]


def _after(
    changes: list[tuple[str, JsonObject]],
    declared: list[Offered],
    approximations: Approximations,
) -> tuple[list[Offered], set[str]]:
    """Return all definitions, and the names that were removed last."""
    removed: set[str] = set()
    tools = list(declared)
    for path, block in changes:
        kind = block["type"]
        approximations.note(kind)
        change = block.get("tool")
        if not isinstance(change, dict):
            continue
        definition = change.get("definition") if kind == ADDITION else None
        if isinstance(definition, dict):
            if definition.get("type") not in (None, "custom"):
                continue  # a tool that only the vendor can run
            name = definition.get("name")
            tools = [each for each in tools if each.tool.get("name") != name]
            tools.append(Offered(f"{path}.tool.definition", definition))
        else:
            name = change.get("name")
        if not isinstance(name, str):
            continue
        if kind == ADDITION:
            removed.discard(name)
        else:
            removed.add(name)
    return tools, removed


def _blocks(messages: object) -> Iterator[tuple[str, JsonObject]]:
    """Yield the path and the block of all contents of a conversation, from its last summary on.

    The summary has the changes of tools before it.
    """
    start = compacted_at(messages)
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for number, block in enumerate(content if isinstance(content, list) else ()):
            if (index, number) < start or not isinstance(block, dict):
                continue
            path = f"messages[{index}].content[{number}]"
            changes = block.get("tool_changes") if block.get("type") == COMPACTION else None
            for place, change in enumerate(changes if isinstance(changes, list) else ()):
                if isinstance(change, dict):
                    yield f"{path}.tool_changes[{place}]", change
            yield path, block


def _referenced(blocks: list[tuple[str, JsonObject]]) -> Iterator[str]:
    """Yield the names of the tools that the conversation refers to, in its order."""
    for _, block in blocks:
        name: Any = None
        if block.get("type") == "tool_use":
            name = block.get("name")
        elif block.get("type") == "tool_reference":
            name = block.get("tool_name")
        elif block.get("type") == ADDITION and isinstance(block.get("tool"), dict):
            name = block["tool"].get("name")
        if isinstance(name, str):
            yield name
        # The vendor's own search wraps its references once more.
        inner = block.get("content")
        if isinstance(inner, dict):
            inner = inner.get("tool_references")
        for each in inner if isinstance(inner, list) else ():
            if isinstance(each, dict) and each.get("type") == "tool_reference":
                found = each.get("tool_name")
                if isinstance(found, str):
                    yield found


def _chosen(choice: object) -> Iterator[str]:
    if isinstance(choice, dict) and isinstance(choice.get("name"), str):
        yield choice["name"]
