"""The prompt that a node makes of a request, and what its handler and its engine reject.

The handler's errors come before anything else, and always have a status of their own. The engine's
errors come when the model is loaded and the client of a stream has its headers: inside the stream.

Checked against `parse_request` and `add_request` of mistral.rs 9e922623 (nodes.md 4.1, 4.3.10).
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from cortexd.testing.answering.pictures import picture_fault, source_fault
from cortexd.testing.answering.requests import (
    ChatRequest,
    CompletionRequest,
    FunctionTool,
    Generating,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    RequestRefusedError,
    ShellTool,
    WebSearchTool,
)
from cortexd.testing.answering.schemas import schema_fault
from cortexd.testing.model import SimulatedModel, TemplateError

PICTURE_TOKENS: Final = 64
"""The tokens that a model with vision makes of each picture."""

_WORD = re.compile(r"\s*\S+|\s+$")
_MEDIA: Final = ("image_url", "audio_url", "video_url")
_KINDS: Final = (
    "Expected array content sub-content to be one of `text`, `image_url`, `audio_url`, "
    "`video_url`, or `file`."
)


class EngineRefusedError(Exception):
    """Raised when the engine rejects a request: 422 if the request is at fault, else 500."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class PromptTooLongError(EngineRefusedError):
    """Raised when the engine finds the prompt longer than the model's context."""


def tokens_of(text: str) -> tuple[str, ...]:
    """Split a text into its tokens; joined, they are the text."""
    tokens: list[str] = []
    for word in _WORD.findall(text):
        if not word.isascii():
            tokens.append("")
        tokens.append(word)
    return tuple(tokens)


class Prompt(NamedTuple):
    """The words of a prompt and its number of tokens; no words if it cannot be cached."""

    words: tuple[str, ...]
    tokens: int


def prompt_of(request: ChatRequest, model: SimulatedModel) -> Prompt:
    """Return a chat's prompt: its words, and the pictures if the model sees.

    A model that renders nothing takes the tools, then the text and the calls of each message, at
    least one token. No prompt with pictures is cached.
    Raises RequestRefusedError for messages that the handler rejects, and EngineRefusedError for
    a conversation that the template rejects.
    """
    turns = request.turns()
    texts = [text_of(turn) for turn in turns]
    pictures = sum(part.get("type") == "image_url" for turn in turns for part in _parts(turn))
    seen = pictures * PICTURE_TOKENS if model.vision else 0
    if model.render is not None:
        words = tokens_of(_rendered(request, model.render))
        return Prompt(() if seen else words, len(words) * model.tokens_per_word + seen)
    functions = [tool.function for tool in request.tools or () if isinstance(tool, FunctionTool)]
    shown = [msgspec.json.encode(function).decode() for function in functions]
    for turn, text in zip(turns, texts, strict=True):
        calls = [call.function for call in turn.tool_calls or ()]
        shown += [text, *(f"{call.name} {call.arguments}" for call in calls)]
    words = tuple(word for text in shown for word in tokens_of(text))
    tokens = max(1, len(words) * model.tokens_per_word + seen)
    return Prompt(() if seen else words, tokens)


def chat_prompt(request: ChatRequest, model: SimulatedModel) -> Prompt:
    """Return the prompt of a chat that the handler and the engine accept.

    Raises RequestRefusedError if the handler rejects the request, and EngineRefusedError if the
    engine does, in the order of a node's own checks.
    """
    request.thinking()
    for turn in request.turns():
        text_of(turn)
    for turn in request.turns():
        _check_media(turn)
    limit = request.token_limit()
    if request.grammar is not None and request.response_format is not None:
        raise RequestRefusedError(
            500,
            "Request `grammar` and `response_format` were both provided but are mutually "
            "exclusive.",
        )
    require_chat(model)
    return _accepted(prompt_of(request, model), limit, request, model)


def completion_prompt(request: CompletionRequest, model: SimulatedModel) -> Prompt:
    """Return the prompt of a completion; raises the errors of `chat_prompt`."""
    limit = request.token_limit()
    if model.kind != "chat":
        raise EngineRefusedError(OTHER_CATEGORY)
    words = tokens_of(request.prompt)
    return _accepted(Prompt(words, len(words) * model.tokens_per_word), limit, request, model)


OTHER_CATEGORY: Final = "Received a request incompatible for this model's category."


def require_chat(model: SimulatedModel) -> None:
    """Raise EngineRefusedError if a model has no chat template, or does not make text."""
    if not model.has_chat_template or model.kind in ("image", "speech"):
        raise EngineRefusedError(
            "Received messages for a model which does not have a chat template. Either use a "
            "different model or pass a single string as the prompt"
        )
    if model.kind != "chat":
        raise EngineRefusedError(OTHER_CATEGORY)


def text_of(turn: Message) -> str:
    """Return a message's text; only users may send parts, whatever their content.

    Raises RequestRefusedError.
    """
    if isinstance(turn.content, str):
        return turn.content
    if turn.content is None:
        if turn.tool_calls is not None:
            return ""
        raise RequestRefusedError(
            500, "No content was provided, expected tool calls to be provided."
        )
    parts = turn.content
    if len(parts) == 1 and "type" not in parts[0]:
        if "text" not in parts[0]:
            raise RequestRefusedError(500, "Expected `text` key in input message.")
        return str(parts[0]["text"])
    if turn.role != "user":
        raise RequestRefusedError(
            500, f"Role for an image message must be `user`, but it is {turn.role}"
        )
    return " ".join(text for part in parts if (text := _text_in(part)) is not None)


def _text_in(part: dict[str, Any]) -> str | None:
    """Return the text of a text part, None for another part of a known kind."""
    kind = part.get("type")
    if kind == "text":
        text = part.get("text")
        if not isinstance(text, str):
            raise RequestRefusedError(500, "Text sub-content must have `text` key.")
        return text
    if kind == "file":
        return None
    if kind not in _MEDIA:
        raise RequestRefusedError(500, _KINDS)
    name = kind.partition("_")[0].capitalize()
    value = part.get(kind)
    if kind not in part:
        raise RequestRefusedError(500, f"{name} sub-content must have `{kind}` key.")
    if not isinstance(value, dict):
        raise RequestRefusedError(500, f"{name} sub-content `{kind}` key must be an object.")
    if "url" not in value:
        raise RequestRefusedError(500, f"{name} sub-content `{kind}` object must have a `url` key.")
    return None


def _check_media(turn: Message) -> None:
    """Raise RequestRefusedError for media that cannot be had, though the model may be blind."""
    for part in _parts(turn):
        kind = part.get("type")
        if kind not in _MEDIA:
            continue
        url = part[kind]["url"]
        name = kind.partition("_")[0]
        fault = picture_fault(url) if kind == "image_url" else source_fault(url, name)
        if fault is not None:
            raise RequestRefusedError(500, fault)


def _parts(turn: Message) -> list[dict[str, Any]]:
    return turn.content if isinstance(turn.content, list) else []


def without_hosted_tools(request: ChatRequest) -> ChatRequest:
    """Return a chat that has no tools of a response; raise RequestRefusedError if it has."""
    for tool in request.tools or ():
        if isinstance(tool, WebSearchTool):
            raise RequestRefusedError(
                500,
                'tools[].type="web_search" is only supported by the Responses API; use '
                "web_search_options with Chat Completions",
            )
        if isinstance(tool, ShellTool):
            raise RequestRefusedError(
                500, 'tools[].type="shell" is only supported by the Responses API.'
            )
    return request


def _rendered(request: ChatRequest, render: Callable[[dict[str, Any]], str]) -> str:
    """Return the prompt that a template makes of a chat; raise EngineRefusedError if it raises."""
    fields: dict[str, Any] = {
        "messages": [
            {key: value for key, value in turn.items() if value is not None}
            for turn in msgspec.to_builtins(request.turns())
        ],
        "tools": msgspec.to_builtins(request.tools or []),
        "tool_choice": request.tool_choice,
        "enable_thinking": request.enable_thinking,
        "reasoning_effort": request.reasoning_effort,
        "chat_template_kwargs": request.chat_template_kwargs,
    }
    try:
        return render(fields)
    except TemplateError as error:
        raise EngineRefusedError(str(error), 500) from error


def _accepted(
    found: Prompt, limit: int | None, request: Generating, model: SimulatedModel
) -> Prompt:
    """Return the prompt after it was cut to fit the context."""
    if found.tokens == 0:
        raise EngineRefusedError("Received an empty prompt.")
    if found.tokens > model.context_tokens:
        if not request.truncate_sequence:
            raise PromptTooLongError(
                f"Prompt sequence length is greater than {model.context_tokens}, "
                "perhaps consider using `truncate_sequence`?"
            )
        found = Prompt((), max(1, model.context_tokens - (limit or 1)))
    if request.n == 0:
        raise EngineRefusedError("Number of choices must be greater than 0.")
    fault = schema_fault(_schema(request))
    if fault is not None:
        raise EngineRefusedError(f"Invalid grammar. {fault}")
    return found


def _schema(request: Generating) -> object:
    """Return the JSON schema that the answer must follow, True for none."""
    if request.grammar is not None:
        return request.grammar["value"] if request.grammar["type"] == "json_schema" else True
    form = request.response_format if isinstance(request, ChatRequest) else None
    if isinstance(form, JsonSchemaFormat):
        return form.json_schema.schema
    return {"type": "object"} if isinstance(form, JsonObjectFormat) else True
