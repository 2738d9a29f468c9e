"""The simulated node's images and speech, as a mistral.rs node has them."""

import base64
import wave
from io import BytesIO

from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedModel
from tests.testing.client import Bench


class MediaTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.bench = Bench(
            SimulatedModel(id="acme/paint", kind="image"),
            SimulatedModel(id="acme/voice", kind="speech"),
        )

    def test_images(self) -> None:
        """By default the image stays on the node's disk; only B64Json, so spelt, brings it."""
        body = {"model": "acme/paint", "prompt": "a cat"}
        path = "/v1/images/generations"
        (stays,) = self.bench.post(path, body).json()["data"]
        (comes,) = self.bench.post(path, body | {"response_format": "B64Json"}).json()["data"]

        assert (True, None) == (stays["url"].startswith("/"), stays["b64_json"])
        assert None is comes["url"]
        assert base64.b64decode(comes["b64_json"]).startswith(b"\x89PNG")
        assert 422 == self.bench.post(path, body | {"response_format": "b64_json"}).status

    def test_speech(self) -> None:
        """A format must be named, and only wav and pcm can be made."""
        body = {"model": "acme/voice", "input": "hello"}
        path = "/v1/audio/speech"
        with wave.open(
            BytesIO(self.bench.post(path, body | {"response_format": "wav"}).body)
        ) as sound:
            frames = sound.readframes(99)
        raw = self.bench.post(path, body | {"response_format": "pcm"})

        assert (10, frames) == (len(raw.body), raw.body)
        assert raw.headers["content-type"].startswith("audio/pcm; ")
        assert [422, 422] == [
            self.bench.post(path, extended).status
            for extended in (body, body | {"response_format": "mp3"})
        ]

    def test_kinds(self) -> None:
        """A model does only what it is for."""
        body = {"model": "acme/paint", "input": "hi", "response_format": "wav"}
        assert 422 == self.bench.post("/v1/audio/speech", body).status
