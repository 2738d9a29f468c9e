from __future__ import annotations

import json
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.secret import new_key
from cortexd.downstream.channel import LINGER_SECONDS
from cortexd.downstream.refusals import request_id_of
from tests.support.http_answers import read_answers
from tests.support.http_sites import MIB, PORT, Server, chunked, get, post
from tests.support.network import End

# Twisted's own: how long a connection may lie idle before it is closed.
IDLE_SECONDS = 60


class ServingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = Server()

    def test_what_belongs_together_is_sent_at_once(self) -> None:
        """The head with the first piece, and the last piece with the end: a write less for each."""
        client = self.server.connect()
        written: list[bytes] = []
        write = End.write

        def note(end: End, data: bytes) -> None:
            written.append(data)
            write(end, data)

        self.server.send(client, get(b"/stream"))
        self.patch(End, "write", note)
        (request,) = self.server.routes.open
        request.write(b"2")
        request.finish_with(b"3")
        self.server.routes.open.clear()
        self.server.send(client, post(b"hello"))
        self.server.send(client, get(b"/stream"))
        self.server.routes.open[0].finish_with(b"")

        _asked, whole, _asked_again, head, end = written[2:]
        assert [b"1\r\n2\r\n", b"1\r\n3\r\n0\r\n\r\n"] == written[:2]
        assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
        assert whole.endswith(b'"body": "hello"}')
        assert head.endswith(b"\r\n\r\n9\r\ndata: 1\n\n\r\n")
        assert b"0\r\n\r\n" == end

    def test_a_large_body_is_not_copied(self) -> None:
        """Its head goes before it, and the transport gets it as it is."""
        client = self.server.connect()
        written: list[bytes] = []
        self.server.send(client, get(b"/wait"))
        (request,) = self.server.routes.open
        self.patch(End, "write", lambda _, data: written.append(data))
        body = bytes(2 * MIB)
        request.respond(200, {}, body)
        self.server.routes.open.clear()

        assert written[0].endswith(b"\r\n\r\n")
        assert any(piece is body for piece in written)

    def test_a_stream_of_one_piece(self) -> None:
        """What ends a stream may be all of it."""
        client = self.server.connect()
        self.server.send(client, get(b"/wait"))
        (request,) = self.server.routes.open
        request.begin(200, {"Content-Type": "text/event-stream"})
        request.finish_with(b"data: 1\n\n")
        self.server.network.flush()

        assert [b"data: 1\n\n"] == [answer.body for answer in read_answers(client.received)]

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

        assert ("clean", "clean") == (silent.ended, half.ended)
        assert [] == self.server.network.getDelayedCalls()

    def test_a_head_must_come_within_the_idle_limit(self) -> None:
        """Bytes that drip do not put that off; of the next request on a connection neither."""
        for before in (b"", get(b"/one")):
            for sent in (b"GET /two HTTP/1.1", b"GET /two HTTP/1.1\r\nX: y"):
                client = self.server.connect()
                self.server.send(client, before)
                self.server.network.advance(IDLE_SECONDS - 1)
                self.server.send(client, sent)
                for _ in range(5):
                    self.server.network.advance(IDLE_SECONDS / 6)
                    self.server.send(client, b"z")
                self.server.network.advance(IDLE_SECONDS / 6 - 1)
                assert "" == client.ended
                self.server.network.advance(1)
                assert "clean" == client.ended

    def test_a_slow_reader_is_not_idle(self) -> None:
        """A large answer is there for it as long as it reads of it within the idle limit."""
        client = self.server.connect()
        self.server.send(client, get(b"/wait"))
        cast("Any", client.transport).pauseProducing()
        self.server.routes.open[0].respond(200, {}, b"x" * MIB)
        (end,) = self.server.network.open_ends(PORT)
        for _ in range(10):
            self.server.network.advance(IDLE_SECONDS - 1)
            client.dataReceived(bytes(end.unread[:1000]))
            del end.unread[:1000]
            self.server.network.advance(1)
        cast("Any", client.transport).resumeProducing()
        self.server.network.flush()

        (answer,) = read_answers(client.received)
        assert b"x" * MIB == answer.body
        assert "" == client.ended
        self.server.network.advance(IDLE_SECONDS)
        assert "clean" == client.ended

    def test_a_reader_that_stops_is_cut_off(self) -> None:
        """When it has read nothing for as long as a connection may be idle."""
        client = self.server.connect()
        self.server.send(client, get(b"/wait"))
        cast("Any", client.transport).pauseProducing()
        self.server.routes.open[0].respond(200, {}, b"x" * MIB)
        self.server.network.advance(IDLE_SECONDS - 1)
        assert "" == client.ended
        self.server.network.advance(1)

        assert "reset" == client.ended
        assert [] == self.server.network.getDelayedCalls()

    def test_a_reader_that_stops_is_cut_off_at_the_last_answer_too(self) -> None:
        """One that has asked for the connection's end as well, or whose client knows no other."""
        for request in (get(b"/wait", b"Connection: close"), get(b"/wait", version=b"HTTP/1.0")):
            client = self.server.connect()
            self.server.send(client, request)
            cast("Any", client.transport).pauseProducing()
            self.server.routes.open.pop().respond(200, {}, b"x" * MIB)
            self.server.network.advance(IDLE_SECONDS)

            assert "reset" == client.ended
            assert [] == self.server.network.getDelayedCalls()

    def test_a_slow_reader_may_take_its_time_over_the_last_piece(self) -> None:
        """The last piece of a stream is part of what it has yet to read."""
        client = self.server.connect()
        self.server.send(client, get(b"/stream"))
        cast("Any", client.transport).pauseProducing()
        self.server.routes.open[0].finish_with(b"x" * MIB)
        (end,) = self.server.network.open_ends(PORT)
        for _ in range(3):
            self.server.network.advance(IDLE_SECONDS - 1)
            del end.unread[:1000]
            self.server.network.advance(1)

        assert "" == client.ended

    def test_a_body_may_be_slow(self) -> None:
        """A large one over a thin line takes minutes, and is served."""
        client = self.server.connect()
        data = post(b"h" * 800_000)
        for start in range(0, len(data), 10_000):
            self.server.send(client, data[start : start + 10_000])
            self.server.network.advance(2.4)

        (answer,) = read_answers(client.received)
        assert 200 == answer.status


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
        assert "internal error; see the log under request id abc-1" == answer.error["message"]
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


class ClosingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = Server()

    def test_idle_connections_are_closed(self) -> None:
        """Connections that are kept, or have never asked, end in good order; then the wait does."""
        kept, silent = self.server.connect(), self.server.connect()
        self.server.send(kept, get(b"/"))

        closing = Deferred.fromCoroutine(self.server.site.close_connections())
        self.assertNoResult(closing)
        self.server.network.flush()

        self.successResultOf(closing)
        assert ("clean", "clean") == (kept.ended, silent.ended)
        assert [] == self.server.network.getDelayedCalls()

    def test_without_connections_there_is_nothing_to_wait_for(self) -> None:
        """Closing what is closed is done at once."""
        closing = Deferred.fromCoroutine(self.server.site.close_connections())

        self.successResultOf(closing)

    def test_what_was_written_goes_out_first(self) -> None:
        """A client that reads slowly gets all of its answer before its connection ends."""
        client = self.server.connect()
        self.server.send(client, get(b"/wait"))
        transport = cast("Any", client.transport)
        transport.pauseProducing()
        self.server.routes.open[0].respond(200, {}, b"x" * MIB)

        closing = Deferred.fromCoroutine(self.server.site.close_connections())
        self.server.network.advance(LINGER_SECONDS - 1)
        self.assertNoResult(closing)
        transport.resumeProducing()
        self.server.network.flush()

        self.successResultOf(closing)
        assert MIB == len(read_answers(client.received)[0].body)
        assert "clean" == client.ended

    def test_a_client_that_does_not_read_is_not_waited_for(self) -> None:
        """After the linger what was not read is given up."""
        client = self.server.connect()
        self.server.send(client, get(b"/wait"))
        cast("Any", client.transport).pauseProducing()
        self.server.routes.open[0].respond(200, {}, b"x" * MIB)

        closing = Deferred.fromCoroutine(self.server.site.close_connections())
        self.server.network.advance(LINGER_SECONDS)

        self.successResultOf(closing)
        assert "reset" == client.ended

    def test_a_last_response_says_so_and_ends_the_connection(self) -> None:
        """After a response that is to be the last, no request on the connection is looked at."""
        client = self.server.connect()
        self.server.send(client, get(b"/wait"))
        request = self.server.routes.open[0]

        request.close_after_response()
        request.respond(200, {}, b"bye")
        self.server.network.flush()

        (answer,) = read_answers(client.received)
        assert ("close", b"bye", "clean") == (
            answer.headers["connection"],
            answer.body,
            client.ended,
        )


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

    def test_a_key_is_no_id(self) -> None:
        """A client that sends its key in the wrong header does not send it to the log."""
        key = new_key()
        for given_id in (key, f"chat-{key}", key.upper()):
            assert request_id_of(given_id).startswith("req_")

    def test_ids_of_ours_differ(self) -> None:
        """No two requests share an id."""
        assert 100 == len({request_id_of(None) for _ in range(100)})


class AnyBytesTests(SynchronousTestCase):
    @settings(max_examples=300)
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
