"""OpenAI chat completions: the request for mistral.rs.

Nodes speak the chat dialect, so a request passes through, including unknown fields. For a node that
speaks only Messages it is translated (``dialects.chat_to_messages``). We change only what a node
would reject or misread (nodes.md 4.1, translation.md 3):

- ``null`` at the top level means the same as absent to OpenAI, but not to the node: it is dropped;
- ``max_completion_tokens`` becomes ``max_tokens``: nodes reject both together, and older nodes know
  only the latter;
- role ``developer`` becomes ``system``; text parts of any role but ``user`` become one string;
  a message of the assistant or of a tool without content gets an empty content; an image's URL as a
  plain string moves to the field where nodes expect it;
- ``reasoning_effort: minimal`` becomes ``low``, and we reject requests that a node would answer
with
  an error of its own (``dialects.openai.chat_checks``);
- a node's events about its own tools go only to clients that requested these tools.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cortexd.dialects.chat_to_messages.answer import chat_on_messages_factory
from cortexd.dialects.chat_to_messages.request import translate_chat
from cortexd.dialects.nodes.chat_stream import Identity
from cortexd.dialects.nodes.messages import HEADERS, MESSAGES_PATH, SYSTEM_TURNS
from cortexd.dialects.nodes.whole_as_stream import with_whole
from cortexd.dialects.openai.chat_answer import ChatAggregate, ChatStream, whole_answer
from cortexd.dialects.openai.chat_checks import (
    AGENTIC_FIELDS,
    check_choices,
    check_limit,
    check_one_grammar,
    check_parts,
    check_several_streamed,
    check_tool_choice,
    read_effort,
    with_template_arguments,
)
from cortexd.dialects.openai.limits import without_no_limits
from cortexd.dialects.openai.tool_choices import in_chat_shape, only_allowed_tools
from cortexd.dialects.routes.kept import named_by_chat
from cortexd.dialects.wire.exchange import (
    ONLY_MISTRALRS,
    Exchange,
    Responder,
    Translation,
    translate_for_each,
)
from cortexd.dialects.wire.fields import refused
from cortexd.dialects.wire.json_values import (
    JsonObject,
    encode,
    read_flag,
    read_model,
    read_object,
    type_name,
)
from cortexd.dialects.wire.profile import Profile, Speaks
from cortexd.errors import BadRequest

ROUTE = "/v1/chat/completions"

_MAY_SAY_NOTHING = ("assistant", "tool", "function")
"""The roles whose missing content becomes an empty one; nodes reject a missing content."""

_EFFORTS = ("minimal", "low", "medium", "high", "xhigh")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completion request; ``fields`` are the client's."""

    model: str
    streams: bool
    include_usage: bool
    fields: JsonObject

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
        identity = Identity(f"chatcmpl-{random_id}", int(now), model)

        def translate(profile: Profile) -> Translation:
            make = _in_messages if profile.speaks is Speaks.MESSAGES else _as_it_is
            try:
                return make(self, identity, profile)
            except RecursionError:  # our JSON may be one level deeper than the client's
                raise BadRequest("the body is nested too deeply") from None

        return Exchange(
            route=ROUTE,
            model=model,
            streams=self.streams,
            follows=named_by_chat(self.fields),
            translations=translate_for_each(profiles, translate),
        )


def read_request(body: bytes) -> ChatRequest:
    """Return the request in ``body``, most of which is not checked yet.

    Raises BadRequest with the faulty field.
    """
    fields = without_no_limits(read_object(body))
    model = read_model(fields)
    streams = read_flag(fields, "stream")
    include_usage = read_include_usage(fields)
    if fields.get("messages") is None:
        raise BadRequest("'messages' is required", param="messages")
    return ChatRequest(model, streams, include_usage, fields)


# A factory of responders lives as long as its answer, so it must not reference the request.


def _as_it_is(request: ChatRequest, identity: Identity, profile: Profile) -> Translation:
    """Return the request for a node that speaks chat."""
    streams, include_usage = request.streams, request.include_usage
    upstream = {key: value for key, value in request.fields.items() if value is not None}
    upstream |= only_allowed_tools(upstream)
    check_limit(upstream)
    check_tool_choice(upstream)
    check_one_grammar(upstream)
    upstream["model"] = identity.model
    upstream["messages"] = _messages(upstream["messages"], profile)
    limit = upstream.pop("max_completion_tokens", None)
    if limit is not None:
        upstream["max_tokens"] = limit
    if read_effort(with_template_arguments(upstream), _EFFORTS) == "minimal":
        upstream["reasoning_effort"] = "low"
    # A node's stream does not contain several choices, token probabilities, or the record of its
    # own work completely (nodes.md 4.1, 4.3.4 and 4.3.6).
    is_agentic = any(upstream.get(field) for field in AGENTIC_FIELDS)
    several = check_choices(upstream)
    check_several_streamed(several=several, streams=streams)
    streams_upstream = streams or not (several or upstream.get("logprobs") or is_agentic)
    upstream["stream"] = streams_upstream
    if streams_upstream:
        upstream["stream_options"] = {"include_usage": True}
    else:
        upstream.pop("stream_options", None)

    # Nodes ignore a limit of one call at a time (nodes.md 4.1).
    single_call = upstream.get("parallel_tool_calls") is False and bool(upstream.get("tools"))

    def make_responder() -> Responder:
        if streams:
            return ChatStream(
                identity,
                include_usage=include_usage,
                agentic_events=is_agentic,
                single_call=single_call,
            )
        if streams_upstream:
            return ChatAggregate(identity, single_call=single_call)
        return whole_answer(identity, single_call=single_call)

    translation = Translation(
        path=ROUTE,
        body=encode(upstream),
        streams=streams_upstream,
        make_responder=make_responder,
        approximations=("parallel_tool_calls",) if single_call else (),
    )
    return with_whole(translation, upstream)


def _in_messages(request: ChatRequest, identity: Identity, profile: Profile) -> Translation:
    """Return the request for a node that speaks only Messages."""
    choice = in_chat_shape(request.fields.get("tool_choice"))
    translated = translate_chat({**request.fields, "tool_choice": choice}, profile)
    return Translation(
        path=MESSAGES_PATH,
        body=translated.encoded(identity.model),
        headers=HEADERS + (SYSTEM_TURNS if translated.has_system_turns else ()),
        streams=True,
        make_responder=chat_on_messages_factory(
            identity,
            streams=request.streams,
            include_usage=request.include_usage,
            names=translated.tool_names,
        ),
        approximations=translated.approximations,
    )


def read_include_usage(fields: JsonObject) -> bool:
    """Return whether a stream must end with its usage. Raises BadRequest."""
    options = fields.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise BadRequest(
            f"'stream_options' must be an object; found {type_name(options)}",
            param="stream_options",
        )
    return read_flag(options, "include_usage", within="stream_options")


def _messages(messages: object, profile: Profile) -> Any:
    if isinstance(messages, str):
        return messages  # for the node, a plain string is one user turn (nodes.md 4.1)
    if not isinstance(messages, list):
        raise BadRequest(
            f"'messages' must be an array; found {type_name(messages)}", param="messages"
        )
    return [
        _message(message, f"messages[{index}]", profile) for index, message in enumerate(messages)
    ]


def _message(message: object, path: str, profile: Profile) -> JsonObject:
    if not isinstance(message, dict):
        raise BadRequest(f"{path} must be an object; found {type_name(message)}", param=path)
    role = message.get("role")
    if not isinstance(role, str):
        raise BadRequest(
            f"{path}.role must be a string; found {type_name(role)}", param=f"{path}.role"
        )
    if role == "user":
        content = message.get("content")
        check_parts(content, f"{path}.content", profile)
        if content is None:
            raise refused(f"{path}.content", "must be a string or an array of content parts")
        return message if isinstance(content, str) else {**message, "content": _parts(content)}
    changed = dict(message)
    if role == "developer":
        changed["role"] = "system"
    content = message.get("content")
    if isinstance(content, list):
        changed["content"] = _text_of_parts(content, role, f"{path}.content")
    elif content is None and not message.get("tool_calls"):
        if role not in _MAY_SAY_NOTHING:
            raise refused(f"{path}.content", "must be a string or an array of content parts")
        changed["content"] = ""
    return changed


def _parts(content: Any) -> Any:
    """Return a user's parts with each image's URL in the field where nodes expect it."""
    if not isinstance(content, list):
        return content
    return [
        {**part, "image_url": {"url": part["image_url"]}}
        if isinstance(part, dict) and isinstance(part.get("image_url"), str)
        else part
        for part in content
    ]


def _text_of_parts(parts: list[Any], role: str, path: str) -> str:
    texts: list[str] = []
    for index, part in enumerate(parts):
        text = None
        if isinstance(part, dict):
            text = part.get("refusal") if part.get("type") == "refusal" else part.get("text")
        if not isinstance(text, str):
            raise BadRequest(
                f"{path}[{index}] must be a text part: only user messages can hold others, "
                f"and this one's role is {role!r}",
                param=f"{path}[{index}]",
            )
        texts.append(text)
    return "\n".join(texts)
