"""What a dialect makes of a request: where it goes upstream, and who makes the answer.

A *responder* is sans-I/O: upstream events or a whole upstream body go in, downstream bytes come
out. The relay moves them and knows nothing of their shape. A responder serves one attempt at one
request; another attempt takes a fresh one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from cortexd.dialects.wire.frames import Mould
from cortexd.dialects.wire.profile import MISTRALRS, Profile, Speaks
from cortexd.errors import BadRequest, CortexError
from cortexd.fleet.affinity import Kept, Reference
from cortexd.sse import ServerSentEvent

EVENT_STREAM = "text/event-stream"
JSON = "application/json"
ONLY_MISTRALRS: Final = (MISTRALRS,)


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one answer; ``estimated`` where the node counted none itself."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False


class Responder(Protocol):
    """Makes one downstream answer of one upstream answer.

    ``content_type`` is the downstream answer's. ``streams`` says that the client takes the
    answer in pieces, ``done`` that the upstream answer is complete, ``cut_short`` that it is though
    the node would go on, ``finished`` that the node has said why it ended and only its counts may
    still come. ``fails_in_order`` says that a stream ends in good order after ``fail``: its dialect
    has an end for failures. ``content_chunks`` counts the chunks that brought content: text,
    reasoning or a tool call, and not only a role.
    ``upstream_id`` is the id the node gave the answer, for the log.

    ``mould`` is there while chunks come in a known frame, that bring text and nothing else: whoever
    casts an event in it need not feed it, and counts it among the ``content_chunks``.
    """

    content_type: str
    streams: bool
    done: bool
    cut_short: bool
    fails_in_order: bool
    finished: bool
    content_chunks: int
    usage: Usage | None
    upstream_id: str | None
    mould: Mould | None

    def feed(self, event: ServerSentEvent) -> bytes:
        """Take one upstream event and return the bytes it means downstream, maybe none.

        Raises CortexError when the event is an error of the node or cannot be understood.
        """

    def take_body(self, body: bytes) -> bytes:
        """Take a whole upstream body, of a node that was not asked to stream; return ours.

        Raises CortexError when the body cannot be understood.
        """

    def finish(self) -> bytes:
        """Take that the upstream stream has ended; return the last bytes, or the whole answer.

        Raises BadGateway when it ended before the answer was complete.
        """

    def fail(self, error: CortexError) -> bytes:
        """Return the error as the dialect says it in the middle of a stream."""

    def waiting(self, elapsed: float) -> bytes:
        """Return the dialect's sign of life, after ``elapsed`` seconds without anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """A request as one kind of upstream takes it, and the maker of what answers it.

    ``streams`` says that the upstream is asked for a stream, whatever the client asked for: only a
    stream can be cancelled there. ``headers`` go up beside those of every request.
    ``approximations`` has a word for each thing that could not be said exactly.
    ``keeps_content_type`` lets a whole answer have the upstream's content type.
    """

    method: str = "POST"
    path: str
    body: bytes
    streams: bool
    make_responder: Callable[[], Responder]
    headers: tuple[tuple[str, str], ...] = ()
    approximations: tuple[str, ...] = ()
    keeps_content_type: bool = False


@dataclass(frozen=True, slots=True)
class Translations:
    """One request for each kind of upstream: ``taken`` where it could be translated, at least one.

    ``refused`` has why the other kinds cannot take it.
    """

    taken: Mapping[Profile, Translation]
    refused: Mapping[Profile, BadRequest]

    def onto(self, profile: Profile) -> Translation | None:
        """Return the request for upstreams of a profile, ``None`` where they cannot take it.

        What is known of a model may have changed since the request was translated; the kind of its
        node is the same.
        """
        if profile in self.taken or profile in self.refused:
            return self.taken.get(profile)
        alike = (found for known, found in self.taken.items() if known.kind == profile.kind)
        return next(alike, None)


class PromptSize(NamedTuple):
    """About how large a prompt is: its ``tokens`` by our own reckoning.

    ``text_bytes`` are those of it, as JSON, that are words; with ``has_media`` they are not all of
    it.
    """

    tokens: int
    text_bytes: int
    has_media: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request, ready to be sent to a node.

    ``model`` is the id in the catalogue.

    ``follows`` is what the request names of what nodes keep, and binds it to the node that has
    that; ``is_kept`` says that the node keeps this answer under its ``upstream_id``, and ``keeps``
    what else it has once it has answered. ``goes_with_model`` says that what it tells of is kept by
    the model's engine.
    ``prompt`` is the size of the prompt, where the dialect reckons it.
    """

    route: str
    model: str
    streams: bool
    translations: Translations
    follows: tuple[Reference, ...] = ()
    is_kept: bool = False
    keeps: tuple[Kept, ...] = ()
    goes_with_model: bool = True
    prompt: PromptSize | None = None

    @property
    def first(self) -> Translation:
        """The translation for the first kind of upstream: the only one, most often.

        Its responders keep the client company as long as no node is chosen.
        """
        return next(iter(self.translations.taken.values()))


def translate_for_each(
    profiles: Iterable[Profile], translate: Callable[[Profile], Translation]
) -> Translations:
    """Return the translations of a request for each kind of upstream.

    Raises the BadRequest of the first kind where none can take the request.
    """
    taken: dict[Profile, Translation] = {}
    refused: dict[Profile, BadRequest] = {}
    for profile in profiles:
        try:
            taken[profile] = translate(profile)
        except BadRequest as error:
            refused[profile] = error
    if not taken:
        raise next(iter(refused.values()))
    return Translations(taken, refused)


def not_served(route: str, reason: str) -> BadRequest:
    """Return the error for a model whose nodes cannot take the requests of a route."""
    words = f"{route} is not served for this model: {reason}"
    return BadRequest(words, param="model", code="unsupported_value")


def translate_alike(
    profiles: Iterable[Profile],
    route: str,
    translation: Translation,
    *,
    check: Callable[[Profile], None] | None = None,
) -> Translations:
    """Return the one translation for each kind of upstream but those that speak Messages alone.

    ``route`` is our label. ``check`` raises BadRequest for a kind that cannot take the request.
    Raises BadRequest where none can.
    """

    def translate(profile: Profile) -> Translation:
        if profile.speaks is Speaks.MESSAGES:
            raise not_served(route, "its node speaks Messages alone")
        if check is not None:
            check(profile)
        return translation

    return translate_for_each(profiles, translate)


class ParsedRequest(Protocol):
    """A request as its dialect has understood it, before it is known which model it means."""

    @property
    def model(self) -> str:
        """The name the client has for the model."""

    @property
    def streams(self) -> bool:
        """Whether the client takes the answer in pieces."""

    def exchange(
        self,
        model: str,
        profiles: Iterable[Profile] = ONLY_MISTRALRS,
        *,
        random_id: str,
        now: float,
        request_id: str | None = None,
    ) -> Exchange:
        """Return the exchange with the catalogue's ``model``, on upstreams of these ``profiles``.

        ``random_id`` makes the ids sent downstream our own: those of nodes are small counters
        that collide. ``now`` is in unix seconds; ``request_id`` is the one the client knows.
        Raises BadRequest naming the field at fault.
        """
