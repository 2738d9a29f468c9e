import socket
from collections.abc import Callable
from typing import Any, cast

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer, IHostnameResolver
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Client as TCPClient
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web._newclient import HTTP11ClientProtocol, HTTPClientParser, ResponseFailed
from twisted.web.http import _ChunkedTransferDecoder
from zope.interface import implementer

from cortexd.engines.mistralrs import MistralRs
from cortexd.upstream.client import NodeClient, collect
from cortexd.upstream.connection import Connection, whole_chunk
from cortexd.upstream.connections import (
    IDLE_SECONDS,
    MAX_CONNECTIONS_KEPT,
    PIECE_BYTES,
    RequestBody,
    make_http_client,
)
from tests.support.connection_courses import (
    CHUNKED_HEAD,
    COURSES,
    FORGOTTEN,
    LAST_CHUNK,
    PIECES,
    TRAILERS,
    Course,
    chunk,
    diary_of,
)
from tests.upstream.test_client import EMPTY_LIST, PORT, UpstreamTestCase, response

TLS_HANDSHAKE = b"\x16\x03"


def decoded(reads: list[bytes]) -> list[bytes] | None:
    """Return what Twisted's decoder makes of reads of a chunked body; ``None`` of no such body."""
    found: list[bytes] = []
    decoder = _ChunkedTransferDecoder(found.append, lambda rest: None)
    try:
        for data in reads:
            decoder.dataReceived(data)
    except (ValueError, RuntimeError):  # what is malformed, and what comes after the end
        return None
    return found


class WholeChunkTests(SynchronousTestCase):
    def test_a_whole_chunk_gives_its_body(self) -> None:
        """In either case of the digits, as nodes write capitals."""
        assert b"x" * 10 == whole_chunk(b"a\r\n" + b"x" * 10 + b"\r\n")
        assert b"x" * 171 == whole_chunk(b"AB\r\n" + b"x" * 171 + b"\r\n")

    def test_as_much_as_a_read_can_bring(self) -> None:
        """A read of Twisted's ends at 64 KiB."""
        body = b"x" * (2**16 - 8)
        assert body == whole_chunk(chunk(body))

    def test_anything_else_gives_nothing(self) -> None:
        """Parts of chunks, several, the last, extensions, and what is no chunk at all."""
        for data in (
            b"",
            b"\r\n",
            b"1\r\n",
            b"1\r\nx\r",
            b"1\r\nx\r\n1\r\ny\r\n",
            b"2\r\nx\r\n",
            b"1\r\nxyz",
            LAST_CHUNK,
            TRAILERS,
            b"1;a=b\r\nx\r\n",
            b"0x1\r\nx\r\n",
            b"+1\r\nx\r\n",
            b" 1\r\nx\r\n",
            b"-1\r\n\r\n",
            b"g\r\nx\r\n",
        ):
            assert whole_chunk(data) is None, data

    @given(
        st.one_of(
            st.binary(max_size=40),
            st.lists(st.sampled_from([b"1", b"2", b"a", b"A", b"0", b"\r\n", b"x", b";"])).map(
                b"".join
            ),
            st.binary(min_size=1, max_size=400).map(chunk),
        )
    )
    def test_it_says_what_twisted_does(self, data: bytes) -> None:
        """Whatever is taken for a chunk is one to Twisted, which could go on with another."""
        body = whole_chunk(data)
        if body is not None:
            assert [body, b"z"] == decoded([data, b"1\r\nz\r\n"])


class ConnectionTests(SynchronousTestCase):
    @settings(max_examples=400)
    @given(COURSES)
    @example(Course(reads=[CHUNKED_HEAD + chunk(b"x"), chunk(b"y")], prompt=True, eager=True))
    @example(Course(reads=[CHUNKED_HEAD, chunk(b"x"), chunk(b"y")], acts={0: "fail"}))
    def test_it_does_what_twisteds_does(self, course: Course) -> None:
        """Whatever the answer is, in whatever reads it comes, and whatever its reader does.

        But where nonsense comes before all of the request is out Twisted's tells nobody, and ours
        does.
        """
        theirs, ours = diary_of(HTTP11ClientProtocol, course), diary_of(Connection, course)
        if FORGOTTEN in theirs:
            assert FORGOTTEN not in ours
            assert {"answer", "failed"} & {entry[0] for entry in ours}
        else:
            assert theirs == ours

    def pieces(self, course: Course) -> list[object]:
        """Return the pieces in which our reader gets the body."""
        return [entry[1] for entry in diary_of(Connection, course) if entry[0] == "data"]

    def seen_by_the_parser(self) -> list[bytes]:
        """Return the reads that reach Twisted's parser from now on."""
        seen: list[bytes] = []
        parse = HTTPClientParser.dataReceived

        def note(parser: HTTPClientParser, data: bytes) -> None:
            seen.append(data)
            parse(parser, data)

        self.patch(HTTPClientParser, "dataReceived", note)
        return seen

    def test_whole_chunks_go_past_the_parser(self) -> None:
        """It sees the head and the end; else Twisted has other names for what we look at."""
        seen = self.seen_by_the_parser()
        reads = [CHUNKED_HEAD, *map(chunk, PIECES), TRAILERS]

        assert list(PIECES) == self.pieces(Course(reads=reads, lost=len(reads)))
        assert [CHUNKED_HEAD, TRAILERS] == seen

    def test_the_way_back_to_the_parser_is_open(self) -> None:
        """It sees a chunk in two halves, and nothing of the whole ones before and after."""
        seen = self.seen_by_the_parser()
        halves = [b"4\r\nab", b"cd\r\n"]
        reads = [CHUNKED_HEAD, chunk(b"x"), *halves, chunk(b"y"), LAST_CHUNK]

        assert [b"x", b"ab", b"cd", b"y"] == self.pieces(Course(reads=reads, lost=len(reads)))
        assert [CHUNKED_HEAD, *halves, LAST_CHUNK] == seen

    def test_what_looks_like_a_chunk_may_be_none(self) -> None:
        """In the middle of another, in the body of another kind, and after the last one."""
        like_one = chunk(b"x")
        sized = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"
        for reads, pieces in (
            ([CHUNKED_HEAD, b"6\r\n", like_one, b"\r\n", LAST_CHUNK], [like_one]),
            ([CHUNKED_HEAD, b"1", like_one, b"z" * 14 + b"\r\n"], [b"x\r\n", b"z" * 14]),
            ([CHUNKED_HEAD, b"0\r\n", like_one, b"\r\n"], []),
            ([sized, like_one], [like_one]),
        ):
            assert pieces == self.pieces(Course(reads=reads, lost=len(reads))), reads

    def test_another_parser_gets_everything(self) -> None:
        """One that is not built as Twisted's is today is asked to do its work."""
        seen: list[bytes] = []

        class OtherParser:
            def dataReceived(self, data: bytes) -> None:
                seen.append(data)

        connection: Any = Connection()
        connection._parser = OtherParser()
        connection.dataReceived(chunk(b"x"))

        assert [chunk(b"x")] == seen


class TCPTransport(StringTransport):
    """Keeps what is written to it."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing: TLS asks for it without looking."""


class RequestBodyTests(SynchronousTestCase):
    def test_a_body_is_written_at_once(self) -> None:
        """Within the call that starts it, in one piece where it is a common one; also none."""
        for data in (b"{}", b"x" * PIECE_BYTES, b""):
            consumer = SlowConsumer()
            written = RequestBody(data).startProducing(cast("IConsumer", consumer))

            assert self.successResultOf(written) is None
            assert [data] * bool(data) == consumer.pieces

    def test_a_slow_connection_paces_it(self) -> None:
        """After what is too much nothing is written until more is asked for."""
        data = bytes(range(256)) * 2000
        consumer = SlowConsumer()
        body = consumer.producer = RequestBody(data)
        written = body.startProducing(cast("IConsumer", consumer))
        for pieces in (1, 2, 3):
            assert pieces == len(consumer.pieces)
            self.assertNoResult(written)
            body.resumeProducing()

        assert self.successResultOf(written) is None
        assert data == b"".join(consumer.pieces)

    def test_it_stops(self) -> None:
        """Where the connection breaks, no more of it is written, and nothing is told."""
        consumer = SlowConsumer()
        body = RequestBody(b"x" * 3 * PIECE_BYTES)
        consumer.producer = body
        consumer.gone = True
        written = body.startProducing(cast("IConsumer", consumer))

        assert 1 == len(consumer.pieces)
        self.assertNoResult(written)


class SlowConsumer:
    """Pauses its producer after each piece, or stops it, where it is ``gone``."""

    producer: RequestBody | None = None
    gone = False

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.pieces.append(data)
        if self.producer is not None:
            if self.gone:
                self.producer.stopProducing()
            else:
                self.producer.pauseProducing()


class LetsGo(Protocol):
    """Lets go of the connection at the first piece of a body, and does something at its end."""

    def __init__(self, at_the_end: Callable[[], None]) -> None:
        self._at_the_end = at_the_end

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._at_the_end()


@implementer(IHostnameResolver)
class Knows:
    """Resolves one name, to 10.0.0.9."""

    def __init__(self, name: str) -> None:
        self.name = name

    def resolveHostName(
        self,
        receiver: Any,
        name: str,
        portNumber: int = 0,  # noqa: N803 - IHostnameResolver's name
        *args: object,
    ) -> Any:
        """Give the address of the name."""
        receiver.resolutionBegan(None)
        if name == self.name:
            receiver.addressResolved(IPv4Address("TCP", "10.0.0.9", portNumber))
        receiver.resolutionComplete()


class HttpClientTests(UpstreamTestCase):
    def heard(self, header: bytes) -> list[bytes]:
        """Return what a node hears of two requests in turn that it answers with this header."""
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n"
        self.listen(head + header + b"\r\n\r\n{}")
        for name in ("one", "two"):
            asked = self.client.open("/v1/x", b"{}", {"X-Request-ID": name})
            self.network.flush()
            self.successResultOf(collect(self.successResultOf(asked)))
        return [speaker.heard for speaker in self.speakers]

    def test_the_request(self) -> None:
        """A node gets path, host and body, of a URL that is known already as of one that is new."""
        for name, heard in zip((b"one", b"two"), self.heard(b"A: b"), strict=True):
            assert heard.startswith(b"POST /v1/x HTTP/1.1\r\n")
            assert heard.endswith(b"\r\n\r\n{}")
            headers = [b"Host: 127.0.0.1:9001", b"Content-Length: 2", b"X-Request-Id: " + name]
            assert set(headers) <= set(heard.split(b"\r\n"))

    def test_cookies_are_not_kept(self) -> None:
        """What a node would remember of one client is not sent with another's request."""
        for heard in self.heard(b"Set-Cookie: user=1"):
            assert b"cookie" not in heard.lower()

    def connected(self) -> tuple[Connection, Any]:
        """Return a connection that was just made, and its transport."""
        transport: Any = TCPClient.__new__(TCPClient)
        transport.socket = socket.socket()
        self.addCleanup(transport.socket.close)
        connection = Connection()
        connection.makeConnection(transport)
        return connection, transport

    def test_nothing_stands_between_socket_and_connection(self) -> None:
        """Twisted's endpoints put a protocol there that only hands reads on."""
        connection, transport = self.connected()

        assert connection is transport.protocol

    def test_a_machine_that_is_gone_is_noticed(self) -> None:
        """The kernel asks the node's after 20 s of silence, and gives up 20 s later."""
        _, transport = self.connected()
        tcp = socket.IPPROTO_TCP

        assert transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert [20, 5, 4] == [
            transport.socket.getsockopt(tcp, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]

    def test_addresses(self) -> None:
        """Each is connected to as it is, within the time that was set; a secure one in TLS."""
        for url, host, first_words in (
            ("http://10.0.0.1:8080", "10.0.0.1", b"POST /v1/x HTTP/1.1\r\n"),
            ("http://[::1]:8080", "::1", b"POST /v1/x HTTP/1.1\r\n"),
            ("https://10.0.0.1:8080", "10.0.0.1", TLS_HANDSHAKE),
            ("https://[::1]:8080", "::1", TLS_HANDSHAKE),
        ):
            reactor = MemoryReactorClock()
            http, _ = make_http_client(reactor, connect_timeout=7)
            asked = NodeClient("a", url, http, reactor, MistralRs()).open("/v1/x", b"{}", {})
            ((to, port, factory, timeout, _),) = reactor.tcpClients
            transport, protocol = TCPTransport(), factory.buildProtocol(None)
            assert protocol is not None
            protocol.makeConnection(transport)

            assert (host, 8080, 7) == (to, port, timeout)
            assert transport.value().startswith(first_words), (url, transport.value())
            asked.cancel()
            self.failureResultOf(asked, CancelledError)

    def test_names(self) -> None:
        """Whatever the network resolves is connected to, also a name that no domain could have."""
        for name in ("gpu-large.internal", "gpu_1", "_gpu", "gpu-", "ab--cd", "gpu_1.local."):
            reactor = MemoryReactorClock()
            reactor.nameResolver = Knows(name)
            http, _ = make_http_client(reactor, connect_timeout=7)
            client = NodeClient("a", f"http://{name}:8080", http, reactor, MistralRs())
            asked = client.open("/v1/x", b"{}", {})

            assert [("10.0.0.9", 8080, 7)] == [to[:2] + to[3:4] for to in reactor.tcpClients]
            asked.cancel()
            self.failureResultOf(asked)

    def test_idle_connections_are_kept(self) -> None:
        """As many as a burst may want and for a while, without a word in the log."""
        self.listen(response(EMPTY_LIST))
        with capturedLogs() as events:
            listings = [
                Deferred.fromCoroutine(self.client.listing(2))
                for _ in range(MAX_CONNECTIONS_KEPT + 1)
            ]
            self.network.flush()
            for listing in listings:
                self.successResultOf(listing)
            self.network.advance(IDLE_SECONDS - 1)
            kept = [speaker for speaker in self.speakers if not speaker.closed]
            self.network.advance(1)

        assert (MAX_CONNECTIONS_KEPT + 1, MAX_CONNECTIONS_KEPT) == (len(self.speakers), len(kept))
        assert all(speaker.closed for speaker in self.speakers)
        assert [] == events

    def test_a_connection_that_was_let_go_of_serves_no_more(self) -> None:
        """Also where the end of the answer came with what its reader ended it at."""
        self.listen(CHUNKED_HEAD + chunk(b"x") + chunk(b"y") + LAST_CHUNK)
        answers: list[Deferred[bytes]] = []

        def ask_again() -> None:
            answers.append(Deferred.fromCoroutine(self.ask()))

        first = self.client.open("/v1/x", b"{}", {})
        first.addCallback(lambda answer: answer.deliverBody(LetsGo(ask_again)))
        self.network.flush()

        assert [b"xy"] == [self.successResultOf(answer) for answer in answers]

    async def ask(self) -> bytes:
        return await collect(await self.client.open("/v1/x", b"{}", {}))

    async def ask_again_into(self, answers: list[Deferred[bytes]]) -> None:
        """Ask, and in the very moment that the answer has ended ask again."""
        await self.ask()
        answers.append(Deferred.fromCoroutine(self.ask()))

    def test_a_connection_that_the_node_closes_serves_no_more(self) -> None:
        """However the node says that it will; also for whoever asks as the answer ends."""
        for version, connection, kept in (
            ("1.1", "", True),
            ("1.1", "close", False),
            ("1.1", "Close", False),
            ("1.1", "foo, CLOSE", False),
            ("1.0", "", False),
            ("1.0", "Keep-Alive", True),
        ):
            self.speakers.clear()
            header = f"Connection: {connection}\r\n" if connection else ""
            words = f"HTTP/{version} 200 OK\r\n{header}Content-Length: 2\r\n\r\n{{}}".encode()
            self.listen(words, None if kept else lambda transport: transport.loseConnection())
            answers: list[Deferred[bytes]] = []
            self.successResultOf(self.start(self.ask_again_into(answers)))
            assert (1 if kept else 2) == len(self.speakers), (version, connection)
            if kept:
                answers[0].cancel()
                self.network.flush()
                self.failureResultOf(answers[0], CancelledError)
            else:
                assert b"{}" == self.successResultOf(answers[0])
            self.pool.closeCachedConnections()
            self.network.flush()

    def answered_too_early(self, words: bytes) -> Deferred[Any]:
        """Return a request to a node that says this, and does not read the rest of it."""
        self.speakers.clear()
        self.listen(b"")
        asked = self.client.open("/v1/x", b"x" * 8 * PIECE_BYTES, {})
        while not self.speakers:
            self.network.turn()
        transport: Any = self.speakers[0].transport
        transport.pauseProducing()
        self.network.flush()
        transport.write(words)
        self.network.flush()
        return asked

    def test_an_answer_before_the_request_is_all_out(self) -> None:
        """It is taken, and the connection ends, though the node neither reads on nor closes it."""
        asked = self.answered_too_early(response(b"too long", "413 Content Too Large"))

        answer = self.successResultOf(asked)
        assert (413, b"too long") == (answer.code, self.successResultOf(collect(answer)))
        assert self.speakers[0].closed

    def test_no_answer_before_the_request_is_all_out(self) -> None:
        """What cannot be read ends the request at once, whether or not the node closes."""
        for words in (b"\x15\x03\x01\x00\x02\x02F\r\n\r\n", b"HTTP/1.1 200 OK\r\nnothing\r\n\r\n"):
            asked = self.answered_too_early(words)

            assert ResponseFailed is self.failureResultOf(asked).type
            assert self.speakers[0].closed
            transport: Any = self.speakers[0].transport
            transport.loseConnection()
            self.network.flush()

    def test_more_than_the_answer_ends_the_connection(self) -> None:
        """What comes with it and does not belong to it might be taken for the next one's."""
        for words in (
            response(EMPTY_LIST) + response(b"{}"),
            CHUNKED_HEAD + chunk(EMPTY_LIST) + LAST_CHUNK + b"x",
        ):
            self.speakers.clear()
            self.listen(words)
            for _ in range(2):
                assert EMPTY_LIST == self.successResultOf(self.start(self.ask()))
            assert [True, True] == [speaker.closed for speaker in self.speakers]

    def test_words_out_of_turn_end_the_connection(self) -> None:
        """A node that talks though nobody asked is not asked over this connection again."""
        self.listen(
            CHUNKED_HEAD + chunk(EMPTY_LIST) + LAST_CHUNK,
            lambda transport: self.network.callLater(1, transport.write, chunk(b"x")),
        )
        self.successResultOf(self.start(self.client.listing(2)))
        (speaker,) = self.speakers
        assert not speaker.closed
        self.network.advance(1)

        assert speaker.closed

    def test_a_connection_that_ends_for_words_out_of_turn_serves_no_more(self) -> None:
        """Also in the instant before it is closed: what goes out then is read and goes nowhere."""
        self.listen(response(EMPTY_LIST))
        self.successResultOf(self.start(self.client.listing(2)))
        (ours,) = (end for end in self.network.ends if end.getPeer().port == PORT)
        ours.protocol.dataReceived(b"x")
        self.successResultOf(self.start(self.client.listing(2)))

        assert [1, 1] == [speaker.heard.count(b"GET") for speaker in self.speakers]
