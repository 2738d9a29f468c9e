"""The end of a Messages answer: its reason, and its token counts (translation.md 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from cortexd.dialects.wire.exchange import Usage
from cortexd.dialects.wire.json_values import JsonObject, integer


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """The tokens of one answer, in the dialect's counts, which count each token once.

    ``input`` counts the tokens that were neither read from a cache nor written to one. ``thinking``
    is ``None`` if the upstream does not report it.
    """

    input: int
    cache_creation: int
    cache_read: int
    output: int
    thinking: int | None = None

    @property
    def prompt(self) -> int:
        """All tokens of the prompt, cached or not."""
        return self.input + self.cache_read + self.cache_creation

    def rendered(self) -> JsonObject:
        """Return the dialect's ``usage``, always with all four counts."""
        usage: JsonObject = {
            "input_tokens": self.input,
            "cache_creation_input_tokens": self.cache_creation,
            "cache_read_input_tokens": self.cache_read,
            "output_tokens": self.output,
        }
        if self.thinking is not None:
            usage["output_tokens_details"] = {"thinking_tokens": self.thinking}
        return usage


def read_counts(usage: JsonObject) -> TokenCounts:
    """Return the counts in an upstream's ``usage``; a missing or invalid count is 0.

    In the upstream's counts, the prompt's tokens include the cached ones.
    """
    prompt = _details(usage, "prompt_tokens_details")
    completion = _details(usage, "completion_tokens_details")
    cached = integer(prompt.get("cached_tokens"))
    written = integer(prompt.get("cache_write_tokens"))
    has_thinking = completion.get("reasoning_tokens") is not None
    return TokenCounts(
        input=max(0, integer(usage.get("prompt_tokens")) - cached - written),
        cache_creation=written,
        cache_read=cached,
        output=integer(usage.get("completion_tokens")),
        thinking=integer(completion["reasoning_tokens"]) if has_thinking else None,
    )


def cached_tokens(usage: JsonObject, field: str) -> int | None:
    """Return how many of a prompt's tokens were cached, of the details in a field of its usage.

    ``None`` where the node does not say; its word for none is ``null``, of either (nodes.md 7.10).
    """
    details = usage.get(field)
    if details is None:
        return 0 if field in usage else None
    if not isinstance(details, dict) or "cached_tokens" not in details:
        return None
    return integer(details["cached_tokens"])


def _details(usage: JsonObject, field: str) -> JsonObject:
    details = usage.get(field)
    return details if isinstance(details, dict) else {}


def ending(
    finish_reason: str | None,
    usage: Usage,
    *,
    has_calls: bool,
    stop_sequence: str | None,
    context_window: int | None,
) -> JsonObject:
    """Return the dialect's fields for the end of an answer.

    ``finish_reason`` is the upstream's, ``None`` if we did not wait for it. ``stop_sequence`` is
    the client's sequence that stopped the answer. ``context_window`` is in tokens: nodes report
    ``length`` both for it and for the client's own limit.
    """
    reason = "tool_use" if has_calls else "end_turn"
    if stop_sequence is not None:
        reason = "stop_sequence"
    elif finish_reason == "length":
        reason = "max_tokens"
        tokens = usage.prompt_tokens + usage.completion_tokens
        if context_window is not None and not usage.estimated and tokens >= context_window:
            reason = "model_context_window_exceeded"
    elif finish_reason == "content_filter":
        reason = "refusal"
    fields: JsonObject = {"stop_reason": reason, "stop_sequence": stop_sequence}
    if reason == "refusal":
        fields["stop_details"] = {"type": "refusal", "category": None, "explanation": None}
    return fields
