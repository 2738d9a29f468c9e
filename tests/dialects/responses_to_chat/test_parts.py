"""The parts of a message, read for the newest turn and for a history."""

import base64
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.responses_to_chat.parts import PartReader
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.profile import MISTRALRS, Profile
from cortexd.errors import BadRequest

WITHOUT_URLS = Profile(fetches_images=False)
PNG = "data:image/png;base64,iVBORw0KGgo="
BAD = base64.b64encode(b"\xff\xfe").decode()


def read(content: object, *, profile: Profile = MISTRALRS, is_newest: bool = False) -> list[Any]:
    return PartReader(profile, Approximations()).pieces(content, "content", is_newest=is_newest)


class PartTests(SynchronousTestCase):
    def test_contents_of_an_odd_shape(self) -> None:
        """A history keeps what they say, and the newest turn is refused by its path."""
        odd: list[tuple[object, list[str]]] = [
            (None, []),
            (7, ["7"]),
            ({"a": 1}, ['{"a":1}']),
            ("", []),
        ]
        for content, kept in odd:
            assert kept == read(content)
        assert ["a", "[part omitted: it cannot be shown to the model]"] == read(["a", 7])
        wrong: list[tuple[object, str]] = [(7, "content"), ([7], "content[0]")]
        for content, path in wrong:
            with self.assertRaises(BadRequest) as raised:
                read(content, is_newest=True)
            assert path == raised.exception.param
        with self.assertRaises(BadRequest) as raised:
            read([{"type": "input_text", "text": 7}], is_newest=True)
        assert "content[0].text" == raised.exception.param

    def test_media_that_cannot_be_sent(self) -> None:
        """Words stand for them in a history, with the reason."""
        for part, reason in (
            ({"type": "input_image", "image_url": "ftp://x.test/a"}, "not an http or https URL"),
            ({"type": "input_image", "image_url": "https://x.test/a"}, "not fetched here"),
            ({"type": "input_image", "image_url": "data:text/html,a"}, "not an image's"),
            ({"type": "input_image", "file_id": "file_1"}, "by 'file_id'"),
            ({"type": "input_file", "file_id": "file_1"}, "by 'file_id'"),
            ({"type": "input_file", "file_url": "https://x.test/a"}, "by 'file_url'"),
            ({"type": "input_file", "file_data": f"data:text/plain;base64,{BAD}"}, "only text"),
            ({"type": "input_file", "file_data": "data:application/pdf;base64,AA=="}, "only text"),
            ({"type": "input_audio", "input_audio": {"data": "AA==", "format": "ogg"}}, "'mp3'"),
        ):
            (words,) = read([part], profile=WITHOUT_URLS)
            assert reason in words

    def test_media_that_can(self) -> None:
        """An image may come as a file or as in a chat, and audio gets the node's form."""
        shown = {"type": "image_url", "image_url": {"url": PNG}}
        assert [shown] == read([{"type": "input_image", "image_url": {"url": PNG}}])
        assert [shown] == read([{"type": "input_file", "file": {"file_data": PNG}}])
        heard = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
        url = {"url": "data:audio/wav;base64,AA=="}
        assert [{"type": "audio_url", "audio_url": url}] == read([heard])
