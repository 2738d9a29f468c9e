"""Request bodies of an engine node: checked as the server does, turned into the wheel's terms."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.engine.tiny_model import VERBATIM_ROLE

TOOL_TYPES = ("function", "web_search", "code_interpreter", "shell")
# Passed to the wheel by the same name; it raises a TypeError or OverflowError for a wrong type.
PASSED_ON = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "logprobs", "top_logprobs", "ignore_eos", "enable_thinking",
    "reasoning_effort", "truncate_sequence",
)  # fmt: skip
UNSIGNED = ("max_tokens", "max_completion_tokens", "top_k", "n", "top_logprobs")
# A random model under a grammar never closes a string or ends white space by itself: what the
# client's schema leaves open is bounded here, so that its JSON ends before any sensible max_tokens.
ARGUMENT_BOUNDS: dict[str, dict[str, object]] = {
    "string": {"maxLength": 12},
    "integer": {"minimum": 0, "maximum": 99},
    "array": {"maxItems": 2},
    "object": {"additionalProperties": False},
}


class RequestRefusedError(Exception):
    """An HTTP error answer: `status`, and `message` as JSON or (of body errors) as plain text."""

    def __init__(self, status: int, message: str, *, plain: bool = False) -> None:
        super().__init__(message)
        self.status = status
        # The first line says what is wrong; a grammar error drags the parser's state behind it.
        self.message = message.split("\n", 1)[0]
        self.plain = plain


def body_fault(text: str) -> RequestRefusedError:
    """Return the plain-text 422 of a body that is JSON, but of the wrong shape."""
    prefix = "Failed to deserialize the JSON body into the target type: "
    return RequestRefusedError(422, prefix + text, plain=True)


def chat_arguments(body: dict[str, Any]) -> dict[str, Any]:
    """Return a chat body as the arguments of the wheel's ChatCompletionRequest.

    Raises RequestRefusedError with what the server answers to a body it cannot take.
    """
    try:
        return _arguments(body)
    except (KeyError, TypeError, AttributeError) as error:
        raise body_fault(f"invalid type or missing field: {error}") from error


def _arguments(body: dict[str, Any]) -> dict[str, Any]:
    _check_shape(body)
    limit = body.get("max_tokens", body.get("max_completion_tokens"))
    if limit == 0:
        raise RequestRefusedError(500, "max_tokens must be at least 1.")
    stop = body.get("stop")
    arguments: dict[str, Any] = {
        "messages": _messages(body),
        "max_tokens": limit,
        "n_choices": body.get("n"),
        "stop_seqs": [stop] if isinstance(stop, str) else stop,
        "logit_bias": {int(key): value for key, value in (body.get("logit_bias") or {}).items()},
        **{name: body.get(name) for name in PASSED_ON},
        **_tool_arguments(body),
    }
    return {name: value for name, value in arguments.items() if value is not None}


def model_name(body: dict[str, Any]) -> str:
    """Return the model an inference body names, `default` without one."""
    name = body.get("model", "default")
    if not isinstance(name, str):
        raise body_fault("model: invalid type, expected a string")
    return name


def completion_as_chat(body: dict[str, Any]) -> dict[str, Any]:
    """Return a /v1/completions body as a chat body whose one turn leaves the template unchanged."""
    if not isinstance(body.get("prompt"), str):
        raise body_fault("prompt: invalid type, expected a string")
    turn = {"role": VERBATIM_ROLE, "content": body["prompt"]}
    return {name: value for name, value in body.items() if name != "prompt"} | {"messages": [turn]}


def _check_shape(body: dict[str, Any]) -> None:
    if "max_tokens" in body and "max_completion_tokens" in body:
        raise body_fault("duplicate field `max_tokens`")
    for name in UNSIGNED:
        if isinstance(body.get(name), int) and body[name] < 0:
            raise body_fault(f"{name}: invalid value: integer `{body[name]}`, expected usize")
    for number, tool in enumerate(body.get("tools") or []):
        if not isinstance(tool, dict) or tool.get("type") not in TOOL_TYPES:
            raise no_variant(f"tools[{number}]", "OpenAiTool")
    choice = body.get("tool_choice")
    # The chat dialect's own shape, which the server does not know (nodes.md 4.1.7).
    if isinstance(choice, dict) and "allowed_tools" in choice:
        raise no_variant("tool_choice", "ToolChoice")


def no_variant(field: str, enumeration: str) -> RequestRefusedError:
    """Return the 422 of a value that fits no form of an enumeration, whatever is wrong in it."""
    return body_fault(f"{field}: data did not match any variant of untagged enum {enumeration}")


Message = dict[str, str | list[dict[str, Any]]]


def _messages(body: dict[str, Any]) -> list[Message]:
    messages = body.get("messages")
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if not isinstance(messages, list):
        raise body_fault("missing field `messages`")
    return [_message(message) for message in messages]


def _message(message: Any) -> Message:
    if not _is_message(message):
        raise no_variant("messages", "Either")
    role, content, calls = message["role"], message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        if role != "user":
            raise RequestRefusedError(
                500, f"Role for an image message must be `user`, but it is {role}"
            )
        # A text model ignores pictures (nodes.md 4.1.8).
        return {"role": role, "content": _as_list(part for part in content if "text" in part)}
    if content is None and calls is None:
        raise RequestRefusedError(
            500, "No content was provided, expected tool calls to be provided."
        )
    # The wheel's messages are strings only: earlier calls go in as Qwen3's template writes them.
    written = [f"<tool_call>\n{json.dumps(call['function'])}\n</tool_call>" for call in calls or []]
    return {"role": role, "content": "\n".join([content or "", *written]).strip("\n")}


def _is_message(message: Any) -> bool:
    """Return whether a message has the server's shape (nodes.md 4.1.5 to 4.1.7)."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    content, calls = message.get("content"), message.get("tool_calls")
    parts = content if isinstance(content, list) else []
    return (
        isinstance(content, str | list | None)
        and not {"reasoning", "reasoning_content"} <= message.keys()
        and all(isinstance(part, dict) and _has_strings(part) for part in parts)
        and all(
            call.get("type") == "function" and isinstance(call["function"]["arguments"], str)
            for call in calls or []
        )
    )


def _has_strings(part: dict[str, Any]) -> bool:
    """Return whether a part's values are strings, or objects of strings."""
    return all(
        isinstance(text, str)
        for value in part.values()
        for text in (value.values() if isinstance(value, dict) else [value])
    )


def _as_list(parts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return texts so that the template gets a list of one part, with the texts joined by a space.

    The server gives it that list always (nodes.md 4.1.4), the wheel only for several parts.
    """
    first, _, rest = " ".join(part["text"] for part in parts).partition(" ")
    return [{"type": "text", "text": text} for text in (first, rest)]


def _tool_arguments(body: dict[str, Any]) -> dict[str, Any]:
    tools, choice = body.get("tools") or [], body.get("tool_choice")
    functions = [tool["function"] for tool in tools if tool["type"] == "function"]
    named = choice["function"]["name"] if isinstance(choice, dict) else None
    arguments: dict[str, Any] = {"tool_schemas": [json.dumps(tool) for tool in tools] or None}
    if choice == "none":
        arguments["tool_schemas"] = None
    elif choice == "required" or named:
        candidates = [function for function in functions if named in (None, function["name"])]
        if not candidates:
            words = (
                f"tool_choice references unknown function tool `{named}`."
                if named
                else 'tool_choice="required" requires at least one tool.'
            )
            raise RequestRefusedError(500, words)
        # The wheel knows no such choice; a grammar makes the model write the call, and the engine's
        # own parser finds it.
        return arguments | {"grammar": _call_grammar(candidates[0]), "grammar_type": "lark"}
    return arguments | _grammar_arguments(body)


def _grammar_arguments(body: dict[str, Any]) -> dict[str, Any]:
    grammar: dict[str, Any] | None = body.get("grammar")
    response_format: dict[str, Any] = body.get("response_format") or {"type": "text"}
    kind = response_format["type"]
    if grammar and kind != "text":
        raise RequestRefusedError(
            500,
            "Request `grammar` and `response_format` were both provided but are mutually "
            "exclusive.",
        )
    if grammar:
        value = grammar["value"]
        text = value if isinstance(value, str) else json.dumps(value)
        return {"grammar": text, "grammar_type": grammar["type"]}
    if kind == "text":
        return {}
    schema = (
        {"type": "object"} if kind == "json_object" else response_format["json_schema"]["schema"]
    )
    return {"grammar": json.dumps(_kept_short(schema)), "grammar_type": "json_schema"}


def _call_grammar(function: dict[str, Any]) -> str:
    schema = _kept_short(function.get("parameters") or {"type": "object"})
    opening = json.dumps('{"name": ' + json.dumps(function["name"]) + ', "arguments": ')
    return f'start: {opening} arguments "}}"\narguments: %json {json.dumps(schema)}'


def _kept_short(schema: dict[str, Any]) -> dict[str, Any]:
    return {**_bounded(schema), "x-guidance": {"whitespace_flexible": False}}


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    kind = "integer" if schema.get("type") == "number" else schema.get("type")
    bounded = {**ARGUMENT_BOUNDS.get(str(kind), {}), **schema, "type": kind}
    if kind is None or "enum" in schema:
        bounded = dict(schema)
    if "properties" in schema:
        bounded["properties"] = {
            name: _bounded(value) for name, value in schema["properties"].items()
        }
    if "items" in schema:
        bounded["items"] = _bounded(schema["items"])
    return bounded
