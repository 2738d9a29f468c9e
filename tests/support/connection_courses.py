"""Courses of events on a connection to a node, for tests of connections.

A test takes two connections, ours and Twisted's own, through the same course of an answer. Each
records in a diary its calls to its transport, its pool and the reader of the answer.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol, Request
from twisted.web.http_headers import Headers

from tests.upstream.test_client import response

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
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body, written as nodes write it."""
    return b"%X\r\n%b\r\n" % (len(data), data)


Diary = list[tuple[object, ...]]
FORGOTTEN = ("forgotten",)
"""Twisted's forgets who asks, where nonsense comes before it has asked in full."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """A course of events on a connection; numbers count ``reads``, ``None`` is after the last read.

    The request is completely ``written`` before that read. The answer's reader is ``attached``
    before that read, or at once with ``prompt``. The reader ``acts`` at pieces of the body, by
    their number. The connection breaks before the read ``lost``. An ``eager`` transport continues
    to read within the call that resumes it.
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
    """Records all calls to it, and calls ``resumed`` when it is resumed."""

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
        if ("lose",) not in self.diary:  # else only sooner
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
    """Return the types of an error and its reasons."""
    reasons = getattr(failure.value, "reasons", ())
    return (failure.type, *(reason.type for reason in reasons))


class SlowBody:
    """A request's body of two bytes, which is sent when ``finish`` is called."""

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
        """Attach a reader to the answer, if the answer exists and has no reader."""
        if self._answers:
            answer = self._answers.pop()
            self.diary.append(("answer", answer.code, answer.length))
            try:
                answer.deliverBody(Reader(self.diary, self.course))
            except ZeroDivisionError:  # at a piece that came before
                self.diary.append(("raised",))

    def lose(self, reason: Exception) -> None:
        state = self.connection.state
        if state != "CONNECTION_LOST":
            try:
                self.connection.connectionLost(Failure(reason))
            except AttributeError:
                self.diary.append(FORGOTTEN if state == "TRANSMITTING" else ("raised",))


def diary_of(make: type[HTTP11ClientProtocol], course: Course) -> Diary:
    """Take a connection through a course, then through a second one if it is reusable."""
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
    """Draw an answer, as the pieces that a node would write."""
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
    """Return where reads end within a piece. ``size`` leaves only a digit of a chunk's size."""
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
    """Draw the reads of the pieces: mostly one read for each piece."""
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
