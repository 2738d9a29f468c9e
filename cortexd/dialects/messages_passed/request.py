"""A Messages request passed on as it is, for a node that takes Messages itself.

Only what the client cannot know is changed: the model's id, that the node is asked to stream, and
that thinking which no node has signed is left out of the history: one that signs refuses it.
What is looked at is what would cost a load for nothing, what the model is known not to see, and
what the operator does not allow; the rest is the node's to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cortexd.dialects.messages_passed.answer import passed_factory
from cortexd.dialects.messages_to_chat.thinking import translate_thinking
from cortexd.dialects.nodes.messages import HEADERS, MESSAGES_PATH
from cortexd.dialects.wire.anthropic_events import SIGNATURE
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.asked import Asked
from cortexd.dialects.wire.contents import unseen
from cortexd.dialects.wire.exchange import Translation
from cortexd.dialects.wire.fields import read_dict, read_integer, read_list, refused
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.profile import Profile, Speaks

_LEAST_BUDGET = 1_024
"""What the Anthropic reference wants the thinking to have, in tokens."""

_OMITTED_IMAGE = {"type": "text", "text": unseen("").omission("image")}


def pass_on(
    fields: JsonObject, profile: Profile, asked: Asked, model: str, headers: Mapping[str, str]
) -> Translation:
    """Return the request for a node that takes it as it is; ``model`` is the catalogue's id.

    ``headers`` are the client's about its dialect: they go before ours. Raises BadRequest naming
    the field at fault.
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
    thinking = translate_thinking(fields, output_config, profile, Approximations())
    return Translation(
        path=MESSAGES_PATH,
        body=encode(upstream),
        headers=tuple(headers_for_node(headers).items()),
        streams=True,
        make_responder=passed_factory(asked, thinking=thinking.wish),
        approximations=approximations.words(),
    )


def _lower_budget(upstream: JsonObject, limit: int, approximations: Approximations) -> None:
    """Leave the thinking less than ``limit``, which the answer has; too little for any is none."""
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
    """Return the body by which a node is asked to count a request's tokens."""
    return encode({**fields, "model": model, "messages": _signed(fields["messages"])})


def headers_for_node(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers about the dialect for a node: the client's own go before ours."""
    return {**dict(HEADERS), **headers}


def _signed(messages: list[Any]) -> list[Any]:
    """Return the messages without thinking that no node has signed, and those of nothing else."""
    less_ours = ((message, _less_our_thinking(message)) for message in messages)
    return [less for message, less in less_ours if less is not None or message is None]


def _less_our_thinking(message: Any) -> Any:
    """Return a message without thinking of ours, ``None`` where nothing else was in it."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    kept = [block for block in content if not _is_our_thinking(block)]
    if len(kept) == len(content):
        return message
    return {**message, "content": kept} if kept else None


def _is_our_thinking(block: object) -> bool:
    """Whether thinking is signed by us, or unsigned; clients replay both (translation.md 1.2.9)."""
    if not isinstance(block, dict) or block.get("type") != "thinking":
        return False
    return block.get("signature") in (None, "", SIGNATURE)


def _wants_lost_thinking(fields: JsonObject) -> bool:
    """Whether the last answer calls tools without thinking before it, and thinking has a budget.

    The Anthropic reference has such an answer begin with its thinking, and takes it without where
    the request asks for no more.
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
    """Raise BadRequest for an image that is no tool's: it cannot be put before the model."""
    if _has_results(message):
        return
    for block_path, block in _blocks(message, path):
        if block.get("type") == "image":
            raise unseen(block_path)


def _less_images(messages: list[Any]) -> list[Any]:
    """Return the messages with words instead of the images that tools brought; see Unshowable."""
    return [
        _with_content(message, _told_of) if _has_results(message) else message
        for message in messages
    ]


def _has_results(message: object) -> bool:
    return any(_is(block, "tool_result") for _, block in _blocks(message, ""))


def _told_of(block: Any) -> Any:
    """Return a result without its images, and any other block of its turn unless it is one."""
    return _with_content(block, _in_words) if _is(block, "tool_result") else _in_words(block)


def _in_words(block: Any) -> Any:
    return _OMITTED_IMAGE if _is(block, "image") else block


def _is(block: object, kind: str) -> bool:
    return isinstance(block, dict) and block.get("type") == kind


def _with_content(parent: Any, change: Callable[[Any], Any]) -> Any:
    """Return a message or a block with each block of its content changed."""
    content = parent.get("content") if isinstance(parent, dict) else None
    if not isinstance(content, list):
        return parent
    return {**parent, "content": [change(block) for block in content]}


def _check_sources(messages: list[Any]) -> None:
    """Raise BadRequest for an image or a document that a node would have to fetch."""
    waiting = [(f"messages[{index}]", message) for index, message in enumerate(messages)]
    while waiting:
        parent_path, parent = waiting.pop()
        for path, block in _blocks(parent, parent_path):
            source = block.get("source")
            if _is(source, "url"):
                words = "must be base64: the operator does not let nodes fetch files"
                raise refused(f"{path}.source", words)
            waiting += [(path, block), (f"{path}.source", source)]


def _blocks(parent: object, path: str) -> Iterator[tuple[str, JsonObject]]:
    """Yield the path and the block for each one in the content of a message or a result."""
    content = parent.get("content") if isinstance(parent, dict) else None
    for index, block in enumerate(content if isinstance(content, list) else ()):
        if isinstance(block, dict):
            yield f"{path}.content[{index}]", block
