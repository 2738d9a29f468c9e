import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, cast

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Client as TCPClient
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web._newclient import HTTP11ClientProtocol, HTTPClientParser, Request
from twisted.web.http import _ChunkedTransferDecoder
from twisted.web.http_headers import Headers

from cortexd.connections import (
    IDLE_SECONDS,
    MAX_CONNECTIONS_KEPT,
    PIECE_BYTES,
    Connection,
    RequestBody,
    make_http_client,
    whole_chunk,
)
from cortexd.upstream import NodeClient, collect
from tests.test_upstream import EMPTY_LIST, UpstreamTestCase, response

PIECES = (
    b"data: one\n\n",
    b"x",
    b"\r\n",
    b"0\r\n\r\n",
    b"y" * 300,
    # What holds a chunk, and what makes one of the second digit of its own size.
    b"1\r\nx\r\n",
    b"x\r\n" + b"z" * 14,
)
LAST_CHUNK = b"0\r\n\r\n"
TRAILERS = b"0\r\n1\r\nx\r\n\r\n"
"""The last chunk and two trailers that look like another one."""
TLS_HANDSHAKE = b"\x16\x03"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body, written as nodes write it."""
    return b"%X\r\n%b\r\n" % (len(data), data)


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


# Two connections, ours and Twisted's own, are taken through the same course of an answer, and each
# keeps a diary of what it does to its transport, its pool and whoever reads the answer.

Diary = list[tuple[object, ...]]


@dataclass(frozen=True, kw_only=True)
class Course:
    """What happens to a connection, up to a number of its ``reads``; ``None`` is after the last.

    The request is ``written`` whole before a read. Its answer gets its reader ``attached`` before
    a read too, or at once, where ``prompt``. The reader ``acts`` at pieces of the body, by their
    number. Before the read ``lost`` the connection breaks. Where the transport is ``eager``, it
    reads on within the call that resumes it.
    """

    method: bytes = b"POST"
    reads: Sequence[bytes]
    written: int | None = 0
    attached: int | None = 1
    prompt: bool = False
    acts: Mapping[int, str] = field(default_factory=dict)
    lost: int | None = None
    eager: bool = False


class DiaryTransport:
    """Notes what is done to it, and calls ``resumed`` where it is resumed."""

    disconnecting = False

    def __init__(self, diary: Diary) -> None:
        self.diary = diary
        self.resumed: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        self.diary.append(("write", data))

    def writeSequence(self, pieces: Sequence[bytes]) -> None:
        self.write(b"".join(pieces))

    def registerProducer(self, producer: object, streaming: bool) -> None:
        self.diary.append(("register",))

    def unregisterProducer(self) -> None:
        self.diary.append(("unregister",))

    def pauseProducing(self) -> None:
        self.diary.append(("pause",))

    def resumeProducing(self) -> None:
        self.diary.append(("resume",))
        self.resumed()

    def loseConnection(self) -> None:
        self.diary.append(("lose",))

    def abortConnection(self) -> None:
        self.diary.append(("abort",))


class Reader(Protocol):
    """Reads an answer's body."""

    def __init__(self, diary: Diary, course: Course) -> None:
        self.diary = diary
        self.course = course
        self.pieces = 0

    def dataReceived(self, data: bytes) -> None:
        self.diary.append(("data", data))
        number, self.pieces = self.pieces, self.pieces + 1
        transport: Any = self.transport
        match self.course.acts.get(number):
            case "pause":
                transport.pauseProducing()
            case "resume":
                transport.resumeProducing()
            case "close":
                transport.loseConnection()
            case "fail":
                raise ZeroDivisionError

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.diary.append(("end", *types_of(reason)))


def types_of(failure: Failure) -> tuple[object, ...]:
    """Return of which types an error and its reasons are."""
    reasons = getattr(failure.value, "reasons", ())
    return (failure.type, *(reason.type for reason in reasons))


class SlowBody:
    """A request's body of two bytes, which goes out when ``finish`` is called."""

    length = 2

    def __init__(self) -> None:
        self.consumer: Any = None
        self.written: Deferred[None] = Deferred(lambda _: None)

    def startProducing(self, consumer: object) -> Deferred[None]:
        self.consumer = consumer
        return self.written

    def stopProducing(self) -> None:
        self.consumer = None

    def finish(self) -> None:
        if self.consumer is not None and not self.written.called:
            self.consumer.write(b"{}")
            self.written.callback(None)


class Asker:
    """A client of one connection, with its diary."""

    def __init__(self, make: type[HTTP11ClientProtocol], course: Course) -> None:
        self.diary: Diary = []
        self.course = course
        self.transport = DiaryTransport(self.diary)
        self.connection = make(lambda _: self.diary.append(("quiescent",)))
        self.connection.makeConnection(self.transport)
        self._answers: list[Any] = []

    def ask(self, body: SlowBody | None) -> None:
        headers = Headers({b"Host": [b"node"]})
        request = Request(self.course.method, b"/v1/x", headers, body, persistent=True)
        self.connection.request(request).addCallbacks(
            self._take, lambda failure: self.diary.append(("failed", *types_of(failure)))
        )

    def _take(self, answer: Any) -> None:
        self._answers.append(answer)
        if self.course.prompt:
            self.attach()

    def attach(self) -> None:
        """Give the answer its reader, if there is one without."""
        if self._answers:
            answer = self._answers.pop()
            self.diary.append(("answer", answer.code, answer.length))
            try:
                answer.deliverBody(Reader(self.diary, self.course))
            except ZeroDivisionError:  # at a piece that came before
                self.diary.append(("raised",))

    def lose(self, reason: Exception) -> None:
        if self.connection.state != "CONNECTION_LOST":
            try:
                self.connection.connectionLost(Failure(reason))
            except AttributeError:  # as Twisted's does after nonsense before it has asked in full
                self.diary.append(("raised",))


def diary_of(make: type[HTTP11ClientProtocol], course: Course) -> Diary:
    """Take a connection through a course, and then through another, if it is good for one."""
    asker = Asker(make, course)
    body = SlowBody()
    coming = list(course.reads)

    def read() -> None:
        if coming:
            asker.connection.dataReceived(coming.pop(0))

    if course.eager:
        asker.transport.resumed = read
    asker.ask(body)
    for number in range(len(course.reads) + 1):
        if number == course.written and ("lose",) not in asker.diary:
            body.finish()
        if number == course.attached:
            asker.attach()
        if number == course.lost:
            asker.lose(ConnectionLost())
            break
        asker.diary.append(("read", number))
        read()
    asker.attach()
    asker.diary.append((asker.connection.state,))
    if asker.connection.state == "QUIESCENT":
        asker.ask(None)
        asker.connection.dataReceived(response(b"again"))
        asker.attach()
    asker.lose(ConnectionDone())
    asker.diary.append((asker.connection.state,))
    return asker.diary


BODIES = st.lists(st.sampled_from(PIECES), min_size=2, max_size=8)
LAST_WORDS = (LAST_CHUNK, TRAILERS, LAST_CHUNK + chunk(b"x"), b"", b"5\r\nab", b"oops\r\n")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
ACTS = "pause", "resume", "close", "fail"


@st.composite
def words_of_nodes(draw: st.DrawFn) -> list[bytes]:
    """Draw an answer, in the pieces in which a node would write it."""
    body = draw(BODIES)
    kind = draw(st.sampled_from(["chunked"] * 6 + ["length", "close", "empty"]))
    if kind == "chunked":
        head = draw(st.sampled_from([b"", CONTINUE])) + CHUNKED_HEAD
        return [head, *map(chunk, body), draw(st.sampled_from(LAST_WORDS))]
    if kind == "length":
        size = max(0, len(b"".join(body)) + draw(st.integers(-3, 3)))
        return [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, *body]
    if kind == "close":
        return [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", *map(chunk, body)]
    return [b"HTTP/1.1 204 No Content\r\n\r\n", *map(chunk, body[:1])]


def cuts(piece: bytes, how: str) -> list[int]:
    """Return where a piece ends a read. ``size`` leaves but a digit of a chunk's size behind."""
    lines = [match.end() for match in re.finditer(rb"\r\n", piece)]
    match how:
        case "with the next":
            return []
        case "content" if len(lines) > 1:
            return [lines[0], len(piece) - 2, len(piece)]
        case "size" if len(lines) > 1:
            return [1, lines[1], len(piece)]
        case "halves":
            return [len(piece) // 2, len(piece)]
        case _:
            return [len(piece)]


@st.composite
def reads_of(draw: st.DrawFn, pieces: list[bytes]) -> list[bytes]:
    """Draw how pieces are read: mostly each by itself."""
    hows = st.sampled_from(["whole"] * 4 + ["with the next", "content", "size", "halves"])
    starts = accumulate(map(len, pieces), initial=0)
    edges = {0, len(b"".join(pieces))}
    for start, piece in zip(starts, pieces, strict=False):
        edges.update(start + cut for cut in cuts(piece, draw(hows)))
    stream = b"".join(pieces)
    return [stream[start:end] for start, end in pairwise(sorted(edges))]


COURSES = st.builds(
    Course,
    method=st.sampled_from([b"POST"] * 7 + [b"HEAD"]),
    reads=words_of_nodes().flatmap(reads_of),
    written=st.sampled_from([0, 0, 0, 1, 2, 3, None]),
    attached=st.sampled_from([1, 1, 1, 2, 3, 4, None]),
    prompt=st.booleans(),
    acts=st.dictionaries(st.integers(0, 2), st.sampled_from(ACTS), max_size=2),
    lost=st.sampled_from([None] * 8 + [1, 2, 3, 4]),
    eager=st.booleans(),
)


class ConnectionTests(SynchronousTestCase):
    @settings(max_examples=400, deadline=None)
    @given(COURSES)
    @example(Course(reads=[CHUNKED_HEAD + chunk(b"x"), chunk(b"y")], prompt=True, eager=True))
    @example(Course(reads=[CHUNKED_HEAD, chunk(b"x"), chunk(b"y")], acts={0: "fail"}))
    def test_it_does_what_twisteds_does(self, course: Course) -> None:
        """Whatever the answer is, in whatever reads it comes, and whatever its reader does."""
        assert diary_of(HTTP11ClientProtocol, course) == diary_of(Connection, course)

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

    def test_nothing_stands_between_socket_and_connection(self) -> None:
        """Twisted's endpoints put a protocol there that only hands reads on."""
        transport: Any = TCPClient.__new__(TCPClient)
        transport.socket = socket.socket()
        self.addCleanup(transport.socket.close)
        connection = Connection()
        connection.makeConnection(transport)

        assert connection is transport.protocol

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
            asked = NodeClient("a", url, http, reactor).open("/v1/x", b"{}", {})
            ((to, port, factory, timeout, _),) = reactor.tcpClients
            transport, protocol = TCPTransport(), factory.buildProtocol(None)
            assert protocol is not None
            protocol.makeConnection(transport)

            assert (host, 8080, 7) == (to, port, timeout)
            assert transport.value().startswith(first_words), (url, transport.value())
            asked.cancel()
            self.failureResultOf(asked, CancelledError)

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
