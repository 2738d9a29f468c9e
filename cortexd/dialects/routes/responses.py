"""OpenAI responses: the request, translated into a node's chat completions.

A node's own Responses route breaks most clients (translation.md 1.7.1), and only the node has what
it stores. So cortexd makes the responses itself, and stores them: ``ResponsesRequest`` says what to
store, and ``continuing`` goes on from it. A node with ``responses = "native"`` gets requests almost
unchanged (``dialects.openai.responses_passed``), and stores its responses itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cortexd.dialects.chat_to_messages.answer import chat_on_messages_factory
from cortexd.dialects.chat_to_messages.request import translate_chat
from cortexd.dialects.fitting.fit import fit_messages
from cortexd.dialects.hygiene.lines import clean_system
from cortexd.dialects.messages_to_chat.reading import AnswerTerms
from cortexd.dialects.messages_to_chat.tokens import TokenSizes, start_sizes
from cortexd.dialects.nodes.chat_stream import Identity
from cortexd.dialects.nodes.messages import HEADERS, MESSAGES_PATH, SYSTEM_TURNS
from cortexd.dialects.nodes.whole_as_stream import with_whole
from cortexd.dialects.openai.responses_passed import pass_on_response
from cortexd.dialects.openai.responses_stream import Opening
from cortexd.dialects.prefixes.keys import chat_keys, messages_keys
from cortexd.dialects.prefixes.sessions import session_of_response
from cortexd.dialects.responses_to_chat import objects
from cortexd.dialects.responses_to_chat.answer import ResponseTerms
from cortexd.dialects.responses_to_chat.composed import composed_factory
from cortexd.dialects.responses_to_chat.items import REFERENCE, read_items, resolved, unresolved
from cortexd.dialects.responses_to_chat.request import (
    TranslatedResponse,
    read_previous_id,
    repeated_choice,
    translate_response,
)
from cortexd.dialects.responses_to_chat.stream import responder_factory
from cortexd.dialects.responses_to_chat.tokens import measure_response
from cortexd.dialects.responses_to_chat.tools import repeated_tools
from cortexd.dialects.routes.chat import ROUTE as CHAT_ROUTE
from cortexd.dialects.routes.kept import in_session, named_by_response, session_in
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.asked import Asked
from cortexd.dialects.wire.asked import Opening as MessagesOpening
from cortexd.dialects.wire.exchange import (
    ONLY_MISTRALRS,
    Exchange,
    Outcome,
    Translation,
    translate_for_each,
)
from cortexd.dialects.wire.json_values import JsonObject, encode, read_flag, read_model, read_object
from cortexd.dialects.wire.profile import Profile, Speaks, ThinkingWish
from cortexd.errors import BadRequest
from cortexd.fleet.affinity import Reference

ROUTE: Final = "/v1/responses"
COUNT_ROUTE: Final = "/v1/responses/input_tokens"


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """A request for a response; ``model`` is the name that the client used.

    ``previous_id`` is the response that it continues, ``None`` for a new conversation. ``stores``
    means that the client may ask for the response again, and ``in_background`` that it does not
    wait for it. ``input_items`` are the items of its own input, each with an id. ``earlier`` are
    those of the conversation before it, once ``continuing`` has added them.
    ``token_sizes`` returns the token sizes of a model in the catalogue.
    """

    model: str
    streams: bool
    previous_id: str | None
    stores: bool
    in_background: bool
    input_items: list[JsonObject]
    fields: JsonObject
    token_sizes: Callable[[str], TokenSizes]
    earlier: tuple[JsonObject, ...] | None = None

    def continuing(self, items: Sequence[JsonObject]) -> ResponsesRequest:
        """Return the request with the ``items`` of earlier responses before its own.

        They have the form of ``input_items``, or of a response's output. The request then stands
        alone: it needs no state that a node stores.
        """
        return replace(self, earlier=tuple(items))

    @property
    def session(self) -> str | None:
        """The session of a node that the request names."""
        return session_in(self.fields)

    def in_session(self, session: str) -> ResponsesRequest:
        """Return the request with another name of its session."""
        return replace(self, fields=in_session(self.fields, session))

    @property
    def references(self) -> list[str]:
        """The ids of stored items that the input only refers to."""
        return unresolved([*(self.earlier or ()), *self.input_items])

    def with_items(self, known: Mapping[str, JsonObject]) -> ResponsesRequest:
        """Return the request with the items of ``known``, by their ids, in place of references."""
        items = resolved(self.input_items, known, self.earlier or ())
        return replace(self, input_items=items)

    def exchange(
        self,
        model: str,
        profiles: Iterable[Profile] = ONLY_MISTRALRS,
        *,
        random_id: str,
        now: float,
        request_id: str | None = None,
    ) -> Exchange:
        """Return the exchange with the catalogue's ``model``; see ParsedRequest.

        Its ``outcome`` has the response as it begins; its id is ours, made of ``random_id``.
        """
        try:
            return self._exchange(model, tuple(profiles), random_id, now)
        except RecursionError:  # a chat nests some values deeper than a response's request
            raise BadRequest("the body is nested too deeply") from None

    def _exchange(
        self, model: str, profiles: tuple[Profile, ...], random_id: str, now: float
    ) -> Exchange:
        follows = self._follows(profiles)
        if follows:  # only nodes that store state themselves have it
            profiles = tuple(each for each in profiles if each.native_responses) or profiles
        is_native = any(profile.native_responses for profile in profiles)
        is_kept = self.stores or self.in_background
        opening = Opening(f"resp_{random_id}", may_begin=not (is_native and is_kept))
        translator = _Translator(self, model, random_id, int(now), opening)

        def translate(profile: Profile) -> Translation:
            if profile.native_responses and profile.speaks is not Speaks.MESSAGES:
                self._check_native()
                return pass_on_response(
                    self._native_fields(), profile, model, int(now), opening, is_kept=is_kept
                )
            return translator.translate(profile)

        return Exchange(
            route=ROUTE,
            model=model,
            streams=self.streams,
            follows=follows,
            translations=translate_for_each(profiles, translate),
            prompt=translator.prompt,
            outcome=translator.outcome,
            session=session_of_response(self.fields),
        )

    def _follows(self, profiles: tuple[Profile, ...]) -> tuple[Reference, ...]:
        """Return the state of nodes that the request names."""
        named = named_by_response(self.fields)
        if self.earlier is not None:
            named = tuple(each for each in named if each.param != "previous_response_id")
        if any(profile.native_responses for profile in profiles):
            return named
        # Without such a node, only the response before it matters: without that, it cannot be
        # answered.
        return tuple(each for each in named if each.param == "previous_response_id")

    def _check_native(self) -> None:
        if self.in_background and self.streams:
            raise BadRequest(
                "'stream' must be false where 'background' is true: the node never streams those",
                param="stream",
            )

    def _native_fields(self) -> JsonObject:
        """Return the fields for a node of its own Responses: with what ``continuing`` has added."""
        if self.earlier is None:
            return self.fields
        items = [*self.earlier, *self.input_items]
        unknown = set(unresolved(items))
        fields = {
            **self.fields,
            "input": [item for item in items if item["type"] != REFERENCE or item["id"] in unknown],
        }
        fields.pop("previous_response_id", None)
        return fields


class _Translator:
    """Translates one request for nodes of several kinds; ``prompt`` is the size of its prompt."""

    def __init__(
        self,
        request: ResponsesRequest,
        model: str,
        random_id: str,
        created_at: int,
        opening: Opening,
    ) -> None:
        self._request = request
        self._model = model
        self._random_id = random_id
        self._created_at = created_at
        self._opening = opening
        self._items = [*(request.earlier or ()), *request.input_items]
        fields = request.fields
        tools = fields.get("tools")
        repeated = {
            **fields,
            "tools": repeated_tools(tools) if isinstance(tools, list) else None,
            "tool_choice": repeated_choice(fields.get("tool_choice")),
        }
        begun = objects.begun(repeated, opening.response_id, created_at, model)
        self.outcome = Outcome(begun)
        self.prompt = measure_response(fields, self._items, request.token_sizes(model))

    def translate(self, profile: Profile) -> Translation:
        """Return the request for a node of this profile. Raises BadRequest."""
        approximations = Approximations()
        translated = translate_response(
            self._request.fields,
            self._items,
            len(self._items) - len(self._request.input_items),
            profile,
            approximations,
        )
        if profile.speaks is Speaks.MESSAGES:
            return self._in_messages(translated, profile, approximations)
        fields = translated.fields
        fields["messages"] = fit_messages(fields["messages"], profile, approximations)
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
        fields = {"model": self._model, **fields}
        translation = Translation(
            path=CHAT_ROUTE,
            body=encode(fields),
            streams=True,
            make_responder=responder_factory(self._terms(translated, profile)),
            approximations=approximations.words(),
            prefixes=chat_keys(fields),
            left_out=approximations.left_out,
        )
        return with_whole(translation, fields)

    def _in_messages(
        self, translated: TranslatedResponse, profile: Profile, approximations: Approximations
    ) -> Translation:
        """Return the request for a node that speaks only Messages."""
        chat = translate_chat(translated.fields, profile)
        left_out = clean_system(chat.body) if profile.hygiene else ()
        for word in chat.approximations:
            approximations.note(word)
        identity = Identity(f"chatcmpl-{self._random_id}", self._created_at, self._model)
        return Translation(
            path=MESSAGES_PATH,
            body=chat.encoded(self._model),
            headers=HEADERS + (SYSTEM_TURNS if chat.has_system_turns else ()),
            streams=True,
            make_responder=composed_factory(
                chat_on_messages_factory(
                    identity, streams=True, include_usage=True, names=chat.tool_names
                ),
                responder_factory(self._terms(translated, profile)),
            ),
            approximations=approximations.words(),
            prefixes=messages_keys(chat.body),
            left_out=left_out,
        )

    def _terms(self, translated: TranslatedResponse, profile: Profile) -> ResponseTerms:
        answer = AnswerTerms(
            asked=Asked(
                model=self._model,
                streams=self._request.streams,
                message_id=self._opening.response_id,
                prompt_estimate=self.prompt.tokens,
                opening=MessagesOpening(),
            ),
            stop_sequences=(),
            thinking=ThinkingWish.SHOWN,
            one_tool_call=translated.tools.one_call,
            profile=profile,
        )
        return ResponseTerms(
            begun=self.outcome.begun,
            stem=self._random_id,
            tools=translated.tools.known,
            shows_encrypted=translated.shows_encrypted,
            opening=self._opening,
            outcome=self.outcome,
            answer=answer,
        )


def read_request(
    body: bytes, token_sizes: Callable[[str], TokenSizes] = start_sizes
) -> ResponsesRequest:
    """Return the request in ``body``, most of whose fields are not checked yet.

    ``token_sizes`` is that of ResponsesRequest. Raises BadRequest with the faulty field.
    """
    fields = read_object(body)
    model = read_model(fields)
    previous_id = read_previous_id(fields)
    stores = fields.get("store") is None or read_flag(fields, "store")
    in_background = read_flag(fields, "background")
    streams = read_flag(fields, "stream")
    items = _items(fields.get("input"), previous_id)
    return ResponsesRequest(
        model, streams, previous_id, stores, in_background, items, fields, token_sizes
    )


def _items(given: object, previous_id: str | None) -> list[JsonObject]:
    """Return the items of an input; see ``read_items``. Raises BadRequest."""
    try:
        return read_items(given, previous_id)
    except RecursionError:  # the id of an item is made of its JSON, in two lists
        raise BadRequest("the body is nested too deeply", param="input") from None


@dataclass(frozen=True, slots=True)
class CountRequest:
    """A request to count the tokens of a request for a response; ``model`` is the client's name.

    ``previous_id`` and ``continuing`` are as in ResponsesRequest.
    """

    model: str
    previous_id: str | None
    items: tuple[JsonObject, ...]
    fields: JsonObject

    def continuing(self, items: Sequence[JsonObject]) -> CountRequest:
        """Return the request with the ``items`` of earlier responses before its own."""
        return replace(self, items=(*items, *self.items))

    def estimate(self, token_sizes: Callable[[str], TokenSizes] = start_sizes) -> bytes:
        """Return the answer with our estimate; see ``start_sizes``. Raises BadRequest."""
        try:
            size = measure_response(self.fields, self.items, token_sizes(self.model))
        except RecursionError:
            raise BadRequest("the body is nested too deeply") from None
        return encode({"object": "response.input_tokens", "input_tokens": size.tokens})


def read_count(body: bytes) -> CountRequest:
    """Return the request to count in ``body``. Raises BadRequest with the faulty field."""
    fields = read_object(body)
    previous_id = read_previous_id(fields)
    given = fields.get("input")
    items = () if given is None else tuple(_items(given, previous_id))
    return CountRequest(read_model(fields), previous_id, items, fields)
