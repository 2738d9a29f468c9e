"""The bench of the translation: that it measures what it says, and judges it."""

import json

from twisted.trial.unittest import SynchronousTestCase

from bench import translation
from bench.fuzz.asking import Asked
from bench.fuzz.refusals import chat_refusal_of, refusal_of
from cortexd.dialects.routes import chat
from cortexd.dialects.wire.profile import Speaks
from cortexd.sse import SseDecoder


class TranslationTests(SynchronousTestCase):
    def test_the_request_is_as_large_as_claude_codes(self) -> None:
        """The request that is measured has some 80 KB and becomes one that a node takes."""
        body = json.dumps(
            translation.claude_code_body(), ensure_ascii=False, separators=(",", ":")
        ).encode()

        self.assertApproximates(translation.REQUEST_BYTES, len(body), 2_000)
        assert chat_refusal_of(translation.chat_body()) is None

    def test_the_chat_becomes_messages_again(self) -> None:
        """The chat that is measured becomes a request that a node of the full API takes."""
        read = chat.read_request(translation.chat_body())
        sent = read.exchange("m", [translation.ON_MESSAGES], random_id="x", now=0).first

        asked = Asked(sent.path, sent.body, dict(sent.headers))
        assert refusal_of(asked, Speaks.MESSAGES) is None
        self.assertApproximates(translation.REQUEST_BYTES, len(sent.body), 4_000)

    def test_what_is_measured_brings_something(self) -> None:
        """The frame that is measured brings content each time, so that none is only skipped."""
        for name, (make, frames) in translation.CHUNKS_OF.items():
            responder, decoder = make(), SseDecoder()
            brought = []
            for frame in (*frames, frames[-1], frames[-1]):
                before = responder.content_chunks
                for event in decoder.feed(frame):
                    responder.feed(event)
                brought.append(responder.content_chunks - before)
            assert [1, 1] == brought[-2:], name

    def test_bars(self) -> None:
        """The dearest kind of chunk is held against its bar, and the request against its own."""
        figures = dict.fromkeys(translation.LABELS, 0.5) | {"chunk.text_stop_us": 11.0}

        assert [
            ["11.00", "10 us", "miss"],
            *[["0.50", "10 us", "pass"]] * 4,
            *[["0.50", "1 ms", "pass"]] * 5,
            ["0.50", "2 ms", "pass"],
        ] == [row[1:] for row in translation.bar_table(figures)[1:]]
        assert len(translation.LABELS) + 1 == len(translation.table(figures))
