"""JSON in and out, with errors fit for a client."""

from __future__ import annotations

from typing import Any

import msgspec

from cortexd.errors import BadGateway, BadRequest

JsonObject = dict[str, Any]

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What ``decode`` raises: for a wrong form, for a string that is not UTF-8, for too deep a nest.

For a string that is not UTF-8, msgspec raises UnicodeDecodeError up to 0.22, DecodeError since.
"""


def read_object(body: bytes) -> JsonObject:
    """Return the JSON object a client sent, whatever content type it named.

    Raises BadRequest, with the place of the fault and nothing of the content.
    """
    if not body.strip():
        raise BadRequest("the request has no body; a JSON object is expected")
    try:
        value = decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fault = error if _is_utf8(body) else "it is not UTF-8"
        raise BadRequest(f"the body is not valid JSON: {fault}") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    if not isinstance(value, dict):
        raise BadRequest(f"the body is {type_name(value)}; a JSON object is expected")
    return value


def rendered(answer: object) -> bytes:
    """Return what a node said, or an answer made of it, as JSON. Raises BadGateway."""
    try:
        return encode(answer)
    except RecursionError:  # in a message a block is deeper than it was in its event
        raise BadGateway("the node's answer is nested too deeply", elsewhere=True) from None


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def type_name(value: object) -> str:
    """Return JSON's own name for the type of a decoded value, with its article."""
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
    """Return the model a request names. Raises BadRequest when it names none."""
    model = body.get("model")
    if isinstance(model, str) and model:
        return model
    found = "an empty string" if model == "" else type_name(model)
    words = "'model' must be the id of a model, see GET /v1/models"
    raise BadRequest(words if model is None else f"{words}; found {found}", param="model")


def read_flag(body: JsonObject, key: str, within: str = "") -> bool:
    """Return a boolean field, false where it is absent or null.

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
    """Return ``value`` where it is a count, else 0: nodes leave counts out or send null."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
