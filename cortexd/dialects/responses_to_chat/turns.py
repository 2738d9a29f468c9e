"""The items of a response's input, converted to neutral chat messages (``dialects.fitting``).

translation.md 10.2 has the rules and their grades. A *turn of the model* is a run of its items:
reasoning, text and calls, in any order. It becomes one message, with its text before its calls, and
the results of these calls come directly after it, wherever the input has them: chat templates need
that.

Only the *newest turn* may be refused: the messages after the last item of the model, unless tool
results are among them. Everything else stays in the conversation, so that an error would end the
conversation: it becomes words, or is left out and noted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from cortexd.dialects.responses_to_chat.items import (
    CUSTOM_CALL,
    CUSTOM_OUTPUT,
    FUNCTION_CALL,
    FUNCTION_OUTPUT,
    MESSAGE,
    MORE_TOOLS,
    REASONING,
)
from cortexd.dialects.responses_to_chat.parts import TEXT_FIELDS, PartReader
from cortexd.dialects.responses_to_chat.records import Call, Record, Result, read_record
from cortexd.dialects.responses_to_chat.thoughts import reveal
from cortexd.dialects.responses_to_chat.tools import CUSTOM_INPUT, node_name
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.fields import quoted, refused
from cortexd.dialects.wire.json_values import JsonObject, encode, type_name
from cortexd.dialects.wire.profile import Profile

_ROLES: Final = ("user", "assistant", "system", "developer")
_RESULTS: Final = (FUNCTION_OUTPUT, CUSTOM_OUTPUT)
_SILENT: Final = frozenset({*MORE_TOOLS, "mcp_list_tools"})
"""The items that only bring tools; they say nothing to the model here."""

NO_RESULT: Final = "[no result: the call was not answered]"
"""The result of a call that has none: templates cannot render such a call."""


def translate_items(
    instructions: object,
    items: Sequence[JsonObject],
    first_own: int,
    profile: Profile,
    approximations: Approximations,
) -> list[JsonObject]:
    """Return neutral chat messages for a request's instructions and items.

    ``first_own`` is the index of the first item in the request's own ``input``; those before it
    come from stored responses. Raises BadRequest for a part of the newest turn.
    """
    translation = _Translation(items, first_own, profile, approximations)
    return translation.messages(instructions)


class _Turn:
    """A turn of the model, while its items are read."""

    def __init__(self) -> None:
        self.thoughts: list[str] = []
        self.texts: list[str] = []
        self.calls: list[tuple[int, Call]] = []

    def message(self) -> JsonObject | None:
        """Return its message, ``None`` if it has only thoughts."""
        if not self.texts and not self.calls:
            return None
        content = "\n\n".join(self.texts)
        message: dict[str, Any] = {"role": "assistant", "content": content or None}
        if not self.calls:
            message["content"] = content
        if self.thoughts:
            message["reasoning_content"] = "\n".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for _, call in self.calls
            ]
        return message


class _Translation:
    def __init__(
        self,
        items: Sequence[JsonObject],
        first_own: int,
        profile: Profile,
        approximations: Approximations,
    ) -> None:
        self._items = items
        self._first_own = first_own
        self._newest = _newest(items, first_own)
        self._parts = PartReader(profile, approximations)
        self._approximations = approximations
        self._results: dict[int, tuple[int, object]] = {}
        self._used: set[int] = set()
        self._messages: list[JsonObject] = []
        self._turn = _Turn()

    def messages(self, instructions: object) -> list[JsonObject]:
        """Return the messages."""
        system = self._instructions(instructions)
        if system:
            self._messages.append({"role": "system", "content": system})
        records = [self._record(index, item) for index, item in enumerate(self._items)]
        self._results = _paired(self._items, records)
        for index, (item, record) in enumerate(zip(self._items, records, strict=True)):
            self._take(index, item, record)
        self._end_turn()
        return self._messages

    def _instructions(self, value: object) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        if not isinstance(value, list):
            raise refused("instructions", f"must be a string; found {type_name(value)}")
        return self._parts.text([part for item in value for part in _parts_of(item)])

    def _record(self, index: int, item: JsonObject) -> Record | None:
        """Return the call or the result in an item, ``None`` for any other item."""
        kind = item["type"]
        if kind in (FUNCTION_CALL, CUSTOM_CALL):
            return _read_call(item)
        if kind in _RESULTS:
            call_id = item.get("call_id")
            if isinstance(call_id, str) and call_id:
                return Record(None, Result(call_id, item.get("output")))
            return None
        return read_record(item)

    def _take(self, index: int, item: JsonObject, record: Record | None) -> None:
        kind = item["type"]
        if record is not None:
            if record.call is not None:
                self._turn.calls.append((index, record.call))
                if kind not in (FUNCTION_CALL, CUSTOM_CALL):
                    self._approximations.note_unknown({kind: True}, frozenset(), "input")
            elif record.result is not None and index not in self._used:
                self._take_result(index, record.result)
        elif kind == MESSAGE:
            self._take_message(index, item)
        elif kind == REASONING:
            self._take_thoughts(item)
        elif kind not in _SILENT:
            self._approximations.note_unknown({kind: True}, frozenset(), "input")

    def _take_message(self, index: int, item: JsonObject) -> None:
        is_newest = index >= self._newest
        path = f"input[{index - self._first_own}]"
        role = item.get("role")
        if role not in _ROLES:
            if is_newest:
                found = quoted(role) if isinstance(role, str) else type_name(role)
                words = f"is {found}; supported are user, assistant, system and developer"
                raise refused(f"{path}.role", words)
            self._approximations.note("role")
            role = "user"
        if role == "assistant":
            if text := self._parts.text(item.get("content")):
                self._turn.texts.append(text)
            return
        content = self._parts.content(item.get("content"), f"{path}.content", is_newest=is_newest)
        if role != "user" and not isinstance(content, str):
            content = self._parts.text(item.get("content"))
        self._end_turn()
        if content or is_newest:
            self._messages.append({"role": role, "content": content})

    def _take_thoughts(self, item: JsonObject) -> None:
        thoughts = _texts(item.get("content")) or _texts(item.get("summary"))
        encrypted = item.get("encrypted_content")
        if not thoughts and isinstance(encrypted, str) and encrypted:
            revealed = reveal(encrypted)
            if revealed is None:
                self._approximations.note("input.encrypted_content")
            else:
                thoughts = revealed
        if thoughts:
            self._turn.thoughts.append(thoughts)

    def _take_result(self, index: int, result: Result) -> None:
        """Add a result; it ends the turn that has its call, and belongs to it."""
        self._end_turn()
        if index in self._used:
            return
        # Its call is not in the conversation: a client, or a limit, has cut off the beginning.
        self._used.add(index)
        self._approximations.note("output_without_call")
        content = self._parts.content(result.content, "", is_newest=False)
        words = "[result of an earlier tool call]"
        if isinstance(content, str):
            self._messages.append({"role": "user", "content": f"{words}\n{content}"})
        else:
            parts = [{"type": "text", "text": words}, *content]
            self._messages.append({"role": "user", "content": parts})

    def _end_turn(self) -> None:
        """Add the message of the turn that ends here, and the results of its calls."""
        turn, self._turn = self._turn, _Turn()
        message = turn.message()
        if message is None:
            if turn.thoughts:
                self._approximations.note("input.reasoning")
            return
        self._messages.append(message)
        for index, call in turn.calls:
            self._messages.append(
                {
                    "role": "tool",
                    "tool_call_id": call.id,
                    "name": call.name,
                    "content": self._result_of(index),
                }
            )

    def _result_of(self, index: int) -> str | list[JsonObject]:
        """Return the content of the result of the call at an index."""
        found = self._results.get(index)
        if found is None:
            self._approximations.note("call_without_output")
            return NO_RESULT
        place, content = found
        self._used.add(place)
        return self._parts.content(content, "", is_newest=False)


def _paired(
    items: Sequence[JsonObject], records: Sequence[Record | None]
) -> dict[int, tuple[int, object]]:
    """Return the result of each call that has one: its index and its content, by the call's index.

    Ids may repeat, since some models count anew in each turn. So a result belongs to the first open
    call of the newest turn with its id before it.
    """
    open_calls: dict[str, deque[int]] = {}
    turns: dict[str, int] = {}
    pairs: dict[int, tuple[int, object]] = {}
    turn = 0
    for index, (item, record) in enumerate(zip(items, records, strict=True)):
        call, result = (None, None) if record is None else record
        if call is not None:
            if turns.get(call.id) != turn:
                turns[call.id], open_calls[call.id] = turn, deque()
            open_calls[call.id].append(index)
        if result is not None:
            calls = open_calls.get(result.call_id)
            if calls:
                pairs[calls.popleft()] = (index, result.content)
        if call is None and (result is not None or _is_said_to_model(item)):
            turn += 1
    return pairs


def _is_said_to_model(item: JsonObject) -> bool:
    return bool(item["type"] == MESSAGE and item.get("role") != "assistant")


def _newest(items: Sequence[JsonObject], first_own: int) -> int:
    """Return the index of the first item that may be refused."""
    index = len(items)
    while index > first_own:
        item = items[index - 1]
        if item["type"] not in (MESSAGE, *MORE_TOOLS):
            return len(items) if _is_result(item) else index
        if item["type"] == MESSAGE and item.get("role") == "assistant":
            return index
        index -= 1
    return index


def _is_result(item: JsonObject) -> bool:
    kind: str = item["type"]
    return kind.endswith("_output")


def _read_call(item: JsonObject) -> Record | None:
    call_id, name, namespace = item.get("call_id"), item.get("name"), item.get("namespace")
    if not isinstance(call_id, str) or not call_id or not isinstance(name, str) or not name:
        return None
    if item["type"] == CUSTOM_CALL:
        arguments = encode({CUSTOM_INPUT: item.get("input")}).decode()
    else:
        given = item.get("arguments")
        arguments = given if isinstance(given, str) else encode(given or {}).decode()
    within = namespace if isinstance(namespace, str) else None
    return Record(Call(call_id, node_name(name, within), arguments), None)


def _texts(parts: object) -> str:
    """Return the texts of a list of parts, whatever else is in it."""
    found = []
    for part in parts if isinstance(parts, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(TEXT_FIELDS.get(kind, "")) if isinstance(kind, str) else None
        if isinstance(text, str) and text:
            found.append(text)
    return "\n".join(found)


def _parts_of(item: object) -> list[object]:
    content = item["content"] if isinstance(item, dict) and "content" in item else item
    return content if isinstance(content, list) else [content]
