"""The request bodies that a mistral.rs node accepts, and its errors for the others.

There are two layers of errors. The web framework rejects a body that does not parse into the
route's type, in plain text. The handler rejects a body that parses but makes no sense, with a JSON
object that has only a `message`, and status 500 or 422.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

MAX_BODY_BYTES = 50 * 1024 * 1024
REASONING_EFFORTS = ("off", "none", "low", "medium", "high", "xhigh")

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


class Message(Struct):
    """One turn; `content` may be missing only if the turn has tool calls."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


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
    """A tool that the node runs itself."""


class ShellTool(Struct, tag_field="type", tag="shell"):
    """A tool that the node runs itself."""


class TextFormat(Struct, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(Struct, tag_field="type", tag="json_object"):
    """Any JSON object."""


class NamedSchema(Struct):
    """A JSON schema with its required name."""

    name: str
    schema: dict[str, Any]


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
            raise RequestRefusedError(500, "`max_tokens` must be at least 1.")
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
        """Apply the alias of the token limit; raise ValueError if both are given."""
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
                f"Invalid reasoning_effort `{effort}`, expected one of: "
                f"{', '.join(REASONING_EFFORTS)}.",
            )
        thinks = effort not in ("off", "none")
        if enabled is not None and enabled is not thinks:
            raise RequestRefusedError(
                500, f"`enable_thinking` contradicts `reasoning_effort` `{effort}`."
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
        422, f"Failed to deserialize the JSON body into the target type: {error}"
    ) from error


def _broken(error: Exception) -> BodyRefusedError:
    return BodyRefusedError(400, f"Failed to parse the request body as JSON: {error}")
