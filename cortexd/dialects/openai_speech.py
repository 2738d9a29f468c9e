"""OpenAI speech: text in, sound out, as bytes that nobody looks into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cortexd.dialects.exchange import ONLY_MISTRALRS, Exchange, Responder, Usage, translate_by_model
from cortexd.dialects.json_values import JsonObject, encode, read_model, read_object, type_name
from cortexd.dialects.openai_answer import InOnePiece
from cortexd.dialects.profile import Profile
from cortexd.errors import BadGateway, BadRequest
from cortexd.sse import ServerSentEvent

ROUTE = "/v1/audio/speech"
FORMATS: Final = ("wav", "pcm")
"""What nodes can make; OpenAI's default, mp3, is not of them (upstream notes part 6)."""


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """A request for speech; ``body`` is what will be sent upstream, less its model."""

    model: str
    sound: str
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
        sound = self.sound

        def make_responder() -> Responder:
            return Speech(f"audio/{sound}")

        return Exchange(
            route=ROUTE,
            model=model,
            streams=False,
            translations=translate_by_model(
                profiles,
                ROUTE,
                encode({**self.body, "model": model}),
                make_responder,
                keeps_content_type=True,
            ),
        )


def read_request(body: bytes) -> SpeechRequest:
    """Return the request in ``body``. Raises BadRequest naming the field at fault."""
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
    return SpeechRequest(model, sound, upstream)


class Speech(InOnePiece):
    """Passes sound on as it is; the node's content type, which has the rate, goes before ours."""

    def __init__(self, content_type: str) -> None:
        self.content_type = content_type
        self.done = False
        self.content_chunks = 0
        self.usage: Usage | None = None
        self.upstream_id: str | None = None

    def take_body(self, body: bytes) -> bytes:
        """Return the node's answer as it is; see Responder."""
        if not body:
            raise BadGateway("the node's answer is empty", elsewhere=True)
        self.content_chunks = 1
        self.done = True
        return body

    def feed(self, event: ServerSentEvent) -> bytes:
        """Refuse: a node that was not asked to stream must not."""
        raise BadGateway("the node streamed though not asked to", elsewhere=True)

    def finish(self) -> bytes:
        """Refuse, as ``feed`` does."""
        raise BadGateway("the node streamed though not asked to", elsewhere=True)
