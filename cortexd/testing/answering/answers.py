"""The answers of a simulated model: they depend only on the prompt, so tests can predict them.

A chat model echoes: "You said: " and the text of the last user message, or "The tool said: " and
the text of the last message if its role is `tool`. The tokens of prompt and answer are the words,
each with the white space before it. A word with a character beyond ASCII is two tokens. The first
of them ends within the character and is withheld, so there are fewer chunks than tokens, as in
mistral.rs. A model with `thinks` begins with "The user said N words." as reasoning, unless the
request forbids it. `ignore_eos` repeats the answer up to the token limit, for long streams.

The model calls a tool if `tool_choice` demands it, or if the last user message contains the word
`call:NAME` for a given tool NAME (once for each such word), but never directly after a tool's
result. Arguments follow the tool's JSON schema, with the user's text for its strings. The answer to
a response format of JSON is made in the same way.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from cortexd.testing.answering.prompt import (
    EngineRefusedError,
    Prompt,
    chat_prompt,
    completion_prompt,
    text_of,
    tokens_of,
)
from cortexd.testing.answering.requests import (
    HOSTED_TOOLS,
    ChatRequest,
    CompletionRequest,
    FunctionTool,
    JsonObjectFormat,
    JsonSchemaFormat,
    RequestRefusedError,
)
from cortexd.testing.model import SimulatedModel

FinishReason = Literal["stop", "length", "tool_calls"]
EMBEDDING_DIMENSIONS = 8

_CALL = re.compile(r"\bcall:([\w.-]+)", re.ASCII)


@dataclass(frozen=True)
class CallPart:
    """The text that a token adds to the tool call of a number and name; "" for the name itself."""

    number: int
    name: str
    arguments: str = ""


@dataclass(frozen=True)
class Token:
    """One generated token; its text is empty if the token is withheld.

    mistral.rs withholds the tokens of a tool `call` until the call is complete.
    """

    text: str
    reasoning: bool = False
    call: CallPart | None = None


@dataclass(frozen=True)
class ToolCall:
    """One function the model calls; the arguments are JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One complete choice, before any of it is sent.

    `tool_calls` has the complete calls; `stop_sequence` is the stop string that ended the choice.
    `cached_tokens` is the number of tokens of the prompt that the engine need not read.
    """

    tokens: tuple[Token, ...]
    finish_reason: FinishReason
    prompt: Prompt
    cached_tokens: int = 0
    tool_calls: tuple[ToolCall, ...] = ()
    stop_sequence: str | None = None

    @property
    def content(self) -> str:
        """The answer's text."""
        return "".join(token.text for token in self.tokens if not token.reasoning)

    @property
    def reasoning(self) -> str:
        """The reasoning before the answer, "" for none."""
        return "".join(token.text for token in self.tokens if token.reasoning)


def answer_chat(
    request: ChatRequest, model: SimulatedModel, *, most_calls: int | None = None
) -> tuple[Answer, ...]:
    """Return the `n` choices that answer a chat request, with at most `most_calls` tool calls.

    Raises RequestRefusedError if the handler rejects the request, and EngineRefusedError if the
    engine does. A demanded call fails in a stream if the model spells the marker of a call in
    several tokens (nodes.md 4.1.9).
    """
    demanded = _demanded_tools(request)
    prompt = chat_prompt(request, model)
    if request.stream and demanded and model.call_marker_tokens > 1:
        raise EngineRefusedError("Tool choice was required but no tools were called.", 500)
    limit = request.token_limit()
    thinks = request.thinking() and model.thinks
    turns = request.turns()
    texts = [text_of(turn) for turn in turns]
    users = [text for turn, text in zip(turns, texts, strict=True) if turn.role == "user"]
    said = users[-1] if users else ""
    after_tool = bool(turns) and turns[-1].role == "tool"
    calls = () if after_tool else _tool_calls(request, demanded, said)[:most_calls]
    reasoning = tuple(
        Token(text, reasoning=True)
        for text in (tokens_of(f"The user said {len(said.split())} words.") if thinks else ())
    )
    if calls:
        spelt = [token for number, call in enumerate(calls) for token in _spelt(number, call)]
        answer = Answer(
            tokens=(*reasoning, *spelt),
            finish_reason="tool_calls",
            prompt=prompt,
            tool_calls=calls,
        )
        return (_limited(answer, limit, model),) * request.n
    return tuple(
        _limited(
            _told(
                _echo(request, said, texts[-1] if after_tool else None, choice),
                reasoning,
                prompt,
                request,
            ),
            limit,
            model,
            repeat=request.ignore_eos,
        )
        for choice in range(request.n)
    )


def answer_completion(request: CompletionRequest, model: SimulatedModel) -> tuple[Answer, ...]:
    """Return the `n` choices that complete a prompt: "You said: " and the prompt.

    Raises the errors of `answer_chat`.
    """
    limit = request.token_limit()
    prompt = completion_prompt(request, model)
    prefix = request.prompt if request.echo else ""
    return tuple(
        _limited(
            _told(f"{prefix}{_saying(choice)}{request.prompt}", (), prompt, request),
            limit,
            model,
            repeat=request.ignore_eos,
        )
        for choice in range(request.n)
    )


def embed(text: str) -> list[float]:
    """Return a text's vector of EMBEDDING_DIMENSIONS numbers in [-1, 1], equal for equal texts."""
    digest = hashlib.sha256(text.encode()).digest()
    # These fractions are exact in 32 bits, so base64 has the same numbers.
    return [(byte - 128) / 128 for byte in digest[:EMBEDDING_DIMENSIONS]]


def _demanded_tools(request: ChatRequest) -> Sequence[str]:
    """Return the names of the tools that the client forces the model to call."""
    choice = request.tool_choice
    given = [tool.function.name for tool in request.tools or () if isinstance(tool, FunctionTool)]
    if choice in (None, "none", "auto"):
        return ()
    if choice == "required":
        if not request.tools:
            raise RequestRefusedError(500, 'tool_choice="required" requires at least one tool.')
        return given[:1]
    assert isinstance(choice, dict)  # noqa: S101 - strings are handled above
    kind = choice["type"]
    if kind in HOSTED_TOOLS:
        raise RequestRefusedError(
            500, f"tool_choice forcing hosted tool `{kind}` is not supported."
        )
    if kind == "allowed_tools":
        if not choice["tools"]:
            raise RequestRefusedError(500, "tool_choice.allowed_tools requires at least one tool.")
        names = [_allowed(tool, given) for tool in choice["tools"]]
        return names[:1] if choice["mode"] == "required" else ()
    return (_known(choice.get("function", choice)["name"], given),)


def _allowed(tool: dict[str, Any], given: Sequence[str]) -> str:
    if tool["type"] != "function":
        raise RequestRefusedError(
            500,
            f"tool_choice.allowed_tools contains hosted tool `{tool['type']}`; hosted tool "
            "forcing/filtering is not supported.",
        )
    return _known(tool["name"], given)


def _known(name: str, given: Sequence[str]) -> str:
    if name not in given:
        raise RequestRefusedError(500, f"tool_choice references unknown function tool `{name}`.")
    return name


def _tool_calls(request: ChatRequest, demanded: Sequence[str], said: str) -> tuple[ToolCall, ...]:
    functions = {
        tool.function.name: tool.function
        for tool in request.tools or ()
        if isinstance(tool, FunctionTool)
    }
    if request.tool_choice == "none":
        return ()
    names = demanded or [name for name in _CALL.findall(said) if name in functions]
    text = " ".join(_CALL.sub("", said).split())
    return tuple(
        ToolCall(name, _json(_sample(functions[name].parameters or {"type": "object"}, text)))
        for name in names
    )


def _spelt(number: int, call: ToolCall) -> list[Token]:
    """Return the tokens of a call: its name, then its arguments."""
    return [
        *[Token("", call=CallPart(number, call.name)) for _ in tokens_of(call.name)],
        *[
            Token("", call=CallPart(number, call.name, arguments))
            for arguments in tokens_of(call.arguments)
        ],
    ]


def _sample(schema: dict[str, Any], text: str) -> object:
    """Return a value that a common JSON schema allows, with `text` for its strings."""
    if schema.get("enum"):
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    match kind:
        case "object":
            properties = schema.get("properties", {})
            names = schema.get("required", list(properties))
            return {name: _sample(properties.get(name, {}), text) for name in names}
        case "array":
            return [_sample(schema["items"], text)] if isinstance(schema.get("items"), dict) else []
        case "integer":
            return 1
        case "number":
            return 1.5
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return text


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _saying(choice: int) -> str:
    return "You said: " if choice == 0 else f"You said ({choice + 1}): "


def _echo(request: ChatRequest, said: str, tool_result: str | None, choice: int) -> str:
    if isinstance(request.response_format, JsonObjectFormat):
        return _json({"said": said})
    if isinstance(request.response_format, JsonSchemaFormat):
        return _json(_sample(request.response_format.json_schema.schema, said))
    if tool_result is not None:
        return f"The tool said: {tool_result}"
    return f"{_saying(choice)}{said}"


def _told(
    text: str,
    reasoning: tuple[Token, ...],
    prompt: Prompt,
    request: ChatRequest | CompletionRequest,
) -> Answer:
    """Return a text as an answer that ends by itself, or before its first stop string."""
    ends = [(text.find(stop), stop) for stop in request.stop_strings() if stop and stop in text]
    end, stop_sequence = min(ends, default=(len(text), None))
    return Answer(
        tokens=(*reasoning, *map(Token, tokens_of(text[:end]))),
        finish_reason="stop",
        prompt=prompt,
        stop_sequence=stop_sequence,
    )


def _limited(
    answer: Answer, limit: int | None, model: SimulatedModel, *, repeat: bool = False
) -> Answer:
    """Cut an answer at the token limit and the context; with `repeat`, fill it up to them first."""
    room = model.context_tokens - answer.prompt.tokens
    room = room if limit is None else min(room, limit)
    tokens = answer.tokens
    if repeat and tokens:
        tokens = tokens * (room // len(tokens) + 1)
    elif len(tokens) <= room:
        return answer
    return replace(
        answer, tokens=tokens[:room], finish_reason="length", tool_calls=(), stop_sequence=None
    )
