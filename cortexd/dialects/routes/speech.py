"""OpenAI speech: text in, sound out, as bytes that we do not parse."""

from __future__ import annotations

from functools import partial
from typing import Final

from cortexd.dialects.nodes.chat_stream import Unstreamed
from cortexd.dialects.openai.unstreamed import UnstreamedRequest
from cortexd.dialects.wire.json_values import read_model, read_object, type_name
from cortexd.errors import BadGateway, BadRequest

ROUTE = "/v1/audio/speech"
FORMATS: Final = ("wav", "pcm")
"""The formats of nodes, without OpenAI's default, mp3 (nodes.md 6)."""


def read_request(body: bytes) -> UnstreamedRequest:
    """Return the request in ``body``. Raises BadRequest with the faulty field."""
    fields = read_object(body)
    model = read_model(fields)
    upstream = {key: value for key, value in fields.items() if value is not None}
    if not isinstance(upstream.get("input"), str):
        raise BadRequest(
            f"'input' must be a string; found {type_name(fields.get('input'))}", param="input"
        )
    sound = upstream.setdefault("response_format", FORMATS[0])
    if sound not in FORMATS:
        raise BadRequest(
            '\'response_format\' must be "wav" or "pcm", all that a node can make',
            param="response_format",
            code="unsupported_value",
        )
    if upstream.pop("stream_format", "audio") != "audio":
        raise BadRequest(
            "'stream_format' must be \"audio\": no node streams speech", param="stream_format"
        )
    return UnstreamedRequest(
        route=ROUTE,
        model=model,
        body=upstream,
        responder_for=partial(_responder, content_type=f"audio/{sound}"),
        keeps_content_type=True,
    )


def _responder(model: str, *, content_type: str) -> Speech:
    return Speech(content_type)


class Speech(Unstreamed):
    """Passes sound on unchanged; the node's content type, which has the rate, replaces ours."""

    def __init__(self, content_type: str) -> None:
        super().__init__()
        self.content_type = content_type

    def take_body(self, body: bytes) -> bytes:
        """Return the node's answer unchanged; see Responder."""
        if not body:
            raise BadGateway("the node's answer is empty", elsewhere=True)
        self.content_chunks = 1
        self.done = True
        return body
