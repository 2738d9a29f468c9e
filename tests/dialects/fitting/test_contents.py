from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.fitting.contents import accepted_part, joined, of_pieces
from tests.dialects.fitting.conversations import IMAGE, URL


class ContentTests(SynchronousTestCase):
    def test_texts_are_one_string(self) -> None:
        """Empty ones leave no trace."""
        assert "a\nb" == of_pieces(["a", "", "b"])
        assert "" == of_pieces([])

    def test_texts_beside_media_are_one_part(self) -> None:
        """A node would join two parts of text by a space (nodes.md 4.1.4)."""
        parts = of_pieces(["a", "b", IMAGE, "c"])
        assert [{"type": "text", "text": "a\nb"}, IMAGE, {"type": "text", "text": "c"}] == parts
        assert [{"type": "text", "text": "a\nb"}, IMAGE, {"type": "text", "text": "c\n\nd"}] == (
            joined([parts, "d"], "\n\n")
        )

    def test_accepted_parts(self) -> None:
        """Only strings and objects of strings stay, and an address is where nodes look for it."""
        assert accepted_part(IMAGE) is IMAGE
        wild = {
            "type": "image_url",
            "image_url": {"url": URL, "detail": None},
            "cache_control": {"type": "ephemeral", "ttl": 5},
            "annotations": [],
            "index": 0,
        }
        assert {**IMAGE, "cache_control": {"type": "ephemeral"}} == accepted_part(wild)
        assert IMAGE == accepted_part({"type": "image_url", "image_url": URL})
