"""The values that a mistral.rs node gives to a model's chat template for a chat request.

The facts are those of mistral.rs v0.9.2: ``parse_request`` of its server turns the messages of a
request into the messages of a template, and ``apply_chat_template_to`` of its core adds the rest.
"""

import json
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, cast

from cortexd.testing.model import TemplateError

JsonObject = dict[str, Any]

SPECIAL_TOKENS: Final = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
"""A model's own come from its tokenizer's configuration; no rule here depends on their spelling."""

BUILTIN_TOOLS: Final = (
    "browser",
    "python",
    "code_interpreter",
    "web_search",
    "brave_search",
    "wolfram_alpha",
)
FIRST_KEYS: Final = ("type", "properties", "required", "additionalProperties")
"""The keys of a tool's parameters that come first; the others follow in the alphabet's order."""

EFFORTS: Final = {
    "off": "off",
    "none": "off",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "xhigh",
}
"""The words that a request may use for its effort, with the word that a template gets."""

MEDIA: Final = {"image_url": "image", "audio_url": "audio", "video_url": "video"}


def template_inputs(template: str, fields: JsonObject, now: datetime | None = None) -> JsonObject:
    """Return the variables of a chat request's ``fields`` by their names in a template.

    ``now`` is the date that the template gets, the current one if None. Raises TemplateError.
    """
    now = datetime.now(UTC) if now is None else now
    messages = _messages(fields.get("messages"))
    _read_arguments(messages)
    if speaks_gemma4(template):
        messages = _for_gemma4(messages)
    elif "<|tool_call_start|>" in template and "<|tool_call_end|>" in template:  # Liquid
        for message in messages:
            if message["role"] == "assistant" and "tool_calls" in message:
                message["content"] = ""
    thinking, effort = _reasoning(fields)
    inputs: JsonObject = {
        "messages": messages,
        "add_generation_prompt": True,
        **SPECIAL_TOKENS,
        "date_string": now.strftime("%d, %B, %Y"),
        "enable_thinking": thinking,
    }
    if effort is not None:
        inputs |= {"reasoning_effort": effort, "reasoning_strength": effort}
    tools = [_tool(tool) for tool in fields.get("tools") or () if tool.get("type") == "function"]
    takes_none = "<atem:function_calls>" in template and "<atem:invoke" in template
    if tools and not (takes_none and fields.get("tool_choice") == "none"):
        names = [tool["function"]["name"] for tool in tools]
        inputs |= {
            "tools": tools,
            "xml_tools": tools,
            "builtin_tools": [name for name in names if name in BUILTIN_TOOLS],
        }
    return inputs


def speaks_gemma4(template: str) -> bool:
    """Return whether a template is one of Gemma 4, for which nodes rewrite the messages."""
    return "<|tool_call>" in template and "<tool_call|>" in template


def read_json(text: str) -> object:
    """Return the value of a JSON text. Raises ValueError, also for what only Python takes."""
    return cast(object, json.loads(text, parse_constant=_refuse))


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)


def _messages(given: object) -> list[JsonObject]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [_message(message) for message in cast(list[JsonObject], given)]


def _message(given: JsonObject) -> JsonObject:
    role, content = given["role"], given.get("content")
    message: JsonObject = {"role": role}
    calls = given.get("tool_calls")
    if isinstance(content, list):
        if len(content) != 1 or "type" in content[0]:
            return _message_of_parts(role, content)
        if "text" not in content[0]:
            raise TemplateError("Expected `text` key in input message.")
        calls, given = None, {"reasoning_content": given.get("reasoning_content")}
        content = content[0]["text"]
    elif content is None:
        if calls is None:
            raise TemplateError("No content was provided, expected tool calls to be provided.")
        content = ""
    message["content"] = content
    thoughts = given.get("reasoning_content", given.get("reasoning"))
    if thoughts is not None:
        message["reasoning_content"] = thoughts
    if calls is not None:
        message["tool_calls"] = [_call(call) for call in calls]
    return message | {
        key: given[key] for key in ("tool_call_id", "name") if given.get(key) is not None
    }


def _message_of_parts(role: str, parts: list[JsonObject]) -> JsonObject:
    """Return a message of parts: its media in the order of their kinds, then one text."""
    if role != "user":
        raise TemplateError(f"Role for an image message must be `user`, but it is {role}")
    texts: list[str] = []
    media: list[str] = []
    for part in parts:
        kind = part.get("type")
        if kind == "text":
            texts.append(part["text"])
        elif kind in MEDIA:
            media.append(MEDIA[kind])
        elif kind != "file":
            raise TemplateError(
                "Expected array content sub-content to be one of `text`, `image_url`, "
                "`audio_url`, `video_url`, or `file`."
            )
    content = [{"type": kind} for each in MEDIA.values() for kind in media if kind == each]
    return {"role": role, "content": [*content, {"type": "text", "text": " ".join(texts)}]}


def _call(given: JsonObject) -> JsonObject:
    function = given["function"]
    name = function["name"]
    arguments = function.get("arguments", function.get("parameters"))
    return {
        "id": name if given.get("id") is None else given["id"],
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _read_arguments(messages: list[JsonObject]) -> None:
    """Make objects of the arguments that are the JSON of an object; the others stay strings."""
    for message in messages:
        if message["role"] != "assistant":
            continue
        for call in message.get("tool_calls", ()):
            function = call["function"]
            if not isinstance(function["arguments"], str):
                continue
            try:
                arguments = read_json(function["arguments"])
            except ValueError:
                continue
            if isinstance(arguments, dict):
                function["arguments"] = arguments


def _for_gemma4(messages: list[JsonObject]) -> list[JsonObject]:
    """Return messages with the results of tools in user messages, and no text beside calls."""
    found: list[JsonObject] = []
    follows_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result:
            if not follows_result:
                found.append({"role": "user", "tool_responses": []})
            text = message["content"]
            try:
                response = read_json(text)
            except ValueError:
                response = text
            entry = {"name": message.get("name", "unknown"), "response": response}
            found[-1]["tool_responses"].append(entry)
        elif message["role"] == "assistant" and "tool_calls" in message:
            found.append({**message, "content": ""})
        else:
            found.append(message)
        follows_result = is_result
    return found


def _reasoning(fields: JsonObject) -> tuple[bool, str | None]:
    """Return whether the model thinks, which is true when unsaid, and the effort if any."""
    thinking, effort = fields.get("enable_thinking"), fields.get("reasoning_effort")
    arguments = fields.get("chat_template_kwargs") or {}
    if thinking is None and isinstance(arguments.get("enable_thinking"), bool):
        thinking = arguments["enable_thinking"]
    if effort is None and isinstance(arguments.get("reasoning_effort"), str):
        effort = arguments["reasoning_effort"]
    if effort is None:
        return thinking is not False, None
    known = EFFORTS.get(effort.strip().lower())
    if known is None:
        raise TemplateError(
            f"invalid reasoning effort `{effort}`; "
            "expected one of: off, none, low, medium, high, xhigh, max"
        )
    if thinking is not None and thinking != (known != "off"):
        raise TemplateError(
            f"reasoning effort `{known}` conflicts with enable_thinking={str(thinking).lower()}"
        )
    return known != "off", known


def _tool(given: JsonObject) -> JsonObject:
    function = given["function"]
    shown: JsonObject = {"name": function["name"]}
    if function.get("description") is not None:
        shown["description"] = function["description"]
    if function.get("parameters") is not None:
        parameters = function["parameters"]
        shown["parameters"] = {key: parameters[key] for key in sorted(parameters, key=_key_order)}
    if function.get("strict") is not None:
        shown["strict"] = function["strict"]
    return {"type": "function", "function": shown}


def _key_order(key: str) -> tuple[int, str]:
    return FIRST_KEYS.index(key) if key in FIRST_KEYS else len(FIRST_KEYS), key
