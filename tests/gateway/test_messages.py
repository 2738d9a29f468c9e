"""Messages through the whole gateway in memory, before a node whose answers a test writes."""

from cortexd.gateway.patience import LEFTOVER_SECONDS
from tests.covers import covers
from tests.dialects.message_answers import check, content_of, ending_of, events_of, names
from tests.dialects.node_answers import USAGE, chat_chunk, stream, tool_call
from tests.support.fleets import MODEL
from tests.support.messages import END, MESSAGES, WEATHER, answer, ask
from tests.support.relays import OUT_OF_MEMORY, RelayTestCase
from tests.testing.client import CHAT

THINKING = {"type": "adaptive"}


class AnswerTests(RelayTestCase):
    @covers("2.1 model", "2.1 stream", "T16")
    def test_the_model_is_known_by_the_name_asked_by(self) -> None:
        """The node is asked for the catalogue's id, as a stream with its counts, in any case."""
        fleet = self.fleet(node := self.scripted(), models={MODEL: {"aliases": ["claude-local"]}})
        for fields, type_ in (
            ({}, "application/json"),
            ({"stream": False}, "application/json"),
            ({"stream": None}, "application/json"),
            ({"stream": True}, "text/event-stream"),
        ):
            client = ask(fleet, model="claude-local", **fields)
            sent = node.newest_body
            answer(node, fleet, chat_chunk("hello"), END)

            assert (200, type_) == (client.status, client.headers["content-type"])
            assert (MODEL, True, {"include_usage": True}) == (
                sent["model"],
                sent["stream"],
                sent["stream_options"],
            )
            streams = type_ != "application/json"
            message = events_of(client.body)[0][1]["message"] if streams else client.json()
            assert "claude-local" == message["model"]
            assert MODEL == client.headers["x-cortex-model"]

    @covers("4.1 id")
    def test_ids(self) -> None:
        """The message has an id of ours; the node's is in a header, where it is known in time."""
        fleet, node = self.alone(hold_seconds=5)
        seen = set()
        for streams in (False, True):
            client = ask(fleet, stream=streams)
            answer(node, fleet, chat_chunk("a"), END)
            assert "13" == client.headers["x-cortex-upstream-id"]
            message = events_of(client.body)[0][1]["message"] if streams else client.json()
            assert message["id"].startswith("msg_")
            seen.add(message["id"])
        assert 2 == len(seen)

        held = ask(fleet, stream=True)
        fleet.advance(5)
        answer(node, fleet, chat_chunk("a"), END)
        assert "x-cortex-upstream-id" not in held.headers
        for odd in ("a\r\nSet-Cookie: b", "ü", "x" * 129, "", 7):
            client = ask(fleet)
            answer(node, fleet, chat_chunk("a") | {"id": odd}, END | {"id": odd})
            assert (200, False) == (client.status, "x-cortex-upstream-id" in client.headers)

    @covers("2.1 anthropic-beta header", "2.1 anthropic-version")
    def test_any_version_and_beta_is_taken(self) -> None:
        """Whatever the headers say, or none, the node is asked the same, and nothing is refused."""
        fleet, node = self.alone()
        sent = []
        for headers in (
            {},
            {"anthropic-version": "2023-06-01"},
            {"anthropic-version": "2026-10-21", "anthropic-beta": "a-2030-01-01,b"},
            {"anthropic-version": "never", "anthropic-beta": ""},
        ):
            client = ask(fleet, headers=headers, path=f"{MESSAGES}?beta=true")
            sent.append(node.newest_body)
            answer(node, fleet, END)
            assert 200 == client.status
        assert [sent[0]] * 4 == sent

    @covers("2.1 unknown field")
    def test_what_is_approximated_is_in_a_header(self) -> None:
        """Each thing by one word, streamed or not; where all is exact there is no such header."""
        fleet, node = self.alone()
        for streams in (False, True):
            client = ask(fleet, stream=streams, thinking=THINKING, field_of_next_month=1)
            answer(node, fleet, END)
            assert 200 == client.status
            assert (
                "approx=thinking_adaptive,field_of_next_month"
                == (client.headers["x-cortex-translation"])
            )
            exact = ask(fleet, stream=streams, thinking={"type": "disabled"})
            answer(node, fleet, END)
            assert "x-cortex-translation" not in exact.headers

    @covers("4.3 stop_sequence")
    def test_a_stop_sequence_ends_the_nodes_work(self) -> None:
        """The node is not told of it; where it is met the text is cut and the node hung up on."""
        fleet, node = self.alone()
        for streams in (False, True):
            client = ask(fleet, stream=streams, stop_sequences=["END", "never"])
            assert "stop" not in node.newest_body
            node.stream(stream(chat_chunk("one E"), chat_chunk("ND two"), end=b""))
            fleet.flush()

            assert "clean" == client.ended
            if streams:
                events = events_of(client.body)
                text, ending = content_of(events)[0]["text"], ending_of(events)[0]
            else:
                ending = client.json()
                text = ending["content"][0]["text"]
            assert ("one ", "stop_sequence", "END") == (
                text,
                ending["stop_reason"],
                ending["stop_sequence"],
            )
            assert "stop_sequence_usage" in client.headers["x-cortex-translation"]
            assert node.requests[-1].channel is None
            self.assert_at_rest(fleet)

    @covers("2.3 disable_parallel_tool_use", "T25")
    def test_one_call_ends_the_nodes_work(self) -> None:
        """After the first call the node is hung up on, though it would make another."""
        fleet, node = self.alone()
        for streams in (False, True):
            client = ask(
                fleet,
                stream=streams,
                tools=[WEATHER],
                tool_choice={"type": "auto", "disable_parallel_tool_use": True},
            )
            assert False is node.newest_body["parallel_tool_calls"]
            both = [tool_call("weather", "{}"), tool_call("weather", "{}", 1)]
            node.stream(stream(chat_chunk(tool_calls=both), end=b""))
            fleet.flush()

            content = content_of(events_of(client.body)) if streams else client.json()["content"]
            assert ["call-0"] == [block["id"] for block in content]
            assert "disable_parallel_tool_use" in client.headers["x-cortex-translation"]
            assert node.requests[-1].channel is None

    @covers("2.1 context_management")
    def test_edits_of_the_context(self) -> None:
        """Who asked for edits is told, whole and in the last delta, that none was made."""
        fleet, node = self.alone()
        keep_all = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
        lossy = {"edits": [{"type": "clear_tool_uses_20250919"}]}
        for asked_for, word in ((keep_all, False), (lossy, True)):
            for streams in (False, True):
                client = ask(fleet, stream=streams, context_management=asked_for)
                answer(node, fleet, chat_chunk("a"), END)
                told = events_of(client.body)[-2][1] if streams else client.json()
                assert {"applied_edits": []} == told["context_management"]
                header = client.headers["x-cortex-translation"]
                assert word == ("context_management" in header)
        plain = ask(fleet)
        answer(node, fleet, END)
        assert "context_management" not in plain.json()


class WaitingTests(RelayTestCase):
    @covers("4.2 0")
    def test_signs_of_life(self) -> None:
        """Nothing before the hold; then the message begins, pings, and after 120 s thinking."""
        fleet, node = self.alone(hold_seconds=5, keepalive_seconds=10)
        client = ask(fleet, stream=True, thinking=THINKING)
        fleet.advance(4.9)
        self.assert_waiting(client)
        fleet.advance(0.1)
        assert (200, ["message_start", "ping"]) == (client.status, names(events_of(client.body)))
        fleet.advance(110)
        assert ["message_start", *["ping"] * 12] == names(events_of(client.body))
        fleet.advance(20)
        assert ["+0", ".0", ".0"] == names(events_of(client.body))[13:]
        answer(node, fleet, chat_chunk(reasoning_content="hm"), chat_chunk("a"), END)

        events = [event for event in events_of(client.body) if event[0] != "ping"]
        check(events)
        assert ["hm", "a"] == [
            block.get("thinking") or block["text"] for block in content_of(events)
        ]
        assert 1 == len(node.requests)

    @covers("4.2 0")
    def test_an_error_before_the_hold_has_its_status(self) -> None:
        """After it, it is an event; and before anything is told another node may be asked."""
        fleet, node = self.alone(hold_seconds=5)
        early, late = ask(fleet, stream=True), None
        node.answer(500, OUT_OF_MEMORY)
        fleet.flush()
        assert (500, "api_error") == (early.status, early.json()["error"]["type"])

        late = ask(fleet, stream=True)
        fleet.advance(5)
        node.answer(500, OUT_OF_MEMORY)
        fleet.flush()
        assert (200, "broken") == (late.status, late.ended)
        assert ["message_start", "ping", "error"] == names(events_of(late.body))

    @covers("4.2 0")
    def test_another_node_may_be_asked(self) -> None:
        """Before the hold and after it, as long as nothing of an answer was told."""
        first, second = self.scripted("first"), self.scripted("second")
        fleet = self.fleet(first, second, hold_seconds=5)
        for seconds in (0, 5):
            client = ask(fleet, stream=True)
            fleet.advance(seconds)
            (node,) = [each for each in (first, second) if each.requests]
            (other,) = [each for each in (first, second) if each is not node]
            node.reset()
            fleet.flush()
            answer(other, fleet, chat_chunk("a"), END)
            first.requests.clear()
            second.requests.clear()

            check(events_of(client.body))
            assert ["a"] == [block["text"] for block in content_of(events_of(client.body))]

    @covers("4.2 9", "4.2 10")
    def test_counts_are_waited_for_a_while(self) -> None:
        """After the finish reason 3 s for the counts, and no longer: then the answer is whole."""
        fleet, node = self.alone()
        for path in (MESSAGES, CHAT):
            for streams in (False, True):
                client = ask(fleet, stream=streams, path=path)
                node.stream(stream(chat_chunk("a"), chat_chunk(finish="stop"), end=b""))
                fleet.flush()
                fleet.advance(LEFTOVER_SECONDS - 0.1)
                assert "" == client.ended
                fleet.advance(0.1)
                assert (3.0, "clean") == (LEFTOVER_SECONDS, client.ended)
                fleet.advance(LEFTOVER_SECONDS)
                assert node.requests[-1].channel is None
                self.assert_at_rest(fleet)

    @covers("4.2 9", "T8")
    def test_late_counts_are_told(self) -> None:
        """Counts that come in that time are the answer's."""
        fleet, node = self.alone()
        client = ask(fleet, stream=True)
        node.stream(stream(chat_chunk("a"), chat_chunk(finish="stop"), end=b""))
        fleet.advance(LEFTOVER_SECONDS - 0.1)
        answer(node, fleet, {"choices": [], "usage": USAGE})

        usage = ending_of(events_of(client.body))[1]
        assert (20, 8) == (usage["input_tokens"], usage["output_tokens"])

    @covers("4.2 9")
    def test_a_reader_that_pauses_then_does_not_lose_the_counts(self) -> None:
        """The wait for the counts begins anew once the client reads again."""
        fleet, node = self.alone()
        client = ask(fleet, stream=True)
        node.stream(stream(chat_chunk("x" * 10), end=b""))
        fleet.flush()
        client.open_transport.pauseProducing()
        long = [chat_chunk("x" * 40_000) for _ in range(20)]
        node.stream(stream(*long, chat_chunk(finish="stop"), end=b""))
        fleet.advance(2 * LEFTOVER_SECONDS)
        client.open_transport.resumeProducing()
        fleet.flush()
        assert "" == client.ended
        answer(node, fleet, {"choices": [], "usage": USAGE})

        assert "clean" == client.ended
        assert 8 == ending_of(events_of(client.body))[1]["output_tokens"]

    @covers("4.2 10")
    def test_content_after_the_end_is_logged(self) -> None:
        """It is nobody's, and is told once in the log."""
        fleet, node = self.alone()
        client = ask(fleet, stream=True)
        node.stream(stream(chat_chunk("a"), chat_chunk(finish="stop"), end=b""))
        fleet.flush()
        answer(node, fleet, chat_chunk("b"), chat_chunk("c"))

        assert ["a"] == [block["text"] for block in content_of(events_of(client.body))]
        (line,) = fleet.events("content_after_finish")
        assert "bad" == line["node"]

    @covers("4.2 12")
    def test_a_client_that_leaves_ends_the_nodes_work(self) -> None:
        """At once, before the first word and after it, streamed or not."""
        fleet, node = self.alone()
        for streams in (False, True):
            for chunks in ((), (chat_chunk("a"),)):
                client = ask(fleet, stream=streams)
                if chunks:
                    node.stream(stream(*chunks, end=b""))
                    fleet.flush()
                assert node.requests[-1].channel is not None
                fleet.leave(client)

                assert node.requests[-1].channel is None
                self.assert_at_rest(fleet)

    @covers("4.2 12")
    def test_a_client_that_does_not_read_stops_the_node(self) -> None:
        """The node is not read from, what is kept is bounded, and nothing is lost."""
        fleet, node = self.alone(upstream_timeout=30)
        client = ask(fleet, stream=True)
        node.stream(stream(chat_chunk("first"), end=b""))
        fleet.flush()
        client.open_transport.pauseProducing()
        texts = [f"{number}" + "x" * 40_000 for number in range(20)]
        for text in texts:
            node.stream(stream(chat_chunk(text), end=b""))
            fleet.flush()
        (end,) = [end for end in fleet.node_ends("bad") if end.unread]
        assert len(end.unread) > 40_000
        client.open_transport.resumeProducing()
        answer(node, fleet, END)

        assert "clean" == client.ended
        assert "first" + "".join(texts) == content_of(events_of(client.body))[0]["text"]


class EnvelopeTests(RelayTestCase):
    @covers("T41")
    def test_a_shared_route_goes_by_the_header(self) -> None:
        """Of the models both dialects ask at one path: who sends its version is Anthropic's."""
        fleet = self.fleet(self.scripted())
        version = {"anthropic-version": "2023-06-01"}
        for method, path in (("GET", "/v1/models/nope"), ("POST", "/v1/models")):
            theirs = fleet.request(method, path, headers=version)
            assert {"type", "error", "request_id"} == theirs.json().keys()
            assert theirs.json()["request_id"] == theirs.headers["request-id"]
            ours = fleet.request(method, path)
            assert ({"error"}, theirs.status) == (ours.json().keys(), ours.status)
        chat = fleet.request("POST", CHAT, body=b"{", headers=version)
        assert {"error"} == chat.json().keys()
