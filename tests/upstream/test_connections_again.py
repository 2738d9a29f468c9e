"""A request that met the end of its connection on the way, and what of it is sent again."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from cortexd.errors import BadGateway
from cortexd.fleet.outcomes import LifecycleStatus
from cortexd.upstream import connection
from cortexd.upstream.advice import MAYBE_TLS
from cortexd.upstream.client import collect
from cortexd.upstream.connections import LONG_IDLE_SECONDS, PIECE_BYTES, SOON_SECONDS
from tests.support.network import Socket
from tests.upstream.test_client import CLOSED, EMPTY_LIST, PORT, UpstreamTestCase, response


class SentAgainTests(UpstreamTestCase):
    def serve_once(self) -> None:
        """Have a connection that has served a request, and was idle since for a while."""
        self.listen(response(EMPTY_LIST))
        self.successResultOf(self.start(self.client.listing(2)))
        self.network.advance(LONG_IDLE_SECONDS)
        (speaker,) = self.speakers
        assert not speaker.closed

    def close_idle(self) -> None:
        """Have the node close the connection; word of that is under way."""
        transport: Any = self.speakers[0].transport
        transport.loseConnection()

    async def post(self, body: bytes) -> bytes:
        return await collect(await self.client.open("/v1/x", body, {"X-Request-ID": "r"}))

    def failed(self, asked: Deferred[Any]) -> str:
        self.network.flush()
        failure = self.failureResultOf(asked)
        assert BadGateway is failure.type, failure
        words: str = failure.getErrorMessage()
        return words

    def test_an_idle_connection_may_end_as_a_request_goes_out(self) -> None:
        """The request goes out again on a fresh one, whole and once."""
        for body in (b"{}", b"x" * 3 * PIECE_BYTES):
            self.speakers.clear()
            self.serve_once()
            self.listen(b"")
            self.close_idle()
            posted = self.start(self.post(body))

            first, second = self.speakers
            transport: Any = second.transport
            transport.write(response(EMPTY_LIST))
            self.network.flush()
            assert EMPTY_LIST == self.successResultOf(posted)
            assert b"POST" not in first.heard
            head, _, sent = second.heard.partition(b"\r\n\r\n")
            assert head.startswith(b"POST /v1/x HTTP/1.1\r\n")
            assert {b"X-Request-Id: r", b"Content-Length: %d" % len(body)} <= set(
                head.split(b"\r\n")
            )
            assert body == sent
            self.pool.closeCachedConnections()
            self.network.flush()

    def test_a_question_without_a_body_goes_out_again(self) -> None:
        """So a poll that meets the end of its connection is no failure of the node."""
        self.serve_once()
        self.close_idle()

        assert {} == self.successResultOf(self.start(self.client.listing(2))).replicas
        assert 2 == len(self.speakers)

    def test_it_goes_out_again_on_a_fresh_connection(self) -> None:
        """Others that are kept may be ending as well."""
        self.listen(response(EMPTY_LIST))
        listings = [Deferred.fromCoroutine(self.client.listing(2)) for _ in range(3)]
        self.network.flush()
        for listing in listings:
            self.successResultOf(listing)
        self.network.advance(LONG_IDLE_SECONDS)
        for speaker in self.speakers:
            transport: Any = speaker.transport
            transport.loseConnection()

        assert EMPTY_LIST == self.successResultOf(self.start(self.post(b"{}")))
        assert 4 == len(self.speakers)

    def test_it_goes_out_again_once(self) -> None:
        """Where the fresh connection ends too, that is the answer."""
        self.serve_once()
        self.listen(b"", lambda transport: transport.loseConnection())
        self.close_idle()

        assert CLOSED == self.failed(Deferred.fromCoroutine(self.client.listing(2)))
        assert 2 == len(self.speakers)

    def test_what_a_fresh_connection_fails_is_not_sent_again(self) -> None:
        """Nobody closes one of those for its idleness."""
        self.listen(b"", lambda transport: transport.loseConnection())

        words = self.failed(Deferred.fromCoroutine(self.client.listing(2)))
        assert f"{CLOSED}; {MAYBE_TLS}" == words
        assert 1 == len(self.speakers)

    def test_what_a_busy_connection_fails_is_not_sent_again(self) -> None:
        """Nor one that has just served."""
        self.listen(response(EMPTY_LIST))
        self.successResultOf(self.start(self.client.listing(2)))
        self.network.advance(LONG_IDLE_SECONDS - 0.1)
        self.close_idle()

        assert CLOSED == self.failed(Deferred.fromCoroutine(self.client.listing(2)))
        assert 1 == len(self.speakers)

    def test_what_began_to_be_answered_is_not_sent_again(self) -> None:
        """One byte is enough, also where the request was not yet sent whole."""
        for body in (b"{}", b"x" * 3 * PIECE_BYTES):
            self.speakers.clear()
            self.serve_once()
            (speaker,) = self.speakers
            transport: Any = speaker.transport
            transport.pauseProducing()
            posted = self.start(self.post(body))
            transport.write(b"H")
            self.network.flush()
            transport.abortConnection()
            self.network.flush()

            self.failureResultOf(posted)
            assert 1 == len(self.speakers)

    def test_what_a_node_may_have_read_is_not_sent_again(self) -> None:
        """It would do the same work once more, and may die of it: however early the end comes."""
        for seconds in (0.0, SOON_SECONDS, SOON_SECONDS + 0.1):
            for ends in ("abortConnection", "loseConnection"):
                self.speakers.clear()
                self.serve_once()
                posted = self.start(self.post(b"{}"))
                self.network.advance(seconds)
                (speaker,) = self.speakers
                assert 1 == speaker.heard.count(b"POST")
                getattr(speaker.transport, ends)()
                self.network.flush()

                assert 1 == len(self.speakers)
                self.failureResultOf(posted)
                self.pool.closeCachedConnections()
                self.network.flush()

    def test_what_cannot_be_known_is_not_sent_again(self) -> None:
        """Where the system does not say what was acknowledged, the node may have read it."""
        self.patch(connection, "_TCP_INFO", None)
        self.serve_once()
        self.close_idle()
        self.failureResultOf(self.start(self.post(b"{}")))
        assert 1 == len(self.speakers)

    def test_a_connection_that_was_closed_is_not_used(self) -> None:
        """The system knows of its end before we have read it."""
        for state, used in ((1, 1), (7, 2), (8, 2)):
            self.speakers.clear()
            self.serve_once()
            self.patch(Socket, "state", state)
            self.start(self.post(b"{}"))
            assert used == len(self.speakers)
            self.patch(Socket, "state", 1)
            self.pool.closeCachedConnections()
            self.network.flush()

    def test_a_deletion_is_not_sent_again(self) -> None:
        """The second would find nothing, and its client would hear so; a reading is repeated."""
        for method, connections_used in (("DELETE", 1), ("POST", 1), ("GET", 2)):
            self.speakers.clear()
            self.serve_once()
            asked = self.start(self.client.forward(method, "/v1/files/f", {}, 2))
            transport: Any = self.speakers[0].transport
            transport.abortConnection()
            self.network.flush()
            assert connections_used == len(self.speakers), method
            asked.addErrback(lambda failure: None)
            self.pool.closeCachedConnections()
            self.network.flush()

    def test_a_question_is_sent_again_only_after_an_early_end(self) -> None:
        """Later it is no longer the end of an idle connection."""
        for seconds, used in ((SOON_SECONDS, 2), (SOON_SECONDS + 0.1, 1)):
            self.speakers.clear()
            self.serve_once()
            posted = self.start(self.client.status("m", 9))
            self.network.advance(seconds)
            (speaker,) = self.speakers
            transport: Any = speaker.transport
            transport.abortConnection()
            self.network.flush()

            assert used == len(self.speakers)
            assert posted.called
            posted.addErrback(lambda failure: None)
            self.pool.closeCachedConnections()
            self.network.flush()

    def test_orders_to_a_node_go_out_once(self) -> None:
        """Over a connection that no server closes yet: told twice, a node may lose its model."""
        said = response(b'{"model_id":"m","status":"loaded"}')
        for order in (self.client.load, self.client.unload):
            for words, after in ((said, None), (b"", lambda transport: transport.loseConnection())):
                self.speakers.clear()
                self.serve_once()
                self.listen(words, after)
                self.close_idle()
                ordered = self.start(order("m", 2))

                kept, fresh = self.speakers
                assert (0, 1) == (kept.heard.count(b"POST"), fresh.heard.count(b"POST"))
                if words:
                    assert LifecycleStatus.LOADED is self.successResultOf(ordered).status
                else:
                    assert CLOSED == self.failed(ordered)
                self.pool.closeCachedConnections()
                self.network.flush()

    def test_a_question_about_a_model_goes_out_again(self) -> None:
        """It is a POST, but orders nothing."""
        self.serve_once()
        self.listen(response(b'{"model_id":"m","status":"loaded"}'))
        self.close_idle()
        outcome = self.successResultOf(self.start(self.client.status("m", 2)))

        assert LifecycleStatus.LOADED is outcome.status

    def test_cancelling_before_the_end_is_known(self) -> None:
        """Nothing is sent again for who has left."""
        self.serve_once()
        self.close_idle()
        posted = Deferred.fromCoroutine(self.post(b"{}"))
        posted.cancel()
        self.network.flush()

        self.failureResultOf(posted, CancelledError)
        assert 1 == len(self.speakers)

    def test_cancelling_between_both(self) -> None:
        """The fresh connection is given up while it is made."""
        self.serve_once()
        self.close_idle()
        self.network.black_holes.add(PORT)
        posted = self.start(self.post(b"{}"))
        self.assertNoResult(posted)
        posted.cancel()
        self.network.flush()

        self.failureResultOf(posted, CancelledError)
        assert [] == self.clock.getDelayedCalls()

    def test_limits_hold_over_both(self) -> None:
        """Connecting anew takes no longer than the first time, nor the question than it may."""
        for limit, words in ((2, "no answer within 2 s"), (9, "the connection attempt timed out")):
            self.speakers.clear()
            self.network.black_holes.clear()
            self.serve_once()
            self.close_idle()
            self.network.black_holes.add(PORT)
            listing = self.start(self.client.listing(limit))
            self.network.advance(min(limit, 5) - 0.1)
            self.assertNoResult(listing)
            self.network.advance(0.1)

            assert words in self.failureResultOf(listing).getErrorMessage()
