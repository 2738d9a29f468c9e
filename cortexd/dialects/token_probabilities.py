"""The probabilities of tokens, as clients of the OpenAI dialect read them.

A node tells each token as OpenAI does, but the likelier others of its place by their number in the
vocabulary, with their text where OpenAI has their bytes; and in a stream it sends one bare token
instead of a list (upstream notes 4.1).
"""

from __future__ import annotations

from typing import Any

from cortexd.dialects.json_values import JsonObject


def settle_probabilities(choice: JsonObject) -> None:
    """Give the ``logprobs`` of a choice, of a chunk or of a whole answer, the shape of OpenAI's.

    What has that shape, or none that is known, stays as it is.
    """
    told = choice.get("logprobs")
    if not isinstance(told, dict):
        return
    if "content" not in told:
        told = choice["logprobs"] = {"content": [told], "refusal": None}
    for token in _objects(told["content"]):
        for other in _objects(token.get("top_logprobs")):
            number, text = other.get("token"), other.get("bytes")
            if not isinstance(number, int):
                continue
            if isinstance(text, str):
                other["token"], other["bytes"] = text, list(text.encode())
            else:
                other["token"], other["bytes"] = f"token_id:{number}", None


def _objects(values: Any) -> list[JsonObject]:
    return [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []
