"""The output of a response: its items, and the events of each, made of the blocks of an answer.

The blocks come from ``dialects.messages_to_chat.blocks``: one is open at a time, and each becomes
one item. So an item is whole before the next begins, and a client that replays the items in the
order of ``response.output_item.done`` gets text before the calls that follow it
(translation.md 1.7.4).

========  ================================================  =====================================
block     item                                              events between its added and its done
========  ================================================  =====================================
thinking  ``reasoning``, the text as its summary            ``reasoning_summary_part``, its text
text      ``message``                                       ``content_part``, ``output_text``
call      ``function_call``                                 ``function_call_arguments``
call      ``custom_tool_call``, if the tool is a custom     ``custom_tool_call_input``, in one
          one                                               delta at the end
========  ================================================  =====================================

Events have no ``sequence_number`` yet: whoever sends them counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cortexd.dialects.messages_to_chat.blocks import BlockDelta, BlockEvent, BlockStarted, Kind
from cortexd.dialects.nodes.answers import MAX_RESPONSE, check_gathered
from cortexd.dialects.responses_to_chat.items import (
    CUSTOM_CALL,
    FUNCTION_CALL,
    ID_PREFIXES,
    MESSAGE,
    REASONING,
)
from cortexd.dialects.responses_to_chat.thoughts import conceal
from cortexd.dialects.responses_to_chat.tools import CUSTOM_INPUT, ClientTool
from cortexd.dialects.wire.arguments import RAW_ARGUMENTS
from cortexd.dialects.wire.json_values import NOT_JSON, JsonObject, decode

ITEM_ADDED: Final = "response.output_item.added"
ITEM_DONE: Final = "response.output_item.done"
PART_ADDED: Final = "response.content_part.added"
PART_DONE: Final = "response.content_part.done"
TEXT_DELTA: Final = "response.output_text.delta"
TEXT_DONE: Final = "response.output_text.done"
SUMMARY_ADDED: Final = "response.reasoning_summary_part.added"
SUMMARY_DONE: Final = "response.reasoning_summary_part.done"
SUMMARY_DELTA: Final = "response.reasoning_summary_text.delta"
SUMMARY_TEXT_DONE: Final = "response.reasoning_summary_text.done"
ARGUMENTS_DELTA: Final = "response.function_call_arguments.delta"
ARGUMENTS_DONE: Final = "response.function_call_arguments.done"
INPUT_DELTA: Final = "response.custom_tool_call_input.delta"
INPUT_DONE: Final = "response.custom_tool_call_input.done"

_EMPTY: Final = "{}"
"""The arguments of a call without any."""


class Output:
    """Makes the items of one response.

    ``stem`` makes the ids of its items unique, and ``tools`` has the client's tools by the node's
    names. ``items`` are those that are done. ``texts`` are the pieces of the open item's text; the
    short way of a chunk adds to them.
    """

    def __init__(
        self, stem: str, tools: Mapping[str, ClientTool], *, shows_encrypted: bool
    ) -> None:
        self._stem = stem
        self._tools = tools
        self._shows_encrypted = shows_encrypted
        self.items: list[JsonObject] = []
        self.texts: list[str] = []
        self._size = 0
        self._item: JsonObject = {}

    def take(self, event: BlockEvent, *, is_cut: bool = False) -> list[JsonObject]:
        """Return the events for a block's; ``is_cut`` marks an item that is not whole."""
        if isinstance(event, BlockDelta):
            return self._delta(event)
        if isinstance(event, BlockStarted):
            return self._start(event)
        return self._stop("incomplete" if is_cut else "completed")

    def _start(self, started: BlockStarted) -> list[JsonObject]:
        self.texts = []
        if started.kind is Kind.THINKING:
            item = self._new(REASONING, {"summary": []})
            part = {"type": "summary_text", "text": ""}
            return [
                self._added(item),
                {**self._at(SUMMARY_ADDED), "summary_index": 0, "part": part},
            ]
        if started.kind is Kind.TEXT:
            item = self._new(MESSAGE, {"status": "in_progress", "role": "assistant", "content": []})
            return [self._added(item), {**self._at(PART_ADDED), **_IN_MESSAGE, "part": _part("")}]
        tool = self._tools.get(started.name) or ClientTool(started.name, None, is_custom=False)
        kind, field = (CUSTOM_CALL, "input") if tool.is_custom else (FUNCTION_CALL, "arguments")
        fields: JsonObject = {"status": "in_progress", "call_id": started.call_id}
        fields |= {"name": tool.name, field: ""}
        if tool.namespace is not None:
            fields["namespace"] = tool.namespace
        return [self._added(self._new(kind, fields))]

    def _new(self, kind: str, fields: JsonObject) -> JsonObject:
        item_id = f"{ID_PREFIXES[kind]}_{self._stem}_{len(self.items)}"
        self._item = {"id": item_id, "type": kind, **fields}
        return self._item

    def _added(self, item: JsonObject) -> JsonObject:
        return {"type": ITEM_ADDED, "output_index": len(self.items), "item": dict(item)}

    def _at(self, kind: str) -> JsonObject:
        """Return the fields of an event inside the open item."""
        return {"type": kind, "item_id": self._item["id"], "output_index": len(self.items)}

    def _delta(self, delta: BlockDelta) -> list[JsonObject]:
        self.texts.append(delta.text)
        event = self.delta_event(delta.text)
        return [] if event is None else [event]

    def delta_event(self, text: str) -> JsonObject | None:
        """Return the event for a piece of the open item's text, ``None`` if it comes at the end."""
        kind = self._item["type"]
        if kind == MESSAGE:
            return {**self._at(TEXT_DELTA), **_IN_MESSAGE, "delta": text, "logprobs": []}
        if kind == REASONING:
            return {**self._at(SUMMARY_DELTA), "summary_index": 0, "delta": text}
        if kind == FUNCTION_CALL:
            return {**self._at(ARGUMENTS_DELTA), "delta": text}
        return None

    def _stop(self, status: str) -> list[JsonObject]:
        self._size = check_gathered(self.texts, self._size, MAX_RESPONSE)
        item, text = self._item, "".join(self.texts)
        kind = item["type"]
        if kind == MESSAGE:
            events = self._stop_message(text)
        elif kind == REASONING:
            events = self._stop_reasoning(text, status)
        else:
            events = self._stop_call(text)
        if kind != REASONING:
            item["status"] = status
        events.append({"type": ITEM_DONE, "output_index": len(self.items), "item": item})
        self.items.append(item)
        return events

    def _stop_message(self, text: str) -> list[JsonObject]:
        part = _part(text)
        self._item["content"] = [part]
        return [
            {**self._at(TEXT_DONE), **_IN_MESSAGE, "text": text, "logprobs": []},
            {**self._at(PART_DONE), **_IN_MESSAGE, "part": part},
        ]

    def _stop_reasoning(self, text: str, status: str) -> list[JsonObject]:
        part = {"type": "summary_text", "text": text}
        self._item["summary"] = [part]
        if self._shows_encrypted:
            self._item["encrypted_content"] = conceal(text)
        if status != "completed":
            self._item["status"] = status
        return [
            {**self._at(SUMMARY_TEXT_DONE), "summary_index": 0, "text": text},
            {**self._at(SUMMARY_DONE), "summary_index": 0, "part": part},
        ]

    def _stop_call(self, text: str) -> list[JsonObject]:
        item = self._item
        if item["type"] == CUSTOM_CALL:
            item["input"] = given = _custom_input(text)
            deltas = [{**self._at(INPUT_DELTA), "delta": given}] if given else []
            return [*deltas, {**self._at(INPUT_DONE), "input": given}]
        events = []
        if not text:
            text = _EMPTY
            events.append({**self._at(ARGUMENTS_DELTA), "delta": text})
        item["arguments"] = text
        events.append({**self._at(ARGUMENTS_DONE), "name": item["name"], "arguments": text})
        return events


_IN_MESSAGE: Final[JsonObject] = {"content_index": 0}


def _part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _custom_input(arguments: str) -> str:
    """Return the string of a custom tool's call; a model may have called it by another name."""
    try:
        given = decode(arguments)
    except NOT_JSON:
        return arguments
    if not isinstance(given, dict):
        return arguments
    for name in (CUSTOM_INPUT, RAW_ARGUMENTS):
        if isinstance(given.get(name), str):
            return str(given[name])
    values = list(given.values())
    return values[0] if len(values) == 1 and isinstance(values[0], str) else arguments
