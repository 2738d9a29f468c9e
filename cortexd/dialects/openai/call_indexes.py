"""The index of each tool call of a streamed answer, by which OpenAI clients merge its deltas.

Upstreams leave the index out, or give one index to several calls that differ in their ids. Which
deltas belong to one call is decided as for Messages (``messages_to_chat.calls``).
"""

from __future__ import annotations

from cortexd.dialects.messages_to_chat.calls import NO_INDEX, Call, CallDelta, Calls, read_index
from cortexd.dialects.nodes.answers import unknown_shape
from cortexd.dialects.wire.json_values import JsonObject


class CallIndexes:
    """Gives each call of one choice an index of its own, the upstream's where that is free.

    ``first`` is the index of the first call, ``None`` before there is one.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._calls = Calls("")
        self._indexes: dict[Call, int] = {}

    def settle(self, deltas: list[JsonObject]) -> None:
        """Set the index of each delta. Raises BadGateway for an id or a name that is no string."""
        for place, delta in enumerate(deltas):
            call_id, function = _string(delta, "id"), delta.get("function") or {}
            index = read_index(delta.get("index"), call_id, place)
            name, arguments = _string(function, "name"), _string(function, "arguments")
            call = self._calls.take(CallDelta(index, call_id, name, arguments))
            call.take_arguments()
            if call not in self._indexes:
                self._indexes[call] = self._free(index)
            delta["index"] = self._indexes[call]
            if self.first is None:
                self.first = delta["index"]

    def _free(self, wanted: int) -> int:
        used = self._indexes.values()
        if 0 <= wanted < NO_INDEX and wanted not in used:
            return wanted
        return max(used, default=-1) + 1


def _string(parent: JsonObject, field: str) -> str:
    value = parent.get(field)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise unknown_shape(field)
