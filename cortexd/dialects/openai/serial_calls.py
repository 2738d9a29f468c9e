"""Tool calls told one after the other, though a node may tell them by turns.

An OpenAI client puts calls together by their index, so that their order ought not to matter. But
the stream helper of the openai SDK parses the arguments of a call as soon as another one begins,
and fails where they are not whole yet (translation.md 1.5.5).
"""

from __future__ import annotations

from cortexd.dialects.wire.json_extent import Extent, ObjectExtent
from cortexd.dialects.wire.json_values import JsonObject


class SerialCalls:
    """Puts the deltas of one choice's calls into the order of their calls.

    One call is open at a time, the deltas of all others are held back until its arguments are whole
    or the answer ends. Nothing is lost and nothing is changed; calls that come whole, as those of
    mistral.rs do, are never held back.
    """

    def __init__(self) -> None:
        self._open: int | None = None
        self._extent = ObjectExtent()
        self._told: set[int] = set()
        self._held: dict[int, list[JsonObject]] = {}

    def take(self, deltas: list[JsonObject], *, is_last: bool) -> list[JsonObject]:
        """Return what can be told now that ``deltas`` have come, each with an integer ``index``.

        ``is_last`` says that the answer ends with them.
        """
        ready: list[JsonObject] = []
        for delta in deltas:
            index = delta["index"]
            if self._open is None:
                self._begin(index)
            # What comes late for a call that was told has no better place than this one.
            if index == self._open or index in self._told:
                self._tell(delta, ready)
            else:
                self._held.setdefault(index, []).append(delta)
            while self._held and self._extent.extent not in (Extent.BLANK, Extent.INSIDE):
                self._go_on(ready)
        while is_last and self._held:
            self._go_on(ready)
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
        """Open the first of the calls that wait, and tell what is there of it."""
        index = next(iter(self._held))
        self._begin(index)
        for delta in self._held.pop(index):
            self._tell(delta, ready)
