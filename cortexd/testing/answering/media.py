"""Images and speech that depend only on the prompt: one coloured pixel, one sample per letter."""

import base64
import io
import struct
import wave
import zlib
from typing import Literal

from msgspec import Struct

from cortexd.testing.answering.requests import RequestRefusedError, Unsigned
from cortexd.testing.answering.wire import Json

SAMPLES_PER_SECOND = 24_000


class ImageRequest(Struct, kw_only=True):
    """The body of POST /v1/images/generations; unknown fields are ignored."""

    prompt: str
    model: str = "default"
    n: Unsigned = 1
    response_format: Literal["Url", "B64Json"] = "Url"
    height: Unsigned = 720
    width: Unsigned = 1280


class SpeechRequest(Struct, kw_only=True):
    """The body of POST /v1/audio/speech: the format is required, and two formats are supported."""

    input: str
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
    model: str = "default"


def images(request: ImageRequest, created: int) -> Json:
    """Return the answer to a request for images: PNGs, or the names of files on the node."""
    as_url = request.response_format == "Url"
    return {
        "created": created,
        "data": [
            {
                "url": f"/tmp/image-{number}.png" if as_url else None,  # noqa: S108 - as upstream
                "b64_json": None if as_url else base64.b64encode(png(request.prompt)).decode(),
            }
            for number in range(request.n)
        ],
    }


def png(prompt: str) -> bytes:
    """Return an image of one pixel, whose colour is the prompt's checksum."""
    pixel = b"\0" + struct.pack(">I", zlib.crc32(prompt.encode()))[:3]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (
            (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(pixel)),
            (b"IEND", b""),
        )
    )


def speech(request: SpeechRequest) -> tuple[str, bytes]:
    """Return content type and bytes of the answer to a request for speech.

    Raises RequestRefusedError for a format that the node cannot make.
    """
    samples = b"".join(struct.pack("<h", ord(letter) % 2**15) for letter in request.input)
    rate = f"rate={SAMPLES_PER_SECOND}; channels=1"
    if request.response_format == "pcm":
        return f"audio/pcm; codecs=1; format=s16le; {rate}", samples
    if request.response_format != "wav":
        raise RequestRefusedError(422, "Only support wav/pcm response format.")
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLES_PER_SECOND)
        sound.writeframes(samples)
    return f"audio/wav; {rate}", file.getvalue()
