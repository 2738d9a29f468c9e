"""Request bodies of an engine node: checked as the server does, turned into the wheel's terms."""

from __future__ import annotations

import json
from typing import Any

from tests.engine.tiny_model import VERBATIM_ROLE

TOOL_TYPES = ("function", "web_search", "code_interpreter", "shell")
# Passed to the wheel by the same name; it raises a TypeError or OverflowError for a wrong type.
PASSED_ON = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "logprobs", "top_logprobs", "ignore_eos", "enable_thinking",
    "reasoning_effort", "truncate_sequence",
)  # fmt: skip
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
    for tool in body.get("tools") or []:
        if not isinstance(tool, dict) or tool.get("type") not in TOOL_TYPES:
            raise body_fault("tools: data did not match any variant of untagged enum")


def _messages(body: dict[str, Any]) -> list[dict[str, str]]:
    messages = body.get("messages")
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if not isinstance(messages, list):
        raise body_fault("missing field `messages`")
    return [_message(message) for message in messages]


def _message(message: Any) -> dict[str, str]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise body_fault("messages: data did not match any variant of untagged enum")
    role, content, calls = message["role"], message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        if role != "user":
            raise RequestRefusedError(
                500, f"Role for an image message must be `user`, but it is `{role}`"
            )
        if any(part.get("type") != "text" for part in content):
            raise RequestRefusedError(500, "This model does not support images, audio or video.")
        content = " ".join(part["text"] for part in content)
    if content is None and not calls:
        raise RequestRefusedError(500, "Content must be present when there are no tool calls.")
    # The wheel's messages are strings only: earlier calls go in as Qwen3's template writes them.
    written = [f"<tool_call>\n{json.dumps(call['function'])}\n</tool_call>" for call in calls or []]
    return {"role": role, "content": "\n".join([content or "", *written]).strip("\n")}


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
            raise RequestRefusedError(500, f"tool_choice `{named or choice}` needs a matching tool")
        # The wheel knows no such choice; a grammar makes the model write the call, and the engine's
        # own parser finds it.
        return arguments | {"grammar": _call_grammar(candidates[0]), "grammar_type": "lark"}
    return arguments | _grammar_arguments(body)


def _grammar_arguments(body: dict[str, Any]) -> dict[str, Any]:
    grammar: dict[str, Any] | None = body.get("grammar")
    response_format: dict[str, Any] = body.get("response_format") or {"type": "text"}
    kind = response_format["type"]
    if grammar and kind != "text":
        raise RequestRefusedError(500, "grammar and response_format cannot both be given.")
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
