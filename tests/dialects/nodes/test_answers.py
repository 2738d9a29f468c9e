"""How answers of nodes are decoded, in every dialect."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.answers import (
    MAX_VALUES,
    BadAnswer,
    answer_object,
    read_event,
)
from cortexd.errors import BadGateway
from cortexd.sse import ServerSentEvent


class DenseTests(SynchronousTestCase):
    """A text of a few megabytes with millions of values takes seconds to decode."""

    def test_too_many_values_are_refused_before_decoding(self) -> None:
        """Of whatever kind they are: the text need not even be JSON."""
        for piece in (b"[],", b"{},", b"0,"):
            text = b'{"data":[' + piece * (MAX_VALUES + 1)
            words = f"more than {MAX_VALUES} values"
            with self.assertRaisesRegex(BadAnswer, words):
                answer_object(text)
            with self.assertRaisesRegex(BadGateway, words) as caught:
                read_event(ServerSentEvent(text))
            assert caught.exception.elsewhere

    def test_a_long_text_of_few_values_is_decoded(self) -> None:
        """A call may contain a whole file."""
        text = b'{"text":"' + b"x" * 4 * 2**20 + b'"}'
        assert 4 * 2**20 == len(answer_object(text)["text"])
        assert 4 * 2**20 == len(read_event(ServerSentEvent(text))["text"])
