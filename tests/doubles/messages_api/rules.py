"""The refusals of the full Messages API: an invalid request gets 400 with the faulty field.

The rules check only likely mistakes of clients, and accept unknown fields.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from tests.doubles.messages_api.requests import (
    Block,
    MessagesRequest,
    OfferedTool,
    Turn,
    is_base64,
    refused,
)
from tests.doubles.messages_api.shapes import signature_of

LEAST_THINKING_TOKENS: Final = 1024
# Claude Code has named `mid-conversation-system-` and, later, `mid-conversation-tool-changes-` with
# its system turns.
SYSTEM_TURNS_BETA: Final = "mid-conversation-"

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}", re.ASCII)
_CALL_ID = re.compile(r"[a-zA-Z0-9_-]+", re.ASCII)
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_USER_BLOCKS = {"text", "image", "document", "search_result", "tool_result"}
_ASSISTANT_BLOCKS = {
    "text",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "server_tool_use",
    "web_search_tool_result",
    "code_execution_tool_result",
}
_BLOCKS = {"user": _USER_BLOCKS, "assistant": _ASSISTANT_BLOCKS, "system": {"text"}}


def checked(
    request: MessagesRequest, *, betas: str = "", generates: bool = True
) -> MessagesRequest:
    """Parse a request, and merge consecutive turns of one role.

    `betas` is the header with the features that the client wants beyond the API's version. A
    request without generation needs no `max_tokens`. Raises RequestRefusedError for a request that
    the API refuses.
    """
    if generates and request.max_tokens is None:
        raise refused("max_tokens: Field required")
    if generates and request.max_tokens == 0:
        raise refused("max_tokens: Input should be greater than or equal to 1")
    _check_numbers(request)
    _check_tools(request)
    _check_thinking(request)
    if isinstance(request.system, list):
        _check_texts("system", request.system)
    if not request.messages:
        raise refused("messages: at least one message is required")
    for place, turn in enumerate(request.messages):
        _check_turn(f"messages.{place}", turn, SYSTEM_TURNS_BETA in betas)
        if not turn.content and (turn.role != "assistant" or turn is not request.messages[-1]):
            raise refused(
                f"messages.{place}: all messages must have non-empty content except for the "
                "optional final assistant message"
            )
    if request.messages[0].role != "user":
        raise refused('messages: first message must use the "user" role')
    turns = _merged(request.messages)
    _check_pairs(turns)
    if request.thinking is not None and request.thinking.type == "enabled":
        _check_thoughts_before_calls(turns)
    return replace(request, messages=turns)


def _check_numbers(request: MessagesRequest) -> None:
    for name, number in (("temperature", request.temperature), ("top_p", request.top_p)):
        if number is not None and not 0 <= number <= 1:
            raise refused(f"{name}: range: 0..1")
    if any(not stop.strip() for stop in request.stop_sequences or ()):
        raise refused("stop_sequences: each stop sequence must contain non-whitespace")


def own_tools(request: MessagesRequest) -> list[OfferedTool]:
    """Return the tools that the client runs itself; the server runs the others."""
    return [tool for tool in request.tools or () if tool.type in (None, "custom")]


def _check_tools(request: MessagesRequest) -> None:
    names = [tool.name for tool in request.tools or ()]
    for place, tool in enumerate(own_tools(request)):
        where = f"tools.{place}.custom"
        if tool.name is None or not _TOOL_NAME.fullmatch(tool.name):
            raise refused(f"{where}.name: String should match pattern '^{_TOOL_NAME.pattern}$'")
        if not isinstance(tool.input_schema, dict):
            raise refused(f"{where}.input_schema: Field required")
        if tool.input_schema.get("type") != "object":
            raise refused(f"{where}.input_schema.type: Input should be 'object'")
    if len(set(names)) < len(names):
        raise refused("tools: Tool names must be unique.")
    choice = request.tool_choice
    if choice is None:
        return
    if choice.type not in ("auto", "any", "tool", "none"):
        raise refused(f"tool_choice: Input tag '{choice.type}' does not match any expected tag")
    if not names and choice.type != "none":
        raise refused("tool_choice: may only be specified while providing tools")
    if choice.type == "tool" and choice.name not in names:
        raise refused(f"tool_choice.tool.name: Tool '{choice.name}' not found in provided tools")


def _check_thinking(request: MessagesRequest) -> None:
    if not request.wants_thinking() or request.thinking is None:
        return
    if request.temperature not in (None, 1):
        raise refused("`temperature` may only be set to 1 when thinking is enabled")
    if request.tool_choice is not None and request.tool_choice.type in ("any", "tool"):
        raise refused("Thinking may not be enabled when tool_choice forces tool use.")
    if request.thinking.type != "enabled":
        return
    budget = request.thinking.budget_tokens
    if budget is None:
        raise refused("thinking.enabled.budget_tokens: Field required")
    if budget < LEAST_THINKING_TOKENS:
        raise refused(
            "thinking.enabled.budget_tokens: Input should be greater than or equal to "
            f"{LEAST_THINKING_TOKENS}"
        )
    if request.max_tokens is not None and budget >= request.max_tokens:
        raise refused("`max_tokens` must be greater than `thinking.budget_tokens`.")


def _check_turn(where: str, turn: Turn, takes_system: bool) -> None:
    if turn.role not in _BLOCKS or (turn.role == "system" and not takes_system):
        raise refused(
            f'messages: Unexpected role "{turn.role}". The Messages API accepts a top-level '
            '`system` parameter, not "system" as an input message role.'
        )
    if isinstance(turn.content, str):
        return
    _check_texts("messages", turn.content)
    for place, block in enumerate(turn.content):
        _check_block(f"{where}.content.{place}", turn.role, block)


def _check_texts(where: str, blocks: Sequence[Block]) -> None:
    for block in blocks:
        if block.type == "text" and not block.text:
            raise refused(f"{where}: text content blocks must be non-empty")
        if block.type == "text" and not (block.text or "").strip():
            raise refused(f"{where}: text content blocks must contain non-whitespace text")


def _check_block(where: str, role: str, block: Block) -> None:
    if block.type not in _BLOCKS[role]:
        raise refused(
            f"{where}.type: Input tag '{block.type}' found using 'type' does not match any of the "
            f"expected tags for {role}: {', '.join(sorted(_BLOCKS[role]))}"
        )
    match block.type:
        case "image":
            _check_image(where, block)
        case "tool_use":
            _check_call_id(f"{where}.tool_use.id", block.id)
            if not isinstance(block.input, dict):
                raise refused(f"{where}.tool_use.input: Input should be a valid dictionary")
        case "tool_result":
            _check_call_id(f"{where}.tool_result.tool_use_id", block.tool_use_id)
            items = block.content if isinstance(block.content, list) else []
            if {"type": "text", "text": ""} in items:
                raise refused("messages: text content blocks must be non-empty")
        case "thinking" if block.signature != signature_of(block.thinking or ""):
            raise refused(f"{where}: Invalid `signature` in `thinking` block")


def _check_image(where: str, block: Block) -> None:
    source = block.source
    if source is None:
        raise refused(f"{where}.image.source: Field required")
    if source.type == "base64":
        if source.media_type not in _IMAGE_TYPES:
            kinds = ", ".join(f"'{kind}'" for kind in _IMAGE_TYPES)
            raise refused(f"{where}.image.source.base64.media_type: Input should be {kinds}")
        if not source.data or not is_base64(source.data):
            raise refused(f"{where}.image.source.base64: invalid base64 data")
    elif source.type != "url" or not (source.url or "").startswith(("http://", "https://")):
        raise refused(f"{where}.image.source: Only HTTP(S) URLs and base64 are supported.")


def _check_call_id(where: str, call_id: str | None) -> None:
    if call_id is None or not _CALL_ID.fullmatch(call_id):
        raise refused(f"{where}: String should match pattern '^{_CALL_ID.pattern}$'")


def _merged(turns: Sequence[Turn]) -> list[Turn]:
    """Give the turns so that no two neighbours are of one role."""
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            merged[-1] = Turn(turn.role, [*merged[-1].blocks(), *turn.blocks()])
        else:
            merged.append(turn)
    return merged


def _check_pairs(turns: Sequence[Turn]) -> None:
    """See that each call of a tool has its result in the turn after it, before anything else."""
    calls: list[str | None] = []
    for place, turn in enumerate(turns):
        blocks = turn.blocks()
        results = list(_leading_results(blocks))
        for number, block in enumerate(blocks):
            if block.type == "tool_result" and block.tool_use_id not in calls:
                raise refused(
                    f"messages.{place}.content.{number}: unexpected `tool_use_id` found in "
                    f"`tool_result` blocks: {block.tool_use_id}. Each `tool_result` block must "
                    "have a corresponding `tool_use` block in the previous message."
                )
        missing = [call for call in calls if call not in results]
        if missing:
            raise refused(
                f"messages.{place - 1}: `tool_use` ids were found without `tool_result` blocks "
                f"immediately after: {', '.join(map(str, missing))}. Each `tool_use` block must "
                "have a corresponding `tool_result` block in the next message."
            )
        calls = [block.id for block in blocks if block.type == "tool_use"]
        if len(set(calls)) < len(calls):
            raise refused(f"messages.{place}: `tool_use` ids must be unique")
    if calls:
        raise refused(
            f"messages.{len(turns) - 1}: `tool_use` ids were found without `tool_result` blocks "
            f"immediately after: {', '.join(map(str, calls))}."
        )


def _leading_results(blocks: Sequence[Block]) -> Iterator[str | None]:
    for block in blocks:
        if block.type != "tool_result":
            return
        yield block.tool_use_id


def _check_thoughts_before_calls(turns: Sequence[Turn]) -> None:
    """See that a turn whose calls are being answered begins with what the model thought."""
    answered = [turn for turn in turns if turn.role == "assistant"][-1:]
    for turn in answered:
        kinds = [block.type for block in turn.blocks()]
        if "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking"):
            raise refused(
                "messages: Expected `thinking` or `redacted_thinking`, but found "
                f"`{kinds[0]}`. When `thinking` is enabled, a final `assistant` message must "
                "start with a thinking block."
            )
