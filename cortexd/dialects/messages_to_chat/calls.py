"""The tool calls of a chat answer, assembled from deltas.

A delta names its call by an index; nodes and other upstreams differ in its other fields. A
*generation* is one of several calls that share an index. A delta belongs to the newest generation
of its index, unless it begins another one:

=====================================  =========================================================
fields of the delta                    it begins another generation
=====================================  =========================================================
a name that differs from the newest's  always
an id, and the newest has one too      if they differ
an id, and the newest has none         if the delta repeats the name, and the newest has arguments
no id, but the name and arguments      if the newest has all its arguments
anything else                          never
=====================================  =========================================================

A delta with the id of an earlier generation belongs to that generation. Deltas without an index
share one, and those without an id too are told apart by their place in the chunk. Nodes send
complete calls (nodes.md 4.3.3), so these rules cost them no time.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from cortexd.dialects.wire.json_extent import NOT_AS_IT_IS, Extent, ObjectExtent

NO_INDEX: Final = 1_000_000
"""The first index for calls whose deltas have none: beyond those that upstreams give."""


def read_index(given: object, call_id: str, place: int) -> int:
    """Return the index of a delta with this ``call_id``, at this ``place`` in its chunk."""
    if isinstance(given, int):
        return given
    return NO_INDEX if call_id else NO_INDEX + place


class CallDelta(NamedTuple):
    """The parts of a call in one delta; missing parts are empty."""

    call_index: int
    id: str
    name: str
    arguments: str


class Phase(Enum):
    """The progress of a call to the client."""

    PENDING = "pending"
    OPEN = "open"
    CLOSED = "closed"


class Call:
    """One tool call. ``id`` is its id for the client, ``given_id`` that of the upstream."""

    __slots__ = ("_arguments", "_extent", "given_id", "id", "index", "name", "phase")

    def __init__(self, index: int) -> None:
        self.index = index
        self.given_id = ""
        self.id = ""
        self.name = ""
        self.phase = Phase.PENDING
        self._arguments: list[str] = []
        self._extent = ObjectExtent()

    @property
    def extent(self) -> Extent:
        """The extent of its arguments."""
        return self._extent.extent

    @property
    def has_arguments(self) -> bool:
        """Whether arguments have arrived that were not taken yet."""
        return bool(self._arguments)

    @property
    def has_part_of_object(self) -> bool:
        """Whether the arguments not taken yet can be sent: they are part of an object."""
        return bool(self._arguments) and self._extent.extent not in NOT_AS_IT_IS

    @property
    def can_start(self) -> bool:
        """Whether the call can start at the client: after arguments, its id is complete."""
        return bool(self.name and (self.given_id or self._arguments))

    def add_arguments(self, arguments: str) -> None:
        """Add a part of its arguments."""
        if arguments:
            self._arguments.append(arguments)
            self._extent.take(arguments)

    def take_arguments(self) -> str:
        """Return the arguments that have arrived since the last call of this method."""
        taken = "".join(self._arguments)
        self._arguments.clear()
        return taken


class Calls:
    """The calls of one answer; ``id_stem`` is the beginning of our ids for calls without one."""

    def __init__(self, id_stem: str) -> None:
        self._id_stem = id_stem
        self._pending: list[Call] = []
        self._newest: dict[int, Call] = {}
        self._by_given_id: dict[tuple[int, str], Call] = {}
        self._ids: set[str] = set()

    def take(self, delta: CallDelta) -> Call:
        """Add a delta to the call that it belongs to, and return the call."""
        call = self._generation(delta)
        if delta.id and not call.given_id and call.phase is Phase.PENDING:
            call.given_id = delta.id
            self._by_given_id[delta.call_index, delta.id] = call
        call.name = call.name or delta.name
        call.add_arguments(delta.arguments)
        return call

    def _generation(self, delta: CallDelta) -> Call:
        newest = self._newest.get(delta.call_index)
        if newest is not None and not _begins_another(delta, newest):
            return newest
        earlier = self._by_given_id.get((delta.call_index, delta.id))
        if earlier is not None and delta.name in ("", earlier.name):
            return earlier
        call = self._newest[delta.call_index] = Call(delta.call_index)
        self._pending.append(call)
        return call

    def next_to_start(self) -> Call | None:
        """Return the first pending call, by index, that can start."""
        if not self._pending:
            return None
        startable = [call for call in self._pending if call.can_start]
        return min(startable, key=_index_of, default=None)

    def pending(self) -> list[Call]:
        """Return the pending calls in the order of their indexes."""
        return sorted(self._pending, key=_index_of)

    def start(self, call: Call) -> None:
        """Set the id of a call: the upstream's, or ours if that is missing or not unique."""
        self._pending.remove(call)
        call.phase = Phase.OPEN
        call.id = call.given_id
        number = len(self._ids)
        while not call.id or call.id in self._ids:
            call.id = f"{self._id_stem}_{number}"
            number += 1
        self._ids.add(call.id)


def _index_of(call: Call) -> int:
    return call.index


def _begins_another(delta: CallDelta, newest: Call) -> bool:
    repeats_name = bool(delta.name and newest.name)
    if repeats_name and delta.name != newest.name:
        return True
    if delta.id and newest.given_id:
        return delta.id != newest.given_id
    if delta.id:
        return repeats_name and newest.extent is not Extent.BLANK
    return repeats_name and bool(delta.arguments) and newest.extent is Extent.WHOLE
