"""The bodies of the Messages API, as far as both kinds of Messages node parse them alike."""

import base64
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from cortexd.testing.answering.requests import (
    CalledFunction,
    ChatRequest,
    CodeInterpreterTool,
    Function,
    FunctionTool,
    JsonSchemaFormat,
    MadeCall,
    Message,
    NamedSchema,
    RequestRefusedError,
    Tool,
    Unsigned,
    WebSearchTool,
)
from cortexd.testing.answering.wire import Json

ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def envelope(status: int, message: str) -> Json:
    """Return the body of an error; any status without its own type is an `api_error`."""
    return {
        "type": "error",
        "error": {"type": ERROR_TYPES.get(status, "api_error"), "message": message},
    }


_DROPPED_BLOCKS = (
    "thinking",
    "redacted_thinking",
    "web_search_tool_result",
    "code_execution_tool_result",
)


class Source(Struct):
    """Where an image or a document comes from."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class Block(Struct):
    """A block of a turn; its type determines the relevant fields."""

    type: str
    text: str | None = None
    source: Source | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None


class Turn(Struct):
    """One turn of the conversation."""

    role: str
    content: str | list[Block]

    def blocks(self) -> list[Block]:
        """Return the turn as blocks; a string is one text block."""
        if isinstance(self.content, str):
            return [Block("text", text=self.content)]
        return self.content


class OfferedTool(Struct):
    """A tool: the client runs a tool with a schema, the server runs any other."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: Any = None


class ToolChoice(Struct):
    """Whether the model must call a tool."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Struct):
    """Whether the model thinks before its answer."""

    type: str
    budget_tokens: Unsigned | None = None


class SchemaFormat(Struct, tag_field="type", tag="json_schema"):
    """JSON after a schema."""

    schema: dict[str, Any]


class OutputConfig(Struct):
    """The required format of the answer's text."""

    format: SchemaFormat | None = None


class MessagesRequest(Struct, kw_only=True):
    """The body of POST /v1/messages and of its count_tokens; unknown fields are ignored.

    `enable_thinking` and `reasoning_effort` are mistral.rs extensions.
    """

    messages: list[Turn]
    model: str = "default"
    max_tokens: Unsigned | None = None
    system: str | list[Block] | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Unsigned | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    enable_thinking: bool | None = None
    reasoning_effort: str | None = None

    def wants_thinking(self) -> bool | None:
        """Return whether the request wants thinking, None where it does not state it.

        Raises RequestRefusedError for an unknown kind of thinking.
        """
        if self.thinking is None:
            return None
        kinds = {"enabled": True, "adaptive": True, "disabled": False}
        if self.thinking.type not in kinds:
            raise refused(f"Unsupported Anthropic thinking type `{self.thinking.type}`.")
        return kinds[self.thinking.type]


def refused(message: str) -> RequestRefusedError:
    """Return the error for an invalid request."""
    return RequestRefusedError(400, message)


def chat_of(
    request: MessagesRequest,
    *,
    tool_choice_any: Literal["auto", "required"],
    enable_thinking: bool | None,
) -> ChatRequest:
    """Return the chat equivalent of a request, with the given replacement for `any` tool choice.

    Raises RequestRefusedError for blocks and tools that a chat does not support.
    """
    choice = request.tool_choice
    tools = [_tool(tool) for tool in request.tools or ()]
    if choice is not None and choice.type == "none":
        tools = []
    schema = request.output_config and request.output_config.format
    return ChatRequest(
        model=request.model,
        messages=[*_system(request), *(said for turn in request.messages for said in _said(turn))],
        max_tokens=request.max_tokens,
        stream=request.stream,
        stop=request.stop_sequences,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        tools=tools or None,
        tool_choice=_tool_choice(choice, tools, tool_choice_any),
        response_format=JsonSchemaFormat(NamedSchema("output", schema.schema)) if schema else None,
        enable_thinking=enable_thinking,
        reasoning_effort=request.reasoning_effort,
    )


def _system(request: MessagesRequest) -> list[Message]:
    if not request.system:
        return []
    if isinstance(request.system, str):
        return [Message("system", request.system)]
    if any(block.type != "text" for block in request.system):
        raise refused("Anthropic system blocks only support `text` content.")
    return [Message("system", "\n".join(_text(block) for block in request.system))]


def _said(turn: Turn) -> list[Message]:
    if isinstance(turn.content, str):
        return [Message(turn.role, turn.content)]
    if turn.role == "assistant":
        return [_assistant(turn.content)]
    messages: list[Message] = []
    texts: list[str] = []
    images: list[dict[str, Any]] = []
    for block in turn.content:
        match block.type:
            case "text":
                texts.append(_text(block))
            case "image" if turn.role == "user":
                images.append({"type": "image_url", "image_url": {"url": _url(block)}})
            case "image":
                raise refused("Anthropic image content is only supported for user messages.")
            case "tool_result":
                messages += _spoken(turn.role, texts, images)
                texts, images = [], []
                messages.append(
                    Message(
                        "tool",
                        result_text(block),
                        tool_call_id=_required(block.tool_use_id, block.type, "tool_use_id"),
                    )
                )
            case kind if kind in _DROPPED_BLOCKS:
                pass
            case other:
                raise refused(f"Unsupported Anthropic content block `{other}`.")
    return messages + _spoken(turn.role, texts, images)


def _spoken(role: str, texts: list[str], images: list[dict[str, Any]]) -> list[Message]:
    text = "\n".join(texts)
    if not images:
        return [Message(role, text)] if texts else []
    return [Message(role, [*images, *([{"type": "text", "text": text}] if text else [])])]


def _assistant(blocks: list[Block]) -> Message:
    texts: list[str] = []
    calls: list[MadeCall] = []
    for block in blocks:
        match block.type:
            case "text":
                texts.append(_text(block))
            case "tool_use":
                arguments = {} if block.input is None else block.input
                function = CalledFunction(
                    _required(block.name, block.type, "name"),
                    msgspec.json.encode(arguments).decode(),
                )
                calls.append(MadeCall(function, "function", _required(block.id, block.type, "id")))
            case "server_tool_use" | "thinking" | "redacted_thinking":
                pass
            case other:
                raise refused(f"Unsupported Anthropic assistant content block `{other}`.")
    return Message("assistant", "\n".join(texts) if texts else None, tool_calls=calls or None)


def result_text(block: Block) -> str:
    """Return a tool's result as text, with a placeholder for an image."""
    if block.content is None or isinstance(block.content, str):
        return block.content or ""
    if not isinstance(block.content, list):
        return msgspec.json.encode(block.content).decode()
    texts = [_item_text(item) for item in block.content]
    return "\n".join(text for text in texts if text)


def _item_text(item: object) -> str:
    match item:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image"}:
            return "[image]"
    return msgspec.json.encode(item).decode()


def _text(block: Block) -> str:
    return _required(block.text, block.type, "text")


def _required(value: str | None, kind: str, field: str) -> str:
    if value is None:
        raise refused(f"Anthropic `{kind}` content block requires `{field}`.")
    return value


def _url(block: Block) -> str:
    source = block.source
    match source:
        case Source(type="base64", media_type=str(media_type), data=str(data)):
            return f"data:{media_type};base64,{data}"
        case Source(type="url", url=str(url)):
            return url
        case None:
            raise refused("Anthropic image content block requires `source`.")
    raise refused(f"Unsupported Anthropic image source type `{source.type}`.")


def is_base64(text: str) -> bool:
    """Return whether a text is strictly valid base64."""
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True


def _tool(tool: OfferedTool) -> Tool:
    kind = tool.type or ""
    if kind.startswith("web_search_"):
        return WebSearchTool()
    if kind.startswith("code_execution_"):
        return CodeInterpreterTool({"type": "auto"})
    if tool.name is None:
        raise refused("Anthropic client tool requires a `name`.")
    if not isinstance(tool.input_schema, dict):
        raise refused(f"Anthropic client tool `{tool.name}` requires an object `input_schema`.")
    return FunctionTool(Function(tool.name, tool.description, tool.input_schema))


def _tool_choice(
    choice: ToolChoice | None, tools: list[Tool], any_of_them: Literal["auto", "required"]
) -> Literal["none", "auto", "required"] | dict[str, Any] | None:
    match choice:
        case None:
            return None
        case ToolChoice(type="auto"):
            return "auto"
        case ToolChoice(type="none"):
            return "none"
        case ToolChoice(type="any"):
            return any_of_them
        case ToolChoice(type="tool", name=name):
            names = [tool.function.name for tool in tools if isinstance(tool, FunctionTool)]
            if name not in names:
                raise refused(f"Anthropic tool_choice references unknown tool `{name}`.")
            return {"type": "function", "function": {"name": name}}
    raise refused(f"Unsupported Anthropic tool_choice type `{choice.type}`.")
