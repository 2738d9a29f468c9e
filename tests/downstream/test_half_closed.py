"""Clients that end their side of the connection: some have left, and some wait for the answer."""

from __future__ import annotations

from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from tests.support.http_answers import read_answers
from tests.support.http_sites import PORT, Client, Server, get, post


class HalfClosedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = Server()
        self.routes = self.server.routes

    def end_side(self, client: Client) -> None:
        """End the client's side only."""
        cast("Any", client.transport).loseWriteConnection()
        self.server.network.flush()

    def ask_and_end(self, data: bytes) -> Client:
        client = self.server.connect()
        self.server.send(client, data)
        self.end_side(client)
        return client

    def test_a_whole_answer(self) -> None:
        """It gets its answer, after an interim one that means nothing, and the connection ends."""
        client = self.ask_and_end(get(b"/wait"))
        self.server.network.advance(5.0)
        assert [] == self.routes.gone
        self.routes.open[0].respond(200, {}, b"late")
        self.server.network.flush()

        interim, answer = read_answers(client.received)
        assert (100, 200, b"late") == (interim.status, answer.status, answer.body)
        assert "clean" == client.ended

    def test_a_stream(self) -> None:
        """It goes on to its end; a comment between two events shows that the client is there."""
        client = self.server.connect()
        self.server.send(client, get(b"/stream"))
        self.routes.open[0].takes_comments = True
        self.end_side(client)
        self.server.network.advance(5.0)
        self.routes.open[0].finish_with(b"data: 2\n\n")
        self.server.network.flush()

        (answer,) = read_answers(client.received)
        assert b"data: 1\n\n:\n\ndata: 2\n\n" == answer.body
        assert "clean" == client.ended

    def test_requests_in_a_row(self) -> None:
        """All requests that came before the end are answered."""
        client = self.ask_and_end(get(b"/wait") + post(b"a") + post(b"b"))
        self.routes.open[0].respond(200, {}, b"first")
        self.server.network.flush()

        bodies = [each.body for each in read_answers(client.received) if each.status == 200]
        assert [True] * 3 == [
            part in body for part, body in zip((b"first", b'"a"', b'"b"'), bodies, strict=True)
        ]
        assert "clean" == client.ended

    def test_one_that_has_left(self) -> None:
        """The bytes that mean nothing come back, and the request ends at once."""
        for path, comments in ((b"/wait", False), (b"/stream", True)):
            client = self.server.connect()
            self.server.send(client, get(path))
            self.routes.open[-1].takes_comments = comments
            self.server.leave(client)

            assert self.routes.open[-1:] == self.routes.gone[-1:], path
        assert [] == self.server.network.open_ends(PORT)
        assert [] == self.server.network.getDelayedCalls()

    def test_old_clients(self) -> None:
        """HTTP/1.0 has no interim answers: the end of its side counts as leaving."""
        client = self.ask_and_end(get(b"/wait", version=b"HTTP/1.0"))

        assert self.routes.open == self.routes.gone
        assert client.ended

    def test_nothing_was_asked(self) -> None:
        """Without a whole request there is nothing to wait for."""
        for data in (b"", get(b"/wait")[:-5], post(b"hello")[:-1], post(b"a")):
            client = self.ask_and_end(data)
            assert "clean" == client.ended, data
        assert [] == self.routes.open

    def test_looks_become_rare(self) -> None:
        """A client that waits for long costs a look a second."""
        self.ask_and_end(get(b"/wait"))
        self.server.network.advance(10.0)
        (end,) = self.server.network.open_ends(PORT)
        looks: list[float] = []
        self.patch(end, "startWriting", lambda: looks.append(self.server.network.seconds()))
        self.server.network.advance(10.0)

        assert 9 <= len(looks) <= 10
        self.routes.open[0].respond(200, {}, b"")
