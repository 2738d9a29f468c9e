"""Sends tool calls one after the other, even if a node interleaves them.

An OpenAI client assembles calls by their index, so that their order should not matter. But the
stream helper of the openai SDK parses the arguments of a call as soon as another one begins, and
fails if they are not complete yet (translation.md 1.5.5).
"""

from __future__ import annotations

from typing import Final

from cortexd.dialects.wire.json_extent import Extent, ObjectExtent
from cortexd.dialects.wire.json_values import JsonObject

NO_ARGUMENTS: Final = "{}"
"""The arguments of a call without any, which clients can parse."""


class SerialCalls:
    """Sorts the deltas of one choice's calls by call.

    One call is open at a time; the deltas of the others are held back until its arguments are
    complete or the answer ends. No delta is lost. A call that ends without arguments gets ``{}``,
    because clients parse them. Calls in one delta, as from mistral.rs, are never held back.
    """

    def __init__(self) -> None:
        self._open: int | None = None
        self._extent = ObjectExtent()
        self._told: set[int] = set()
        self._held: dict[int, list[JsonObject]] = {}

    def take(self, deltas: list[JsonObject], *, is_last: bool) -> list[JsonObject]:
        """Return the deltas to send after ``deltas`` have arrived, each with an integer ``index``.

        ``is_last`` means that the answer ends with them.
        """
        ready: list[JsonObject] = []
        for delta in deltas:
            index = delta["index"]
            if self._open is None:
                self._begin(index)
            # A late delta of an already completed call is sent at once.
            if index == self._open or index in self._told:
                self._tell(delta, ready)
            else:
                self._held.setdefault(index, []).append(delta)
            while self._held and self._extent.extent not in (Extent.BLANK, Extent.INSIDE):
                self._go_on(ready)
        while is_last and self._held:
            self._go_on(ready)
        if is_last:
            self._complete(ready)
        return ready

    def _begin(self, index: int) -> None:
        self._open = index
        self._extent = ObjectExtent()
        self._told.add(index)

    def _tell(self, delta: JsonObject, ready: list[JsonObject]) -> None:
        ready.append(delta)
        function = delta.get("function")
        if delta["index"] == self._open and isinstance(function, dict):
            self._extent.take(function.get("arguments") or "")

    def _go_on(self, ready: list[JsonObject]) -> None:
        """Open the first of the waiting calls, and send its deltas."""
        self._complete(ready)
        index = next(iter(self._held))
        self._begin(index)
        for delta in self._held.pop(index):
            self._tell(delta, ready)

    def _complete(self, ready: list[JsonObject]) -> None:
        """Give the open call its arguments if it has none."""
        if self._open is None or self._extent.extent is not Extent.BLANK:
            return
        self._extent.take(NO_ARGUMENTS)
        for delta in reversed(ready):
            function = delta.get("function")
            if delta["index"] == self._open and isinstance(function, dict):
                function["arguments"] = NO_ARGUMENTS
                return
        ready.append({"index": self._open, "function": {"arguments": NO_ARGUMENTS}})
