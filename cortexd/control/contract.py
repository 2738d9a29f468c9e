"""The control contract: the commands of the UNIX socket and their answers.

The protocol is AMP (https://amp-protocol.net): boxes of keys and values, matched by command name. A
value has at most 65,535 bytes, so every list that grows with the fleet comes in pages. A command
with an ``offset`` answers with ``items``, as many as fit, in JSON, and with ``next``, the offset of
the next page, or LAST_PAGE. Each page shows the state at the time of its command. An item that
changes between two pages may be missing from both or appear in both.

Two versions are compatible if their PROTOCOL is the same. Within one PROTOCOL, answers and
summaries may gain fields: an older client ignores them, and a newer client works without them.
Commands may gain optional arguments, which an older daemon ignores. New commands may be added,
which an older daemon rejects. Any other change raises the number. ``Version`` never changes its
name or its fields.

A rejected command answers with one of the errors below and a message for a person. An unexpected
exception answers with AMP's UNKNOWN without details, and ends the connection; the daemon's log has
the traceback.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from twisted.protocols import amp

from cortexd.control.summaries import (
    ChangeSummary,
    DecisionSummary,
    EventSummary,
    KeySummary,
    LeaseSummary,
    ModelSummary,
    NodeSummary,
    PlanSummary,
    ReplicaSummary,
    RequestSummary,
    UnloadSummary,
    UsageSummary,
)
from cortexd.errors import OperationRefused

PROTOCOL: Final = 1
"""The number of this contract."""

LAST_PAGE: Final = -1
"""The ``next`` of the last page."""

MAX_COUNT: Final = 2**63 - 1
"""The largest number that a client may send: the journal's numbers have as many bits."""

MAX_MESSAGE_LENGTH: Final = 1000
"""Characters of an error's message: it may quote the request, and must fit into a value."""


class Refused(Exception):
    """Raised when the daemon rejects a command; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message[:MAX_MESSAGE_LENGTH])


class UnknownNode(Refused):
    """Raised when a command names a node that is not in the daemon's configuration."""


class UnknownModel(Refused):
    """Raised when a command names a model that no node lists."""


@contextmanager
def refusing() -> Iterator[None]:
    """Report to the client what the scheduler rejects."""
    try:
        yield
    except OperationRefused as error:
        raise Refused(str(error)) from error


Item = TypeVar("Item", bound=msgspec.Struct)


def page(
    items: Sequence[Item], offset: int, limit_bytes: int = amp.MAX_VALUE_LENGTH
) -> tuple[list[Item], int]:
    """Return the items from ``offset`` that fit, and the offset of the next page or LAST_PAGE.

    As a JSON array the page takes at most ``limit_bytes``. ``fitted`` cuts an item that is too
    large for a page of its own, so that every page except an empty last one makes progress. An
    offset behind the end returns an empty last page.
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
    """Return the item, cut so that its JSON takes at most ``limit_bytes``.

    Its longest text or list is halved until the item fits. Raises ValueError if the item is too
    large without any texts and lists.
    """
    if len(msgspec.json.encode(item)) <= limit_bytes:
        return item
    plain: Any = msgspec.to_builtins(item)
    while (size := len(msgspec.json.encode(plain))) > limit_bytes:
        if not _can_shrink(plain):
            raise ValueError(
                f"an item of {size} bytes without texts does not fit {limit_bytes} bytes"
            )
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
    """A value of ``type_`` as JSON.

    Decoding raises msgspec.DecodeError if the value is not of the type.
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
    """An integer of 0 or more, such as the offset of a page: the number of items before it."""

    def toString(self, value: int) -> bytes:  # noqa: N802 - AMP calls it by this name
        """Encode a number."""
        return str(value).encode()

    def fromString(self, encoded: bytes) -> int:  # noqa: N802 - AMP calls it by this name
        """Decode a number; ValueError if it is not an integer, below 0 or above 63 bits."""
        number = int(encoded)
        if not 0 <= number <= MAX_COUNT:
            raise ValueError(f"found {number}, expected a number from 0 to {MAX_COUNT}")
        return number


class ControlCommand(amp.Command):
    """The base of all commands: their errors, and a readable error for bad arguments."""

    # AMP takes the first entry that matches an error, so subclasses come before Refused.
    errors: ClassVar[dict[type[Exception], bytes]] = {
        UnknownNode: b"UNKNOWN_NODE",
        UnknownModel: b"UNKNOWN_MODEL",
        Refused: b"REFUSED",
    }

    @classmethod
    def parseArguments(  # noqa: N802 - AMP calls it by this name
        cls, box: amp.AmpBox, protocol: amp.AMP
    ) -> Mapping[str, Any]:
        """Decode the arguments; RemoteAmpError with the code of Refused if that fails.

        AMP consults ``errors`` only later, so this method raises the error in AMP's own form.
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


UNSTORED: Final = (b"unstored", amp.Unicode(optional=True))
"""Why the daemon's state is only in memory now; missing while it is on the disk."""


class Version(ControlCommand):
    """The daemon's identity: ``started_at`` is in unix seconds, ``protocol`` its PROTOCOL."""

    response: ClassVar = [
        (b"version", amp.Unicode()),
        (b"pid", amp.Integer()),
        (b"started_at", amp.Float()),
        (b"protocol", amp.Integer()),
    ]


# Lists.


class ListNodes(ControlCommand):
    """All nodes in the order of the configuration, or one node; UnknownNode if it is unknown.

    ``unstored`` is as in the answers to changes. ``notices`` are lines about the daemon itself that
    an operator should see; they come with the first page.
    """

    arguments: ClassVar = [(b"offset", Count()), (b"node", amp.Unicode(optional=True))]
    response: ClassVar = [
        (b"items", Json(list[NodeSummary])),
        (b"next", amp.Integer()),
        UNSTORED,
        (b"notices", Json(list[str], optional=True)),
    ]


class ListReplicas(ControlCommand):
    """The replicas of one node, sorted by model id, or only that of one model, if listed.

    Raises UnknownNode if the node is unknown.
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


class ListUsage(ControlCommand):
    """What keys have used, sorted by name: today, in 7 and in 30 days, or in ``days`` alone.

    A key that was removed is listed as long as it has used something. With ``key`` only that one;
    raises Refused if there is no key of the name, and was none.
    """

    arguments: ClassVar = [
        (b"offset", Count()),
        (b"key", amp.Unicode(optional=True)),
        (b"days", Count(optional=True)),
    ]
    response: ClassVar = [(b"items", Json(list[UsageSummary])), (b"next", amp.Integer())]


# Changes. A model may be given by its id or an alias; the node must list the model. A change that
# should outlive the daemon but cannot be stored now counts all the same: ``unstored`` says why.


class LoadModel(ControlCommand):
    """Begin to load a model, on a node or where it costs least, and return the consequences.

    Raises UnknownModel, UnknownNode, or Refused if the load cannot begin now.
    """

    arguments: ClassVar = [(b"model", amp.Unicode()), (b"node", amp.Unicode(optional=True))]
    response: ClassVar = [(b"plan", Json(PlanSummary))]


class UnloadModel(ControlCommand):
    """Begin to unload a model, from one node or from all nodes that have it loaded.

    The unload waits until the model's requests have ended; with ``now`` it aborts them. Raises
    UnknownModel, UnknownNode, or Refused if the model must stay.
    """

    arguments: ClassVar = [
        (b"model", amp.Unicode()),
        (b"node", amp.Unicode(optional=True)),
        (b"now", amp.Boolean(optional=True)),
    ]
    response: ClassVar = [(b"unload", Json(UnloadSummary))]


class ProbeModel(ControlCommand):
    """Find out what a model's chat template can do, on a node or wherever the model is loaded.

    Returns the model's id and the nodes; the probe begins once nothing runs there, and ListModels
    shows its end. Raises UnknownModel, UnknownNode, or Refused if no node has the model loaded.
    """

    arguments: ClassVar = [(b"model", amp.Unicode()), (b"node", amp.Unicode(optional=True))]
    response: ClassVar = [(b"model", amp.Unicode()), (b"nodes", Json(list[str]))]


class PinModel(ControlCommand):
    """Keep a model loaded on a node, also after restarts of the daemon."""

    arguments: ClassVar = [(b"model", amp.Unicode()), (b"node", amp.Unicode())]
    response: ClassVar = [UNSTORED]


class UnpinModel(ControlCommand):
    """Stop keeping a model loaded on a node, even if the configuration pins it."""

    arguments: ClassVar = [(b"model", amp.Unicode()), (b"node", amp.Unicode())]
    response: ClassVar = [UNSTORED]


class CordonNode(ControlCommand):
    """Stop new requests and loads for a node, also after restarts of the daemon."""

    arguments: ClassVar = [(b"node", amp.Unicode())]
    response: ClassVar = [UNSTORED]


class UncordonNode(ControlCommand):
    """Resume new work for a node."""

    arguments: ClassVar = [(b"node", amp.Unicode())]
    response: ClassVar = [UNSTORED]


# The configuration.


class Reload(ControlCommand):
    """Read the configuration again, and return the first page of what has changed.

    Raises Refused if the configuration cannot be used; then nothing has changed.
    """

    response: ClassVar = [(b"items", Json(list[ChangeSummary])), (b"next", amp.Integer())]


class ListReloaded(ControlCommand):
    """What the latest reload has changed: the pages after the one that Reload returns."""

    arguments: ClassVar = [(b"offset", Count())]
    response: ClassVar = Reload.response


class PlanReload(ControlCommand):
    """Return what a Reload would change now; raises the same errors."""

    arguments: ClassVar = [(b"offset", Count())]
    response: ClassVar = Reload.response


# Keys. No answer has an id or a hash of a key.


class ListKeys(ControlCommand):
    """All keys in the order of their file, or one; Refused if it is unknown.

    Raises Refused, too, if the daemon requires no keys.
    """

    arguments: ClassVar = [(b"offset", Count()), (b"name", amp.Unicode(optional=True))]
    response: ClassVar = [(b"items", Json(list[KeySummary])), (b"next", amp.Integer())]


class AddKey(ControlCommand):
    """Add a key to the keys file, and return it with its text, which no other answer has.

    The argument has the values of its table in that file, with ``expires`` in unix seconds, and
    without id and hash. It counts at once. Raises Refused if the file cannot be changed.
    """

    arguments: ClassVar = [(b"key", Json(dict[str, Any]))]
    response: ClassVar = [(b"key", Json(KeySummary)), (b"text", amp.Unicode())]


class RotateKey(ControlCommand):
    """Give a key another text, and return it with that, as AddKey does.

    The text before stays valid for ``keep_old`` seconds, by default not at all.
    """

    arguments: ClassVar = [(b"name", amp.Unicode()), (b"keep_old", amp.Float(optional=True))]
    response: ClassVar = AddKey.response


class RevokeKey(ControlCommand):
    """Remove a key. New requests with it are refused; those that run go on."""

    arguments: ClassVar = [(b"name", amp.Unicode())]


# Plans and history.


class PlanLoad(ControlCommand):
    """Return the consequences of LoadModel now; raises the same errors."""

    arguments: ClassVar = LoadModel.arguments
    response: ClassVar = LoadModel.response


class Why(ControlCommand):
    """The decisions about a model or a node, the latest first, or for a request, by its id.

    ``request`` is ``None`` if ``what`` is no request. Raises UnknownModel if ``what`` is neither a
    node nor a model of any node nor one of the latest requests.
    """

    arguments: ClassVar = [(b"what", amp.Unicode()), (b"offset", Count())]
    response: ClassVar = [
        (b"request", Json(RequestSummary | None)),
        (b"items", Json(list[DecisionSummary])),
        (b"next", amp.Integer()),
    ]


class Events(ControlCommand):
    """Entries of the journal with numbers above ``after``, the oldest first, of one model or all.

    The answer has at most ``limit`` entries, and only as many as fit: for more, send the command
    again with the number of the last one as ``after``. An answer without entries means that there
    are no newer ones. ``last`` is the number of the newest entry, 0 before the first.
    """

    arguments: ClassVar = [
        (b"after", Count()),
        (b"limit", Count()),
        (b"model", amp.Unicode(optional=True)),
    ]
    response: ClassVar = [(b"items", Json(list[EventSummary])), (b"last", amp.Integer())]
