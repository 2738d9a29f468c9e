"""The probabilities of tokens, as clients of the OpenAI dialect read them.

A node tells each token as OpenAI does, but the likelier others of its place by their number in the
vocabulary, with their text where OpenAI has their bytes; and in a stream it sends one bare token
instead of a list (nodes.md 4.1). It does the same for text completions, for which OpenAI has a
shape of its own: a list for each of text, probability, likelier others and place.
"""

from __future__ import annotations

from typing import Any

from cortexd.dialects.wire.json_values import JsonObject


def settle_probabilities(choice: JsonObject) -> None:
    """Give the ``logprobs`` of a choice, of a chunk or of a whole answer, the shape of OpenAI's.

    What has that shape, or none that is known, stays as it is.
    """
    told = choice.get("logprobs")
    if not isinstance(told, dict):
        return
    if "token" in told:
        told = choice["logprobs"] = {"content": [told], "refusal": None}
    for token in _objects(told.get("content")):
        for other in _objects(token.get("top_logprobs")):
            number, text = other.get("token"), other.get("bytes")
            if not isinstance(number, int):
                continue
            if isinstance(text, str):
                other["token"], other["bytes"] = text, list(text.encode())
            else:
                other["token"], other["bytes"] = f"token_id:{number}", None


def as_text_probabilities(choice: JsonObject, begins_at: int) -> None:
    """Give the ``logprobs`` of a choice of a text completion the shape of OpenAI's.

    ``begins_at`` is where its text begins in that of the whole answer, in characters. What has that
    shape, or none that is known, stays as it is.
    """
    settle_probabilities(choice)
    told, text = choice.get("logprobs"), choice.get("text")
    content = told.get("content") if isinstance(told, dict) else None
    if not isinstance(content, list):
        return
    tokens = [token for token in _objects(content) if isinstance(token.get("token"), str)]
    words = [token["token"] for token in tokens]
    # Of an echo of the prompt a node may not tell the tokens.
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
