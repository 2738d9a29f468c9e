"""Responses: conversations that the node itself stores, in the memory of its process.

An answer equals that of the same conversation as a chat. An unknown id of a previous response is
not an error: the conversation then silently lacks its beginning. A stored conversation has the
instructions of each request, and of an answer its text and its reasoning, but no calls.

Checked against `responses.rs`, `responses_types` and `background_tasks.rs` of mistral.rs 9e922623
(nodes.md 6.1 to 6.6, 6.9 to 6.13).
"""

import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct, structs

from cortexd.testing.answering.answers import Answer
from cortexd.testing.answering.requests import (
    BodyRefusedError,
    CalledFunction,
    ChatRequest,
    Function,
    FunctionTool,
    MadeCall,
    Message,
    RequestRefusedError,
    ResponseFormat,
    Unsigned,
    no_variant,
)
from cortexd.testing.answering.wire import Json

# Tools that the node runs itself, if it was started with them: the client gets no calls of them.
_TOOLS_OF_THE_NODE = ("web_search", "web_search_preview", "code_interpreter", "shell")
_UNKNOWN_TO_OLDER_NODES = ("namespace", "web_search", "web_search_preview")
_BETWEEN_TEXTS = "\n\n"

Kind = TypeVar("Kind")


_ECHOED = (
    "metadata",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "temperature",
    "top_p",
    "max_output_tokens",
    "store",
    "background",
)


class Reasoning(Struct):
    """How much the model shall think."""

    effort: Literal["off", "none", "low", "medium", "high", "xhigh", "max"] | None = None


class ResponsesRequest(Struct, kw_only=True):
    """The body of POST /v1/responses; unknown fields are ignored."""

    input: str | list[dict[str, Any]]
    model: str = "default"
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Unsigned | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Unsigned | None = None
    text: dict[str, Any] | None = None
    reasoning: Reasoning | None = None
    metadata: Any = None
    temperature: float | None = None
    top_p: float | None = None

    def echoed(self) -> Json:
        """Return the fields that the node's response repeats: those that the request has."""
        values = {name: getattr(self, name) for name in _ECHOED}
        return {name: value for name, value in values.items() if value is not None}

    def turns(self, *, is_older_node: bool = False) -> list[Message]:
        """Return the new turns; only the texts of a message's parts count.

        Raises BodyRefusedError for an item of an unknown kind.
        """
        if isinstance(self.input, str):
            return [Message(role="user", content=self.input)]
        return [turn for item in self.input for turn in _turns_of(item, is_older_node)]

    def as_chat(self, before: Sequence[Message], *, is_older_node: bool = False) -> ChatRequest:
        """Return the request as a chat that continues the conversation ``before``.

        Raises BodyRefusedError for a tool or an item of an unknown kind, and RequestRefusedError
        for a limit of calls or of no tokens.
        """
        if self.max_tool_calls is not None:
            raise RequestRefusedError(
                500,
                "max_tool_calls is not supported. mistral.rs does not currently support limiting "
                "the number of tool calls.",
            )
        if self.max_output_tokens == 0:
            raise RequestRefusedError(500, "max_output_tokens must be at least 1.")
        system = [Message(role="system", content=self.instructions)] if self.instructions else []
        functions = [
            FunctionTool(function)
            for place, tool in enumerate(self.tools or ())
            for function in _functions_in(tool, place, is_older_node)
        ]
        try:
            return ChatRequest(
                model=self.model,
                messages=[*system, *before, *self.turns(is_older_node=is_older_node)],
                max_tokens=self.max_output_tokens,
                stream=self.stream,
                tools=[*functions] or None,
                tool_choice=self.tool_choice if functions else None,
                response_format=self._format(),
                reasoning_effort=self.reasoning.effort if self.reasoning else None,
            )
        except ValueError as error:
            raise _refused(str(error)) from error

    def _format(self) -> ResponseFormat | None:
        form = (self.text or {}).get("format")
        if form is None:
            return None
        if isinstance(form, dict) and form.get("type") == "json_schema":
            schema = {"name": form.get("name"), "schema": form.get("schema", {})}
            form = {"type": "json_schema", "json_schema": schema}
        try:
            converted: ResponseFormat = msgspec.convert(form, ResponseFormat)
        except msgspec.ValidationError as error:
            raise _refused(f"text.format: {error}") from error
        return converted

    def namespaced(self) -> dict[str, tuple[str, str]]:
        """Return name and namespace of each tool whose name for the model combines both.

        Raises BodyRefusedError as `as_chat` does.
        """
        return {
            f"{tool['name']}.{function.name}": (function.name, tool["name"])
            for place, tool in enumerate(self.tools or ())
            if tool.get("type") == "namespace"
            for function in _functions_of(tool, place)
        }


def new_id() -> str:
    """Return a globally unique id for a new response."""
    return f"resp_{uuid.uuid4()}"


def said_in(answer: Answer) -> list[Message]:
    """Return the turn by which an answer stands in the conversation that continues it.

    It has no calls, and without a text there is no turn (nodes.md 6.4).
    """
    if not answer.content:
        return []
    return [
        Message(
            role="assistant", content=answer.content, reasoning_content=answer.reasoning or None
        )
    ]


def _turns_of(item: Json, is_older_node: bool) -> Iterator[Message]:
    kind = item.get("type", "message")
    if kind == "message" and isinstance(item.get("role"), str):
        yield from _message(item, is_older_node)
    elif kind == "function_call" and _has_texts(item, "call_id", "name", "arguments"):
        yield Message(role="assistant", tool_calls=[_call_in(item)])
    elif kind == "function_call_output" and _has_texts(item, "call_id", "output"):
        yield Message(role="tool", content=item["output"], tool_call_id=item["call_id"])
    elif not (
        (kind == "item_reference" and _has_texts(item, "id"))
        or (kind == "reasoning" and not is_older_node and _is_reasoning(item))
    ):
        raise _no_variant("input", "OpenResponsesInput")


def _has_texts(item: Json, *names: str) -> bool:
    return all(isinstance(item.get(name), str) for name in names)


def _is_reasoning(item: Json) -> bool:
    """Return whether a reasoning item is one that the node reads; it drops it then."""
    kinds = {"summary": "summary_text", "content": "reasoning_text"}
    return all(
        isinstance(item.get(name, []), list)
        and all(
            isinstance(part, dict) and part.get("type") == kind and _has_texts(part, "text")
            for part in item.get(name, [])
        )
        for name, kind in kinds.items()
    )


def _message(item: Json, is_older_node: bool) -> Iterator[Message]:
    """Yield a message: its texts as one, or its parts where not all of them are texts."""
    role, content = item["role"], item.get("content")
    if isinstance(content, str):
        yield Message(role=role, content=content)
        return
    if not isinstance(content, list):
        raise _no_variant("input", "OpenResponsesInput")
    parts = [_part(part) for part in content]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    if len(texts) < len(parts) or (is_older_node and len(texts) > 1):
        # The resulting chat rejects parts of any role but the user.
        yield Message(role=role, content=parts)
    else:
        yield Message(role=role, content=_BETWEEN_TEXTS.join(texts) if texts else None)


def _part(part: object) -> Json:
    """Return a part of a message as that of a chat; raise BodyRefusedError for an unknown kind."""
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "refusal", "refusal": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"type": "input_file", **fields}:
            texts = {key: text for key, text in fields.items() if isinstance(text, str)}
            return {"type": "file", "file": texts}
        case {"type": "input_audio"}:
            return {"type": "input_audio"}
    raise _no_variant("input", "OpenResponsesInput")


def _call_in(item: Json) -> MadeCall:
    """Return a call of the history, with the function's name for the model."""
    name = str(item["name"])
    if item.get("namespace") is not None:
        name = f"{item['namespace']}.{name}"
    return MadeCall(CalledFunction(name, item["arguments"]), "function", item["call_id"])


def _functions_in(tool: Json, place: int, is_older_node: bool) -> Iterator[Function]:
    """Yield the functions that the model gets for a tool."""
    kind = tool.get("type")
    if is_older_node and kind in _UNKNOWN_TO_OLDER_NODES:
        raise _no_variant(f"tools[{place}]", "OpenAiTool")
    if kind == "namespace":
        for function in _functions_of(tool, place):
            yield structs.replace(function, name=f"{tool['name']}.{function.name}")
    elif kind == "function":
        yield _function(tool.get("function", tool), place)
    elif kind not in _TOOLS_OF_THE_NODE:
        raise _no_variant(f"tools[{place}]", "OpenAiTool")


class _Namespace(Struct):
    name: str
    tools: list[dict[str, Any]]


def _functions_of(namespace: Json, place: int) -> list[Function]:
    """Return the functions in a namespace; ignore its other tools."""
    entries = _converted(namespace, _Namespace, place).tools
    return [_function(entry, place) for entry in entries if entry.get("type") == "function"]


def _function(fields: object, place: int) -> Function:
    return _converted(fields, Function, place)


def _converted(tool: object, into: type[Kind], place: int) -> Kind:
    try:
        return msgspec.convert(tool, into)
    except msgspec.ValidationError:
        raise _no_variant(f"tools[{place}]", "OpenAiTool") from None


def _no_variant(field: str, enumeration: str) -> BodyRefusedError:
    """Return the framework's error for a whole body, which does not name the unknown kind."""
    return _refused(no_variant(field, enumeration))


def _refused(words: str) -> BodyRefusedError:
    return BodyRefusedError(
        422, f"Failed to deserialize the JSON body into the target type: {words}"
    )
