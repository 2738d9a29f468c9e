"""OpenAI chat completions: the request as mistral.rs takes it.

The chat dialect is the nodes' own, so a request passes through with unknown fields and all. What
is changed is what the node would refuse or misread (upstream notes 4.1, dialect notes part 3):

- ``null`` at the top level means the same as absent to OpenAI, but not to the node: dropped;
- ``max_completion_tokens`` becomes ``max_tokens``: both at once are refused, and older nodes know
  only the latter;
- role ``developer`` becomes ``system``; text parts of any role but ``user`` become one string;
  an assistant message without content gets an empty one;
- ``reasoning_effort: minimal`` becomes ``low``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cortexd.dialects.exchange import (
    ONLY_MISTRALRS,
    Exchange,
    Responder,
    Translation,
    translate_for_each,
)
from cortexd.dialects.json_values import (
    JsonObject,
    encode,
    read_flag,
    read_model,
    read_object,
    type_name,
)
from cortexd.dialects.openai_answer import Identity, WholeAnswer
from cortexd.dialects.openai_chat_answer import ChatAggregate, ChatStream
from cortexd.dialects.profile import Profile
from cortexd.errors import BadRequest

ROUTE = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completion request; ``body`` is what will be sent upstream, less its model."""

    model: str
    streams: bool
    streams_upstream: bool
    include_usage: bool
    body: JsonObject

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

        # What the maker of responders holds is held as long as the answer runs: not the body.
        streams, streams_upstream = self.streams, self.streams_upstream
        include_usage = self.include_usage

        def make_responder() -> Responder:
            if streams:
                return ChatStream(identity, include_usage=include_usage)
            return ChatAggregate(identity) if streams_upstream else WholeAnswer(identity.sign_whole)

        translation = Translation(
            path=ROUTE,
            body=encode({**self.body, "model": model}),
            streams=streams_upstream,
            make_responder=make_responder,
        )
        return Exchange(
            route=ROUTE,
            model=model,
            streams=streams,
            translations=translate_for_each(profiles, lambda _: translation),
        )


def read_request(body: bytes) -> ChatRequest:
    """Return the request in ``body``. Raises BadRequest naming the field at fault."""
    fields = read_object(body)
    model = read_model(fields)
    streams = read_flag(fields, "stream")
    include_usage = read_include_usage(fields)
    upstream = {key: value for key, value in fields.items() if value is not None}
    if "messages" not in upstream:
        raise BadRequest("'messages' is required", param="messages")
    upstream["messages"] = _messages(upstream["messages"])
    limit = upstream.pop("max_completion_tokens", None)
    if limit is not None:
        upstream["max_tokens"] = limit
    if upstream.get("reasoning_effort") == "minimal":
        upstream["reasoning_effort"] = "low"
    # Neither several choices nor token probabilities come whole in a node's stream (4.1, 4.3).
    several = upstream.get("n", 1) != 1
    if several and streams:
        raise BadRequest(
            "'n' above 1 cannot be streamed; leave 'stream' out or ask once for each answer",
            param="n",
            code="unsupported_value",
        )
    streams_upstream = streams or not (several or upstream.get("logprobs"))
    upstream["stream"] = streams_upstream
    if streams_upstream:
        upstream["stream_options"] = {"include_usage": True}
    else:
        upstream.pop("stream_options", None)
    return ChatRequest(model, streams, streams_upstream, include_usage, upstream)


def read_include_usage(fields: JsonObject) -> bool:
    """Return whether a stream should end with its usage. Raises BadRequest."""
    options = fields.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise BadRequest(
            f"'stream_options' must be an object; found {type_name(options)}",
            param="stream_options",
        )
    return read_flag(options, "include_usage", within="stream_options")


def _messages(messages: object) -> Any:
    if isinstance(messages, str):
        return messages  # a bare string is one user turn to the node (4.1)
    if not isinstance(messages, list):
        raise BadRequest(
            f"'messages' must be an array; found {type_name(messages)}", param="messages"
        )
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: object, path: str) -> JsonObject:
    if not isinstance(message, dict):
        raise BadRequest(f"{path} must be an object; found {type_name(message)}", param=path)
    role = message.get("role")
    if not isinstance(role, str):
        raise BadRequest(
            f"{path}.role must be a string; found {type_name(role)}", param=f"{path}.role"
        )
    if role == "user":
        return message
    changed = dict(message)
    if role == "developer":
        changed["role"] = "system"
    content = message.get("content")
    if isinstance(content, list):
        changed["content"] = _text_of_parts(content, role, f"{path}.content")
    elif content is None and role == "assistant" and not message.get("tool_calls"):
        changed["content"] = ""
    return changed


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
