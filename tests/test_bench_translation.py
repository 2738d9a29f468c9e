"""The bench of the translation: that it measures what it says, and judges it."""

import json

from twisted.trial.unittest import SynchronousTestCase

from bench import translation
from bench.fuzz.gateway import refusal_of


class TranslationTests(SynchronousTestCase):
    def test_the_request_is_as_large_as_claude_codes(self) -> None:
        """The request that is measured has some 80 KB and becomes one that a node takes."""
        body = json.dumps(
            translation.claude_code_body(), ensure_ascii=False, separators=(",", ":")
        ).encode()

        self.assertApproximates(translation.REQUEST_BYTES, len(body), 2_000)
        assert refusal_of(translation.chat_body()) is None

    def test_bars(self) -> None:
        """The dearest kind of chunk is held against its bar, and the request against its own."""
        figures = dict.fromkeys(translation.LABELS, 0.5) | {"chunk.text_stop_us": 11.0}

        assert [
            ["11.00", "10 us", "miss"],
            ["0.50", "1 ms", "pass"],
        ] == [row[1:] for row in translation.bar_table(figures)[1:]]
        assert len(translation.LABELS) + 1 == len(translation.table(figures))
