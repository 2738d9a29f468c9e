"""Calls of tools: their form, their ids, and the result of each.

A template pairs calls with results by their order, by ids, or by names, and raises, or shows
something else, where they do not match.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from operator import is_
from typing import Final, NamedTuple

from cortexd.dialects.fitting import words
from cortexd.dialects.fitting.contents import BETWEEN_PARTS, joined
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.arguments import arguments_text
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.profile import ToolIdFormat
from cortexd.dialects.wire.tool_names import upstream_id

_UNNAMED: Final = "unknown"
_FIELDS: Final = frozenset({"id", "type", "function"})
_FIELDS_OF_A_FUNCTION: Final = frozenset({"name", "arguments"})


class CallReader:
    """Reads the calls of an assistant's messages, in the order of the conversation."""

    def __init__(self, approximations: Approximations) -> None:
        self._approximations = approximations

    def read(self, message: JsonObject) -> list[JsonObject]:
        """Return the calls of a message, each with id, type, name and arguments.

        The id is the client's, empty if the client has none. Calls that are right stay the list
        that they are.
        """
        given, old = message.get("tool_calls"), message.get("function_call")
        calls = [self._call(call) for call in given] if isinstance(given, list) else []
        is_whole = old is None and None not in calls
        if isinstance(given, list) and is_whole and all(map(is_, calls, given)):
            return given
        if isinstance(old, dict):
            self._approximations.note("function_call")
            calls.append(self._call({"function": old}))
        return [call for call in calls if call is not None]

    def _call(self, call: object) -> JsonObject | None:
        if not isinstance(call, dict):
            self._approximations.note("tool_calls")
            return None
        function, call_id = call.get("function"), call.get("id")
        if not isinstance(function, dict):
            function = self._custom(call)
        name, given = function.get("name"), function.get("arguments")
        arguments, is_object = arguments_text(given)
        if not is_object:
            self._approximations.note("arguments")
        if (
            arguments is given
            and call.keys() == _FIELDS
            and function.keys() == _FIELDS_OF_A_FUNCTION
            and call["type"] == "function"
            and isinstance(call_id, str)
            and isinstance(name, str)
            and name
        ):
            return call
        return {
            "id": call_id if isinstance(call_id, str) else "",
            "type": "function",
            "function": {
                "name": name if isinstance(name, str) and name else _UNNAMED,
                "arguments": arguments,
            },
        }

    def _custom(self, call: JsonObject) -> JsonObject:
        """Return the call of a tool that takes one text, as that of a function."""
        self._approximations.note("tool_calls")
        custom = call.get("custom")
        if not isinstance(custom, dict):
            return {}
        return {
            "name": custom.get("name"),
            "arguments": encode({"input": custom.get("input")}).decode(),
        }


class _Pending(NamedTuple):
    """A call that has no result yet: the client's id, the call as it is sent."""

    given_id: str
    call: JsonObject


class Pairing:
    """Gives each call of a conversation its id and its one result."""

    def __init__(self, id_format: ToolIdFormat, approximations: Approximations) -> None:
        self._id_format = id_format
        self._approximations = approximations
        self._count = 0

    def paired(
        self, calls: Sequence[JsonObject], others: Iterable[JsonObject]
    ) -> tuple[list[JsonObject], list[JsonObject], list[JsonObject]]:
        """Return the calls, their results, and the other messages up to the next answer.

        ``calls`` are all calls of the answers before ``others``. The results are in the order of
        their calls, since most templates show no ids: the model then pairs them by their order. A
        result without a call becomes a user's message.
        """
        pending = self._identified(calls)
        sent = [each.call for each in pending]
        found: dict[str, object] = {}
        said: list[JsonObject] = []
        waiting = _Waiting(pending)
        for message in others:
            if message["role"] != "tool":
                said.append(message)
                continue
            match = waiting.take(message)
            if match is None:
                self._approximations.note("unmatched_result")
                told = words.unasked(message.get("name", ""))
                content = joined([told, message["content"]], BETWEEN_PARTS)
                said.append({"role": "user", "content": content})
            else:
                found[match.call["id"]] = message["content"]
        if len(found) < len(sent):
            self._approximations.note("missing_result")
        results = [_result(call, found.get(call["id"], words.NO_RESULT)) for call in sent]
        return sent, results, said

    def _identified(self, calls: Sequence[JsonObject]) -> list[_Pending]:
        taken: set[str] = set()
        pending = []
        for call in calls:
            given_id = call["id"]
            number = self._count
            self._count += 1
            call_id = given_id or f"call_{number}"
            while call_id in taken:
                call_id = f"{call_id}_{number}"
            taken.add(call_id)
            call_id = upstream_id(call_id, self._id_format)
            pending.append(
                _Pending(given_id, call if call_id == given_id else {**call, "id": call_id})
            )
        return pending


class _Waiting:
    """The calls that have no result yet. Its time does not grow with their number."""

    def __init__(self, calls: Iterable[_Pending]) -> None:
        self._all = dict(enumerate(calls))
        self._places = deque(self._all)
        self._by_id: dict[str, deque[int]] = {}
        self._by_name: dict[str, deque[int]] = {}
        for number, each in self._all.items():
            name = each.call["function"]["name"]
            self._by_id.setdefault(each.given_id, deque()).append(number)
            self._by_name.setdefault(name, deque()).append(number)

    def take(self, message: JsonObject) -> _Pending | None:
        """Take the call of a result: by its id, or else, if it has none, by its name or place."""
        call_id, name = message["tool_call_id"], message.get("name")
        if call_id:
            numbers = self._by_id.get(call_id)
        else:
            numbers = self._by_name.get(name) if name else self._places
        while numbers:
            found = self._all.pop(numbers.popleft(), None)
            if found is not None:
                return found
        return None


def _result(call: JsonObject, content: object) -> JsonObject:
    name = call["function"]["name"]
    return {"role": "tool", "tool_call_id": call["id"], "name": name, "content": content}
