"""The request bodies that a mistral.rs node accepts, and its errors for the others.

There are two layers of errors. The web framework rejects a body that does not parse into the
route's type, in plain text. The handler rejects a body that parses but makes no sense, with a JSON
object that has only a `message`, and status 500 or 422.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

MAX_BODY_BYTES = 50 * 1024 * 1024
REASONING_EFFORTS = ("off", "none", "low", "medium", "high", "xhigh", "max")
HOSTED_TOOLS = ("web_search", "web_search_preview", "code_interpreter", "shell")
GRAMMARS = ("regex", "json_schema", "llguidance", "lark")

# The fields that a node reads as an enumeration without tags. Whatever is wrong inside one of them,
# the error names only the enumeration.
_UNTAGGED: Final = {
    "messages": "Either",
    "tools": "OpenAiTool",
    "tool_choice": "ToolChoice",
    "stop": "StopTokens",
}

Unsigned = Annotated[int, Meta(ge=0)]
Body = TypeVar("Body")


class BodyRefusedError(Exception):
    """Raised when the route does not accept the body; answered in plain text with `status`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class RequestRefusedError(Exception):
    """Raised when the handler rejects the request; answered as {"message": …} with `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class EngineFailedError(RequestRefusedError):
    """Raised when the engine broke off or was dropped; the request is not at fault."""


class CalledFunction(Struct):
    """A function that the model called; its arguments are a string, whatever is in it."""

    name: str
    arguments: str


class MadeCall(Struct):
    """A call in a message of the history; without an id, the function's name serves."""

    function: CalledFunction
    type: Literal["function"]
    id: str | None = None


class Message(Struct):
    """One turn; `content` may be missing only if the turn has tool calls.

    `reasoning` is another name of `reasoning_content`. A part of the content has strings, or
    objects of strings, and no other values (nodes.md 4.1.5 to 4.1.7).
    """

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[MadeCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | UnsetType | None = UNSET
    reasoning: str | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        """Apply the alias; raise ValueError for both names and for a part's other values."""
        if self.reasoning is not UNSET:
            if self.reasoning_content is not UNSET:
                raise ValueError("duplicate field `reasoning_content`")
            self.reasoning_content, self.reasoning = self.reasoning, UNSET
        for part in self.content if isinstance(self.content, list) else ():
            for value in part.values():
                texts = value.values() if isinstance(value, dict) else [value]
                if not all(isinstance(text, str) for text in texts):
                    raise ValueError("a part has a value that is no string")


class Function(Struct):
    """A client's description of a function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Struct, tag_field="type", tag="function"):
    """A function of the client."""

    function: Function


class WebSearchTool(Struct, tag_field="type", tag="web_search"):
    """A tool that the node runs itself."""


class CodeInterpreterTool(Struct, tag_field="type", tag="code_interpreter"):
    """A tool that the node runs itself, in a container."""

    container: str | dict[str, Any]


class ShellTool(Struct, tag_field="type", tag="shell"):
    """A tool that the node runs itself, in an environment."""

    environment: dict[str, Any]


class TextFormat(Struct, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(Struct, tag_field="type", tag="json_object"):
    """Any JSON object."""


class NamedSchema(Struct):
    """A JSON schema with its required name."""

    name: str
    schema: Any


class JsonSchemaFormat(Struct, tag_field="type", tag="json_schema"):
    """JSON that follows a schema."""

    json_schema: NamedSchema


Tool = FunctionTool | WebSearchTool | CodeInterpreterTool | ShellTool
ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class Generating(Struct, kw_only=True):
    """The fields that chat completions and completions have in common."""

    model: str = "default"
    max_tokens: Unsigned | UnsetType | None = UNSET
    stream: bool | None = None
    n: Unsigned = 1
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_k: Unsigned | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    truncate_sequence: bool | None = None
    grammar: dict[str, Any] | None = None

    def token_limit(self) -> int | None:
        """Return the maximum number of tokens of the answer, None if only the context limits it.

        Raises RequestRefusedError for a limit of 0.
        """
        limit = None if isinstance(self.max_tokens, UnsetType) else self.max_tokens
        if limit == 0:
            raise RequestRefusedError(500, "max_tokens must be at least 1.")
        return limit

    def stop_strings(self) -> Sequence[str]:
        """Return the strings that end the answer; the answer does not contain them."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else self.stop


class RequestedFile(Struct):
    """A file that the model shall make."""

    name: str
    format: str | None = None
    description: str | None = None


Permission = Literal["auto", "ask", "deny"]


class ChatRequest(Generating, kw_only=True):
    """The body of POST /v1/chat/completions; unknown fields are ignored."""

    messages: list[Message] | str
    max_completion_tokens: Unsigned | UnsetType | None = UNSET
    logprobs: bool = False
    top_logprobs: Unsigned | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    enable_thinking: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    session_id: str | None = None
    files: list[RequestedFile] | None = None
    agent_permission: Permission | None = None
    code_execution_permission: Permission | None = None
    enable_code_execution: bool = False
    enable_shell: bool = False
    max_tool_rounds: Unsigned | None = None

    def __post_init__(self) -> None:
        """Apply the alias of the token limit.

        Raises ValueError if both are given, and for a tool choice or a grammar of no known shape.
        """
        if isinstance(self.tool_choice, dict):
            self.tool_choice = _known_choice(self.tool_choice)
        grammar = self.grammar
        if grammar is not None and (grammar.get("type") not in GRAMMARS or "value" not in grammar):
            raise ValueError("grammar: unknown variant")
        if self.max_completion_tokens is UNSET:
            return
        if self.max_tokens is not UNSET:
            raise ValueError("duplicate field `max_tokens`")
        self.max_tokens, self.max_completion_tokens = self.max_completion_tokens, UNSET

    def is_agentic(self) -> bool:
        """Return whether the node works by itself: with a session, tools, or files to make."""
        return bool(
            self.session_id
            or self.files
            or self.agent_permission
            or self.code_execution_permission
            or self.enable_code_execution
            or self.enable_shell
        )

    def turns(self) -> list[Message]:
        """Return the conversation as messages; a bare string is one user turn."""
        if isinstance(self.messages, str):
            return [Message(role="user", content=self.messages)]
        return self.messages

    def thinking(self) -> bool:
        """Return whether a model that can think shall think.

        Raises RequestRefusedError for an unknown effort, and for one that contradicts
        `enable_thinking`.
        """
        extra = self.chat_template_kwargs or {}
        enabled = self.enable_thinking
        if enabled is None:
            enabled = extra.get("enable_thinking")
        effort = self.reasoning_effort
        if effort is None:
            effort = extra.get("reasoning_effort")
        if effort is None:
            return enabled is not False
        if effort not in REASONING_EFFORTS:
            raise RequestRefusedError(
                500,
                f"invalid reasoning effort `{effort}`; expected one of: "
                f"{', '.join(REASONING_EFFORTS)}",
            )
        thinks = effort not in ("off", "none")
        if enabled is not None and enabled is not thinks:
            shown = effort if thinks else "off"
            raise RequestRefusedError(
                500,
                f"reasoning effort `{shown}` conflicts with enable_thinking={str(enabled).lower()}",
            )
        return thinks


class CompletionRequest(Generating, kw_only=True):
    """The body of POST /v1/completions; the prompt is one string."""

    prompt: str
    echo: bool = False
    suffix: str | None = None
    logprobs: Unsigned | None = None


class EmbeddingRequest(Struct, kw_only=True):
    """The body of POST /v1/embeddings; the input is text or tokens, one or many."""

    input: str | list[Any]
    model: str = "default"
    dimensions: Unsigned | None = None
    encoding_format: Literal["float", "base64"] | None = None
    truncate_sequence: bool | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a list that is neither texts, nor tokens, nor lists of tokens."""
        if not isinstance(self.input, str):
            kinds = {type(item) for item in self.input}
            numbers = all(
                isinstance(token, int)
                for item in self.input
                for token in (item if isinstance(item, list) else [item])
            )
            if kinds - {str} and not (len(kinds) == 1 and numbers):
                raise ValueError("data did not match any variant of untagged enum EmbeddingInput")

    def texts(self) -> list[str]:
        """Return each input as text; tokens become their numbers."""
        if isinstance(self.input, str):
            return [self.input]
        if self.input and isinstance(self.input[0], int):
            return [" ".join(map(str, self.input))]
        return [item if isinstance(item, str) else " ".join(map(str, item)) for item in self.input]


class ModelOperation(Struct):
    """The body of the three routes that operate on a model; the field is called `model_id`."""

    model_id: str


def _known_choice(choice: dict[str, Any]) -> dict[str, Any]:
    """Return a tool choice of a known shape; raise ValueError for any other."""
    kind, name = choice.get("type"), choice.get("name")
    function = choice.get("function")
    if isinstance(function, dict):
        name = function.get("name")
    tools = choice.get("tools")
    match kind:
        case "function" if isinstance(name, str):
            return choice
        case "allowed_tools" if choice.get("mode") in ("auto", "required"):
            if isinstance(tools, list) and all(_is_allowed(tool) for tool in tools):
                return choice
        case _ if kind in HOSTED_TOOLS:
            return choice
    raise ValueError(no_variant("tool_choice", "ToolChoice"))


def _is_allowed(tool: object) -> bool:
    """Return whether a value names a tool in a list of allowed ones."""
    if not isinstance(tool, dict):
        return False
    kind = tool.get("type")
    return kind in HOSTED_TOOLS or (kind == "function" and isinstance(tool.get("name"), str))


def decode(body: bytes, content_type: str | None, into: type[Body]) -> Body:
    """Parse a request body into the route's type.

    Raises BodyRefusedError, with the checks in the web framework's order: 415 for a content type
    that is not JSON, 413 above 50 MiB, 400 for broken JSON, 422 for a wrong or missing field.
    """
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if not (media_type == "application/json" or media_type.endswith("+json")):
        raise BodyRefusedError(415, "Expected request with `Content-Type: application/json`")
    if len(body) > MAX_BODY_BYTES:
        raise BodyRefusedError(413, "Failed to buffer the request body: length limit exceeded")
    try:
        return msgspec.json.decode(body, type=into)
    except msgspec.ValidationError as error:
        _refuse_as_valid_json_or_broken(body, error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _broken(error) from error


def _refuse_as_valid_json_or_broken(body: bytes, error: msgspec.ValidationError) -> NoReturn:
    """Reject a body whose first fault is a wrong type: 422, or 400 if its JSON is broken later."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as broken:
        raise _broken(broken) from broken
    raise BodyRefusedError(
        422, f"Failed to deserialize the JSON body into the target type: {_words(error)}"
    ) from error


def no_variant(field: str, enumeration: str) -> str:
    """Return the framework's words for a value that fits no form of an enumeration."""
    return f"{field}: data did not match any variant of untagged enum {enumeration}"


def _words(error: msgspec.ValidationError) -> str:
    """Return the words for a value of a wrong type, without its cause where the node hides it."""
    words = str(error)
    at = _PLACE.search(words)
    if at is not None and at["field"] in _UNTAGGED:
        place = at["place"] if at["field"] == "tools" else at["field"]
        return no_variant(place, _UNTAGGED[at["field"]])
    return words


_PLACE = re.compile(r" - at `\$\.(?P<place>(?P<field>\w+)(\[\d+\])?)")


def _broken(error: Exception) -> BodyRefusedError:
    return BodyRefusedError(400, f"Failed to parse the request body as JSON: {error}")
