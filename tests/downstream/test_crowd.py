"""The limits on clients: how many, how idle, how slow, and what those beyond are answered."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.admission.clients import SLOWEST_BODY, SURPLUS_SECONDS, ClientLimits
from cortexd.downstream.channel import LINGER_SECONDS
from cortexd.downstream.refusals import REASONS
from tests.covers import covers
from tests.support.http_answers import Answer, read_answers
from tests.support.http_sites import Client, Server, get, post

LIMITS = ClientLimits(clients=3, surplus=2, body_seconds=60.0)
CHAT = b"/v1/chat/completions"


def error_of(answer: Answer) -> dict[str, Any]:
    """Return the content of the Messages envelope."""
    error: dict[str, Any] = json.loads(answer.body)["error"]
    return error


class CrowdTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = Server(LIMITS)
        self.crowd = self.server.site.crowd

    def connect(self, count: int) -> list[Client]:
        return [self.server.connect() for _ in range(count)]

    def ask(self, client: Client, data: bytes) -> Answer:
        client.received = b""
        self.server.send(client, data)
        (answer,) = read_answers(client.received)
        return answer

    def occupy(self) -> list[Client]:
        """Let as many clients as allowed wait for an answer."""
        clients = self.connect(LIMITS.clients)
        for client in clients:
            self.server.send(client, get(b"/wait"))
        return clients


class IdleTests(CrowdTestCase):
    def test_the_longest_idle_makes_room(self) -> None:
        """A new client is served in place of the one that has sent nothing for the longest time."""
        first, second, third = self.connect(3)
        for client in (second, first, third):
            assert 200 == self.ask(client, post(b"a")).status

        newest = self.server.connect()

        assert ["", "clean", ""] == [each.ended for each in (first, second, third)]
        assert 200 == self.ask(newest, post(b"b", target=CHAT)).status
        assert {"idle": 1, "full": 0} == self.crowd.closed

    def test_a_connection_in_use_is_none(self) -> None:
        """Neither a client that waits for its answer nor one that sends its body makes room."""
        waiting, sending, idle = self.connect(3)
        self.server.send(waiting, get(b"/wait"))
        data = post(b"hello")
        self.server.send(sending, data[:-1])

        self.server.connect()

        assert ["", "", "clean"] == [each.ended for each in (waiting, sending, idle)]
        self.server.send(sending, data[-1:])
        assert b'"hello"' in sending.received

    def test_a_head_that_does_not_end_is_idle(self) -> None:
        """Heads that drip cannot keep others out."""
        drips = self.connect(3)
        for client in drips:
            self.server.send(client, b"POST /v1/chat/com")

        others = self.connect(3)

        assert ["clean"] * 3 == [each.ended for each in drips]
        assert {200} == {self.ask(each, post(b"a", target=CHAT)).status for each in others}

    def test_an_answer_is_not_cut_off(self) -> None:
        """A client that still reads its last answer is spared, however long ago it asked."""
        slow, *_ = self.connect(3)
        self.server.send(slow, get(b"/stream"))
        end = self.server.network.open_ends(8000)[0]
        end.peer.reads = False
        self.server.routes.open[0].finish_with(b"x" * 1000)

        self.server.connect()
        end.peer.reads = True
        self.server.network.flush()

        assert "" == slow.ended
        assert slow.received.endswith(b"x" * 1000 + b"\r\n0\r\n\r\n")


class FullTests(CrowdTestCase):
    @covers("5 gateway full or overloaded")
    def test_a_request_beyond_the_limit(self) -> None:
        """It is refused in its own dialect, with a time to come again, and the connection ends."""
        self.occupy()
        client, other = self.connect(2)

        answer = self.ask(client, post(b"{}", target=CHAT))
        assert (503, "2") == (answer.status, answer.headers["retry-after"])
        assert "gateway_overloaded" == answer.error["code"]
        assert "gateway.max_clients" in answer.error["message"]
        assert "clean" == client.ended

        answer = self.ask(other, post(b"{}", target=b"/v1/messages"))
        assert (529, "overloaded_error") == (
            answer.status,
            json.loads(answer.body)["error"]["type"],
        )
        assert {"full": 2, "overload": 0} == self.crowd.refused

    def test_each_status_has_its_reason(self) -> None:
        """The status line names those too that Twisted has no words for."""
        self.occupy()
        (client,) = self.connect(1)
        self.ask(client, post(b"{}", target=b"/v1/messages"))

        assert client.received.startswith(b"HTTP/1.1 529 Overloaded\r\n")
        expected = {402: b"Payment Required", 422: b"Unprocessable", 429: b"Too Many Requests"}
        assert all(REASONS[each].startswith(words) for each, words in expected.items())

    def test_health_is_answered(self) -> None:
        """A monitor learns that the gateway lives, also when it is full."""
        self.occupy()
        (client,) = self.connect(1)

        answer = self.ask(client, get(b"/health"))

        assert (200, "close") == (answer.status, answer.headers["connection"])
        assert "clean" == client.ended

    def test_a_place_has_become_free(self) -> None:
        """A client that came too early is served if another has left before it asks."""
        first, *_ = self.occupy()
        (client,) = self.connect(1)
        self.server.routes.open[0].respond(200, {}, b"")
        self.server.leave(first)

        assert 200 == self.ask(client, post(b"a", target=CHAT)).status

    def test_no_more_are_let_in(self) -> None:
        """Beyond the surplus a connection is closed at once, and the surplus is asked to hurry."""
        self.occupy()
        surplus = self.connect(LIMITS.surplus)
        (beyond,) = self.connect(1)
        assert "reset" == beyond.ended
        assert {"idle": 0, "full": 1} == self.crowd.closed

        self.server.network.advance(SURPLUS_SECONDS)
        assert ["clean"] * 2 == [each.ended for each in surplus]
        assert "" == self.connect(1)[0].ended

    def test_a_large_body_is_not_read(self) -> None:
        """Its request is refused at the end of the head."""
        self.occupy()
        (client,) = self.connect(1)

        answer = self.ask(client, post(b"x" * 100_000, target=CHAT)[:200])

        assert 503 == answer.status
        self.server.network.advance(LINGER_SECONDS)
        assert client.ended


class OverloadTests(CrowdTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.crowd.is_shedding = True

    def test_work_is_refused(self) -> None:
        """The connection goes on, so that the next request needs no new one."""
        (client,) = self.connect(1)
        for _ in range(2):
            answer = self.ask(client, post(b"{}", target=CHAT))
            assert (503, "2") == (answer.status, answer.headers["retry-after"])
            assert "overloaded" in answer.error["message"]

        self.crowd.is_shedding = False
        assert 200 == self.ask(client, post(b"{}", target=CHAT)).status
        assert {"full": 0, "overload": 2} == self.crowd.refused

    def test_all_else_is_answered(self) -> None:
        """Health and lists go on, and so does an answer in progress."""
        self.crowd.is_shedding = False
        streaming, other = self.connect(2)
        self.server.send(streaming, get(b"/stream"))
        self.crowd.is_shedding = True

        for path in (b"/health", b"/v1/models"):
            assert 200 == self.ask(other, get(path)).status
        self.server.routes.open[0].finish_with(b"data: 2\n\n")
        self.server.network.flush()
        assert streaming.received.endswith(b"data: 2\n\n\r\n0\r\n\r\n")


class SlowBodyTests(CrowdTestCase):
    @covers("5 body too slow")
    def test_a_body_that_drips(self) -> None:
        """It is refused once its time is over, though bytes come all the while."""
        (client,) = self.connect(1)
        data = post(b"hello, world", target=b"/v1/messages")
        self.server.send(client, data[:-10])
        for number in range(5):
            self.server.send(client, data[len(data) - 10 + number :][:1])
            self.server.network.advance(16)

        (answer,) = read_answers(client.received)
        assert (408, "invalid_request_error") == (
            answer.status,
            json.loads(answer.body)["error"]["type"],
        )
        assert "gateway.body_timeout" in json.loads(answer.body)["error"]["message"]

    def test_a_body_that_stops(self) -> None:
        """It is refused too, instead of closed without a word."""
        (client,) = self.connect(1)
        self.server.send(client, post(b"hello")[:-1])
        self.server.network.advance(60)

        (answer,) = read_answers(client.received)
        assert (408, "request_timeout") == (answer.status, answer.error["code"])

    def test_each_request_has_its_own_time(self) -> None:
        """A connection that has served for long gives the next body as much as the first."""
        (client,) = self.connect(1)
        for _ in range(3):
            data = post(b"hello")
            for start in range(0, len(data), len(data) - 2):
                self.server.send(client, data[start : start + len(data) - 2])
                self.server.network.advance(40)
        assert [200] * 3 == [each.status for each in read_answers(client.received)]


class RateTests(SynchronousTestCase):
    def test_a_legal_slow_line(self) -> None:
        """A body of 32 MiB may come over 64 kbit/s, and one of a few bytes has its minute."""
        size = 32 * 1024 * 1024
        assert not LIMITS.is_too_slow(size / 8000, size)
        assert not LIMITS.is_too_slow(60.0, 1)
        assert LIMITS.is_too_slow(61.0, 1)
        assert LIMITS.is_too_slow(3660.0, 3599 * SLOWEST_BODY)
