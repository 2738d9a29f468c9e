"""Stored responses: the conversation that they make, and the answers to questions about them.

A response is stored as two JSON texts: its object, and the list of the items of its own input. The
gateway stores them, and this module reads them. A response that names a previous one continues the
items of all before it, each with its input and then its output; instructions are not inherited.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from cortexd import sse
from cortexd.dialects.responses_to_chat import objects
from cortexd.dialects.routes.kept import not_found
from cortexd.dialects.wire.json_values import JsonObject, encode, read_object
from cortexd.errors import BadRequest, CortexError, NodeError, StateNotFound
from cortexd.fleet.affinity import Kept, StateKind

PREVIOUS: Final = "previous_response_id"
ROUTE_OF_INPUT: Final = "/v1/responses/{id}/input_items"
MOST_LISTED: Final = 100
LISTED: Final = 20
"""How many items of the input a page has at most, and unless the client says how many."""


def id_of(response: JsonObject) -> str:
    """Return the id of a response that we have made."""
    name: str = response["id"]
    return name


# The conversation.


def conversation(stored: Iterable[tuple[bytes, bytes]]) -> list[JsonObject]:
    """Return the items of stored responses, given as object and input, the first one first."""
    items: list[JsonObject] = []
    for response, input_items in stored:
        items += _items(input_items)
        items += _output(_read(response))
    return items


def item_ids(response: JsonObject) -> tuple[str, ...]:
    """Return the ids of the items in a response's output, by which later requests may name them."""
    return tuple(item["id"] for item in _output(response) if isinstance(item.get("id"), str))


def items_by_id(responses: Iterable[bytes]) -> dict[str, JsonObject]:
    """Return the items in the output of stored responses."""
    return {
        item["id"]: item
        for response in responses
        for item in _output(_read(response))
        if isinstance(item.get("id"), str)
    }


def _output(response: JsonObject) -> list[JsonObject]:
    output = response.get("output")
    return output if isinstance(output, list) else []


def pack_items(items: Iterable[JsonObject]) -> bytes:
    """Return the items of an input as they are stored."""
    return encode({"data": list(items)})


def _items(packed: bytes) -> list[JsonObject]:
    items: list[JsonObject] = _read(packed)["data"]
    return items


def _read(stored: bytes) -> JsonObject:
    """Return a stored object. Raises StateNotFound if the disk has changed its bytes."""
    try:
        return read_object(stored)
    except BadRequest:
        words = "a stored response cannot be read: its bytes in the store's file are damaged"
        raise StateNotFound(words, code="response_not_found") from None


def check_continued(
    name: str, *, is_unfinished: bool, gap: str | None, size: int, most: int
) -> None:
    """Raise the error for a previous response that cannot be continued.

    ``gap`` is the id of a response before it that is gone. ``size`` are the bytes of the whole
    conversation, and ``most`` those that a request's body may have.
    """
    if gap is not None:
        raise StateNotFound(
            f"response {name!r} continues response {gap!r}, which was deleted or has expired",
            param=PREVIOUS,
            code="previous_response_not_found",
        )
    if is_unfinished:
        raise BadRequest(
            f"response {name!r} is not finished; retrieve it until it is, and continue it then",
            param=PREVIOUS,
        )
    if size > most:
        raise BadRequest(
            f"the conversation up to response {name!r} has {size} bytes, which is more than the "
            f"{most} of a request; begin a new one with what the model still needs",
            param=PREVIOUS,
        )


# Work in the background.


def unfinished(response: JsonObject, *, has_begun: bool) -> bytes:
    """Return the object of a response whose work waits in the queue, or has begun."""
    return encode((objects.in_progress if has_begun else objects.queued)(response))


def failed(response: JsonObject, error: CortexError) -> bytes:
    """Return the object of a response whose work failed."""
    return encode(objects.failed(response, error))


def cancelled(response: JsonObject) -> bytes:
    """Return the object of a response that a client has cancelled."""
    return encode(objects.cancelled(response))


def cut_by_restart(response: bytes) -> bytes | None:
    """Return the object of a stored response whose work ended with the daemon.

    ``None`` if the object cannot be read.
    """
    words = "the gateway was restarted before this response was finished; send the request again"
    try:
        return failed(read_object(response), NodeError(words, code="interrupted"))
    except BadRequest:
        return None


def too_large(size: int) -> NodeError:
    """Return the error for a response of so many bytes, which is too large to be stored."""
    words = (
        f"the response and its input have {size} bytes, more than can be stored; send the request "
        "without background, or raise responses.max_mb"
    )
    return NodeError(words, code="response_too_large")


def check_cancellable(response: bytes) -> None:
    """Raise BadRequest for a stored response that is not made in the background."""
    if _read(response).get("background") is not True:
        raise BadRequest(
            "only a response that was made with background=true can be cancelled; to stop another "
            "one, close its connection"
        )


# Answers to questions.


def deleted(name: str) -> bytes:
    """Return the answer to the deletion of a response."""
    return encode({"id": name, "object": "response", "deleted": True})


def input_page(packed: bytes, query: Mapping[str, str]) -> bytes:
    """Return a page of a response's own input: ``limit`` items from ``after`` on, newest first.

    ``order`` is ``desc``, or ``asc`` for the first item first. Raises BadRequest.
    """
    items = _told_apart(_items(packed))
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadRequest(f"'order' must be asc or desc; found {order!r}", param="order")
    if order == "desc":
        items.reverse()
    after = query.get("after")
    if after:
        ids = [item.get("id") for item in items]
        if after not in ids:
            raise BadRequest(f"'after' names no item of this input: {after!r}", param="after")
        items = items[ids.index(after) + 1 :]
    page = items[: _limit(query.get("limit"))]
    return encode(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(page) < len(items),
        }
    )


def _told_apart(items: list[JsonObject]) -> list[JsonObject]:
    """Return the items with an id each; a client that follows repeated ids would never end."""
    given = {item["id"] for item in items}
    taken: set[str] = set()
    apart = []
    for place, item in enumerate(items):
        name = item["id"]
        if name in taken:
            name = f"{name}_{place}"
            while name in given:
                name += "_"
            item = {**item, "id": name}
        given.add(name)
        taken.add(name)
        apart.append(item)
    return apart


def _limit(given: str | None) -> int:
    if given is None:
        return LISTED
    if not (given.isdecimal() and len(given) < 4 and 1 <= int(given) <= MOST_LISTED):
        raise BadRequest(
            f"'limit' must be an integer from 1 to {MOST_LISTED}; found {given!r}", param="limit"
        )
    return int(given)


def read_stream_query(query: Mapping[str, str]) -> int | None:
    """Return the number of the event after which a client wants the events of a response.

    ``None`` if it wants the object, -1 if it wants all events. Raises BadRequest.
    """
    if query.get("stream", "").lower() not in ("true", "1"):
        return None
    after = query.get("starting_after", "-1")
    if not re.fullmatch(r"-1|[0-9]{1,12}", after):
        raise BadRequest(
            f"'starting_after' must be the sequence number of an event; found {after!r}",
            param="starting_after",
        )
    return int(after)


def events_after(events: bytes, number: int) -> bytes:
    """Return those events of a stream whose sequence number is above ``number``."""
    if number < 0:
        return events
    decoded = sse.SseDecoder(len(events) + 1).feed(events)
    return b"".join(
        sse.encode(event.data, event.name)
        for event in decoded
        if read_object(event.data).get("sequence_number", -1) > number
    )


def last_event(response: bytes, after: int) -> bytes:
    """Return the event with which the stream of a stored response has ended.

    Its other events are not stored; this one has the whole response. Raises BadRequest for a
    response that was cancelled, because the SDKs know no event that says so.
    """
    stored = _read(response)
    if stored["status"] == "cancelled":
        raise BadRequest(
            f"response {stored['id']!r} was cancelled, and has no events; retrieve it without "
            "stream",
            param="stream",
        )
    kind = f"response.{stored['status']}"
    event = {"type": kind, "sequence_number": after + 1, "response": stored}
    return sse.encode(encode(event), kind.encode())


def not_streamed(name: str) -> BadRequest:
    """Return the error for the events of a response that has none."""
    return BadRequest(
        f"response {name!r} was not requested with stream=true, and so has no events before its "
        "end; retrieve it without stream",
        param="stream",
    )


def not_stored(name: str, param: str | None = None) -> StateNotFound:
    """Return the error for a response that is nowhere; ``param`` is the field that names it."""
    return not_found(Kept(StateKind.RESPONSE, name), param)
