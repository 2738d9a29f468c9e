"""The control contract: what a client may ask of the daemon over its UNIX socket, and the answers.

The protocol is AMP (https://amp-protocol.net): boxes of keys and values, asked and answered by
name. A value ends at 65,535 bytes, so everything that grows with the fleet comes in pages: a
command with an ``offset`` answers with ``items``, JSON of as many as fit, and ``next``, the offset
to ask for next, or LAST_PAGE. Each page shows the moment it was asked for. What changes between
two pages may be missing from both or be in both.

Two versions understand each other as long as their PROTOCOL is the same: answers and summaries
may gain fields, which an older client passes over, and arguments may gain optional ones. Anything
else raises the number. ``Version`` itself always keeps its name and its fields.

A command that is not done answers with one of the errors below, in words for a person. An error
that nobody foresaw answers as AMP's UNKNOWN without any detail, and ends the connection; the
daemon's log has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from twisted.protocols import amp

PROTOCOL: Final = 1
"""The number of this contract."""

LAST_PAGE: Final = -1
"""What ``next`` says once there is nothing left to ask for."""

MAX_MESSAGE_LENGTH: Final = 1000
"""Characters of an error's words: they may quote what was asked, and must fit into a value."""


class Refused(Exception):
    """Raised when the daemon understands a command and does not do it; the words say why."""

    def __init__(self, message: str) -> None:
        super().__init__(message[:MAX_MESSAGE_LENGTH])


class UnknownNode(Refused):
    """Raised when a command names a node that the daemon's configuration does not have."""


class NodeSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One node. ``health`` and the keys of ``replica_states`` are words of ``cortexd.fleet``.

    ``since`` is when the health became what it is and ``last_answer_at`` when a poll was last
    answered, both in unix seconds; memory is in MiB, of the accelerators where there are any.
    ``None`` stands for what the node has not said yet. ``replica_states`` counts the replicas
    in each state.
    """

    name: str
    endpoint: str
    health: str
    reason: str
    since: float
    last_answer_at: float | None
    version: str | None
    memory_total_mb: int | None
    memory_free_mb: int | None
    memory_budget_mb: int
    restarts: int
    leases: int
    replica_states: dict[str, int]


class ReplicaSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One model on one node; ``leases`` of at most ``capacity`` are held."""

    model: str
    state: str
    leases: int
    capacity: int


class LeaseSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One request that holds a replica, for ``age_seconds`` so far."""

    request_id: str
    model: str
    node: str
    age_seconds: float


Item = TypeVar("Item", bound=msgspec.Struct)


def page(
    items: Sequence[Item], offset: int, limit_bytes: int = amp.MAX_VALUE_LENGTH
) -> tuple[list[Item], int]:
    """Return the items from ``offset`` on that fit, and the offset of the next page or LAST_PAGE.

    As a JSON array the page takes at most ``limit_bytes``. An item too large for a page of its own
    comes with its texts cut, so that every page but an empty last one goes forward; ValueError if
    it is too large without any text. An offset behind the end gives an empty last page.
    """
    found: list[Item] = []
    size = len("[]")
    for position in range(offset, len(items)):
        item = items[position]
        item_size = len(msgspec.json.encode(item))
        if not found and size + item_size > limit_bytes:
            item = _cut(item, limit_bytes - size)
            item_size = len(msgspec.json.encode(item))
        size += item_size + (len(",") if found else 0)
        if size > limit_bytes:
            return found, position
        found.append(item)
    return found, LAST_PAGE


def _cut(item: Item, limit_bytes: int) -> Item:
    """Halve the longest text of the item until it fits."""
    while (size := len(msgspec.json.encode(item))) > limit_bytes:
        texts = {
            name: text
            for name in item.__struct_fields__
            if type(text := getattr(item, name)) is str
        }
        name = max(texts, key=lambda name: len(texts[name]), default=None)
        if name is None or not texts[name]:
            raise ValueError(f"an item of {size} bytes without texts fits no page of {limit_bytes}")
        item = msgspec.structs.replace(item, **{name: texts[name][: len(texts[name]) // 2]})
    return item


class Json(amp.Argument):
    """A value of ``type_`` as JSON; what is decoded is checked against the type.

    Decoding raises msgspec.DecodeError for what is not of the type.
    """

    def __init__(self, type_: Any, optional: bool = False) -> None:
        super().__init__(optional)
        self._decoder = msgspec.json.Decoder(type_)

    def toString(self, value: object) -> bytes:  # noqa: N802 - AMP calls it by this name
        """Encode a value."""
        return msgspec.json.encode(value)

    def fromString(self, encoded: bytes) -> Any:  # noqa: N802 - AMP calls it by this name
        """Decode a value."""
        return self._decoder.decode(encoded)


class Offset(amp.Argument):
    """Where a page begins: the number of items before it."""

    def toString(self, value: int) -> bytes:  # noqa: N802 - AMP calls it by this name
        """Encode an offset."""
        return str(value).encode()

    def fromString(self, encoded: bytes) -> int:  # noqa: N802 - AMP calls it by this name
        """Decode an offset; ValueError if it is no number or below 0."""
        offset = int(encoded)
        if offset < 0:
            raise ValueError(f"found {offset}, expected an offset from 0 on")
        return offset


class ControlCommand(amp.Command):
    """What all commands share: their errors, and that bad arguments are refused in words."""

    # AMP takes the first entry that an error is an instance of: the special before the general.
    errors: ClassVar[dict[type[Exception], bytes]] = {
        UnknownNode: b"UNKNOWN_NODE",
        Refused: b"REFUSED",
    }

    @classmethod
    def parseArguments(  # noqa: N802 - AMP calls it by this name
        cls, box: amp.AmpBox, protocol: amp.AMP
    ) -> Mapping[str, Any]:
        """Decode the arguments; RemoteAmpError with the code of Refused if that cannot be done.

        It runs before AMP looks into ``errors``, so the error is given in AMP's own form.
        """
        try:
            arguments: Mapping[str, Any] = super().parseArguments(box, protocol)
        except KeyError as error:
            problem = f"argument {error.args[0].decode()} is missing"
        except (ValueError, TypeError, msgspec.DecodeError) as error:
            problem = str(error)
        else:
            return arguments
        refused = Refused(f"{cls.commandName.decode()} cannot be understood: {problem}")
        raise amp.RemoteAmpError(cls.errors[Refused], str(refused))


class Version(ControlCommand):
    """Which daemon this is: ``started_at`` is in unix seconds, ``protocol`` its PROTOCOL."""

    response: ClassVar = [
        (b"version", amp.Unicode()),
        (b"pid", amp.Integer()),
        (b"started_at", amp.Float()),
        (b"protocol", amp.Integer()),
    ]


class ListNodes(ControlCommand):
    """All nodes, in the order of the configuration."""

    arguments: ClassVar = [(b"offset", Offset())]
    response: ClassVar = [(b"items", Json(list[NodeSummary])), (b"next", amp.Integer())]


class ListReplicas(ControlCommand):
    """What one node lists, sorted by model id. Refused as UnknownNode if there is none such."""

    arguments: ClassVar = [(b"node", amp.Unicode()), (b"offset", Offset())]
    response: ClassVar = [(b"items", Json(list[ReplicaSummary])), (b"next", amp.Integer())]


class ListLeases(ControlCommand):
    """All requests that hold a replica, the oldest first."""

    arguments: ClassVar = [(b"offset", Offset())]
    response: ClassVar = [(b"items", Json(list[LeaseSummary])), (b"next", amp.Integer())]
