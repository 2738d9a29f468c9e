"""Fields of a chat that OpenAI's responses lack, and that nodes take in a chat.

Clients of local models send them with responses too. A node rejects the whole body for a value of
a wrong type, so that they are checked here, where the error can name the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cortexd.dialects.openai.limits import without_no_limits
from cortexd.dialects.wire.fields import read_dict, read_integer, read_string, refused
from cortexd.dialects.wire.json_values import JsonObject, read_flag, type_name


def _number(value: object, name: str) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise refused(name, f"must be a number; found {type_name(value)}")


def _unsigned(value: object, name: str) -> None:
    read_integer(value, name, 0)


def _flag(value: object, name: str) -> None:
    read_flag({name: value}, name)


def _stop(value: object, name: str) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise refused(name, "must be a string or an array of strings")


def _biases(value: object, name: str) -> None:
    for token, bias in read_dict(value, name).items():
        _number(bias, f"{name}.{token[:20]}")


def _typed(value: object, name: str) -> None:
    read_string(read_dict(value, name).get("type"), f"{name}.type")


_CHECKS: Final[dict[str, Callable[[object, str], None]]] = {
    "stop": _stop,
    "seed": _unsigned,
    "top_k": _unsigned,
    "min_p": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "repetition_penalty": _number,
    "logit_bias": _biases,
    "grammar": _typed,
    "enable_thinking": _flag,
    "response_format": _typed,
}
EXTENSIONS: Final = frozenset(_CHECKS)


def translate_extensions(fields: JsonObject) -> JsonObject:
    """Return these fields of a request, for a chat. Raises BadRequest with the faulty field."""
    given = {name: fields[name] for name in _CHECKS if fields.get(name) is not None}
    taken = without_no_limits(given)
    for name, value in taken.items():
        _CHECKS[name](value, name)
    return taken
