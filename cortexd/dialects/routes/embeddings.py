"""OpenAI embeddings. Nodes answer with numbers; the OpenAI SDK requests base64 by default."""

from __future__ import annotations

import array
import base64
import sys
from functools import partial

from cortexd.dialects.nodes.answers import unknown_shape
from cortexd.dialects.nodes.chat_stream import WholeAnswer
from cortexd.dialects.openai.unstreamed import UnstreamedRequest
from cortexd.dialects.wire.json_values import (
    JsonObject,
    read_model,
    read_object,
    type_name,
)
from cortexd.errors import BadRequest

ROUTE = "/v1/embeddings"


def read_request(body: bytes) -> UnstreamedRequest:
    """Return the request in ``body``. Raises BadRequest with the faulty field."""
    fields = read_object(body)
    model = read_model(fields)
    upstream = {key: value for key, value in fields.items() if value is not None}
    if not isinstance(upstream.get("input"), (str, list)):
        raise BadRequest(
            f"'input' must be a string or an array; found {type_name(fields.get('input'))}",
            param="input",
        )
    encoding = upstream.pop("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise BadRequest('\'encoding_format\' must be "float" or "base64"', param="encoding_format")
    return UnstreamedRequest(
        route=ROUTE,
        model=model,
        body=upstream,
        responder_for=partial(_responder, as_base64=encoding == "base64"),
    )


def _responder(model: str, *, as_base64: bool) -> WholeAnswer:
    def amend(answer: JsonObject) -> None:
        answer["model"] = model
        if as_base64:
            _encode_vectors(answer)

    return WholeAnswer(amend)


def _encode_vectors(answer: JsonObject) -> None:
    """Replace each vector by base64 of its little-endian 32-bit floats, as in OpenAI's API."""
    try:
        for item in answer["data"]:
            if not isinstance(item["embedding"], str):  # otherwise the node has encoded it
                item["embedding"] = _base64(item["embedding"])
    except (KeyError, TypeError, OverflowError):
        raise unknown_shape("data") from None


def _base64(numbers: list[float]) -> str:
    if not isinstance(numbers, list):
        raise TypeError
    vector = array.array("f", numbers)
    if sys.byteorder == "big":
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode("ascii")
