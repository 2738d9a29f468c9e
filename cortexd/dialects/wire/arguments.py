"""The arguments of a tool call: in a chat, the JSON text of an object."""

from __future__ import annotations

from typing import Final

import msgspec

from cortexd.dialects.wire.json_values import NOT_JSON, encode

RAW_ARGUMENTS: Final = "_raw_arguments"
"""The key that keeps arguments which are no JSON object (translation.md 3 and 4.1)."""

_read_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def arguments_text(given: object) -> tuple[str, bool]:
    """Return arguments as the JSON text of an object, and whether they were one.

    ``None`` and blank text are ``{}``. A text that is an object's JSON stays as it is, and an
    object becomes its JSON. All else is kept as text under RAW_ARGUMENTS.
    """
    if isinstance(given, str):
        if not given or given.isspace():
            return "{}", True
        try:
            _read_object(given)
        except NOT_JSON:
            return encode({RAW_ARGUMENTS: given}).decode(), False
        return given, True
    if given is None:
        return "{}", True
    text = encode(given).decode()
    return (text, True) if isinstance(given, dict) else arguments_text(text)
