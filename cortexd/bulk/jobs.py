"""The work on one large request, as functions that another process can run in order.

Each function takes the ``Desk``, on which the request lies between two of them. In between, the
daemon resolves names and reads stored responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, cast

from cortexd.dialects.messages_to_chat import tokens
from cortexd.dialects.messages_to_chat.tokens import TokenSizes
from cortexd.dialects.nodes.answers import check_whole
from cortexd.dialects.routes import kept_responses, responses
from cortexd.dialects.routes.chat import ChatRequest
from cortexd.dialects.routes.responses import ResponsesRequest
from cortexd.dialects.wire.exchange import (
    Exchange,
    Outcome,
    ParsedRequest,
    Responder,
    Translations,
    Usage,
)
from cortexd.dialects.wire.json_values import encode
from cortexd.dialects.wire.profile import Profile
from cortexd.dialects.wire.scan import check_size
from cortexd.engines.engine import Ask, Engine
from cortexd.errors import BadGateway, BodyTooLarge
from cortexd.fleet.affinity import Kept

MAX_REPEATED_BYTES: Final = 1024 * 1024
"""The most that a response may repeat of its request, in each of several events."""

MAX_KEPT: Final = 1000
"""The most things of a node that one large answer may name."""

Stored = Sequence[tuple[bytes, bytes]]
"""Stored responses, each as the texts of its object and of its input's items."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The way to read a request: a function of the dialect, picklable with its arguments.

    ``sizes`` is the argument ``token_sizes`` of functions that have it. ``is_json`` is false for a
    body that only a node reads.
    """

    function: Callable[..., ParsedRequest]
    sizes: Callable[[str], TokenSizes] | None = None
    is_json: bool = True

    def read(self, body: bytes) -> ParsedRequest:
        """Return the request in a body. Raises CortexError."""
        if self.sizes is None:
            return self.function(body)
        return self.function(body, token_sizes=self.sizes)


class Head(NamedTuple):
    """The parts of a request that the daemon needs before it is translated."""

    model: str
    streams: bool
    previous_id: str | None = None
    stores: bool = False
    in_background: bool = False
    session: str | None = None


class Made(NamedTuple):
    """An exchange, and for a response the items of its own input, as they are stored.

    The translations of ``exchange`` are in ``taken`` and ``refused``, by the number of the profile.
    """

    exchange: Exchange
    taken: Mapping[int, Any]
    refused: Mapping[int, Any]
    input_items: bytes

    def whole(self, profiles: Sequence[Profile]) -> Exchange:
        """Return the exchange with the translations for these profiles."""
        taken = {profiles[number]: each for number, each in self.taken.items()}
        refused = {profiles[number]: each for number, each in self.refused.items()}
        return replace(self.exchange, translations=Translations(taken, refused))


class Taken(NamedTuple):
    """Our answer, made of a node's whole one: its text, and what a responder says about it.

    ``kept`` is the state that the node's answer names.
    """

    text: bytes
    usage: Usage | None
    upstream_id: str | None
    content_chunks: int
    kept: tuple[Kept, ...]


class Desk:
    """The request that is being worked on, and the token sizes of its model."""

    def __init__(self) -> None:
        self.request: Any = None
        self._sizes = TokenSizes()

    def sizes(self, model: str) -> TokenSizes:
        """Return the sizes of the request's model, once they are known."""
        return self._sizes

    def know(self, sizes: TokenSizes) -> None:
        """Take the sizes of the request's model."""
        self._sizes = sizes


def head_of(request: ParsedRequest) -> Head:
    """Return the head of a request."""
    if isinstance(request, ResponsesRequest):
        return Head(
            request.model,
            request.streams,
            request.previous_id,
            request.stores,
            request.in_background,
            request.session,
        )
    session = request.session if isinstance(request, ChatRequest) else None
    return Head(request.model, request.streams, session=session)


def clear(desk: Desk) -> None:
    """Take the request off the desk."""
    desk.request = None


def read(desk: Desk, function: Callable[..., ParsedRequest], is_sized: bool, body: bytes) -> Head:
    """Read a request; a function ``is_sized`` if it takes token sizes. Raises CortexError."""
    check_size(body)
    reading = Reading(function, desk.sizes if is_sized else None)
    desk.request = reading.read(body)
    return head_of(desk.request)


def extend(desk: Desk, stored: Stored | None) -> list[str]:
    """Put stored responses before the request's input; return the ids of items that it refers to.

    ``None`` leaves the request as it is.
    """
    if stored is not None:
        check_size(*(text for texts in stored for text in texts))
        desk.request = desk.request.continuing(kept_responses.conversation(stored))
    return cast("list[str]", desk.request.references)


def rename_session(desk: Desk, session: str) -> None:
    """Give the request another name of its session."""
    desk.request = desk.request.in_session(session)


def resolve(desk: Desk, stored: Sequence[bytes]) -> None:
    """Put the items of stored responses in place of references to them."""
    check_size(*stored)
    desk.request = desk.request.with_items(kept_responses.items_by_id(stored))


def exchange(
    desk: Desk,
    model: str,
    profiles: Sequence[Profile],
    sizes: TokenSizes,
    random_id: str,
    now: float,
    request_id: str,
) -> Made:
    """Return the exchange of the request; see ParsedRequest. Raises CortexError."""
    desk.know(sizes)
    request: ParsedRequest = desk.request
    made = request.exchange(model, profiles, random_id=random_id, now=now, request_id=request_id)
    packed = b""
    if isinstance(request, ResponsesRequest):
        packed = kept_responses.pack_items(request.input_items)
        if made.outcome is not None and len(encode(made.outcome.begun)) > MAX_REPEATED_BYTES:
            raise BodyTooLarge(
                "instructions, tools, metadata and other fields that a response repeats have more "
                f"than {MAX_REPEATED_BYTES // 1024} KiB, which is the limit"
            )
    numbers = {id(profile): number for number, profile in enumerate(profiles)}
    translations = made.translations
    return Made(
        replace(made, translations=Translations({}, {})),
        {numbers[id(profile)]: each for profile, each in translations.taken.items()},
        {numbers[id(profile)]: each for profile, each in translations.refused.items()},
        packed,
    )


def read_count(desk: Desk, body: bytes) -> str:
    """Read a request to count tokens of a Messages request; return its model."""
    check_size(body)
    desk.request = tokens.read_count(body)
    return str(desk.request.model)


def ask_count(
    desk: Desk, engine: Engine, model: str, headers: Mapping[str, str]
) -> Ask[int] | None:
    """Return the question for a node that counts, ``None`` where there is none for this body."""
    try:
        return engine.count_tokens(desk.request.fields, model, headers)
    except RecursionError:
        return None


def estimate(desk: Desk, sizes: TokenSizes) -> bytes:
    """Return the answer to a request to count, with our estimate."""
    return cast("bytes", desk.request.estimate(lambda _: sizes))


def read_response_count(desk: Desk, body: bytes) -> tuple[str, str | None]:
    """Read a request to count tokens of a response; return its model and the response before it."""
    check_size(body)
    desk.request = responses.read_count(body)
    return desk.request.model, desk.request.previous_id


def extend_count(desk: Desk, stored: Stored) -> None:
    """Put stored responses before the items to count."""
    check_size(*(text for texts in stored for text in texts))
    desk.request = desk.request.continuing(kept_responses.conversation(stored))


def call(desk: Desk, function: Callable[..., Any], *args: object) -> Any:
    """Return the result of a function of a dialect that needs no request."""
    return function(*args)


def take_answer(
    desk: Desk,
    make_responder: Callable[[], Responder],
    outcome: Outcome | None,
    kept_by_body: Callable[[bytes], Sequence[Kept]],
    body: bytes,
) -> Taken:
    """Return the client's answer for a node's whole one. Raises CortexError.

    A response that we would have to store is refused: it would be large for the reactor again.
    """
    check_whole(body)
    responder = make_responder()
    try:
        text = responder.take_body(body)
        kept = tuple(kept_by_body(body))
    except MemoryError:
        words = "the node's answer needs too much memory to be read"
        raise BadGateway(words, elsewhere=True) from None
    if len(kept) > MAX_KEPT or (outcome is not None and outcome.response is not None):
        refused = BadGateway("the node's answer is too large to be kept")
        refused.is_node_fault = False
        raise refused
    return Taken(text, responder.usage, responder.upstream_id, responder.content_chunks, kept)
