"""OpenAI embeddings. The node answers with numbers; the OpenAI SDK asks for base64 by default."""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from cortexd.dialects.exchange import ONLY_MISTRALRS, Exchange, Responder, translate_by_model
from cortexd.dialects.json_values import (
    JsonObject,
    encode,
    read_model,
    read_object,
    type_name,
)
from cortexd.dialects.openai_answer import WholeAnswer, unknown_shape
from cortexd.dialects.profile import Profile
from cortexd.errors import BadRequest

ROUTE = "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """An embeddings request; ``body`` is what will be sent upstream, less its model."""

    model: str
    as_base64: bool
    body: JsonObject
    streams: bool = False

    def exchange(
        self,
        model: str,
        profiles: Iterable[Profile] = ONLY_MISTRALRS,
        *,
        random_id: str,
        now: float,
        request_id: str | None = None,
    ) -> Exchange:
        """Return the exchange with the catalogue's ``model``; an answer of this kind has no id."""
        as_base64 = self.as_base64  # and not the body, which would live as long as the answer

        def amend(answer: JsonObject) -> None:
            answer["model"] = model
            if as_base64:
                _encode_vectors(answer)

        def make_responder() -> Responder:
            return WholeAnswer(amend)

        return Exchange(
            route=ROUTE,
            model=model,
            streams=False,
            translations=translate_by_model(
                profiles,
                ROUTE,
                encode({**self.body, "model": model}),
                make_responder,
            ),
        )


def read_request(body: bytes) -> EmbeddingsRequest:
    """Return the request in ``body``. Raises BadRequest naming the field at fault."""
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
    return EmbeddingsRequest(model, encoding == "base64", upstream)


def _encode_vectors(answer: JsonObject) -> None:
    """Replace each vector by base64 of its little-endian 32-bit floats, as OpenAI sends them."""
    try:
        for item in answer["data"]:
            if not isinstance(item["embedding"], str):  # else the node has encoded it
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
