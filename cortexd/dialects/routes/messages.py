"""Anthropic Messages: the request, translated into a node's chat completions.

A node's own Messages route loses too much (nodes.md 5.3). Each field is translated exactly, or
approximated and named in ``Translation.approximations``, or rejected by its path, or dropped
because the answer does not depend on it; translation.md 2 has the grades. An unknown field is
ignored and named, because Claude Code adds new fields every month. The same is true of unknown
values for the effort or the kind of thinking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cortexd.dialects.messages_passed.request import pass_on
from cortexd.dialects.messages_to_chat.answer import answer_factory
from cortexd.dialects.messages_to_chat.reading import AnswerTerms
from cortexd.dialects.messages_to_chat.thinking import translate_thinking
from cortexd.dialects.messages_to_chat.tokens import TokenSizes, measure_prompt, start_sizes
from cortexd.dialects.messages_to_chat.tools import translate_tools
from cortexd.dialects.messages_to_chat.turns import translate_turns
from cortexd.dialects.nodes.whole_as_stream import with_whole
from cortexd.dialects.prefixes.keys import chat_keys
from cortexd.dialects.prefixes.sessions import session_of_messages
from cortexd.dialects.routes.chat import ROUTE as CHAT_ROUTE
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.asked import Asked, Opening
from cortexd.dialects.wire.exchange import ONLY_MISTRALRS, Exchange, Translation, translate_for_each
from cortexd.dialects.wire.fields import (
    quoted,
    read_dict,
    read_integer,
    read_list,
    read_name,
    read_number,
    read_string,
    refused,
)
from cortexd.dialects.wire.json_values import JsonObject, encode, read_flag, read_model, read_object
from cortexd.dialects.wire.profile import Profile, Speaks
from cortexd.dialects.wire.tool_names import renaming_factory
from cortexd.errors import BadRequest, ThreadUnsupported

ROUTE: Final = "/v1/messages"
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})

_TRANSLATED: Final = frozenset(
    {
        "model",
        "max_tokens",
        "stream",
        "system",
        "messages",
        "stop_sequences",
        "temperature",
        "top_p",
        "top_k",
        "thinking",
        "output_config",
        "output_format",
        "tools",
        "tool_choice",
        "context_management",
    }
)
_HARMLESS: Final = frozenset(
    {
        "metadata",
        "cache_control",
        "service_tier",
        "speed",
        "inference_geo",
        "diagnostics",
        "user_profile_id",
        "workspace_id",
    }
)
"""Fields about the vendor's service that do not affect the answer."""

_REFUSED: Final = ("container", "mcp_servers", "skills")
_KNOWN_OF_THE_OUTPUT: Final = frozenset({"effort", "format"})
_KNOWN: Final = _TRANSLATED | _HARMLESS | frozenset({*_REFUSED, "thread"})

_KEEP_ALL_THINKING: Final = tuple(
    {"type": "clear_thinking_20251015", "keep": everything}
    for everything in ("all", {"type": "all"})
)
"""The only edit of the context that has no effect, in its two spellings."""

_GO_ON: Final = {"continue_final_message": True, "add_generation_prompt": False}
"""Makes vLLM continue the last message instead of answering it."""

MAX_STOP_SEQUENCES: Final = 64
MAX_STOP_CHARACTERS: Final = 1_000
"""Each sequence costs time for each character of the answer, and up to the length of the longest
sequence may be held back from the client. OpenAI allows four."""

MAX_TEMPERATURE: Final = 2.0
"""The limit for a chat. The Messages API documents a maximum of 1, but local models accept more."""


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    """A Messages request; ``model`` is the name that the client used.

    ``headers`` are the client's headers of the dialect, for a node that gets the request unchanged.
    ``token_sizes`` returns the token sizes of a model in the catalogue.
    """

    model: str
    streams: bool
    fields: JsonObject
    headers: Mapping[str, str]
    token_sizes: Callable[[str], TokenSizes]

    def exchange(
        self,
        model: str,
        profiles: Iterable[Profile] = ONLY_MISTRALRS,
        *,
        random_id: str,
        now: float,
        request_id: str | None = None,
    ) -> Exchange:
        """Return the exchange with the catalogue's ``model``; see ParsedRequest."""
        prompt = measure_prompt(self.fields, self.token_sizes(model))
        asked = Asked(
            model=self.model,
            streams=self.streams,
            message_id=f"msg_{random_id}",
            prompt_estimate=prompt.tokens,
            request_id=request_id,
            opening=Opening(),
            edits_context=self.fields.get("context_management") is not None,
        )

        def translate(profile: Profile) -> Translation:
            try:
                if profile.speaks is Speaks.CHAT:
                    return _as_chat(self.fields, profile, asked, model)
                return pass_on(self.fields, profile, asked, model, self.headers)
            except RecursionError:  # a chat nests some values one level deeper than Messages
                raise BadRequest("the body is nested too deeply") from None

        return Exchange(
            route=ROUTE,
            model=model,
            streams=self.streams,
            translations=translate_for_each(profiles, translate),
            prompt=prompt,
            session=session_of_messages(self.fields),
        )


def read_request(
    body: bytes,
    headers: Mapping[str, str] = NO_HEADERS,
    token_sizes: Callable[[str], TokenSizes] = start_sizes,
) -> MessagesRequest:
    """Return the request in ``body``, of which only model and stream are checked yet.

    The other arguments are those of MessagesRequest. Raises BadRequest with the faulty field.
    """
    fields = read_object(body)
    streams = read_flag(fields, "stream")
    if fields.get("thread") is not None:  # the request lacks the stored part of the conversation
        words = "thread is not supported: conversations are not stored; send the whole conversation"
        raise ThreadUnsupported(words, param="thread")
    return MessagesRequest(read_model(fields), streams, fields, headers, token_sizes)


def _as_chat(fields: JsonObject, profile: Profile, asked: Asked, model: str) -> Translation:
    """Return the request as a chat with the catalogue's ``model``."""
    for field in _REFUSED:
        if fields.get(field):
            raise refused(field, "is not supported: cortexd cannot run what it names; leave it out")
    approximations = Approximations()
    upstream: JsonObject = {
        "messages": translate_turns(fields, profile, approximations),
        "max_tokens": _max_tokens(fields, profile, approximations),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if upstream["messages"][-1]["role"] == "assistant":
        upstream |= _GO_ON
    upstream |= _sampling(fields, profile)
    stop_sequences = _stop_sequences(fields)
    if stop_sequences and profile.forward_stop:
        upstream["stop"] = stop_sequences
        approximations.note("stop_sequences")
    elif stop_sequences:  # a match cancels the node's answer before its counts arrive
        approximations.note("stop_sequence_usage")
    tools = translate_tools(fields, profile, approximations)
    upstream |= tools.fields
    given = fields.get("output_config")
    output_config = {} if given is None else read_dict(given, "output_config")
    thinking = translate_thinking(fields, output_config, profile, approximations)
    upstream |= thinking.fields
    upstream |= _response_format(fields, output_config)
    approximations.note_unknown(output_config, _KNOWN_OF_THE_OUTPUT, "output_config")
    if not _changes_nothing(fields.get("context_management")):
        approximations.note("context_management")
    approximations.note_unknown(fields, _KNOWN)
    terms = AnswerTerms(
        asked=asked,
        stop_sequences=stop_sequences,
        thinking=thinking.wish,
        one_tool_call=tools.one_call,
        profile=profile,
    )
    upstream = {"model": model, **upstream}
    translation = Translation(
        path=CHAT_ROUTE,
        body=encode(upstream),
        streams=True,
        make_responder=renaming_factory(answer_factory(terms), tools.names),
        approximations=approximations.words(),
        prefixes=chat_keys(upstream),
        left_out=approximations.left_out,
    )
    return with_whole(translation, upstream)


def _max_tokens(fields: JsonObject, profile: Profile, approximations: Approximations) -> int:
    limit = read_integer(fields.get("max_tokens"), "max_tokens", 1)
    if profile.max_output is not None and limit > profile.max_output:
        approximations.note("max_tokens")
        return profile.max_output
    return limit


def _sampling(fields: JsonObject, profile: Profile) -> JsonObject:
    upstream: JsonObject = {}
    for field, most in (("temperature", MAX_TEMPERATURE), ("top_p", 1.0)):
        if fields.get(field) is not None:
            upstream[field] = read_number(fields[field], field, most)
    if fields.get("top_k") is not None:
        if not profile.top_k:
            raise refused("top_k", "is not supported by this model; leave it out")
        upstream["top_k"] = read_integer(fields["top_k"], "top_k", 0)
    return upstream


def _stop_sequences(fields: JsonObject) -> tuple[str, ...]:
    given = fields.get("stop_sequences")
    if given is None:
        return ()
    sequences = read_list(given, "stop_sequences")
    if len(sequences) > MAX_STOP_SEQUENCES:
        raise refused(
            "stop_sequences", f"must be {MAX_STOP_SEQUENCES} at most; found {len(sequences)}"
        )
    return tuple(
        _stop_sequence(sequence, f"stop_sequences[{index}]")
        for index, sequence in enumerate(sequences)
    )


def _stop_sequence(value: object, path: str) -> str:
    sequence = read_name(value, path)
    if len(sequence) > MAX_STOP_CHARACTERS:
        raise refused(
            path, f"must have {MAX_STOP_CHARACTERS} characters at most; found {len(sequence)}"
        )
    return sequence


def _response_format(fields: JsonObject, output_config: JsonObject) -> JsonObject:
    """Return the field that makes the answer follow a schema, also for its older name."""
    path, given = "output_config.format", output_config.get("format")
    if given is None:
        path, given = "output_format", fields.get("output_format")
    if given is None:
        return {}
    output_format = read_dict(given, path)
    kind = read_string(output_format.get("type"), f"{path}.type")
    if kind != "json_schema":
        raise refused(f"{path}.type", f"is {quoted(kind)}; supported is 'json_schema'")
    schema = read_dict(output_format.get("schema"), f"{path}.schema")
    described = {"name": "output", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def _changes_nothing(context_management: object) -> bool:
    if not isinstance(context_management, dict):
        return context_management is None
    edits = context_management.get("edits") or []
    return isinstance(edits, list) and all(edit in _KEEP_ALL_THINKING for edit in edits)
