"""JSON decoding and encoding, with readable errors for clients."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from cortexd.dialects.wire.scan import check_counts
from cortexd.errors import BadGateway, BadRequest
from cortexd.fleet.catalogue import DEFAULT

JsonObject = dict[str, Any]

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The errors of ``decode``: for invalid JSON, for a string that is not UTF-8, for deep nesting.

For a string that is not UTF-8, msgspec raises UnicodeDecodeError up to 0.22, DecodeError since.
"""

UNCOUNTED_BYTES: Final = 10_000
"""A body of this size is too short for too many messages, parts or tools."""

MAX_COUNT: Final = 2**53
"""The largest integer of a node that we take: all integers up to it are exact as floats too."""

_LONE_SURROGATE: Final = re.compile(
    rb"(?<!\\)((?:\\\\)*)\\u"
    rb"(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)
_REPLACED: Final = rb"\1\\ufffd"
"""The replacement character, as what decodes bytes with errors writes it."""


def read_object(body: bytes) -> JsonObject:
    """Return a client's JSON object, whatever its content type.

    Half of a surrogate pair becomes U+FFFD: clients that cut a text in the middle of an emoji write
    it, and would repeat it in every later turn. Raises BadRequest, with the
    position of the fault and without the content, and BodyTooLarge as ``check_counts`` does.
    """
    if not body.strip():
        raise BadRequest("the request has no body; a JSON object is expected")
    try:
        value = _decoded(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fault = error if _is_utf8(body) else "it is not UTF-8"
        raise BadRequest(f"the body is not valid JSON: {fault}") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    if not isinstance(value, dict):
        raise BadRequest(f"the body is {type_name(value)}; a JSON object is expected")
    if len(body) > UNCOUNTED_BYTES:
        check_counts(value)
    return value


def _decoded(body: bytes) -> Any:
    try:
        return decode(body)
    except msgspec.DecodeError:
        if not (b"\\ud" in body or b"\\uD" in body):
            raise
    return decode(_LONE_SURROGATE.sub(_REPLACED, body))


def rendered(answer: object) -> bytes:
    """Return a node's answer, or an answer made from it, as JSON. Raises BadGateway."""
    try:
        return encode(answer)
    except RecursionError:  # a block is nested deeper in a message than in its event
        raise BadGateway("the node's answer is nested too deeply", elsewhere=True) from None


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def type_name(value: object) -> str:
    """Return JSON's name for the type of a decoded value, with article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names: dict[type, str] = {
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
    }
    return names.get(type(value), "an object")


def read_model(body: JsonObject) -> str:
    """Return the model's name in a request, ``default`` if it has none. Raises BadRequest."""
    model = body.get("model")
    if model is None:
        return DEFAULT
    if isinstance(model, str) and model:
        return model
    found = "an empty string" if model == "" else type_name(model)
    words = f"'model' must be the id of a model, see GET /v1/models; found {found}"
    raise BadRequest(words, param="model")


def read_flag(body: JsonObject, key: str, within: str = "") -> bool:
    """Return a boolean field, false if it is absent or null.

    ``within`` is the path of ``body`` in the request. Raises BadRequest with the field's path.
    """
    value = body.get(key)
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    path = f"{within}.{key}" if within else key
    raise BadRequest(f"{path!r} must be true or false; found {type_name(value)}", param=path)


def integer(value: object) -> int:
    """Return ``value`` if it is a positive integer, else 0: nodes may omit counts or send null.

    A number beyond MAX_COUNT is no count either.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return value if 0 < value <= MAX_COUNT else 0
