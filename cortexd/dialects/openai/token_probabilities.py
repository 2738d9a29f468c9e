"""Token probabilities, converted from a node's format to OpenAI's.

A node has each token in OpenAI's format, but the alternatives by their number in the vocabulary,
with their text in the field for their bytes. In a stream it sends one token instead of a list
(nodes.md 4.1). It does the same for text completions, for which OpenAI has a different format:
lists of texts, probabilities, alternatives and offsets.
"""

from __future__ import annotations

from typing import Any

from cortexd.dialects.wire.json_values import JsonObject


def settle_probabilities(choice: JsonObject) -> None:
    """Convert the ``logprobs`` of a choice, in a chunk or a whole answer, to OpenAI's format.

    Data in that format, or in an unknown format, is unchanged.
    """
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return
    if "token" in logprobs:
        logprobs = choice["logprobs"] = {"content": [logprobs], "refusal": None}
    for token in _objects(logprobs.get("content")):
        for other in _objects(token.get("top_logprobs")):
            number, text = other.get("token"), other.get("bytes")
            if not isinstance(number, int):
                continue
            if isinstance(text, str):
                other["token"], other["bytes"] = text, list(text.encode())
            else:
                other["token"], other["bytes"] = f"token_id:{number}", None


def as_text_probabilities(choice: JsonObject, begins_at: int) -> None:
    """Convert the ``logprobs`` of a text completion's choice to OpenAI's format.

    ``begins_at`` is the offset of its text in the whole answer, in characters. Data in that format,
    or in an unknown format, is unchanged.
    """
    settle_probabilities(choice)
    logprobs, text = choice.get("logprobs"), choice.get("text")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return
    tokens = [token for token in _objects(content) if isinstance(token.get("token"), str)]
    words = [token["token"] for token in tokens]
    # A node may not report the tokens of an echoed prompt.
    length = len(text) if isinstance(text, str) else 0
    offsets = [begins_at + max(0, length - len("".join(words)))]
    for word in words[:-1]:
        offsets.append(offsets[-1] + len(word))
    choice["logprobs"] = {
        "tokens": words,
        "token_logprobs": [token.get("logprob") for token in tokens],
        "top_logprobs": [
            {
                other["token"]: other.get("logprob")
                for other in _objects(token.get("top_logprobs"))
                if isinstance(other.get("token"), str)
            }
            for token in tokens
        ],
        "text_offset": offsets[: len(words)],
    }


def _objects(values: Any) -> list[JsonObject]:
    return [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []
