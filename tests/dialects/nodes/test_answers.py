"""How answers of nodes are decoded, in every dialect."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.answers import (
    MAX_EVENT_VALUES,
    MAX_GATHERED,
    MAX_VALUES,
    BadAnswer,
    answer_object,
    check_gathered,
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
            with self.assertRaisesRegex(BadAnswer, f"more than {MAX_VALUES} values"):
                answer_object(text)
            words = f"more than {MAX_EVENT_VALUES} values"
            with self.assertRaisesRegex(BadGateway, words) as caught:
                read_event(ServerSentEvent(text))
            assert caught.exception.elsewhere

    def test_a_long_text_of_few_values_is_decoded(self) -> None:
        """A call may contain a whole file."""
        text = b'{"text":"' + b"x" * 4 * 2**20 + b'"}'
        assert 4 * 2**20 == len(answer_object(text)["text"])
        assert 4 * 2**20 == len(read_event(ServerSentEvent(text))["text"])
        listed = text.replace(b"xx", b"0,")
        assert 4 * 2**20 == len(read_event(ServerSentEvent(listed))["text"])


class GatheredTests(SynchronousTestCase):
    """The texts of a stream that a client gets whole."""

    def test_texts_beyond_the_limit_are_refused(self) -> None:
        """All together count, and it says nothing about the node's health."""
        half = ["a"] * (MAX_GATHERED // 2)
        assert MAX_GATHERED == check_gathered(half, check_gathered(half))
        with self.assertRaisesRegex(BadGateway, f"more than {MAX_GATHERED} char") as caught:
            check_gathered(["a"], MAX_GATHERED)
        assert (False, False) == (caught.exception.elsewhere, caught.exception.is_node_fault)
