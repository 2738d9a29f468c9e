"""The control contract: what a client may ask of the daemon over its UNIX socket, and the answers.

The protocol is AMP (https://amp-protocol.net): boxes of keys and values, asked and answered by
name. A value ends at 65,535 bytes, so everything that grows with the fleet comes in pages: a
command with an ``offset`` answers with ``items``, JSON of as many as fit, and ``next``, the offset
to ask for next, or LAST_PAGE. Each page shows the moment it was asked for. What changes between
two pages may be missing from both or be in both.

Two versions understand each other as long as their PROTOCOL is the same: answers and summaries
may gain fields, which an older client passes over and a newer one does without, arguments may gain
optional ones, which an older daemon passes over, and there may be new commands, which it refuses.
Anything else raises the number. ``Version`` itself always keeps its name and its fields.

A command that is not done answers with one of the errors below, in words for a person. An error
that nobody foresaw answers as AMP's UNKNOWN without any detail, and ends the connection; the
daemon's log has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from twisted.protocols import amp

from cortexd.control.summaries import (
    DecisionSummary,
    EventSummary,
    LeaseSummary,
    ModelSummary,
    NodeSummary,
    PlanSummary,
    ReplicaSummary,
    RequestSummary,
    UnloadSummary,
)

PROTOCOL: Final = 1
"""The number of this contract."""

LAST_PAGE: Final = -1
"""What ``next`` says once there is nothing left to ask for."""

MAX_COUNT: Final = 2**63 - 1
"""The largest number that a client may name: the journal counts in as many bits."""

MAX_MESSAGE_LENGTH: Final = 1000
"""Characters of an error's words: they may quote what was asked, and must fit into a value."""


class Refused(Exception):
    """Raised when the daemon understands a command and does not do it; the words say why."""

    def __init__(self, message: str) -> None:
        super().__init__(message[:MAX_MESSAGE_LENGTH])


class UnknownNode(Refused):
    """Raised when a command names a node that the daemon's configuration does not have."""


class UnknownModel(Refused):
    """Raised when a command names a model that no node lists."""


Item = TypeVar("Item", bound=msgspec.Struct)


def page(
    items: Sequence[Item], offset: int, limit_bytes: int = amp.MAX_VALUE_LENGTH
) -> tuple[list[Item], int]:
    """Return the items from ``offset`` on that fit, and the offset of the next page or LAST_PAGE.

    As a JSON array the page takes at most ``limit_bytes``. An item too large for a page of its own
    comes as ``fitted`` cuts it, so that every page but an empty last one goes forward. An offset
    behind the end gives an empty last page.
    """
    found: list[Item] = []
    size = len("[]")
    for position in range(offset, len(items)):
        item = items[position]
        item_size = len(msgspec.json.encode(item))
        if not found and size + item_size > limit_bytes:
            item = fitted(item, limit_bytes - size)
            item_size = len(msgspec.json.encode(item))
        size += item_size + (len(",") if found else 0)
        if size > limit_bytes:
            return found, position
        found.append(item)
    return found, LAST_PAGE


def fitted(item: Item, limit_bytes: int = amp.MAX_VALUE_LENGTH) -> Item:
    """Return the item so that its JSON takes at most ``limit_bytes``.

    Where need be its longest text or list is halved, again and again; ValueError if it is too large
    without any.
    """
    if len(msgspec.json.encode(item)) <= limit_bytes:
        return item
    plain: Any = msgspec.to_builtins(item)
    while (size := len(msgspec.json.encode(plain))) > limit_bytes:
        if not _can_shrink(plain):
            raise ValueError(f"an item of {size} bytes without texts fits no page of {limit_bytes}")
        plain = _shrunk(plain)
    return msgspec.convert(plain, type(item))


def _can_shrink(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_can_shrink(inner) for inner in value.values())
    return isinstance(value, str | list) and bool(value)


def _shrunk(value: Any) -> Any:
    """Halve a text, a list, or the largest part of a dictionary or of a list of one."""
    if isinstance(value, dict):
        parts = [key for key, inner in value.items() if _can_shrink(inner)]
        largest = max(parts, key=lambda key: len(msgspec.json.encode(value[key])))
        return {**value, largest: _shrunk(value[largest])}
    if isinstance(value, list) and len(value) == 1 and _can_shrink(value[0]):
        return [_shrunk(value[0])]
    return value[: len(value) // 2]


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


class Count(amp.Argument):
    """A number from 0 on, such as where a page begins: the items before it."""

    def toString(self, value: int) -> bytes:  # noqa: N802 - AMP calls it by this name
        """Encode a number."""
        return str(value).encode()

    def fromString(self, encoded: bytes) -> int:  # noqa: N802 - AMP calls it by this name
        """Decode a number; ValueError if it is none, below 0 or beyond 63 bits."""
        number = int(encoded)
        if not 0 <= number <= MAX_COUNT:
            raise ValueError(f"found {number}, expected a number from 0 to {MAX_COUNT}")
        return number


class ControlCommand(amp.Command):
    """What all commands share: their errors, and that bad arguments are refused in words."""

    # AMP takes the first entry that an error is an instance of: the special before the general.
    errors: ClassVar[dict[type[Exception], bytes]] = {
        UnknownNode: b"UNKNOWN_NODE",
        UnknownModel: b"UNKNOWN_MODEL",
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


# What there is.


class ListNodes(ControlCommand):
    """All nodes, in the order of the configuration, or one; UnknownNode if there is none such."""

    arguments: ClassVar = [(b"offset", Count()), (b"node", amp.Unicode(optional=True))]
    response: ClassVar = [(b"items", Json(list[NodeSummary])), (b"next", amp.Integer())]


class ListReplicas(ControlCommand):
    """What one node lists, sorted by model id, or of it one model, if it is listed.

    Refused as UnknownNode if there is none such.
    """

    arguments: ClassVar = [
        (b"node", amp.Unicode()),
        (b"offset", Count()),
        (b"model", amp.Unicode(optional=True)),
    ]
    response: ClassVar = [(b"items", Json(list[ReplicaSummary])), (b"next", amp.Integer())]


class ListLeases(ControlCommand):
    """All requests that hold a replica, the oldest first."""

    arguments: ClassVar = [(b"offset", Count())]
    response: ClassVar = [(b"items", Json(list[LeaseSummary])), (b"next", amp.Integer())]


class ListModels(ControlCommand):
    """All models that any node lists, sorted by id."""

    arguments: ClassVar = [(b"offset", Count())]
    response: ClassVar = [(b"items", Json(list[ModelSummary])), (b"next", amp.Integer())]


# What may be changed. Models are named by their ids or aliases; a node is one that lists the model.


class LoadModel(ControlCommand):
    """Begin to load a model, on a node or where it costs least, and tell what that does.

    Refused as UnknownModel, as UnknownNode, or where it cannot be begun now.
    """

    arguments: ClassVar = [(b"model", amp.Unicode()), (b"node", amp.Unicode(optional=True))]
    response: ClassVar = [(b"plan", Json(PlanSummary))]


class UnloadModel(ControlCommand):
    """Begin to unload a model from a node or from all that have it.

    It goes once its requests have ended, or with ``now`` at once, and they are cut. Refused as
    UnknownModel, as UnknownNode, or where it must stay.
    """

    arguments: ClassVar = [
        (b"model", amp.Unicode()),
        (b"node", amp.Unicode(optional=True)),
        (b"now", amp.Boolean(optional=True)),
    ]
    response: ClassVar = [(b"unload", Json(UnloadSummary))]


class PinModel(ControlCommand):
    """Keep a model loaded on a node, from now on and over restarts of the daemon."""

    arguments: ClassVar = [(b"model", amp.Unicode()), (b"node", amp.Unicode())]


class UnpinModel(ControlCommand):
    """Keep a model on a node no longer than others, whatever the configuration says."""

    arguments: ClassVar = [(b"model", amp.Unicode()), (b"node", amp.Unicode())]


class CordonNode(ControlCommand):
    """Give a node no new requests and loads, over restarts of the daemon too."""

    arguments: ClassVar = [(b"node", amp.Unicode())]


class UncordonNode(ControlCommand):
    """Give a node work again."""

    arguments: ClassVar = [(b"node", amp.Unicode())]


# What would be, and what was.


class PlanLoad(ControlCommand):
    """Tell what LoadModel would do now, and refuse what it would refuse."""

    arguments: ClassVar = LoadModel.arguments
    response: ClassVar = LoadModel.response


class Why(ControlCommand):
    """What was decided about a model, the latest first, or for a request, by its id.

    ``request`` is ``None`` where ``what`` is a model. Refused where nothing is known of ``what``:
    neither is any node's model, nor a request among the last that came.
    """

    arguments: ClassVar = [(b"what", amp.Unicode()), (b"offset", Count())]
    response: ClassVar = [
        (b"request", Json(RequestSummary | None)),
        (b"items", Json(list[DecisionSummary])),
        (b"next", amp.Integer()),
    ]


class Events(ControlCommand):
    """Entries of the journal with numbers above ``after``, the oldest first; of one model or all.

    There are at most ``limit``, and as many as fit: ask again after the last of them. None means
    that there is nothing newer. ``last`` is the number of the newest entry, 0 before the first.
    """

    arguments: ClassVar = [
        (b"after", Count()),
        (b"limit", Count()),
        (b"model", amp.Unicode(optional=True)),
    ]
    response: ClassVar = [(b"items", Json(list[EventSummary])), (b"last", amp.Integer())]
