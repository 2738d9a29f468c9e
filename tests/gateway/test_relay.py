"""How an answer gets from a node to a client; test_relay_failures.py has how it does not."""

import base64
import struct
from typing import Any

from cortexd.sse import ServerSentEvent, SseDecoder
from cortexd.testing import SimulatedModel, SimulatedNode
from cortexd.testing.answering.answers import embed
from cortexd.upstream.client import MAX_ANSWER_BYTES
from tests.support.fleets import MODEL, InMemoryFleet
from tests.support.relays import (
    DONE,
    NODE_COMMENT,
    OUR_COMMENT,
    RelayTestCase,
    chunk,
    refusal_of,
)
from tests.testing.client import CHAT

COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"


def asked(node: SimulatedNode, path: str = CHAT) -> Any:
    """Return the newest request that the node got at a path: its headers and body."""
    return node.journal.requests(path)[-1].detail


def ids(chunks: list[Any]) -> set[str]:
    return {one["id"] for one in chunks}


def compact(event: bytes) -> bytes:
    """Return an event without blanks, as nodes write them."""
    return event[:5] + b" " + event[5:-2].replace(b" ", b"") + event[-2:]


class StreamTests(RelayTestCase):
    def test_each_event_is_passed_on_as_it_comes(self) -> None:
        """And not at the end; the last is [DONE], and the connection serves on."""
        fleet = self.fleet(self.node(prompt_seconds=2, token_seconds=1))
        client = fleet.stream()
        self.assert_waiting(client)
        seen = []
        for seconds in (2, 1, 1):
            fleet.advance(seconds)
            seen.append(client.content())
        assert ["You", "You said:", "You said: hi"] == seen
        assert ("clean", 200, "[DONE]") == (client.ended, client.status, client.events()[-1])
        assert OUR_COMMENT not in client.text()

    def test_a_known_frame_is_not_decoded(self) -> None:
        """Once two chunks have shown it, a token is cast; what ends the stream is decoded."""
        fleet, node = self.alone()
        client = fleet.stream()
        decoded: list[bytes] = []
        feed = SseDecoder.feed

        def note(decoder: SseDecoder, data: bytes) -> list[ServerSentEvent]:
            decoded.append(data)
            return feed(decoder, data)

        self.patch(SseDecoder, "feed", note)
        tokens = [compact(chunk(text)) for text in "abcd"]
        end = compact(chunk("", "stop"))
        for token in tokens:
            node.stream(token)
            fleet.advance(0.01)
        node.stream(end, DONE, end=True)
        fleet.flush()

        assert "abcd" == client.content()
        assert [*tokens[:2], end, DONE] == decoded
        labels = {"model": MODEL, "node": "bad"}
        assert 3 == fleet.sample("cortex_inter_token_latency_seconds_count", **labels)

    def test_a_known_frame_within_another_event_is_of_that_one(self) -> None:
        """A read that looks like a token belongs to what has begun before it."""
        fleet, node = self.alone()
        client = fleet.stream()
        for text in ("a", "b", "c", "event: aside\n", "d", "e"):
            node.stream(compact(chunk(text)) if len(text) == 1 else text.encode())
            fleet.advance(0.01)

        assert "abce" == client.content()

    def test_a_known_frame_after_the_end_is_late(self) -> None:
        """Text that comes though the answer has ended is passed on, and said in the log."""
        fleet, node = self.alone()
        client = fleet.stream()
        for text, reason in (("a", None), ("b", None), ("c", None), ("", "stop"), ("d", None)):
            node.stream(compact(chunk(text, reason)))
            fleet.advance(0.01)

        assert "abcd" == client.content()
        assert 1 == len(fleet.events("content_after_finish"))

    def test_a_stream_says_that_it_is_one(self) -> None:
        """To the client and to what stands between, and who answers."""
        client = self.fleet(self.node()).stream()
        assert {
            "content-type": "text/event-stream",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            "x-cortex-node": "a",
            "x-cortex-model": MODEL,
        }.items() <= client.headers.items()

    def test_ids_are_our_own(self) -> None:
        """Two nodes give the same id; the clients get one each, and the log has the node's."""
        fleet = self.fleet(self.node("a"), self.node("b"))
        fleet.advance(1)
        first = fleet.stream()
        fleet.advance(1)
        second = fleet.stream()
        (first_id,), (second_id,) = ids(first.chunks()), ids(second.chunks())

        assert ["a", "b"] == [client.headers["x-cortex-node"] for client in (first, second)]
        assert first_id.startswith("chatcmpl-")
        assert second_id.startswith("chatcmpl-")
        assert first_id != second_id
        assert ["1", "1"] == [event["upstream_id"] for event in fleet.events("request")]

    def test_usage_is_told_on_demand(self) -> None:
        """In a chunk of its own at the end, as OpenAI does, and else not at all."""
        fleet = self.fleet(self.node())
        without = fleet.stream()
        told = fleet.stream(stream_options={"include_usage": True})

        assert not any("usage" in one for one in without.chunks())
        *others, last = told.chunks()
        assert [] == last["choices"]
        assert (1, 3) == (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"])
        assert {None} == {one["usage"] for one in others}

    def test_the_node_learns_what_it_needs(self) -> None:
        """The client's request id and body as JSON, and none of the client's credentials."""
        node = self.node()
        headers = {"X-Request-ID": "mine-1", "Authorization": "Bearer sk-secret", "Cookie": "a=b"}
        self.fleet(node).stream(headers=headers, temperature=0.5, seed=7)

        request = asked(node)
        assert ("mine-1", "application/json") == (
            request["headers"]["x-request-id"],
            request["headers"]["content-type"],
        )
        assert not {"authorization", "cookie"} & request["headers"].keys()
        assert (0.5, 7, True) == tuple(
            request["body"][field] for field in ("temperature", "seed", "stream")
        )

    def test_connections_to_nodes_are_kept(self) -> None:
        """One after another, requests go over one connection; side by side each has its own."""
        fleet = self.fleet(self.node(token_seconds=1))
        for _ in range(3):
            fleet.stream()
            fleet.advance(5)
            assert 1 == len(fleet.node_ends("a"))
        clients = [fleet.stream(), fleet.stream()]
        assert 2 == len(fleet.node_ends("a"))
        fleet.advance(5)
        assert ["clean", "clean"] == [client.ended for client in clients]

    def test_what_follows_done_is_nobodys(self) -> None:
        """Content, errors and noise after it, even in the same read, change nothing."""
        fleet, node = self.alone()
        for leftover in (chunk("more"), b"data: {broken\n\n", b"noise", NODE_COMMENT):
            client = fleet.stream()
            node.stream(chunk("all", "stop") + DONE + leftover, end=True)
            fleet.flush()
            assert ("clean", "all") == (client.ended, client.content())
            assert "200" == fleet.events("request")[-1]["outcome"]
            self.assert_at_rest(fleet)

    def test_bytes_may_be_cut_anywhere(self) -> None:
        """Events torn over reads come out whole."""
        fleet, node = self.alone()
        client = fleet.stream()
        for byte in chunk("grüße", "stop") + DONE:
            node.stream(bytes([byte]))
            fleet.flush()
        node.stream(end=True)
        fleet.flush()
        assert ("clean", "grüße") == (client.ended, client.content())

    def test_a_first_read_that_ends_in_an_error_is_not_passed_on(self) -> None:
        """As long as nothing has gone out, the content before the error binds nobody."""
        error = b'data: {"error":{"message":"CUDA out of memory"}}\n\n'
        fleet, bad = self.bad_and_good()
        client = fleet.stream()
        bad.stream(chunk("half") + error + DONE, end=True)
        fleet.flush()
        assert ("clean", "You said: hi") == (client.ended, client.content())

    def test_a_first_read_that_ends_in_an_error_has_its_status(self) -> None:
        """Where nobody else can help."""
        fleet, bad = self.alone()
        client = fleet.stream()
        bad.stream(chunk("half") + b'data: {"error":"CUDA out of memory"}\n\n', end=True)
        fleet.flush()
        assert (500, "node_error") == (client.status, refusal_of(client)["code"])


class WholeAnswerTests(RelayTestCase):
    def test_a_whole_answer_is_gathered_from_a_stream(self) -> None:
        """The node is asked to stream, for only a stream can be cancelled there."""
        node = self.node(token_seconds=1)
        fleet = self.fleet(node)
        client = fleet.chat()
        fleet.advance(5)

        assert asked(node)["body"]["stream"] is True
        answer = client.json()
        assert ("chat.completion", MODEL) == (answer["object"], answer["model"])
        assert answer["id"].startswith("chatcmpl-")
        (choice,) = answer["choices"]
        assert ("You said: hi", "stop") == (choice["message"]["content"], choice["finish_reason"])
        assert (1, 3, 4) == tuple(
            answer["usage"][f"{kind}_tokens"] for kind in ("prompt", "completion", "total")
        )
        assert "application/json" == client.headers["content-type"]

    def test_what_no_stream_holds_is_asked_for_whole(self) -> None:
        """Several choices: the node is not asked to stream, and its answer gets our identity."""
        node = self.node()
        answer = self.fleet(node).chat(n=2).json()

        assert asked(node)["body"]["stream"] is False
        assert ["You said: hi", "You said (2): hi"] == [
            choice["message"]["content"] for choice in answer["choices"]
        ]
        assert answer["id"].startswith("chatcmpl-")
        assert MODEL == answer["model"]

    def test_completions(self) -> None:
        """Whole with the node's own counts, streamed under our id."""
        node = self.node()
        fleet = self.fleet(node)
        body = {"model": MODEL, "prompt": "hi"}
        answer = fleet.request("POST", COMPLETIONS, json=body).json()
        stream = fleet.request("POST", COMPLETIONS, json={**body, "stream": True})

        assert [False, True] == [
            entry.detail["body"]["stream"]  # type: ignore[index] # a JSON object
            for entry in node.journal.requests(COMPLETIONS)
        ]
        assert ("You said: hi", 3) == (
            answer["choices"][0]["text"],
            answer["usage"]["completion_tokens"],
        )
        assert answer["id"].startswith("cmpl-")
        assert "You said: hi" == "".join(choice["text"] for choice in stream.choices())
        assert ("clean", "[DONE]") == (stream.ended, stream.events()[-1])
        (stream_id,) = ids(stream.chunks())
        assert stream_id.startswith("cmpl-")

    def test_embeddings(self) -> None:
        """As numbers, or in base64 for the SDK that asks for it."""
        node = self.node("a", SimulatedModel(id="acme/embed", kind="embedding"))
        fleet = self.fleet(node)
        body = {"model": "acme/embed", "input": ["one", "two"]}
        numbers = fleet.request("POST", EMBEDDINGS, json=body).json()
        encoded = fleet.request(
            "POST", EMBEDDINGS, json={**body, "encoding_format": "base64"}
        ).json()

        expected = [embed("one"), embed("two")]
        assert expected == [item["embedding"] for item in numbers["data"]]
        assert expected == [
            list(struct.unpack("<8f", base64.b64decode(item["embedding"])))
            for item in encoded["data"]
        ]
        assert "acme/embed" == numbers["model"] == encoded["model"]
        labels = {"model": "acme/embed", "node": "a", "direction": "prompt"}
        assert 4.0 == fleet.sample("cortex_tokens_total", **labels)

    def test_an_answer_beyond_all_measure_is_refused(self) -> None:
        """With 502, and the node's connection is closed."""
        fleet, node = self.alone()
        client = fleet.chat(n=2)
        request = node.requests[-1]
        request.setHeader("Content-Length", str(2 * MAX_ANSWER_BYTES))
        piece = b" " * (MAX_ANSWER_BYTES // 8)
        for _ in range(9):
            request.write(piece)
            fleet.flush()

        assert ("clean", 502, "node bad: the answer is larger than 32 MiB") == (
            client.ended,
            client.status,
            refusal_of(client)["message"],
        )
        assert request.channel is None
        self.assert_at_rest(fleet)

    def test_an_error_is_read_in_each_known_shape(self) -> None:
        """The client gets the node's words in the envelope of its own route."""
        fleet, node = self.alone()
        for body in (
            b'{"message":"no such option"}',
            b'{"error":{"message":"no such option","type":"x"}}',
            b'{"error":"no such option"}',
            b'{"detail":"no such option"}',
            b"no such option",
        ):
            for ask in (fleet.stream, fleet.chat):
                client = ask()
                node.answer(422, body)
                fleet.flush()
                assert 400 == client.status
                assert {
                    "message": "no such option",
                    "type": "invalid_request_error",
                    "param": None,
                    "code": None,
                } == refusal_of(client)

    def test_an_answer_that_should_have_been_a_stream_is_an_error(self) -> None:
        """A node may tell of a failure with 200 and JSON: its words count."""
        fleet, node = self.alone()
        for ask in (fleet.stream, fleet.chat):
            client = ask()
            node.answer(200, b'{"message":"something is wrong"}')
            fleet.flush()
            assert (500, "something is wrong") == (client.status, refusal_of(client)["message"])
            self.assert_at_rest(fleet)


class LeaseTests(RelayTestCase):
    def test_a_lease_is_held_from_the_question_to_the_end(self) -> None:
        """The fleet and the gauge show it all the while."""
        fleet = self.fleet(self.node(prompt_seconds=1, token_seconds=1))

        def held() -> tuple[int, float | None]:
            labels = {"model": MODEL, "node": "a"}
            return len(fleet.fleet.leases), fleet.sample("cortex_requests_in_flight", **labels)

        for ask in (fleet.stream, fleet.chat):
            client = ask(headers={"X-Request-ID": "mine"})
            for _ in range(3):
                assert (1, 1.0) == held()
                assert "mine" == fleet.fleet.leases[0].request_id
                fleet.advance(1)
            assert "clean" == client.ended
            assert (0, 0.0) == held()

    def test_requests_go_where_the_fewest_are(self) -> None:
        """Among the nodes that have the model loaded."""
        cold = self.node("cold", SimulatedModel(id=MODEL, loaded=False))
        fleet = self.fleet(self.node("a", token_seconds=1), cold, self.node("b", token_seconds=1))
        clients = [fleet.stream() for _ in range(4)]
        assert ["a", "b", "a", "b"] == [client.headers["x-cortex-node"] for client in clients]
        assert [] == cold.journal.requests(CHAT)
        fleet.advance(5)


class ClientGoneTests(RelayTestCase):
    def assert_noticed(self, fleet: InMemoryFleet, node: SimulatedNode, chunks: int) -> None:
        """See that the node's stream ended at this very moment because we left."""
        now = self.clock.seconds()
        assert 0 == node.open_streams
        ended = node.journal.of("stream_ended")[-1]
        assert ("client_gone", chunks, now) == (
            ended.detail["reason"],
            ended.detail["chunks"],
            ended.at,
        )
        assert "client_gone" == fleet.events("request")[-1]["outcome"]
        self.assert_at_rest(fleet)

    def test_the_node_hears_at_once(self) -> None:
        """Before the first token and in the middle of a stream, and of a whole answer alike."""
        node = self.node(prompt_seconds=10, token_seconds=1)
        fleet = self.fleet(node)
        for ask in (fleet.stream, fleet.chat):
            for seconds, chunks in ((3, 0), (7, 0), (11, 2)):
                client = ask()
                fleet.advance(seconds)
                fleet.leave(client)
                self.assert_noticed(fleet, node, chunks)
        assert [] == fleet.events("attempt_failed")

    def test_before_the_headers_too(self) -> None:
        """The node has not said a word yet; nobody else is asked."""
        first, second = self.node("a"), self.node("b")
        fleet = self.fleet(first, second)
        first.faults.hang_routes = second.faults.hang_routes = {CHAT}
        for ask in (fleet.stream, fleet.chat):
            client = ask()
            assert 1 == len(fleet.fleet.leases)
            node = fleet.fleet.leases[0].node
            fleet.leave(client)
            assert [] == fleet.node_ends(node)
            assert "client_gone" == fleet.events("request")[-1]["outcome"]
            self.assert_at_rest(fleet)
            fleet.advance(1)
        assert 2 == len(first.journal.requests(CHAT) + second.journal.requests(CHAT))
        assert [] == fleet.events("attempt_failed")


class MeasureTests(RelayTestCase):
    def test_comments_are_life_but_no_content(self) -> None:
        """The node's signs of life put its timeout off, and the time to the first token not on."""
        node = self.node(prompt_seconds=25, keepalive_seconds=5)
        fleet = self.fleet(node, upstream_timeout=8, keepalive_seconds=100, hold_seconds=100)
        client = fleet.stream()
        fleet.advance(24)
        self.assert_waiting(client)
        fleet.advance(1)

        assert ("clean", "You said: hi") == (client.ended, client.content())
        assert 25.0 == fleet.events("request")[0]["ttft"]
        labels = {"model": MODEL, "node": "a"}
        assert 25.0 == fleet.sample("cortex_time_to_first_token_seconds_sum", **labels)

    def test_a_role_is_no_content(self) -> None:
        """An empty first chunk goes out at once, and the time to the first token runs on."""
        fleet, node = self.alone()
        client = fleet.stream()
        node.stream(chunk(""))
        fleet.advance(2)
        assert 200 == client.status
        node.stream(chunk("now", "stop"), DONE, end=True)
        fleet.flush()
        assert 2.0 == fleet.events("request")[0]["ttft"]


class SlowReaderTests(RelayTestCase):
    def test_a_reader_that_stops_stops_the_generation(self) -> None:
        """What is on the way is bounded, and nothing is missing once it reads on."""
        node = self.node("a", SimulatedModel(id=MODEL, context_tokens=10_000), token_seconds=0.01)
        fleet = self.fleet(node)
        client = fleet.stream(ignore_eos=True, max_tokens=2000)
        fleet.advance(1)
        client.open_transport.pauseProducing()
        fleet.advance(15)
        (stream,) = node.streams
        made = stream.chunks
        assert 100 < made < 1500
        fleet.advance(15)
        assert made == stream.chunks

        client.open_transport.resumeProducing()
        fleet.advance(30)
        assert "clean" == client.ended
        assert 2000 == len([one for one in client.choices() if one["delta"].get("content")])

    def test_after_a_stall_a_silent_node_is_covered_for_again(self) -> None:
        """The signs of life take up where the reader does, and do not wait for the timeout."""
        fleet, node = self.alone(keepalive_seconds=10, upstream_timeout=600)
        client = fleet.stream()
        node.stream(chunk("first"))
        fleet.flush()
        client.open_transport.pauseProducing()
        node.stream(*(chunk("x" * 40_000) for _ in range(20)))
        fleet.advance(50)
        client.open_transport.resumeProducing()
        fleet.flush()
        assert OUR_COMMENT not in client.text()
        fleet.advance(11)
        assert client.text().endswith(OUR_COMMENT)
