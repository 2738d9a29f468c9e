from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd import sse
from cortexd.sse import EventTooLarge, ServerSentEvent, SseDecoder
from tests.covers import covers

STREAM = (
    b": keep-alive\n\n"
    b'data: {"text":"\xe2\x82\xac"}\n\n'
    b"event: ping\r\ndata:one\r\ndata: two\r\n\r\n"
    b"id: 7\rdata: three\r\rretry: 5\ndata\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = [
    ServerSentEvent(b'{"text":"\xe2\x82\xac"}'),
    ServerSentEvent(b"one\ntwo", b"ping"),
    ServerSentEvent(b"three"),
    ServerSentEvent(b""),
    ServerSentEvent(b"[DONE]"),
]


def decoded(*pieces: bytes) -> list[ServerSentEvent]:
    decoder = SseDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


class DecoderTests(SynchronousTestCase):
    def test_every_line_end_and_field(self) -> None:
        """LF, CRLF and CR end lines; comments, ids and retries give no event."""
        assert EVENTS == decoded(STREAM)

    def test_split_at_each_byte(self) -> None:
        """A stream cut into two at any byte gives the same events, characters whole."""
        for cut in range(len(STREAM) + 1):
            assert EVENTS == decoded(STREAM[:cut], STREAM[cut:])

    @given(st.lists(st.integers(0, len(STREAM)), max_size=20))
    def test_any_chunking(self, cuts: list[int]) -> None:
        """However the bytes are cut, the events are the same."""
        edges = [0, *sorted(cuts), len(STREAM)]
        pieces = [STREAM[a:b] for a, b in pairwise(edges)]

        assert EVENTS == decoded(*pieces)

    def test_unfinished_event_is_no_event(self) -> None:
        """An event without its blank line is not given out."""
        assert [] == decoded(b'data: {"half":')
        assert [] == decoded(b"data: whole line\n")

    def test_between_events(self) -> None:
        """It says when nothing is kept of an event: neither of a line, nor data, nor a name."""
        for begun in (b"d", b"data: one\n", b"event: ping\n", b": comment\r"):
            decoder = SseDecoder()
            seen = [decoder.is_between_events]
            for data in (begun, b"\n\n"):
                decoder.feed(data)
                seen.append(decoder.is_between_events)

            assert [True, False, True] == seen, begun

    def test_limit_on_one_line(self) -> None:
        """A line that never ends is refused at the limit instead of filling the memory."""
        decoder = SseDecoder(max_event_bytes=100)
        decoder.feed(b"data: " + b"x" * 60)

        with self.assertRaises(EventTooLarge):
            decoder.feed(b"x" * 60)

    @covers("4.2 1")
    def test_lines_without_data_count_too(self) -> None:
        """An event may have any number of them, and each takes memory."""
        decoder = SseDecoder(max_event_bytes=64 * 1024)
        with self.assertRaises(EventTooLarge):
            for _ in range(1000):
                decoder.feed(b"data:\n" * 10)

    def test_a_line_that_drips_in_is_copied_once(self) -> None:
        """A megabyte, byte by byte, is appended to one buffer until its line has ended."""
        decoder = SseDecoder()
        decoder.feed(b"data: ")
        buffer = decoder._partial
        for _ in range(1_000_000):
            decoder.feed(b"x")
        assert buffer is decoder._partial
        (event,) = decoder.feed(b"\n\n")

        assert b"x" * 1_000_000 == event.data

    def test_the_limit_is_a_mib_and_a_half(self) -> None:
        """A line of 1 MiB is whole, as one chunk may hold a large call; one of 2 MiB is not."""
        mebibyte = b"x" * 1024 * 1024
        decoder = SseDecoder()
        decoder.feed(b"data: ")
        assert [] == decoder.feed(mebibyte)
        (event,) = decoder.feed(b"\n\n")
        assert len(mebibyte) == len(event.data)

        decoder.feed(b"data: ")
        with self.assertRaises(EventTooLarge):
            for _ in range(2):
                decoder.feed(mebibyte)

    def test_limit_on_many_lines(self) -> None:
        """An event of many lines is held to the same limit."""
        decoder = SseDecoder(max_event_bytes=100)

        with self.assertRaises(EventTooLarge):
            for _ in range(30):
                decoder.feed(b"data: xxxxxxxx\n")

    @given(st.lists(st.binary().map(lambda data: data.replace(b"\r", b"")), max_size=5))
    def test_round_trip(self, texts: list[bytes]) -> None:
        """What is encoded is decoded again, line feeds within it included."""
        stream = b"".join(sse.encode(text) for text in texts)

        assert [ServerSentEvent(text) for text in texts] == decoded(stream)

    def test_names_and_comments_round_trip(self) -> None:
        """A name survives the round trip, a comment is skipped."""
        stream = sse.comment(b"waiting") + sse.encode(b"{}", b"ping")

        assert [ServerSentEvent(b"{}", b"ping")] == decoded(stream)
