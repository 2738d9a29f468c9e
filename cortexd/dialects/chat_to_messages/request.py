"""A chat completions request, translated for upstreams that speak only Messages.

Each field is translated exactly, or approximated and named, or rejected by its path, or dropped
because the answer does not depend on it; translation.md 3 has the grades. An unknown field is
ignored and named. The upstream always streams, whatever the client requested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cortexd.dialects.chat_to_messages.tools import translate_tools
from cortexd.dialects.chat_to_messages.turns import translate_turns
from cortexd.dialects.fitting.efforts import NO_EFFORT
from cortexd.dialects.openai.chat_checks import AGENTIC_FIELDS, read_effort
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
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.profile import Profile, ReasoningControl
from cortexd.errors import BadRequest

DEFAULT_MAX_TOKENS: Final = 4_096
"""The maximum length of an answer if neither the client nor the configuration has a limit: Messages
requires one, and all current models accept this one."""

_MOST_TEMPERATURE: Final = 2.0
"""The maximum in the OpenAI reference."""

_MOST_TEMPERATURE_UPSTREAM: Final = 1.0
"""The maximum in the Anthropic reference."""

_LEAST_TOP_P_OF_THINKING: Final = 0.95
"""The Anthropic reference's minimum with thinking, which forbids temperature and top_k."""

_TRANSLATED: Final = frozenset(
    {
        "messages",
        "max_completion_tokens",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "user",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "reasoning_effort",
        "enable_thinking",
        "response_format",
    }
)
_READ_ELSEWHERE: Final = frozenset({"model", "stream", "stream_options"})
_HARMLESS: Final = frozenset(
    {
        "store",
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
    }
)
"""Fields about the vendor's service that do not affect the answer."""

_IGNORED: Final = ("seed", "prediction", "verbosity")
_ONE_ANSWER: Final = ("n", "best_of")
_EMPTY_OR_REFUSED: Final = ("logprobs", "top_logprobs", "logit_bias", *AGENTIC_FIELDS)
"""Fields without a counterpart in Messages; the last are for a mistral.rs node's own work."""

_REFUSED: Final = ("audio", "web_search_options")
_PENALTIES: Final = ("presence_penalty", "frequency_penalty")
_KNOWN: Final = (
    _TRANSLATED
    | _READ_ELSEWHERE
    | _HARMLESS
    | {*_IGNORED, *_ONE_ANSWER, *_EMPTY_OR_REFUSED, *_REFUSED, *_PENALTIES, "modalities"}
)

_EFFORTS: Final = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
"""The upstream's value of each ``reasoning_effort``."""


_THINKING: Final = {"type": "adaptive"}


@dataclass(frozen=True, slots=True)
class MessagesBody:
    """A chat translated for the upstream.

    ``body`` lacks the model. ``tool_names`` maps the upstream's name of a tool to the client's, if
    they differ.
    """

    body: JsonObject
    approximations: tuple[str, ...]
    tool_names: Mapping[str, str]

    @property
    def has_system_turns(self) -> bool:
        """Whether the conversation has system messages in the middle."""
        return any(turn["role"] == "system" for turn in self.body["messages"])

    def encoded(self, model: str) -> bytes:
        """Return the body as JSON, for the upstream's ``model``.

        Raises BadRequest if it is nested too deeply: a call's arguments are text in a chat, but an
        object in Messages.
        """
        try:
            return encode({"model": model, **self.body})
        except RecursionError:
            raise BadRequest("the body is nested too deeply") from None
        except UnicodeEncodeError:
            raise BadRequest("a string in the body is not Unicode") from None


def translate_chat(fields: JsonObject, profile: Profile) -> MessagesBody:
    """Return the Messages request for a chat request with these ``fields``.

    ``fields`` is a client's decoded body, and is not modified; null means absent. Raises BadRequest
    with the faulty field.
    """
    try:
        return _translate(fields, profile)
    except UnicodeEncodeError:
        raise BadRequest("a string in the body is not Unicode") from None


def _translate(given: JsonObject, profile: Profile) -> MessagesBody:
    fields = {name: value for name, value in given.items() if value is not None}
    _refuse_unsupported(fields)
    approximations = Approximations()
    tools = translate_tools(fields, approximations)
    reasoning = _reasoning(fields, profile, tools.are_forced, approximations)
    thinks = reasoning.get("thinking") == _THINKING
    body: JsonObject = {
        "max_tokens": _max_tokens(fields, profile, approximations),
        "stream": True,
        **translate_turns(fields, profile, approximations),
        **tools.fields,
        **_sampling(fields, profile, thinks, approximations),
        **reasoning,
    }
    if stop_sequences := _stop_sequences(fields):
        body["stop_sequences"] = stop_sequences
    if user := read_optional_string(fields.get("user"), "user"):
        body["metadata"] = {"user_id": user}
    if output_format := _output_format(fields, approximations):
        body["output_config"] = body.get("output_config", {}) | {"format": output_format}
    for name in _IGNORED:
        if name in fields:
            approximations.note(name)
    approximations.note_unknown(fields, _KNOWN)
    return MessagesBody(body, approximations.words(), tools.names)


def _refuse_unsupported(fields: JsonObject) -> None:
    """Reject fields that have no counterpart in Messages, but affect the answer."""
    for name in _ONE_ANSWER:
        if read_integer(fields.get(name, 1), name, 1) != 1:
            raise _unsupported(
                name, "above 1 is not supported by this model; send one request each"
            )
    for name in _EMPTY_OR_REFUSED:
        if fields.get(name):
            raise _unsupported(name, "is not supported by this model; leave it out")
    for name in _REFUSED:
        if name in fields:
            raise _unsupported(name, "is not supported by this model; leave it out")
    modalities = fields.get("modalities", ["text"])
    for index, modality in enumerate(read_list(modalities, "modalities")):
        if modality != "text":
            raise _unsupported(
                f"modalities[{index}]", "is not supported by this model, which answers in text"
            )
    for name in _PENALTIES:
        if fields.get(name, 0) != 0:
            raise _unsupported(name, "other than 0 is not supported by this model; leave it out")


def _unsupported(path: str, words: str) -> BadRequest:
    return BadRequest(f"{path} {words}", param=path, code="unsupported_parameter")


def _max_tokens(fields: JsonObject, profile: Profile, approximations: Approximations) -> int:
    name = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    most = profile.max_output
    if name not in fields:
        if most is None:
            approximations.note("max_tokens")
            return DEFAULT_MAX_TOKENS
        return most
    limit = read_integer(fields[name], name, 1)
    if most is not None and limit > most:
        approximations.note("max_tokens")
        return most
    return limit


def _sampling(
    fields: JsonObject, profile: Profile, thinks: bool, approximations: Approximations
) -> JsonObject:
    body: JsonObject = {}
    if "temperature" in fields:
        temperature = read_number(fields["temperature"], "temperature", _MOST_TEMPERATURE)
        if temperature > _MOST_TEMPERATURE_UPSTREAM:
            approximations.note("temperature")
            temperature = _MOST_TEMPERATURE_UPSTREAM
        body["temperature"] = temperature
    if "top_p" in fields:
        body["top_p"] = read_number(fields["top_p"], "top_p", 1.0)
    if "top_k" in fields:  # not a field of OpenAI, but of local servers and of Messages
        body["top_k"] = read_integer(fields["top_k"], "top_k", 0)
    not_taken = {
        "temperature": thinks and body.get("temperature") != _MOST_TEMPERATURE_UPSTREAM,
        "top_p": thinks and body.get("top_p", 1.0) < _LEAST_TOP_P_OF_THINKING,
        "top_k": thinks or not profile.top_k,
    }
    for name in [name for name in body if not_taken[name]]:
        approximations.note(name)
        del body[name]
    return body


def _stop_sequences(fields: JsonObject) -> list[str]:
    given = fields.get("stop")
    if given is None:
        return []
    if isinstance(given, str):
        return [_stop_sequence(given, "stop")]
    return [
        _stop_sequence(sequence, f"stop[{index}]")
        for index, sequence in enumerate(read_list(given, "stop"))
    ]


def _stop_sequence(value: object, path: str) -> str:
    sequence = read_name(value, path)
    if sequence.isspace():
        raise _unsupported(path, "of white space alone is not supported by this model")
    return sequence


def _reasoning(
    fields: JsonObject, profile: Profile, tools_are_forced: bool, approximations: Approximations
) -> JsonObject:
    """Return whether the model shall think, and how much.

    The Messages API rejects thinking together with a choice that forces a tool.
    """
    asked = read_effort(fields, _EFFORTS)
    enabled = fields.get("enable_thinking")
    is_controlled = profile.reasoning_control is not ReasoningControl.NONE
    if asked in NO_EFFORT or (asked is None and enabled is False):
        return {"thinking": {"type": "disabled"}} if is_controlled else {}
    for name in ("reasoning_effort", "enable_thinking"):
        if name in fields:
            approximations.note(name)
    if not is_controlled or (asked is None and enabled is not True):
        return {}
    thinking: JsonObject = {} if tools_are_forced else {"thinking": _THINKING}
    return thinking | ({"output_config": {"effort": _EFFORTS[asked]}} if asked else {})


def _output_format(fields: JsonObject, approximations: Approximations) -> JsonObject | None:
    """Return the schema that the answer must follow."""
    if "response_format" not in fields:
        return None
    given = read_dict(fields["response_format"], "response_format")
    kind = read_string(given.get("type"), "response_format.type")
    if kind == "text":
        return None
    if kind == "json_object":
        approximations.note(kind)
        return {"type": "json_schema", "schema": {"type": "object"}}
    if kind == "json_schema":
        path = "response_format.json_schema"
        described = read_dict(given.get(kind), path)
        schema = read_dict(described.get("schema"), f"{path}.schema")
        return {"type": "json_schema", "schema": schema}
    raise refused(
        "response_format.type",
        f"is {quoted(kind)}; supported are 'text', 'json_object' and 'json_schema'",
    )
