"""A Messages request passed on unchanged, for a node that speaks Messages itself.

We change only what the client cannot know: the model's id; ``stream``, which is always set;
thinking in the history that no node has signed, which is left out because a node that signs rejects
it; and lines of the system prompt that change in each request (``dialects.hygiene``). We check only
for errors that would cost a useless load, for images to a model without vision, and for URLs that
the operator does not allow; the node checks the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cortexd.dialects.hygiene.lines import clean_system
from cortexd.dialects.messages_passed.answer import passed_factory
from cortexd.dialects.messages_to_chat.thinking import translate_thinking
from cortexd.dialects.nodes.messages import HEADERS, MESSAGES_PATH
from cortexd.dialects.prefixes.keys import messages_keys
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.asked import Asked
from cortexd.dialects.wire.contents import unseen
from cortexd.dialects.wire.exchange import Translation, has_own_tools
from cortexd.dialects.wire.fields import read_dict, read_integer, read_list, refused
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.profile import Profile, Speaks
from cortexd.dialects.wire.thoughts import is_ours

_LEAST_BUDGET = 1_024
"""The minimum budget of thinking in the Anthropic reference, in tokens."""

_OMITTED_IMAGE = {"type": "text", "text": unseen("").omission("image")}


def pass_on(
    fields: JsonObject, profile: Profile, asked: Asked, model: str, headers: Mapping[str, str]
) -> Translation:
    """Return the request for a node that gets it unchanged; ``model`` is the catalogue's id.

    ``headers`` are the client's headers of the dialect, which replace ours. Raises BadRequest with
    the faulty field.
    """
    approximations = Approximations()
    messages = read_list(fields.get("messages"), "messages")
    if not messages:
        raise refused("messages", "must not be empty")
    signed = _signed(messages)
    upstream = {**fields, "model": model, "stream": True, "messages": signed}
    if signed != messages:
        approximations.note("unsigned_thinking")
        if profile.speaks is Speaks.MESSAGES and _wants_lost_thinking(upstream):
            approximations.note("thinking")
            upstream["thinking"] = {"type": "disabled"}
    limit = read_integer(fields.get("max_tokens"), "max_tokens", 1)
    if profile.max_output is not None and limit > profile.max_output:
        approximations.note("max_tokens")
        upstream["max_tokens"] = profile.max_output
        _lower_budget(upstream, profile.max_output, approximations)
    if not profile.fetches_images:
        _check_sources(messages)
    if not profile.vision:
        for index, message in enumerate(messages):
            _check_sight(message, f"messages[{index}]")
        sighted, upstream["messages"] = upstream["messages"], _less_images(upstream["messages"])
        if sighted != upstream["messages"]:
            approximations.note("tool_result_image")
    given = fields.get("output_config")
    output_config = {} if given is None else read_dict(given, "output_config")
    left_out = clean_system(upstream) if profile.hygiene else ()
    thinking = translate_thinking(fields, output_config, profile, Approximations())
    return Translation(
        path=MESSAGES_PATH,
        body=encode(upstream),
        headers=tuple(headers_for_node(headers).items()),
        streams=True,
        make_responder=passed_factory(asked, thinking=thinking.wish),
        approximations=approximations.words(),
        may_repeat=not has_own_tools(upstream.get("tools")),
        prefixes=messages_keys(upstream),
        left_out=left_out,
    )


def _lower_budget(upstream: JsonObject, limit: int, approximations: Approximations) -> None:
    """Lower the budget of thinking below ``limit``, that of the answer; disable it if too small."""
    thinking = upstream.get("thinking")
    if not isinstance(thinking, dict):
        return
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or budget < limit:
        return
    approximations.note("thinking_budget")
    lowered = {**thinking, "budget_tokens": limit - 1}
    upstream["thinking"] = lowered if limit > _LEAST_BUDGET else {"type": "disabled"}


def count_body(fields: JsonObject, model: str) -> bytes:
    """Return the body of a request to a node to count tokens."""
    return encode({**fields, "model": model, "messages": _signed(fields["messages"])})


def headers_for_node(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of the dialect for a node; the client's replace ours."""
    return {**dict(HEADERS), **headers}


def _signed(messages: list[Any]) -> list[Any]:
    """Return the messages without unsigned thinking, and without messages that have only that."""
    less_ours = ((message, _less_our_thinking(message)) for message in messages)
    return [less for message, less in less_ours if less is not None or message is None]


def _less_our_thinking(message: Any) -> Any:
    """Return a message without our own thinking, ``None`` if it has no other content."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    kept = [block for block in content if not _is_our_thinking(block)]
    if len(kept) == len(content):
        return message
    return {**message, "content": kept} if kept else None


def _is_our_thinking(block: object) -> bool:
    """Return whether no node has signed a thinking; clients replay it (translation.md 1.2.9)."""
    if not isinstance(block, dict) or block.get("type") != "thinking":
        return False
    return is_ours(block.get("signature"))


def _wants_lost_thinking(fields: JsonObject) -> bool:
    """Return whether the last answer calls tools without thinking, and thinking has a budget.

    The Anthropic reference requires such an answer to begin with its thinking, unless the request
    disables thinking.
    """
    thinking = fields.get("thinking")
    if not isinstance(thinking, dict) or thinking.get("type") != "enabled":
        return False
    kinds: list[object] = []
    for message in fields["messages"]:
        if isinstance(message, dict) and message.get("role") == "assistant":
            kinds = [block.get("type") for _, block in _blocks(message, "")]
    return "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking")


def _check_sight(message: object, path: str) -> None:
    """Raise BadRequest for an image outside tool results, which the model cannot see."""
    if _has_results(message):
        return
    for block_path, block in _blocks(message, path):
        if block.get("type") == "image":
            raise unseen(block_path)


def _less_images(messages: list[Any]) -> list[Any]:
    """Return the messages with texts instead of images in tool results; see Unshowable."""
    return [
        _with_content(message, _told_of) if _has_results(message) else message
        for message in messages
    ]


def _has_results(message: object) -> bool:
    return any(_is(block, "tool_result") for _, block in _blocks(message, ""))


def _told_of(block: Any) -> Any:
    """Return a block without images: a tool result, or another block of its turn."""
    return _with_content(block, _in_words) if _is(block, "tool_result") else _in_words(block)


def _in_words(block: Any) -> Any:
    return _OMITTED_IMAGE if _is(block, "image") else block


def _is(block: object, kind: str) -> bool:
    return isinstance(block, dict) and block.get("type") == kind


def _with_content(parent: Any, change: Callable[[Any], Any]) -> Any:
    """Return a message or a block in which ``change`` was applied to each block of its content."""
    content = parent.get("content") if isinstance(parent, dict) else None
    if not isinstance(content, list):
        return parent
    return {**parent, "content": [change(block) for block in content]}


def _check_sources(messages: list[Any]) -> None:
    """Raise BadRequest for an image or a document that the node must fetch."""
    waiting = [(f"messages[{index}]", message) for index, message in enumerate(messages)]
    while waiting:
        parent_path, parent = waiting.pop()
        for path, block in _blocks(parent, parent_path):
            source = block.get("source")
            if _is(source, "url"):
                words = "must be base64: the operator does not allow nodes to fetch files"
                raise refused(f"{path}.source", words)
            waiting += [(path, block), (f"{path}.source", source)]


def _blocks(parent: object, path: str) -> Iterator[tuple[str, JsonObject]]:
    """Yield the path and the block for each one in the content of a message or a result."""
    content = parent.get("content") if isinstance(parent, dict) else None
    for index, block in enumerate(content if isinstance(content, list) else ()):
        if isinstance(block, dict):
            yield f"{path}.content[{index}]", block
