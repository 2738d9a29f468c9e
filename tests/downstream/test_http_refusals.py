"""The requests that cortexd.downstream.http_server rejects, and the answers to them."""

from __future__ import annotations

import json
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from cortexd.downstream.channel import LINGER_SECONDS, MAX_HEADER_BYTES
from tests.support.http_answers import Answer, read_answers
from tests.support.http_sites import MIB, Server, chunked, get, post


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
