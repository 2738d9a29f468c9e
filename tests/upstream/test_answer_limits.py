"""What a node may send: every limit ends the answer in words, and closes the connection."""

import gzip
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.tcp import Client as TCPClient

from cortexd.errors import BadGateway
from cortexd.upstream.client import MAX_REPORT_BYTES, collect, describe
from cortexd.upstream.connection import MAX_HEAD_BYTES, MAX_HEADERS, READ_BYTES, Connection
from tests.support.connection_courses import CHUNKED_HEAD
from tests.upstream.test_client import EMPTY_LIST, UpstreamTestCase, response

OK = b"HTTP/1.1 200 OK\r\n"


class AnswerLimitTests(UpstreamTestCase):
    def words_for(self, answer: bytes) -> str:
        """Return how a listing fails with this answer; its connection is closed."""
        self.listen(answer)
        words = self.refusal(BadGateway)
        assert self.speakers[-1].closed
        return words

    def test_nodes_are_asked_for_no_compression(self) -> None:
        """By itself, treq asks for gzip."""
        self.listen(response(EMPTY_LIST))
        self.successResultOf(self.start(self.client.listing(2)))
        heard = self.speakers[-1].heard.lower()

        assert b"accept-encoding: identity\r\n" in heard
        assert 1 == heard.count(b"accept-encoding")

    def test_a_compressed_answer_is_not_inflated(self) -> None:
        """Whatever the encoding is called, and however often it was applied."""
        body = gzip.compress(EMPTY_LIST)
        for encoding in (b"gzip", b"GZIP", b"identity, gzip", b"gzip, gzip", b"br", b"zstd"):
            head = OK + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n"
            words = self.words_for(head % (encoding, len(body)) + body)
            assert "the answer is compressed, although we asked for none of that" == words

    def test_an_answer_that_says_it_is_plain_is_read(self) -> None:
        """Some servers name the encoding that changes nothing."""
        for encoding in (b"identity", b" Identity ", b""):
            head = OK + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n"
            self.listen(head % (encoding, len(EMPTY_LIST)) + EMPTY_LIST)
            listing = self.successResultOf(self.start(self.client.listing(2)))
            assert {} == listing.replicas
            self.pool.closeCachedConnections()

    def test_a_head_is_limited(self) -> None:
        """By its bytes, in many lines or in one, and with all interim answers before it."""
        words = f"the answer's head is longer than {MAX_HEAD_BYTES // 1024} KiB"
        for endless in (b"X: y\r\n", b"x" * 100, b"HTTP/1.1 100 Continue\r\n\r\n"):
            start = b"" if endless.startswith(b"HTTP") else OK
            assert words == self.words_for(start + endless * (MAX_HEAD_BYTES // len(endless) + 2))
        words = f"the answer has more than {MAX_HEADERS} headers"
        assert words == self.words_for(OK + b"X: y\r\n" * (MAX_HEADERS + 1) + b"\r\n")

    def test_a_head_that_drips_in_is_limited_too(self) -> None:
        """The limit counts over all reads of one head, and begins anew with the next answer."""
        self.listen(OK)
        listing = self.start(self.client.listing(2))
        piece = b"X: " + b"y" * 61
        for _ in range(MAX_HEAD_BYTES // len(piece) - 1):
            self.speakers[-1].transport.write(piece)  # type: ignore[union-attr] # it is connected
            self.network.flush()
        self.assertNoResult(listing)
        for _ in range(2):
            self.speakers[-1].transport.write(piece)  # type: ignore[union-attr] # it is connected
            self.network.flush()

        self.failureResultOf(listing).trap(BadGateway)
        assert self.speakers[-1].closed

    def test_a_long_answer_is_not_a_part_of_the_next_head(self) -> None:
        """A request that goes out in the read that ends an answer does not begin with its bytes."""

        async def twice() -> int:
            for _ in range(2):
                listing = await self.client.listing(2)
            return len(listing.replicas)

        self.listen(response(b" " * MAX_HEAD_BYTES + EMPTY_LIST))
        asked = self.start(twice())
        (speaker,) = self.speakers
        speaker.transport.write(response(EMPTY_LIST))  # type: ignore[union-attr] # it is connected
        self.network.flush()

        assert 0 == self.successResultOf(asked)

    def test_a_chunk_that_makes_no_sense_is_told_in_words(self) -> None:
        """Also an extension or a trailer without end, which Twisted limits."""
        words = "the chunks of the answer cannot be understood"
        for chunks in (b"1;" + b"x" * 2000, b"zz\r\n", b"0\r\n" + b"X: y\r\n" * 12_000):
            assert words == self.words_for(CHUNKED_HEAD + chunks)

    def test_an_answer_to_a_question_of_ours_is_short(self) -> None:
        """A list of models never has megabytes."""
        words = f"the answer is larger than {MAX_REPORT_BYTES // 2**20} MiB"
        assert words == self.words_for(response(b" " * (MAX_REPORT_BYTES + 1)))

    def test_a_longer_answer_is_no_answer(self) -> None:
        """The limit of a request's own answer is named too."""
        self.listen(response(b"x" * (2**20 + 1)))
        opening: Deferred[Any] = self.client.open("/v1/embeddings", b"{}", {})
        self.network.flush()
        collecting = collect(self.successResultOf(opening), 2**20)
        self.network.flush()
        failure = self.failureResultOf(collecting)

        assert "the answer is larger than 1 MiB" == describe(failure.value)

    def test_a_read_is_small(self) -> None:
        """What a node sends at once is handled in small pieces, between which others are served."""

        class Transport(TCPClient):
            def __init__(self) -> None:
                """Connect nothing."""

            def setTcpNoDelay(self, enabled: bool) -> None:
                """Nothing is sent."""

        transport = Transport()
        Connection().makeConnection(transport)
        assert READ_BYTES == transport.bufferSize
