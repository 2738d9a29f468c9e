"""How an answer fails to get from a node to a client, and what each of the two hears of it."""

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.server import Request

from cortexd.dialects.openai.chat_answer import ChatAggregate, ChatStream
from cortexd.errors import Overloaded
from cortexd.fleet.nodes import Lease
from cortexd.gateway.patience import LEFTOVER_SECONDS
from cortexd.testing import SimulatedModel
from cortexd.upstream.connections import SOON_SECONDS
from tests.support.fleets import MODEL, Client, InMemoryFleet, RawClient
from tests.support.relays import (
    BROKEN_OFF,
    CLOSED,
    DONE,
    FAULTS_IN_A_STREAM,
    FAULTS_INSTEAD,
    REFUSALS,
    RelayTestCase,
    chunk,
    error_in,
    error_inside,
    failures_counted,
    refusal_of,
    reset,
)
from tests.support.scripted import ScriptedNode
from tests.testing.client import CHAT


class BeforeTheFirstByteTests(RelayTestCase):
    def assert_rescued(self, fleet: InMemoryFleet, client: Client, code: str) -> None:
        """See that "good" answered as if "bad" had never been asked, and that we know better."""
        fleet.flush()
        assert ("clean", 200, "good") == (
            client.ended,
            client.status,
            client.headers["x-cortex-node"],
        )
        streamed = client.headers["content-type"].startswith("text/event-stream")
        text = client.content() if streamed else client.json()["choices"][0]["message"]["content"]
        assert "You said: hi" == text
        assert "error" not in client.text()
        (failed,) = fleet.events("attempt_failed")
        assert ("bad", MODEL, code) == (failed["node"], failed["model"], failed["code"])
        (line,) = fleet.events("request")
        assert (200, "200", 2, "good", None) == tuple(
            line[field] for field in ("status", "outcome", "attempts", "node", "code")
        )
        assert failed["request_id"] == line["request_id"] == client.headers["x-request-id"]
        self.assert_at_rest(fleet)
        fleet.log_events.clear()

    def test_a_node_that_is_gone_is_passed_over(self) -> None:
        """A refused connection costs the client nothing, streamed or not."""
        gone = self.node("bad")
        fleet = self.fleet(gone, self.node("good"), eject_after=0)
        fleet.close_idle()
        Deferred.fromCoroutine(gone.close())
        fleet.flush()

        for ask in (fleet.stream, fleet.chat):
            client = ask()
            fleet.advance(1)
            (failed,) = fleet.events("attempt_failed")
            assert "node bad: connection refused" == failed["reason"]
            self.assert_rescued(fleet, client, "bad_gateway")
        assert 2.0 == failures_counted(fleet, "bad", "bad_gateway")

    def test_a_stream_that_breaks_before_its_first_event_is_answered_elsewhere(self) -> None:
        """Whichever way it breaks; each time it is counted under its code, and logged."""
        fleet, bad = self.bad_and_good()

        for fault, code, reason in FAULTS_IN_A_STREAM:
            for ask in (fleet.stream, fleet.chat):
                before = failures_counted(fleet, "bad", code) or 0
                client = ask()
                fault(bad)
                fleet.flush()
                assert reason == fleet.events("attempt_failed")[0]["reason"], fault
                self.assert_rescued(fleet, client, code)
                assert before + 1 == failures_counted(fleet, "bad", code)

    def test_an_answer_that_is_no_stream_is_asked_for_elsewhere(self) -> None:
        """Where the node's words or status say that the node is at fault."""
        fleet, bad = self.bad_and_good()

        for fault, _, code in FAULTS_INSTEAD:
            for ask in (fleet.stream, fleet.chat):
                client = ask()
                fault(bad)
                self.assert_rescued(fleet, client, code)

    def test_an_answer_in_one_piece_is_asked_for_elsewhere(self) -> None:
        """Of a request that the node is not asked to stream too, in the middle of the body."""
        fleet, bad = self.bad_and_good()

        client = fleet.chat(n=2)
        bad.requests[-1].setHeader("Content-Length", "1000")
        bad.requests[-1].write(b'{"choices":')
        fleet.flush()
        reset(bad)
        self.assert_rescued(fleet, client, "bad_gateway")

    def test_without_another_node_the_client_hears_of_the_fault(self) -> None:
        """With the status and code it has, once, whole, in the envelope."""
        fleet, bad = self.alone()

        statuses = {"bad_gateway": 502, "node_error": 500}
        table = [(fault, statuses[code], code) for fault, code, _ in FAULTS_IN_A_STREAM]
        for number, (fault, status, code) in enumerate([*table, *FAULTS_INSTEAD]):
            for ask in (fleet.stream, fleet.chat):
                client = ask(f"{ask.__name__} {number}")
                fault(bad)
                fleet.flush()
                assert ("clean", status) == (client.ended, client.status), fault
                assert code == refusal_of(client)["code"]
                line = fleet.events("request")[-1]
                assert (str(status), 1, code) == (line["outcome"], line["attempts"], line["code"])
                self.assert_at_rest(fleet)

    def test_the_fault_says_more_than_that_nobody_else_can_help(self) -> None:
        """A second node without the model does not turn a 502 into a 503."""
        bad = self.scripted("bad")
        other = self.node("other", SimulatedModel(id=MODEL, loaded=False))
        fleet = self.fleet(bad, other)

        client = fleet.stream()
        reset(bad)
        fleet.flush()

        assert (502, f"node bad: {CLOSED}") == (client.status, refusal_of(client)["message"])
        assert [] == other.journal.requests(CHAT)

    def test_each_node_is_asked_once(self) -> None:
        """When all have failed the client hears of it, and each failure is counted."""
        first, second = self.scripted("first"), self.scripted("second")
        fleet = self.fleet(first, second)

        client = fleet.stream()
        reset(first)
        fleet.flush()
        self.assert_waiting(client)
        reset(second)
        fleet.flush()

        assert (502, "bad_gateway") == (client.status, refusal_of(client)["code"])
        assert ["first", "second"] == [e["node"] for e in fleet.events("attempt_failed")]
        assert (1, 1) == (len(first.requests), len(second.requests))
        (line,) = fleet.events("request")
        assert (2, "second", "502") == (line["attempts"], line["node"], line["outcome"])
        self.assert_at_rest(fleet)

    def test_the_clients_mistake_is_not_tried_elsewhere(self) -> None:
        """Nor is a fault that the request itself may have caused; its words stay out of the log."""
        fleet, bad = self.bad_and_good()

        for status, body, expected, code in REFUSALS:
            for ask in (fleet.stream, fleet.chat):
                client = ask()
                bad.answer(status, body)
                fleet.flush()
                assert ("clean", expected) == (client.ended, client.status), body
                assert code == refusal_of(client)["code"]
                assert refusal_of(client)["message"] in body.decode()
                assert fleet.events("attempt_failed")[-1]["reason"] is None
                assert 1 == fleet.events("request")[-1]["attempts"]
                self.assert_at_rest(fleet)
        good: Any = fleet.nodes["good"]
        assert [] == good.journal.requests(CHAT)


class AfterTheFirstByteTests(RelayTestCase):
    def test_a_stream_that_breaks_off_ends_in_an_error(self) -> None:
        """As its last event, without [DONE]; no other node is asked; the outcome is 'broken'."""
        fleet, bad = self.bad_and_good()

        for number, (fault, code, reason) in enumerate(FAULTS_IN_A_STREAM, 1):
            client = fleet.stream()
            bad.stream(chunk("half"))
            fleet.flush()
            fault(bad)
            fleet.flush()

            assert ("broken", 200) == (client.ended, client.status), fault
            assert (code, reason) == (error_in(client)["code"], error_in(client)["message"])
            assert "[DONE]" not in client.events()
            assert "half" == json.loads(client.events()[0])["choices"][0]["delta"]["content"]
            (failed,) = fleet.events("attempt_failed")[number - 1 :]
            assert ("bad", code, reason) == (failed["node"], failed["code"], failed["reason"])
            (line,) = fleet.events("request")[number - 1 :]
            assert (200, "broken", 1, code, True) == tuple(
                line[field] for field in ("status", "outcome", "attempts", "code", "stream")
            )
            self.assert_at_rest(fleet)
        labels = {"route": CHAT, "model": MODEL, "node": "bad", "status": "broken"}
        assert len(FAULTS_IN_A_STREAM) == fleet.sample("cortex_requests_total", **labels)
        good: Any = fleet.nodes["good"]
        assert [] == good.journal.requests(CHAT)

    def test_the_last_chunk_of_a_broken_stream_never_goes_out(self) -> None:
        """On the wire: the error's chunk, then the end of the connection."""
        fleet, bad = self.alone()
        client = self.raw_stream(fleet)
        bad.stream(chunk("half"))
        fleet.flush()
        error_inside(bad)
        fleet.flush()

        assert client.received.endswith(b"\n\n\r\n")
        assert b"CUDA out of memory" in client.received
        assert b"\r\n0\r\n" not in client.received
        assert "done" == client.closed

    def raw_stream(self, fleet: InMemoryFleet) -> RawClient:
        messages = [{"role": "user", "content": "hi"}]
        body = json.dumps({"model": MODEL, "messages": messages, "stream": True}).encode()
        client = fleet.connect()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        fleet.send(client, head.encode() + body)
        return client

    def test_a_whole_answer_is_made_anew_elsewhere(self) -> None:
        """However far the generation was: nothing of it has gone out, and nothing of it stays."""
        fleet, bad = self.bad_and_good()

        for number, (fault, code, _) in enumerate(FAULTS_IN_A_STREAM, 1):
            client = fleet.chat()
            bad.stream(chunk("half"))
            fleet.flush()
            self.assert_waiting(client)
            fault(bad)
            fleet.flush()

            assert ("clean", 200) == (client.ended, client.status), fault
            assert "You said: hi" == client.json()["choices"][0]["message"]["content"]
            line = fleet.events("request")[-1]
            assert (2, "good", "200") == (line["attempts"], line["node"], line["outcome"])
            assert code == fleet.events("attempt_failed")[number - 1]["code"]
            self.assert_at_rest(fleet)

    def test_an_unload_is_not_an_end(self) -> None:
        """A node ends the streams of a model it unloads in good order, without a finish."""
        node = self.node("a", token_seconds=1)
        fleet = self.fleet(node)
        client = fleet.stream()
        fleet.advance(1)
        assert "You said:" == client.content()

        node.running_process.unload(MODEL)
        fleet.flush()

        assert "broken" == client.ended
        assert (BROKEN_OFF, "bad_gateway") == (
            error_in(client)["message"],
            error_in(client)["code"],
        )
        assert "[DONE]" not in client.events()
        self.assert_at_rest(fleet)

    def assert_survives_an_unload(self, **fields: Any) -> None:
        first = self.node("first", token_seconds=1)
        fleet = self.fleet(first, self.node("second"))
        client = fleet.chat(**fields)
        fleet.advance(1)
        self.assert_waiting(client)

        first.running_process.unload(MODEL)
        fleet.flush()

        assert (200, "second") == (client.status, client.headers["x-cortex-node"])
        assert "You said: hi" == client.json()["choices"][0]["message"]["content"]
        self.assert_at_rest(fleet)

    def test_a_whole_answer_survives_an_unload(self) -> None:
        """Another node gives it."""
        self.assert_survives_an_unload()

    def test_an_answer_in_one_piece_survives_an_unload(self) -> None:
        """Likewise, where the node was not asked to stream."""
        self.assert_survives_an_unload(n=2)


class EndingTests(RelayTestCase):
    def leave(self, fleet: InMemoryFleet, client: Client, node: ScriptedNode) -> None:
        fleet.leave(client)

    def test_a_lease_ends_even_where_its_attempt_cannot_begin(self) -> None:
        """A mistake of ours before the node is asked costs the client an error, and no slot."""
        fleet, _ = self.alone()
        del fleet.clients["bad"]
        client = fleet.stream()

        assert (500, "internal_error") == (client.status, refusal_of(client)["code"])
        assert 1 == len(self.flushLoggedErrors(KeyError))
        self.assert_at_rest(fleet)

    def test_a_mistake_of_ours_at_the_end_of_an_answer(self) -> None:
        """However the answer ends, it is told as one, and nothing is held any longer."""
        fleet, node = self.alone()

        def crash(responder: object) -> bytes:
            raise RuntimeError("a mistake of ours")

        for kind in (ChatStream, ChatAggregate):
            self.patch(kind, "finish", crash)
        last, silence = chunk("all", "stop"), LEFTOVER_SECONDS
        for ask, pieces, seconds in (
            (fleet.chat, (last, DONE), 0.0),
            *(
                (ask, (last,), seconds)
                for ask in (fleet.stream, fleet.chat)
                for seconds in (0, silence)
            ),
        ):
            client = ask()
            node.stream(*pieces, end=not seconds)
            fleet.advance(seconds)

            told = error_in(client) if ask == fleet.stream else refusal_of(client)
            assert "internal_error" == told["code"]
            self.assert_at_rest(fleet)
            fleet.advance(LEFTOVER_SECONDS)
        assert 5 == len(self.flushLoggedErrors(RuntimeError))
        assert 5 == len(fleet.events("responder_crashed"))

    def test_a_mistake_of_ours_in_a_sign_of_life(self) -> None:
        """It ends the request as one, with its status where none has gone out yet."""

        def crash(responder: object, elapsed: float) -> bytes:
            raise RuntimeError("a mistake of ours")

        fleet, node = self.alone(hold_seconds=5, keepalive_seconds=10)
        self.patch(ChatStream, "waiting", crash)
        for begun, seconds in ((False, 5), (True, 10)):
            client = fleet.stream()
            if begun:
                node.stream(chunk("half"))
                fleet.flush()
            fleet.advance(seconds)

            if begun:
                assert ("broken", 200) == (client.ended, client.status)
                told = error_in(client)
            else:
                assert ("clean", 500) == (client.ended, client.status)
                told = refusal_of(client)
            assert "internal_error" == told["code"]
            assert client.headers["x-request-id"] in told["message"]
            assert [] == fleet.node_ends("bad")
            self.assert_at_rest(fleet)
        assert 2 == len(self.flushLoggedErrors(RuntimeError))
        assert 2 == len(fleet.events("responder_crashed"))

    def test_every_lease_ends_exactly_once(self) -> None:
        """However the request ends, at whatever point."""

        def finish(fleet: InMemoryFleet, client: Client, node: ScriptedNode) -> None:
            node.stream(chunk("x", "stop"), DONE, end=True)

        def finish_without_done(fleet: InMemoryFleet, client: Client, node: ScriptedNode) -> None:
            node.stream(chunk("x", "stop"), end=True)

        def break_off(fleet: InMemoryFleet, client: Client, node: ScriptedNode) -> None:
            fleet.advance(SOON_SECONDS + 0.1)  # else it could be an idle connection's end
            reset(node)

        def be_silent(fleet: InMemoryFleet, client: Client, node: ScriptedNode) -> None:
            fleet.advance(600)

        def cut(fleet: InMemoryFleet, client: Client, node: ScriptedNode) -> None:
            fleet.answers.cut()

        def leave_and_finish(fleet: InMemoryFleet, client: Client, node: ScriptedNode) -> None:
            client.leave()
            node.stream(chunk("x", "stop"), DONE, end=True)

        fleet, node = self.alone()
        released: list[Lease] = []
        release = fleet.fleet.release

        def counting(lease: Lease, now: float) -> Any:
            released.append(lease)
            return release(lease, now)

        self.patch(fleet.fleet, "release", counting)
        endings = (finish, finish_without_done, break_off, be_silent, cut, leave_and_finish)
        for number, (ask, begun, ending) in enumerate(
            (
                (ask, begun, ending)
                for ask in (fleet.stream, fleet.chat)
                for begun in (False, True)
                for ending in (*endings, self.leave)
            ),
            1,
        ):
            client = ask()
            assert 1 == len(fleet.fleet.leases)
            if begun:
                node.stream(chunk("half"))
                fleet.flush()
            ending(fleet, client, node)
            fleet.flush()
            assert number == len(released) == len({lease.number for lease in released})
            assert number == len(fleet.events("request"))
            self.assert_at_rest(fleet)
            fleet.advance(LEFTOVER_SECONDS)

    def test_a_client_that_leaves_ends_the_generation(self) -> None:
        """Before the headers, within a stream and within a whole answer; it is nobody's failure."""
        fleet, node = self.alone()

        for ask in (fleet.stream, fleet.chat):
            for pieces in ((), (b"",), (chunk("half"),)):
                client = ask()
                request: Request = node.requests[-1]
                if pieces:
                    node.stream(*pieces)
                    fleet.flush()
                assert request.channel is not None
                fleet.leave(client)

                assert request.channel is None
                assert "client_gone" == fleet.events("request")[-1]["outcome"]
                self.assert_at_rest(fleet)
        assert [] == fleet.events("attempt_failed")
        assert 6 == len(node.requests)

    def test_what_is_cut_is_not_tried_elsewhere(self) -> None:
        """Before the first byte the error has its status, after it it is the last event."""
        fleet, bad = self.bad_and_good()
        waiting = fleet.stream()
        bad_request = bad.requests[-1]
        fleet.relay.stop(Overloaded("we stop", retry_after=5))
        fleet.flush()
        begun = fleet.stream()
        bad.stream(chunk("half"))
        fleet.flush()
        fleet.relay.stop(Overloaded("we stop", retry_after=5))
        fleet.flush()

        assert (503, "5", "overloaded") == (
            waiting.status,
            waiting.headers["retry-after"],
            refusal_of(waiting)["code"],
        )
        assert bad_request.channel is None
        assert ("broken", "we stop") == (begun.ended, error_in(begun)["message"])
        assert [1, 1] == [event["attempts"] for event in fleet.events("request")]
        self.assert_at_rest(fleet)
