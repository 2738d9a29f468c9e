from __future__ import annotations

import json
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from cortexd.http_server import (
    LINGER_SECONDS,
    MAX_HEADER_BYTES,
    GatewayRequest,
    GatewaySite,
    request_id_of,
)
from tests.http_answers import Answer, read_answers
from tests.network import Network

PORT = 8000
MIB = 1024 * 1024
# Twisted's own: how long a connection may lie idle before it is closed.
IDLE_SECONDS = 60


class Routes(Resource):
    """Answers what a test asks for: an echo, a crash, a stream of which the test holds the end."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.open: list[GatewayRequest] = []
        self.gone: list[GatewayRequest] = []

    def render(self, request: Request) -> int:
        ours = cast("GatewayRequest", request)
        path = ours.text_path
        if path == "/crash":
            raise RuntimeError("a mistake of ours")
        if path in ("/stream", "/wait", "/crash-late"):
            ours.notifyFinish().addErrback(lambda _: self.gone.append(ours))
            self.open.append(ours)
            if path != "/wait":
                ours.begin(200, {"Content-Type": "text/event-stream"})
                ours.write(b"data: 1\n\n")
            if path == "/crash-late":
                raise RuntimeError("a mistake of ours")
            return NOT_DONE_YET
        content: Any = ours.content
        echo = {"path": path, "body": content.read().decode("latin-1")}
        ours.respond(200, {"Content-Type": "application/json"}, json.dumps(echo).encode())
        return NOT_DONE_YET


class Client(Protocol):
    """A client's end: what it has received, and how the connection ended ("" while it is open)."""

    def __init__(self) -> None:
        self.received = b""
        self.ended = ""

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = "clean" if reason.check(type(connectionDone.value)) else "reset"


class OneClient(ClientFactory):
    noisy = False

    def __init__(self, client: Client) -> None:
        self._client = client

    def buildProtocol(self, addr: Any) -> Client:
        return self._client


class Server:
    """A GatewaySite on a network in memory, with a body limit of 1 MiB."""

    def __init__(self) -> None:
        self.network = Network(Clock())
        self.routes = Routes()
        self.network.listenTCP(PORT, GatewaySite(self.routes, self.network, MIB))

    def connect(self) -> Client:
        client = Client()
        self.network.connectTCP("127.0.0.1", PORT, OneClient(client))
        self.network.flush()
        return client

    def send(self, client: Client, data: bytes) -> None:
        """Send in reads of the size that Twisted makes."""
        for start in range(0, len(data), 65536):
            cast("Any", client.transport).write(data[start : start + 65536])
            self.network.flush()

    def ask(self, data: bytes) -> list[Answer]:
        """Send on a connection of its own and return the answers."""
        client = self.connect()
        self.send(client, data)
        return read_answers(client.received)

    def ask_once(self, data: bytes) -> Answer:
        """Send what gets one answer, and return it."""
        (answer,) = self.ask(data)
        return answer


def get(target: bytes, *headers: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b"GET " + target + b" " + version, b"Host: x", *headers, b"", b""])


def post(body: bytes, *headers: bytes, target: bytes = b"/echo") -> bytes:
    head = [b"POST " + target + b" HTTP/1.1", b"Host: x", *headers]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", body])


def chunked(*pieces: bytes) -> bytes:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


class ServingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = Server()

    def test_a_request_is_answered_with_length_and_id(self) -> None:
        """An answer says how long it is, which request it is for, and not who made the server."""
        answer = self.server.ask_once(post(b"hello"))

        assert {"path": "/echo", "body": "hello"} == json.loads(answer.body)
        assert "cortex" == answer.headers["server"]
        assert answer.headers["x-request-id"].startswith("req_")

    def test_a_chunked_body_is_put_together(self) -> None:
        """A body in chunks reaches the resource whole."""
        answer = self.server.ask_once(chunked(b"hel", b"lo") + b"0\r\n\r\n")

        assert "hello" == json.loads(answer.body)["body"]

    def test_a_form_is_left_alone(self) -> None:
        """What curl calls a form by default is handed on as it came."""
        body = b'{"a": "b&c=d"}'

        answer = self.server.ask_once(
            post(body, b"Content-Type: application/x-www-form-urlencoded")
        )

        assert body.decode() == json.loads(answer.body)["body"]

    def test_a_body_of_exactly_the_limit_is_taken(self) -> None:
        """The limit itself is allowed, by length and in chunks."""
        body = b"x" * MIB

        for data in (post(body), chunked(body[:1000], body[1000:]) + b"0\r\n\r\n"):
            assert MIB == len(json.loads(self.server.ask_once(data).body)["body"])

    def test_requests_on_one_connection_are_answered_in_turn(self) -> None:
        """Pipelined requests get their answers in order, and the connection stays."""
        client = self.server.connect()

        self.server.send(client, post(b"one") + get(b"/two") + post(b"three"))

        answers = [json.loads(answer.body) for answer in read_answers(client.received)]
        assert [("/echo", "one"), ("/two", ""), ("/echo", "three")] == [
            (answer["path"], answer["body"]) for answer in answers
        ]
        assert client.ended == ""

    def test_http_1_0_is_answered_and_closed(self) -> None:
        """A client of the old protocol gets its answer without chunks, and the end."""
        client = self.server.connect()

        self.server.send(client, get(b"/old", version=b"HTTP/1.0"))

        (answer,) = read_answers(client.received)
        assert "/old" == json.loads(answer.body)["path"]
        assert "clean" == client.ended

    def test_an_absolute_target_is_served_like_its_path(self) -> None:
        """RFC 9112 3.2.2: a server must accept the absolute form of a target."""
        for target in (b"http://cortex:8000/v1/models", b"HTTPS://h/v1/models?x=1"):
            assert "/v1/models" == json.loads(self.server.ask_once(get(target)).body)["path"]
        assert "/" == json.loads(self.server.ask_once(get(b"http://cortex")).body)["path"]

    def test_a_head_request_gets_no_body(self) -> None:
        """HEAD gets the headers of the answer, its length too, and nothing else."""
        client = self.server.connect()

        self.server.send(client, b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n")

        (answer,) = read_answers(client.received, to_head=True)
        assert (200, b"") == (answer.status, answer.body)
        assert int(answer.headers["content-length"]) > 0

    def test_what_is_not_utf_8_in_headers_does_no_harm(self) -> None:
        """Odd bytes in Host, X-Request-ID or any header are no reason to refuse a request."""
        for header in (
            b"Host: \xff\xfe",
            b"Host: " + b"a" * 100 + b".example",
            b"Host: \xc3\xbc..example:x",
            b"X-Request-ID: \xff",
            b"Authorization: Bearer \xff",
            b"User-Agent: \x80",
        ):
            request = b"GET /echo HTTP/1.1\r\n" + header + b"\r\n\r\n"
            assert 200 == self.server.ask_once(request).status, header

    def test_an_idle_connection_is_closed(self) -> None:
        """A connection on which nothing is asked, or only half a request, ends after a minute."""
        silent, half = self.server.connect(), self.server.connect()
        self.server.send(half, post(b"x" * 100)[:-50])

        self.server.network.advance(IDLE_SECONDS - 1)
        assert ("", "") == (silent.ended, half.ended)
        self.server.network.advance(2)

        assert ("reset", "reset") == (silent.ended, half.ended)
        assert [] == self.server.network.getDelayedCalls()

    def test_a_slow_answer_outlasts_the_idle_limit(self) -> None:
        """While a request is worked on, its silent client is not taken for gone."""
        client = self.server.connect()
        self.server.send(client, get(b"/wait"))

        self.server.network.advance(10 * IDLE_SECONDS)
        self.server.routes.open[0].respond(200, {}, b"late")
        self.server.network.flush()

        assert b"late" == read_answers(client.received)[0].body

    def test_a_client_that_leaves_is_noticed(self) -> None:
        """The resource hears of it at once, and what it still sends goes nowhere."""
        client = self.server.connect()
        self.server.send(client, get(b"/stream"))
        (request,) = self.server.routes.open

        cast("Any", client.transport).loseConnection()
        self.server.network.flush()

        assert [request] == self.server.routes.gone
        request.write(b"nobody reads this")
        request.break_off()
        request.respond(200, {}, b"nor this")
        request.finish()


class RefusalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = Server()

    def assert_refused(self, data: bytes, status: int, code: str | None) -> Answer:
        """Assert that these bytes get one error in the envelope, and then an orderly end."""
        client = self.server.connect()
        self.server.send(client, data)
        (answer,) = read_answers(client.received)
        assert (status, code) == (answer.status, answer.error["code"])
        assert "invalid_request_error" == answer.error["type"]
        assert "close" == answer.headers["connection"]
        assert "clean" == client.ended
        return answer

    def test_a_body_that_says_it_is_too_long_is_refused_unread(self) -> None:
        """413 comes before the body does, and names the setting."""
        head = post(b"x" * (MIB + 1)).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

        answer = self.assert_refused(head, 413, "request_too_large")

        assert "1 MiB (gateway.max_body_mb)" in answer.error["message"]

    def test_a_client_that_goes_on_sending_can_read_the_refusal(self) -> None:
        """The rest of an over-long body is taken in, so that the answer is not lost to a reset."""
        self.assert_refused(post(b"x" * (3 * MIB)), 413, "request_too_large")

    def test_chunks_over_the_limit_are_refused(self) -> None:
        """A body without a length is refused as soon as it is over the limit."""
        self.assert_refused(chunked(b"x" * MIB, b"x"), 413, "request_too_large")
        ended = chunked(*[b"x" * 40_000] * 30) + b"0\r\n\r\n"
        self.assert_refused(ended, 413, "request_too_large")

    def test_a_length_of_many_digits_is_refused(self) -> None:
        """A number that Python will not even read is over the limit too."""
        for digits in (30, 5000):
            request = b"POST /echo HTTP/1.1\r\nContent-Length: " + b"9" * digits + b"\r\n\r\n"
            self.assert_refused(request, 413, "request_too_large")

    def test_a_length_with_leading_zeros_is_a_length(self) -> None:
        """The digits of a length count by their value."""
        head = b"POST /echo HTTP/1.1\r\nContent-Length: " + b"0" * 5000 + b"2\r\n\r\n"

        assert "hi" == json.loads(self.server.ask_once(head + b"hi").body)["body"]

    def test_long_headers_are_refused(self) -> None:
        """431 for one endless header, for some that are too long together, for a long target."""
        most = b"x" * MAX_HEADER_BYTES
        for data in (
            get(b"/", b"Cookie: " + b"x" * 100_000),
            get(b"/", b"A: " + most[:20_000], b"B: " + most[:20_000]),
            get(b"/" + most),
            b"x" * 100_000,
        ):
            answer = self.assert_refused(data, 431, "headers_too_large")
            assert "32 KiB" in answer.error["message"]

    def test_many_headers_are_refused(self) -> None:
        """431 beyond 500 headers, and not before."""
        headers = [b"X-%d: 1" % number for number in range(600)]

        self.assert_refused(get(b"/", *headers), 431, "headers_too_large")
        assert 200 == self.server.ask_once(get(b"/", *headers[:499])).status

    def test_what_is_no_http_is_refused(self) -> None:
        """400 for bytes that are no request, or one that could be read in two ways."""
        for data in (
            b"\x16\x03\x01\x02\x00\r\n",
            b"hello\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/2.0\r\n\r\n",
            b"GET / HTTP/1.1 \r\n\r\n",
            b"G@T / HTTP/1.1\r\n\r\n",
            b"GET /caf\xc3\xa9 HTTP/1.1\r\n\r\n",
            get(b"/", b"no colon"),
            get(b"/", b"Bad name: 1"),
            get(b"/", b"A: \x00"),
            post(b"ab", b"Content-Length: 2"),
            post(b"ab", b"Transfer-Encoding: chunked"),
            post(b"ab", b"Transfer-Encoding: gzip, chunked"),
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 2, 2\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            chunked(b"ab")[:-2] + b"junk",
        ):
            self.assert_refused(data, 400, None)

    def test_garbage_behind_a_good_request_is_refused_after_its_answer(self) -> None:
        """What was asked in good order is answered; the garbage gets its own 400, then the end."""
        client = self.server.connect()

        self.server.send(client, post(b"good") + b"\x00\x01\x02 garbage\r\n\r\n")

        good, refusal = read_answers(client.received)
        assert "good" == json.loads(good.body)["body"]
        assert (400, "clean") == (refusal.status, client.ended)

    def test_a_path_that_is_not_utf_8_is_refused(self) -> None:
        """400 for a path whose bytes are no text, percent-encoded or not; others are served."""
        for target in (b"/v1/%ff", b"/%c3%28", b"/\xb0"):
            answer = self.server.ask_once(get(target))
            assert (400, "invalid_request_error") == (answer.status, answer.error["type"])
            assert "not UTF-8" in answer.error["message"]
        assert 200 == self.server.ask_once(get(b"/caf%c3%a9")).status

    def test_the_asterisk_is_for_options_only(self) -> None:
        """OPTIONS * is answered with nothing; other methods are refused in the envelope."""
        nothing = self.server.ask_once(b"OPTIONS * HTTP/1.1\r\n\r\n")
        refusal = self.server.ask_once(get(b"*"))

        assert (200, b"") == (nothing.status, nothing.body)
        assert "cortex" == nothing.headers["server"]
        assert (405, "OPTIONS") == (refusal.status, refusal.headers["allow"])
        assert "method_not_allowed" == refusal.error["code"]

    def test_the_go_ahead_is_given_for_bodies_that_are_taken(self) -> None:
        """A client that asks first is told to send, or refused: never both."""
        expect = b"Expect: 100-continue"
        client = self.server.connect()
        head, _, body = post(b"hello", expect).partition(b"\r\n\r\n")
        self.server.send(client, head + b"\r\n\r\n")
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == client.received
        self.server.send(client, body)

        assert [100, 200] == [answer.status for answer in read_answers(client.received)]
        too_long = post(b"x" * (MIB + 1), expect).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        self.assert_refused(too_long, 413, "request_too_large")

    def test_a_refused_client_that_stays_is_left(self) -> None:
        """A client that neither reads nor leaves is cut off after the linger, whatever it sends."""
        body_in_one_read = chunked(*[b"x" * 400_000] * 3) + b"0\r\n\r\n"
        for data in (b"garbage\r\n", body_in_one_read):
            client = self.server.connect()
            transport = cast("Any", client.transport)
            transport.pauseProducing()
            transport.write(data)
            self.server.network.flush()

            self.server.network.advance(LINGER_SECONDS - 1)
            transport.write(b"more")
            self.server.network.flush()
            assert client.ended == ""
            self.server.network.advance(1)

            assert "reset" == client.ended
            assert [] == self.server.network.getDelayedCalls()

    def test_a_refusal_in_the_middle_of_headers_is_the_last_word(self) -> None:
        """What follows a refused header is not looked at: not even a whole request."""
        request = get(b"/", b"no colon", b"A: 1") + get(b"/second")

        self.assert_refused(request, 400, None)
        assert [] == self.server.routes.open


class MistakeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = Server()

    def test_a_crash_is_told_by_its_request_id(self) -> None:
        """An exception becomes a 500 with the id under which the log has it, and no more."""
        answer = self.server.ask_once(get(b"/crash", b"X-Request-ID: abc-1"))

        assert (500, "server_error", "internal_error") == (
            answer.status,
            answer.error["type"],
            answer.error["code"],
        )
        assert "an internal error, logged under request id abc-1" == answer.error["message"]
        assert "abc-1" == answer.headers["x-request-id"]
        assert [RuntimeError] == [error.type for error in self.flushLoggedErrors()]

    def test_a_crash_in_the_middle_breaks_the_answer_off(self) -> None:
        """An answer that has begun is never ended as if it were whole."""
        client = self.server.connect()

        self.server.send(client, get(b"/crash-late"))

        assert client.received.endswith(b"data: 1\n\n\r\n")
        assert b"html" not in client.received.lower()
        assert client.ended
        assert 1 == len(self.flushLoggedErrors(RuntimeError))

    def test_a_broken_off_answer_has_no_last_chunk(self) -> None:
        """What was written goes out, then the connection ends without a body's last chunk."""
        client = self.server.connect()
        self.server.send(client, get(b"/stream"))
        (request,) = self.server.routes.open

        request.write(b"data: 2\n\n")
        request.break_off()
        request.finish()
        self.server.network.flush()

        assert client.received.endswith(b"data: 2\n\n\r\n")
        assert client.ended

    def test_a_broken_off_answer_does_not_wait_for_a_reader(self) -> None:
        """A client that does not read what is left is cut off after the linger."""
        client = self.server.connect()
        self.server.send(client, get(b"/stream"))
        cast("Any", client.transport).pauseProducing()
        (request,) = self.server.routes.open

        request.write(b"x" * 1000)
        request.break_off()
        self.server.network.advance(LINGER_SECONDS)

        assert "reset" == client.ended

    def test_a_cancelled_handler_is_no_mistake(self) -> None:
        """A request whose client left is not failed again."""
        client = self.server.connect()
        self.server.send(client, get(b"/wait"))
        (request,) = self.server.routes.open
        cast("Any", client.transport).loseConnection()
        self.server.network.flush()

        request.processingFailed(Failure(CancelledError()))

        assert 1 == len(self.flushLoggedErrors(CancelledError))


class RequestIdTests(SynchronousTestCase):
    def test_a_sane_id_is_kept(self) -> None:
        """Ids as clients make them come back as they are."""
        for given_id in ("req_1", "550e8400-e29b-41d4-a716-446655440000", "a/b:c@d+e=f", "x" * 128):
            assert given_id == request_id_of(given_id)

    def test_any_other_id_is_replaced(self) -> None:
        """An absent id, and one that is long or could break a log line, becomes one of ours."""
        for given_id in (None, "", " ", "a b", "x" * 129, "a\nb", "é", 'a"b', "a;b"):
            made = request_id_of(given_id)
            assert made != given_id
            assert made.startswith("req_")

    def test_ids_of_ours_differ(self) -> None:
        """No two requests share an id."""
        assert 100 == len({request_id_of(None) for _ in range(100)})


class AnyBytesTests(SynchronousTestCase):
    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.sampled_from(
                    [
                        b"GET ",
                        b"POST ",
                        b"/echo",
                        b" HTTP/1.1\r\n",
                        b" HTTP/1.0\r\n",
                        b"\r\n",
                        b"Host: x\r\n",
                        b"Content-Length: 3\r\n",
                        b"Content-Length: ",
                        b"Transfer-Encoding: chunked\r\n",
                        b"Expect: 100-continue\r\n",
                        b"3\r\n",
                        b"abc",
                        b"0\r\n\r\n",
                        b"Connection: close\r\n",
                        b"X-Request-ID: ",
                        b": ",
                        b" ",
                        b"\t",
                        b"%ff",
                        b"http://",
                        b"*",
                        b"HEAD ",
                    ]
                ),
                st.binary(max_size=8),
            ),
            max_size=24,
        )
    )
    def test_whatever_comes_gets_an_answer_or_none(self, pieces: list[bytes]) -> None:
        """No bytes make the server fail: each answer is a whole one, in JSON or without a body."""
        server = Server()
        client = server.connect()

        server.send(client, b"".join(pieces))
        server.network.advance(2 * IDLE_SECONDS)

        assert client.ended
        assert b"<html" not in client.received
        assert [] == server.network.getDelayedCalls()
        assert [] == self.flushLoggedErrors()
        received = client.received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        if b"HEAD" not in b"".join(pieces):
            for answer in read_answers(received):
                assert not answer.body or json.loads(answer.body)
