"""The fields of a response's request, converted to those of a chat.

Each field is translated exactly, or approximated and named, or rejected by its path, or dropped
because the answer does not depend on it; translation.md 10.1 has the grades. An unknown field is
ignored and named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cortexd.dialects.fitting.efforts import NO_EFFORT, controlled_effort
from cortexd.dialects.responses_to_chat.extensions import EXTENSIONS, translate_extensions
from cortexd.dialects.responses_to_chat.tools import Tools, translate_tools
from cortexd.dialects.responses_to_chat.turns import translate_items
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.fields import (
    quoted,
    read_dict,
    read_integer,
    read_list,
    read_name,
    read_number,
    read_optional_string,
    read_string,
    refused,
)
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import Profile, ReasoningControl
from cortexd.errors import BadRequest

MAX_TEMPERATURE: Final = 2.0
MAX_TOP_LOGPROBS: Final = 20

ENCRYPTED_REASONING: Final = "reasoning.encrypted_content"

_TRANSLATED: Final = frozenset(
    {
        "model",
        "input",
        "instructions",
        "stream",
        "store",
        "background",
        "previous_response_id",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "max_output_tokens",
        "temperature",
        "top_p",
        "text",
        "reasoning",
        "include",
        "truncation",
        "top_logprobs",
        "max_tool_calls",
        "metadata",
    }
)
_STRINGS: Final = ("user", "safety_identifier", "prompt_cache_key")
"""Fields that only the response repeats."""

_HARMLESS: Final = frozenset(
    {
        *_STRINGS,
        "service_tier",
        "stream_options",
        "prompt_cache_options",
        "prompt_cache_retention",
        "background_options",
        "access_programs",
        "client_metadata",
    }
)
"""Fields about the vendor's service that do not affect the answer."""

_REFUSED: Final = {
    "prompt": "is not supported: prompt templates are stored at the vendor; send 'instructions'",
    "conversation": "is not supported; use 'previous_response_id', or send the whole conversation",
}
_KNOWN: Final = _TRANSLATED | _HARMLESS | EXTENSIONS | frozenset(_REFUSED)
_KNOWN_OF_TEXT: Final = frozenset({"format", "verbosity"})
_KNOWN_OF_REASONING: Final = frozenset({"effort", "summary", "generate_summary"})

_MODES: Final = ("auto", "none", "required")
"""The values of ``tool_choice`` that are words; some clients send an object of such a type."""


@dataclass(frozen=True, slots=True)
class TranslatedResponse:
    """A request as a chat, without model and stream: ``fields`` has neutral ``messages``.

    ``shows_encrypted`` means that the client wants thinking as ``encrypted_content`` too.
    """

    fields: JsonObject
    tools: Tools
    shows_encrypted: bool


def translate_response(
    fields: JsonObject,
    items: Sequence[JsonObject],
    first_own: int,
    profile: Profile,
    approximations: Approximations,
) -> TranslatedResponse:
    """Translate a request's ``fields`` and its ``items``; see ``translate_items``.

    Raises BadRequest with the faulty field.
    """
    for name, words in _REFUSED.items():
        if fields.get(name) is not None:
            raise refused(name, words)
    _check_repeated(fields)
    upstream = translate_extensions(fields)
    upstream["messages"] = translate_items(
        fields.get("instructions"), items, first_own, profile, approximations
    )
    if not upstream["messages"]:
        raise refused("input", "must contain at least one message")
    limit = _max_tokens(fields, profile, approximations)
    if limit is not None:
        upstream["max_tokens"] = limit
    for name, most in (("temperature", MAX_TEMPERATURE), ("top_p", 1.0)):
        if fields.get(name) is not None:
            upstream[name] = read_number(fields[name], name, most)
    upstream |= _text(fields, approximations)
    upstream |= _reasoning(fields, profile, approximations)
    tools = translate_tools(fields, items, profile, approximations)
    upstream |= tools.fields
    shows_encrypted = _include(fields, approximations)
    if fields.get("truncation") not in (None, "disabled"):
        approximations.note("truncation")
    if fields.get("top_logprobs"):
        approximations.note("top_logprobs")
    approximations.note_unknown(fields, _KNOWN)
    return TranslatedResponse(upstream, tools, shows_encrypted)


def _check_repeated(fields: JsonObject) -> None:
    """Raise BadRequest for a field that the response repeats, and that is of a wrong type."""
    for name in (*_STRINGS, "truncation"):
        read_optional_string(fields.get(name), name)
    if fields.get("metadata") is not None:
        read_dict(fields["metadata"], "metadata")
    if fields.get("max_tool_calls") is not None:  # limits tools that the server runs: none here
        read_integer(fields["max_tool_calls"], "max_tool_calls", 1)
    if fields.get("top_logprobs") is not None:
        count = read_integer(fields["top_logprobs"], "top_logprobs", 0)
        if count > MAX_TOP_LOGPROBS:
            raise refused("top_logprobs", f"must be {MAX_TOP_LOGPROBS} at most; found {count}")


def _max_tokens(fields: JsonObject, profile: Profile, approximations: Approximations) -> int | None:
    if fields.get("max_output_tokens") is None:
        return None
    limit = read_integer(fields["max_output_tokens"], "max_output_tokens", 1)
    if profile.max_output is not None and limit > profile.max_output:
        approximations.note("max_output_tokens")
        return profile.max_output
    return limit


def _text(fields: JsonObject, approximations: Approximations) -> JsonObject:
    """Return the field that makes the answer follow a format."""
    if fields.get("text") is None:
        return {}
    text = read_dict(fields["text"], "text")
    approximations.note_unknown(text, _KNOWN_OF_TEXT, "text")
    if text.get("verbosity") not in (None, "medium"):
        approximations.note("text.verbosity")
    if text.get("format") is None:
        return {}
    given = read_dict(text["format"], "text.format")
    kind = read_string(given.get("type"), "text.format.type")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"response_format": {"type": kind}}
    if kind != "json_schema":
        words = f"is {quoted(kind)}; supported are 'text', 'json_schema' and 'json_object'"
        raise refused("text.format.type", words)
    inner = given.get("json_schema")
    form = inner if isinstance(inner, dict) else given  # the format of a chat
    described: JsonObject = {
        "name": read_name(form.get("name", "output"), "text.format.name"),
        "schema": read_dict(form.get("schema"), "text.format.schema"),
    }
    if isinstance(form.get("strict"), bool):
        described["strict"] = form["strict"]
    return {"response_format": {"type": kind, "json_schema": described}}


def _reasoning(fields: JsonObject, profile: Profile, approximations: Approximations) -> JsonObject:
    """Return the fields that control how much the model thinks."""
    if fields.get("reasoning") is None:
        return {}
    reasoning = read_dict(fields["reasoning"], "reasoning")
    approximations.note_unknown(reasoning, _KNOWN_OF_REASONING, "reasoning")
    if reasoning.get("effort") is None:
        return {}
    effort = read_string(reasoning["effort"], "reasoning.effort")
    if effort in NO_EFFORT:
        if profile.reasoning_control is ReasoningControl.TOGGLE:
            return {"enable_thinking": False}
        if effort in (profile.efforts or ()):
            return {"reasoning_effort": effort}
    found = controlled_effort(effort, profile, approximations)
    return {} if found is None else {"reasoning_effort": found}


def _include(fields: JsonObject, approximations: Approximations) -> bool:
    """Return whether the answer shall have encrypted reasoning; other wishes are noted."""
    if fields.get("include") is None:
        return False
    wanted = [each for each in read_list(fields["include"], "include") if isinstance(each, str)]
    others = dict.fromkeys(sorted({*wanted} - {ENCRYPTED_REASONING}), True)
    approximations.note_unknown(others, frozenset(), "include")
    return ENCRYPTED_REASONING in wanted


def repeated_choice(choice: Any) -> Any:
    """Return a request's ``tool_choice`` as its response repeats it: flat, never ``null``."""
    if not isinstance(choice, dict):
        return choice
    inner = choice.get("function")
    if isinstance(inner, dict) and choice.get("type") == "function":
        return {"type": "function", "name": inner.get("name")}
    if choice.get("type") in _MODES:
        return choice["type"]
    inner = choice.get("allowed_tools")
    if isinstance(inner, dict):
        return {"type": "allowed_tools", **inner}
    return choice


def read_previous_id(fields: JsonObject) -> str | None:
    """Return the id of the response that a request continues. Raises BadRequest."""
    before = fields.get("previous_response_id")
    if before is None or (isinstance(before, str) and before):
        return before
    found = "an empty string" if before == "" else "a value of another type"
    raise BadRequest(
        f"'previous_response_id' must be the id of a response; found {found}",
        param="previous_response_id",
    )
