"""OpenAI chat completions: the request for mistral.rs.

Nodes speak the chat dialect, so a request passes through, including unknown fields. For a node that
speaks only Messages it is translated (``dialects.chat_to_messages``). We change only what a node
would reject or misread (nodes.md 4.1, translation.md 3):

- ``null`` at the top level means the same as absent to OpenAI, but not to the node: it is dropped;
- ``max_completion_tokens`` becomes ``max_tokens``: nodes reject both together, and older nodes know
  only the latter;
- the messages are fitted to the model's template (``dialects.fitting``), and an effort that the
  template does not know is the nearest that it knows;
- we reject requests that a node would answer with an error of its own
  (``dialects.openai.chat_checks``);
- a node's events about its own tools go only to clients that requested these tools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cortexd.dialects.chat_to_messages.answer import chat_on_messages_factory
from cortexd.dialects.chat_to_messages.request import translate_chat
from cortexd.dialects.fitting.efforts import LEVELS, NO_EFFORT, fitted_effort
from cortexd.dialects.fitting.fit import fit_messages
from cortexd.dialects.fitting.schemas import fit_tools
from cortexd.dialects.hygiene.lines import clean_system
from cortexd.dialects.nodes.chat_stream import Identity
from cortexd.dialects.nodes.messages import HEADERS, MESSAGES_PATH, SYSTEM_TURNS
from cortexd.dialects.nodes.whole_as_stream import with_whole
from cortexd.dialects.openai.chat_answer import ChatAggregate, ChatStream, whole_answer
from cortexd.dialects.openai.chat_checks import (
    AGENTIC_FIELDS,
    check_choices,
    check_limit,
    check_newest_turn,
    check_one_grammar,
    check_several_streamed,
    check_tool_choice,
    read_effort,
    with_template_arguments,
)
from cortexd.dialects.openai.limits import without_no_limits
from cortexd.dialects.openai.tool_choices import in_chat_shape, only_allowed_tools
from cortexd.dialects.prefixes.keys import chat_keys, messages_keys
from cortexd.dialects.prefixes.sessions import session_of_chat
from cortexd.dialects.routes.kept import in_session, named_by_chat, session_in
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.exchange import (
    ONLY_MISTRALRS,
    Exchange,
    Responder,
    Translation,
    has_own_tools,
    translate_for_each,
)
from cortexd.dialects.wire.json_values import (
    JsonObject,
    encode,
    read_flag,
    read_model,
    read_object,
    type_name,
)
from cortexd.dialects.wire.profile import Profile, ReasoningControl, Speaks
from cortexd.errors import BadRequest

ROUTE = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completion request; ``fields`` are the client's."""

    model: str
    streams: bool
    include_usage: bool
    fields: JsonObject

    @property
    def session(self) -> str | None:
        """The session of a node that the request names."""
        return session_in(self.fields)

    def in_session(self, session: str) -> ChatRequest:
        """Return the request with another name of its session."""
        return replace(self, fields=in_session(self.fields, session))

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
            session=session_of_chat(self.fields),
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


def _as_it_is(request: ChatRequest, identity: Identity, profile: Profile) -> Translation:
    """Return the request for a node that speaks chat."""
    streams, include_usage = request.streams, request.include_usage
    upstream = {key: value for key, value in request.fields.items() if value is not None}
    upstream |= only_allowed_tools(upstream)
    check_limit(upstream)
    check_tool_choice(upstream)
    check_one_grammar(upstream)
    upstream["model"] = identity.model
    approximations = Approximations()
    upstream["messages"] = _messages(upstream["messages"], profile, approximations)
    if "tools" in upstream:
        upstream["tools"] = fit_tools(upstream["tools"])
    limit = upstream.pop("max_completion_tokens", None)
    if limit is not None:
        upstream["max_tokens"] = limit
    _fit_effort(upstream, profile, approximations)
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
    if single_call:
        approximations.note("parallel_tool_calls")

    make_responder: Callable[[], Responder]
    if streams:
        make_responder = partial(
            ChatStream,
            identity,
            include_usage=include_usage,
            agentic_events=is_agentic,
            single_call=single_call,
        )
    elif streams_upstream:
        make_responder = partial(ChatAggregate, identity, single_call=single_call)
    else:
        make_responder = partial(whole_answer, identity, single_call=single_call)

    translation = Translation(
        path=ROUTE,
        body=encode(upstream),
        streams=streams_upstream,
        make_responder=make_responder,
        approximations=approximations.words(),
        may_repeat=not (
            is_agentic or "web_search_options" in upstream or has_own_tools(upstream.get("tools"))
        ),
        prefixes=chat_keys(upstream),
        left_out=approximations.left_out,
    )
    return with_whole(translation, upstream)


def _in_messages(request: ChatRequest, identity: Identity, profile: Profile) -> Translation:
    """Return the request for a node that speaks only Messages."""
    choice = in_chat_shape(request.fields.get("tool_choice"))
    translated = translate_chat({**request.fields, "tool_choice": choice}, profile)
    left_out = clean_system(translated.body) if profile.hygiene else ()
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
        prefixes=messages_keys(translated.body),
        left_out=left_out,
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


def _messages(messages: object, profile: Profile, approximations: Approximations) -> Any:
    """Return a chat's messages, fitted to the model's template."""
    if isinstance(messages, str):
        return messages  # for the node, a plain string is one user turn (nodes.md 4.1)
    if not isinstance(messages, list):
        raise BadRequest(
            f"'messages' must be an array; found {type_name(messages)}", param="messages"
        )
    check_newest_turn(messages, profile)
    if all(isinstance(message, dict) for message in messages):
        return fit_messages(messages, profile, approximations)
    approximations.note("messages")
    read = {f"messages[{n}]": each for n, each in enumerate(messages) if isinstance(each, dict)}
    return fit_messages(list(read.values()), profile, approximations, list(read))


def _fit_effort(upstream: JsonObject, profile: Profile, approximations: Approximations) -> None:
    """Replace a chat's effort by the one that the model's template knows."""
    effort = read_effort(with_template_arguments(upstream), LEVELS)
    if effort is None:
        return
    fitted: str | None
    if _is_toggled_off(effort, profile):
        fitted = None
        upstream["enable_thinking"] = False
    else:
        fitted = fitted_effort(effort, profile, approximations)
    if fitted == effort:
        return
    arguments = upstream.get("chat_template_kwargs")
    upstream.pop("reasoning_effort", None)
    if isinstance(arguments, dict) and "reasoning_effort" in arguments:
        kept = {name: value for name, value in arguments.items() if name != "reasoning_effort"}
        upstream["chat_template_kwargs"] = kept
    if fitted is not None:
        upstream["reasoning_effort"] = fitted


def _is_toggled_off(effort: str, profile: Profile) -> bool:
    """Return whether a template turns thinking off, but knows no effort for that."""
    return (
        effort in NO_EFFORT
        and profile.efforts is not None
        and effort not in profile.efforts
        and profile.reasoning_control is ReasoningControl.TOGGLE
    )
