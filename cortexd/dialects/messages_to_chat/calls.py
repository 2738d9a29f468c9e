"""The tool calls of a chat answer, put together from deltas.

A delta names its call by an index, and nodes and other upstreams differ in what else they give.
A *generation* is one of the calls that share an index. A delta belongs to the newest generation of
its index, unless it begins another:

====================================  ======================================
what the delta has                    it begins another generation
====================================  ======================================
a name that is not the newest one's   always
an id, as the newest has              where they differ
an id, which the newest has not       where it repeats the name, and the newest has arguments
no id, but the name and arguments     where the newest has all its arguments
anything else                         never
====================================  ======================================

One whose id is that of an earlier generation belongs to that one. A delta without an index has its
place among the deltas of its chunk for one. Nodes send calls whole (nodes.md 4.3.3), so that none
of this costs them anything.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from cortexd.dialects.wire.json_extent import NOT_AS_IT_IS, Extent, ObjectExtent

RAW_ARGUMENTS: Final = "_raw_arguments"
"""The field of a call's input for arguments that are no object (translation.md 3 and 4.1)."""


class CallDelta(NamedTuple):
    """What one delta brings of a call; empty where it does not say."""

    call_index: int
    id: str
    name: str
    arguments: str


class Phase(Enum):
    """How far a call has come on its way to the client."""

    PENDING = "pending"
    OPEN = "open"
    CLOSED = "closed"


class Call:
    """One tool call. ``id`` is the client's for it, ``given_id`` what the upstream said."""

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
        """How far its arguments have come."""
        return self._extent.extent

    @property
    def has_arguments(self) -> bool:
        """Whether arguments have come that were not yet taken."""
        return bool(self._arguments)

    @property
    def has_part_of_object(self) -> bool:
        """Whether what was not yet taken can be told as it is: it is of an object."""
        return bool(self._arguments) and self._extent.extent not in NOT_AS_IT_IS

    @property
    def can_start(self) -> bool:
        """Whether the client can be told of it: of its id nothing more will come with arguments."""
        return bool(self.name and (self.given_id or self._arguments))

    def add_arguments(self, arguments: str) -> None:
        """Take a piece of its arguments."""
        if arguments:
            self._arguments.append(arguments)
            self._extent.take(arguments)

    def take_arguments(self) -> str:
        """Return the arguments that have come since they were last taken."""
        taken = "".join(self._arguments)
        self._arguments.clear()
        return taken


class Calls:
    """The calls of one answer. ``id_stem`` begins the ids of those to which no id was given."""

    def __init__(self, id_stem: str) -> None:
        self._id_stem = id_stem
        self._pending: list[Call] = []
        self._newest: dict[int, Call] = {}
        self._by_given_id: dict[tuple[int, str], Call] = {}
        self._ids: set[str] = set()

    def take(self, delta: CallDelta) -> Call:
        """Return the call to which a delta belongs, with what the delta brings added to it."""
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
        """Return the first pending call, by index, of which the client can be told."""
        if not self._pending:
            return None
        startable = [call for call in self._pending if call.can_start]
        return min(startable, key=_index_of, default=None)

    def pending(self) -> list[Call]:
        """Return the pending calls in the order of their indexes."""
        return sorted(self._pending, key=_index_of)

    def start(self, call: Call) -> None:
        """Give a call its id: the one given to it, or ours where none was or another has it."""
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
