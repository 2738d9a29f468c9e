"""How long the relay waits, and for whom."""

from twisted.internet.defer import Deferred

from cortexd.errors import Overloaded
from cortexd.gateway.patience import LEFTOVER_SECONDS
from tests.support.fleets import MODEL
from tests.support.relays import (
    CLOSED,
    DONE,
    NODE_COMMENT,
    OUR_COMMENT,
    OUT_OF_MEMORY,
    RelayTestCase,
    chunk,
    error_in,
    refusal_of,
    reset,
)
from tests.support.scripted import ScriptedNode
from tests.testing.client import CHAT


class HoldTests(RelayTestCase):
    def test_no_status_goes_out_before_the_first_event(self) -> None:
        """But after hold_seconds it does, with a comment, and one more each keepalive_seconds."""
        fleet, node = self.alone(hold_seconds=5, keepalive_seconds=10)
        client = fleet.stream()

        fleet.advance(4.9)
        self.assert_waiting(client)
        fleet.advance(0.1)
        assert (200, OUR_COMMENT) == (client.status, client.text())
        fleet.advance(9.9)
        assert OUR_COMMENT == client.text()
        fleet.advance(0.1)
        assert 2 * OUR_COMMENT == client.text()
        node.stream(chunk("late", "stop"), DONE, end=True)
        fleet.flush()
        assert ("clean", "late") == (client.ended, client.content())

    def test_a_stream_that_flows_needs_no_comment(self) -> None:
        """Each event puts the next sign of life off; it comes when the flow stops."""
        fleet, node = self.alone(hold_seconds=5, keepalive_seconds=10)
        client = fleet.stream()
        for _ in range(5):
            node.stream(chunk("x"))
            fleet.advance(9)
        assert ("xxxxx", False) == (client.content(), OUR_COMMENT in client.text())
        fleet.advance(1)
        assert client.text().endswith(OUR_COMMENT)

    def test_a_keepalive_shorter_than_the_hold_counts_from_the_first_event(self) -> None:
        """A stream that begins and falls silent gets its sign of life before the hold ends."""
        fleet, node = self.alone(hold_seconds=10, keepalive_seconds=2)
        client = fleet.stream()
        fleet.advance(1)
        node.stream(chunk("x"))
        fleet.advance(1.9)
        assert OUR_COMMENT not in client.text()
        fleet.advance(0.1)
        assert client.text().endswith(OUR_COMMENT)

    def test_the_nodes_own_comments_are_not_passed_on(self) -> None:
        """They say that the node lives; the client gets ours, at our pace."""
        fleet, node = self.alone(hold_seconds=5, keepalive_seconds=10, upstream_timeout=8)
        client = fleet.stream()
        for _ in range(10):
            fleet.advance(3)
            node.stream(NODE_COMMENT)
            fleet.flush()
        assert 3 * OUR_COMMENT == client.text()
        assert "" == client.ended

    def test_a_whole_answer_has_no_signs_of_life(self) -> None:
        """Nothing goes out before its end, which keeps its status free."""
        fleet, node = self.alone(hold_seconds=5)
        client = fleet.chat()
        fleet.advance(500)
        assert (None, b"") == (client.status, client.body)
        reset(node)
        fleet.flush()
        assert 502 == client.status

    def test_after_the_hold_a_fault_is_told_in_the_stream(self) -> None:
        """The comment has spent the status."""
        fleet, bad = self.alone(hold_seconds=5)
        client = fleet.stream()
        fleet.advance(5)
        reset(bad)
        fleet.flush()

        assert ("broken", "bad_gateway") == (client.ended, error_in(client)["code"])
        assert "broken" == fleet.events("request")[-1]["outcome"]
        self.assert_at_rest(fleet)

    def test_after_the_hold_another_node_may_still_be_asked(self) -> None:
        """A comment is nothing of an answer: the next node's follows it in the same stream."""
        fleet, bad = self.bad_and_good(hold_seconds=5)
        client = fleet.stream()
        fleet.advance(5)
        assert OUR_COMMENT == client.text()
        reset(bad)
        fleet.flush()

        assert ("clean", "You said: hi") == (client.ended, client.content())
        assert client.text().startswith(OUR_COMMENT)
        line = fleet.events("request")[-1]
        assert ("200", 2, "good", None) == tuple(
            line[field] for field in ("outcome", "attempts", "node", "code")
        )
        assert len(client.body) == line["bytes_out"]
        self.assert_at_rest(fleet)

    def test_a_fault_everywhere_after_the_hold_is_told_once(self) -> None:
        """As the stream's last event, with the first node's words."""
        first, second = self.scripted("first"), self.scripted("second")
        fleet = self.fleet(first, second, hold_seconds=5)
        client = fleet.stream()
        fleet.advance(5)
        reset(first)
        fleet.flush()
        second.answer(500, OUT_OF_MEMORY)
        fleet.flush()

        assert ("broken", 1) == (client.ended, len(client.events()))
        assert f"node first: {CLOSED}" == error_in(client)["message"]
        (line,) = fleet.events("request")
        assert ("broken", 2, "second") == (line["outcome"], line["attempts"], line["node"])
        assert len(client.body) == line["bytes_out"]

    def test_the_hold_counts_from_the_requests_coming(self) -> None:
        """Over all attempts: another node does not make the client wait anew."""
        first, second = self.scripted("first"), self.scripted("second")
        fleet = self.fleet(first, second, hold_seconds=5)
        client = fleet.stream()
        fleet.advance(4)
        reset(first)
        fleet.advance(0.9)
        self.assert_waiting(client)
        fleet.advance(0.1)
        assert (200, OUR_COMMENT) == (client.status, client.text())

    def test_signs_of_life_keep_their_pace_over_attempts(self) -> None:
        """No silence is longer than keepalive_seconds because another node is asked in between."""
        first, second = self.scripted("first"), self.scripted("second")
        fleet = self.fleet(first, second, hold_seconds=5, keepalive_seconds=10)
        client = fleet.stream()
        fleet.advance(14)
        reset(first)
        fleet.advance(0.9)
        assert OUR_COMMENT == client.text()
        fleet.advance(0.1)
        assert 2 * OUR_COMMENT == client.text()


class SilenceTests(RelayTestCase):
    def test_silence_before_the_first_byte_is_a_504(self) -> None:
        """Whether the headers had come or not, streamed or whole; the node is let go of."""
        fleet, node = self.alone(hold_seconds=100, upstream_timeout=30)

        for ask in (fleet.stream, fleet.chat):
            for headers_come in (False, True):
                client = ask()
                request = node.requests[-1]
                if headers_come:
                    node.stream(b"")
                fleet.advance(29.9)
                self.assert_waiting(client)
                fleet.advance(0.1)

                assert ("clean", 504, "timeout") == (
                    client.ended,
                    client.status,
                    refusal_of(client)["code"],
                )
                assert (
                    "node bad sent nothing for 30 s (gateway.upstream_timeout)"
                    == refusal_of(client)["message"]
                )
                assert request.channel is None
                assert 30 == fleet.events("request")[-1]["duration"]
                self.assert_at_rest(fleet)

    def test_silence_after_the_first_byte_is_told_in_the_stream(self) -> None:
        """Counted from the last byte, not from the beginning."""
        fleet, node = self.alone(upstream_timeout=30, keepalive_seconds=100)
        client = fleet.stream()
        for _ in range(4):
            node.stream(chunk("x"))
            fleet.advance(29)
        assert "" == client.ended
        fleet.advance(1)

        assert ("broken", "timeout") == (client.ended, error_in(client)["code"])
        assert node.requests[-1].channel is None
        assert "broken" == fleet.events("request")[-1]["outcome"]
        self.assert_at_rest(fleet)

    def test_our_signs_of_life_do_not_stand_for_the_nodes(self) -> None:
        """A client that hears comments still hears of the node's silence in time."""
        fleet, _ = self.alone(hold_seconds=5, keepalive_seconds=10, upstream_timeout=30)
        client = fleet.stream()
        fleet.advance(30)

        assert 3 * OUR_COMMENT == client.text()[: 3 * len(OUR_COMMENT)]
        assert "timeout" == error_in(client)["code"]

    def test_a_node_that_cannot_be_connected_to_is_passed_over(self) -> None:
        """After connect_timeout, well before the upstream timeout."""
        gone = self.node("bad")
        fleet = self.fleet(gone, self.node("good"), connect_timeout=3, hold_seconds=10)
        fleet.close_idle()
        Deferred.fromCoroutine(gone.close())
        fleet.network.black_holes.add(fleet.ports["bad"])
        fleet.flush()

        client = fleet.stream()
        fleet.advance(2.9)
        self.assert_waiting(client)
        fleet.advance(0.1)

        assert (200, "good", "clean") == (
            client.status,
            client.headers["x-cortex-node"],
            client.ended,
        )
        (failed,) = fleet.events("attempt_failed")
        assert "node bad: the connection attempt timed out" == failed["reason"]


class StalledReaderTests(RelayTestCase):
    def test_a_client_that_does_not_read_stops_the_node(self) -> None:
        """And gets every byte once it reads again, however long within the timeout that takes."""
        fleet, node = self.alone(upstream_timeout=30)
        client = fleet.stream()
        node.stream(chunk("first"))
        fleet.flush()
        client.open_transport.pauseProducing()
        texts = [f"{number}" + "x" * 40_000 for number in range(20)]
        for text in texts:
            node.stream(chunk(text))
            fleet.flush()
        (end,) = [end for end in fleet.node_ends("bad") if end.unread]
        assert len(end.unread) > 40_000
        fleet.advance(29)
        assert ("", "first") == (client.ended, client.content())

        client.open_transport.resumeProducing()
        node.stream(chunk("", "stop"), DONE, end=True)
        fleet.flush()

        assert ("clean", "first" + "".join(texts)) == (client.ended, client.content())
        self.assert_at_rest(fleet)

    def test_a_stalled_reader_is_dropped(self) -> None:
        """After upstream_timeout both connections are closed; it counts as a client that left."""
        fleet, node = self.alone(upstream_timeout=30)
        client = fleet.stream()
        node.stream(chunk("first"))
        fleet.flush()
        client.open_transport.pauseProducing()
        node.stream(*(chunk("x" * 40_000) for _ in range(20)))
        fleet.advance(29.9)
        assert ("", 1) == (client.ended, len(fleet.fleet.leases))
        fleet.advance(0.1)

        assert "broken" == client.ended
        assert node.requests[-1].channel is None
        assert "client_gone" == fleet.events("request")[-1]["outcome"]
        assert [] == fleet.events("attempt_failed")
        self.assert_at_rest(fleet)

    def test_a_stall_that_ends_is_forgotten(self) -> None:
        """The node has its whole time again from then on."""
        fleet, node = self.alone(upstream_timeout=30, keepalive_seconds=100)
        client = fleet.stream()
        node.stream(chunk("first"))
        fleet.flush()
        client.open_transport.pauseProducing()
        node.stream(*(chunk("x" * 40_000) for _ in range(20)))
        fleet.advance(25)
        client.open_transport.resumeProducing()
        fleet.advance(29)
        assert "" == client.ended
        fleet.advance(1)
        assert ("broken", "timeout") == (client.ended, error_in(client)["code"])


class LeftoverTests(RelayTestCase):
    def test_the_client_does_not_wait_for_the_end_of_the_nodes_body(self) -> None:
        """[DONE] ends its answer and the lease; the node has a little longer, and may say more."""
        fleet, node = self.alone()
        client = fleet.stream()
        node.stream(chunk("all", "stop"), DONE)
        fleet.flush()
        assert ("clean", "all") == (client.ended, client.content())
        self.assert_at_rest(fleet)

        node.stream(chunk("more"))
        fleet.advance(1)
        kept = len(fleet.node_ends("bad"))
        node.requests[-1].finish()
        fleet.flush()
        fleet.advance(LEFTOVER_SECONDS)

        assert "all" == client.content()
        assert kept == len(fleet.node_ends("bad"))
        again = fleet.stream()
        assert kept == len(fleet.node_ends("bad"))
        node.stream(chunk("again", "stop"), DONE, end=True)
        fleet.flush()
        assert "again" == again.content()

    def test_a_body_that_never_ends_costs_its_connection(self) -> None:
        """Closed a while after [DONE], streamed or whole; the client has long been served."""
        fleet, node = self.alone()

        for ask in (fleet.stream, fleet.chat):
            client = ask()
            node.stream(chunk("all", "stop"), DONE)
            fleet.advance(LEFTOVER_SECONDS - 0.1)
            assert ("clean", 200) == (client.ended, client.status)
            assert node.requests[-1].channel is not None
            fleet.advance(0.1)
            assert node.requests[-1].channel is None
            assert "200" == fleet.events("request")[-1]["outcome"]

    def test_an_answer_that_has_finished_is_whole(self) -> None:
        """Though its node breaks off, or we stop, before its counts have come."""
        fleet, node = self.alone()

        def stop(node: ScriptedNode) -> None:
            fleet.relay.stop(Overloaded("we stop"))

        for fault in (reset, stop):
            for ask in (fleet.stream, fleet.chat):
                client = ask()
                node.stream(chunk("all", "stop"))
                fleet.advance(LEFTOVER_SECONDS / 2)
                assert "" == client.ended
                fault(node)
                fleet.flush()

                assert ("clean", 200) == (client.ended, client.status)
                assert "all" in client.text()
                assert "error" not in client.text()
                fleet.advance(LEFTOVER_SECONDS)
                self.assert_at_rest(fleet)
        assert [] == fleet.events("attempt_failed")

    def test_a_finish_without_done_is_an_end_too(self) -> None:
        """The node may leave [DONE] out; the client gets it all the same."""
        fleet, node = self.alone()
        client = fleet.stream()
        node.stream(chunk("all", "stop"), end=True)
        fleet.flush()

        assert ("clean", "[DONE]") == (client.ended, client.events()[-1])
        labels = {"route": CHAT, "model": MODEL, "node": "bad", "status": "200"}
        assert 1.0 == fleet.sample("cortex_requests_total", **labels)
