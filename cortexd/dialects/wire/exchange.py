"""The result of translating a request: the upstream request, and the responder for its answer.

A *responder* is sans-I/O: it gets upstream events or a whole upstream body, and returns downstream
bytes. The relay moves the bytes and does not know their format. A responder serves one attempt at
one request; another attempt needs a new responder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from cortexd.dialects.wire.frames import Mould
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import MISTRALRS, Profile, Speaks
from cortexd.errors import BadRequest, CortexError
from cortexd.fleet.affinity import Kept, Reference
from cortexd.sse import ServerSentEvent

EVENT_STREAM = "text/event-stream"
JSON = "application/json"
ONLY_MISTRALRS: Final = (MISTRALRS,)

_OF_SERVERS: Final = ("code_", "file_search", "image_generation", "mcp", "shell", "web_")
"""The beginnings of the types of tools that a server runs itself (nodes.md 4.1.13, 5.3)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one answer; ``estimated`` if the node did not count them itself.

    ``cached_tokens`` of the prompt were in the engine's prefix cache, ``None`` where the node does
    not say.
    """

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    cached_tokens: int | None = None


class Responder(Protocol):
    """Makes one downstream answer from one upstream answer.

    ``content_type`` is that of the downstream answer. ``streams`` means that the client gets a
    stream. ``done`` means that the upstream answer is complete, ``cut_short`` that we ended it
    although the node would continue, and ``finished`` that the node has sent the finish reason, so
    that only its token counts may follow. ``fails_in_order`` means that a stream ends properly
    after ``fail``, because its dialect has an end for failures. ``content_chunks`` counts the
    chunks with content: text, reasoning or a tool call, not only a role. ``upstream_id`` is the
    node's id of the answer, for the log.

    ``mould`` is set while chunks come in a known frame with text only. A caller that casts an event
    in it need not feed the event, and must count it in ``content_chunks``.
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
        """Process one upstream event, and return the downstream bytes, possibly none.

        Raises CortexError if the event is an error of the node, or cannot be understood.
        """

    def take_body(self, body: bytes) -> bytes:
        """Process the whole body of an upstream answer without a stream; return our body.

        Raises CortexError if the body cannot be understood.
        """

    def finish(self) -> bytes:
        """Process the end of the upstream stream; return the last bytes, or the whole answer.

        Raises BadGateway if the stream ended before the answer was complete.
        """

    def fail(self, error: CortexError) -> bytes:
        """Return the error in the dialect's format for the middle of a stream."""

    def waiting(self, elapsed: float, words: str = "") -> bytes:
        """Return the dialect's keep-alive, after ``elapsed`` seconds without output.

        ``words`` are one line about what is waited for, empty if the client shall not see any. A
        dialect in which text can come before the answer, and be no part of it, shows them.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """A request for one kind of upstream, and the factory of its responders.

    ``streams`` means that the upstream shall stream, even if the client does not: nodes can cancel
    only streams. ``whole`` is the same request without a stream, if the streams of some models fail
    on it (nodes.md 4.1.9). ``headers`` are sent in addition to those of every request.
    ``approximations`` has a word for each approximation. With ``keeps_content_type``, a whole
    answer has the upstream's content type. ``is_kept`` means that the node stores its answer under
    the ``upstream_id``. Without ``may_repeat``, an upstream that has read the request may have done
    something that must not be done twice: stored a file, run a tool. ``prefixes`` are the keys of
    the prompt's beginnings (``dialects.prefixes``), and ``left_out`` the names of the lines that
    hygiene has left out of it (``dialects.hygiene``).

    The factory lives as long as the answer, so it must not reference the request. It must be
    picklable, because another process translates large bodies: a ``partial``, and no closure.
    """

    method: str = "POST"
    path: str
    body: bytes
    streams: bool
    make_responder: Callable[[], Responder]
    headers: tuple[tuple[str, str], ...] = ()
    approximations: tuple[str, ...] = ()
    keeps_content_type: bool = False
    is_kept: bool = False
    whole: Translation | None = None
    may_repeat: bool = True
    prefixes: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Translations:
    """The translations of one request by kind of upstream: ``taken`` has at least one.

    ``refused`` has the error for each of the other kinds.
    """

    taken: dict[Profile, Translation]
    refused: dict[Profile, BadRequest]

    def forget(self) -> None:
        """Let go of the bodies, after the answer."""
        self.taken.clear()
        self.refused.clear()

    def onto(self, profile: Profile) -> Translation | None:
        """Return the request for upstreams of a profile, ``None`` if they cannot take it.

        The profile of a model may have changed since the request was translated; the kind of its
        node has not.
        """
        if profile in self.taken or profile in self.refused:
            return self.taken.get(profile)
        alike = (found for known, found in self.taken.items() if known.kind == profile.kind)
        return next(alike, None)


class PromptSize(NamedTuple):
    """The approximate size of a prompt: ``tokens`` is our estimate.

    ``text_bytes`` is the size of its text as JSON; with ``has_media``, the prompt has other parts
    too.
    """

    tokens: int
    text_bytes: int
    has_media: bool


class Outcome:
    """The end of one request's answer, shared by all of its responders.

    ``begun`` is the answer as it begins. The responder that ends the answer, also by a failure
    inside a stream, sets ``response`` to the whole answer.
    """

    def __init__(self, begun: JsonObject) -> None:
        self.begun = begun
        self.response: JsonObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request, ready to be sent to a node.

    ``model`` is the id in the catalogue. ``follows`` are the request's references to state that
    nodes store; they bind the request to the node that has this state. ``keeps`` is the state that
    the node stores after it has answered. ``goes_with_model`` means that the model's engine stores
    this state. ``prompt`` is the size of the prompt, if the dialect estimates it. ``outcome`` is
    there for a dialect whose answers cortexd itself can store. ``is_inference`` means that the
    model's engine does the work, so that its end says something about the engine. ``session`` is
    the name of the conversation that the body has, "" for none.
    """

    route: str
    model: str
    streams: bool
    translations: Translations
    follows: tuple[Reference, ...] = ()
    keeps: tuple[Kept, ...] = ()
    goes_with_model: bool = True
    prompt: PromptSize | None = None
    outcome: Outcome | None = None
    is_inference: bool = True
    session: str = ""

    @property
    def first(self) -> Translation:
        """The translation for the first kind of upstream, which is usually the only one.

        Its responders send keep-alives as long as no node is chosen.
        """
        return next(iter(self.translations.taken.values()))


def translate_for_each(
    profiles: Iterable[Profile], translate: Callable[[Profile], Translation]
) -> Translations:
    """Return the translations of a request for each kind of upstream.

    If no kind can take the request, raises the BadRequest of the first kind.
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


def has_own_tools(tools: object) -> bool:
    """Return whether an upstream would run some of these tools itself, such as a search.

    ``tools`` are those of an upstream request in any dialect.
    """
    each = tools if isinstance(tools, list) else ()
    kinds = [tool.get("type") for tool in each if isinstance(tool, dict)]
    return any(isinstance(kind, str) and kind.startswith(_OF_SERVERS) for kind in kinds)


def not_served(route: str, reason: str) -> BadRequest:
    """Return the error for a model whose nodes cannot serve a route."""
    words = f"{route} is not served for this model: {reason}"
    return BadRequest(words, param="model", code="unsupported_value")


def translate_alike(
    profiles: Iterable[Profile],
    route: str,
    translation: Translation,
    *,
    check: Callable[[Profile], None] | None = None,
) -> Translations:
    """Return one translation for all kinds of upstream, except those that speak only Messages.

    ``route`` is our label of the route. ``check`` raises BadRequest for a kind that cannot take the
    request. Raises BadRequest if no kind can.
    """

    def translate(profile: Profile) -> Translation:
        if profile.speaks is Speaks.MESSAGES:
            raise not_served(route, "its node speaks only Messages")
        if check is not None:
            check(profile)
        return translation

    return translate_for_each(profiles, translate)


class ParsedRequest(Protocol):
    """A parsed request, before its model's name is resolved."""

    @property
    def model(self) -> str:
        """The client's name for the model."""

    @property
    def streams(self) -> bool:
        """Whether the client gets a stream."""

    def exchange(
        self,
        model: str,
        profiles: Iterable[Profile] = ONLY_MISTRALRS,
        *,
        random_id: str,
        now: float,
        request_id: str | None = None,
    ) -> Exchange:
        """Return the exchange with the catalogue's ``model``, for upstreams of these ``profiles``.

        ``random_id`` makes our ids in the answer unique: the ids of nodes are small counters that
        collide. ``now`` is in unix seconds; ``request_id`` is the id that the client gets. Raises
        BadRequest with the faulty field.
        """
