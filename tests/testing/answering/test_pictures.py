from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing.answering.pictures import picture_fault, source_fault

ADDRESSES = st.tuples(
    st.sampled_from(
        ("", "data:", "data:image/png;base64,", "http://", "https://", "file:", "ftp:")
    ),
    st.text(max_size=20),
).map("".join)


class SourceTests(SynchronousTestCase):
    def test_kinds(self) -> None:
        """A sound needs no recognisable format, and the words name the kind."""
        self.assertIsNone(source_fault("data:audio/wav;base64,aGk=", "audio"))
        self.assertEqual(
            "Unsupported video URL scheme: ftp", source_fault("ftp://a.example/b", "video")
        )

    @settings(max_examples=40)
    @given(ADDRESSES)
    def test_any_address(self, url: str) -> None:
        """Any text is a picture, or has words that say why it is none."""
        fault = picture_fault(url)
        self.assertTrue(fault or url.startswith("data:"))

    def test_broken_addresses(self) -> None:
        """An address that no one can parse has the words of one without a scheme."""
        fault = picture_fault("http://[")
        assert fault is not None
        self.assertTrue(fault.startswith("Invalid image source: expected http"))
