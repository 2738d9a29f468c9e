"""Limits of a chat or a completion that mean none, as other servers write them.

Clients of llama.cpp and vLLM send ``-1`` for no limit, in ``max_tokens`` and in ``top_k``. A node
rejects a negative number with the whole body (nodes.md 4.1.7).
"""

from __future__ import annotations

from typing import Final

from cortexd.dialects.wire.json_values import JsonObject

_LIMITS: Final = ("max_tokens", "max_completion_tokens", "top_k")


def without_no_limits(fields: JsonObject) -> JsonObject:
    """Return the fields without limits below 0, which mean that there is none."""
    unlimited = [name for name in _LIMITS if _is_negative(fields.get(name))]
    return {name: value for name, value in fields.items() if name not in unlimited}


def _is_negative(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0
