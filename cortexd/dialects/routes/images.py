"""OpenAI images. By default a node answers with a path on its own disk, so we request base64."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from cortexd.dialects.nodes.answers import unknown_shape
from cortexd.dialects.nodes.chat_stream import WholeAnswer
from cortexd.dialects.openai.unstreamed import UnstreamedRequest
from cortexd.dialects.wire.json_values import JsonObject, read_model, read_object, type_name
from cortexd.errors import BadRequest

ROUTE = "/v1/images/generations"
NODE_FORMAT: Final = "B64Json"
"""A node's name for base64, in its own spelling (nodes.md 6)."""

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})", re.ASCII)


def read_request(body: bytes) -> UnstreamedRequest:
    """Return the request in ``body``. Raises BadRequest with the faulty field.

    OpenAI's ``size`` becomes the node's ``width`` and ``height``.
    """
    fields = read_object(body)
    model = read_model(fields)
    upstream = {key: value for key, value in fields.items() if value is not None}
    if not isinstance(upstream.get("prompt"), str):
        raise BadRequest(
            f"'prompt' must be a string; found {type_name(fields.get('prompt'))}", param="prompt"
        )
    if upstream.pop("stream", False) is not False:
        raise BadRequest("'stream' must be false: no node streams images", param="stream")
    wanted = upstream.pop("response_format", "b64_json")
    if wanted not in ("b64_json", "url"):
        raise BadRequest('\'response_format\' must be "b64_json" or "url"', param="response_format")
    size = upstream.pop("size", "auto")
    if size != "auto":
        upstream["width"], upstream["height"] = _measures(size)
    upstream["response_format"] = NODE_FORMAT
    return UnstreamedRequest(
        route=ROUTE,
        model=model,
        body=upstream,
        responder_for=partial(_responder, as_url=wanted == "url"),
    )


def _responder(model: str, *, as_url: bool) -> WholeAnswer:
    return WholeAnswer(partial(_amend_images, as_url=as_url))


def _measures(size: object) -> tuple[int, int]:
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        raise BadRequest('\'size\' must be "auto" or like "1024x1024"', param="size")
    return int(match[1]), int(match[2])


def _amend_images(answer: JsonObject, *, as_url: bool) -> None:
    """Put each image into the requested field; as a URL, it is a data URL with the image."""
    images = answer.get("data")
    if not isinstance(images, list):
        raise unknown_shape("data")
    for image in images:
        encoded = image.get("b64_json") if isinstance(image, dict) else None
        if not isinstance(encoded, str):
            raise unknown_shape("data")
        image.pop("url", None)
        if as_url:
            del image["b64_json"]
            image["url"] = f"data:image/png;base64,{encoded}"
