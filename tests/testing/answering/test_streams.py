import json
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from cortexd.testing import SimulatedModel, SimulatedNode
from tests.testing.client import Bench

A = SimulatedModel(id="acme/chat")
CLOCK_TOOL = {"type": "function", "function": {"name": "clock"}}


class StreamTests(SynchronousTestCase):
    def test_chunks(self) -> None:
        """Every chunk has the role; usage is null but in the finish chunk; [DONE] ends it."""
        stream = Bench(A).stream()
        self.assertEqual("text/event-stream", stream.headers["content-type"])
        self.assertEqual("clean", stream.ended)
        self.assertEqual("[DONE]", stream.events()[-1])
        chunks = stream.chunks()
        self.assertEqual(
            ["You", " said:", " hi", ""], [c["delta"]["content"] for c in stream.choices()]
        )
        self.assertEqual({"assistant"}, {c["delta"]["role"] for c in stream.choices()})
        self.assertEqual([None, None, None, "stop"], [c["finish_reason"] for c in stream.choices()])
        self.assertEqual([None] * 3, [chunk["usage"] for chunk in chunks[:-1]])
        usage = chunks[-1]["usage"]
        self.assertEqual((3, 1), (usage["completion_tokens"], usage["prompt_tokens"]))
        self.assertEqual({"chat.completion.chunk"}, {chunk["object"] for chunk in chunks})
        self.assertEqual(1, len({chunk["id"] for chunk in chunks}))

    def test_cut_at_the_limit(self) -> None:
        """At the limit the last text stands in the finish chunk."""
        stream = Bench(A).stream("one two three", max_tokens=3)
        self.assertEqual("You said: one", stream.content())
        last = stream.choices()[-1]
        self.assertEqual(("length", " one"), (last["finish_reason"], last["delta"]["content"]))

    def test_withheld_tokens(self) -> None:
        """A word beyond ASCII is two tokens in one chunk, so chunks are fewer than tokens."""
        stream = Bench(A).stream("grüße 👋")
        self.assertEqual("You said: grüße 👋", stream.content())
        self.assertEqual(5, len(stream.chunks()))
        self.assertEqual(6, stream.chunks()[-1]["usage"]["completion_tokens"])

    def test_cut_within_a_character(self) -> None:
        """At a limit within a withheld character the finish chunk is empty."""
        stream = Bench(A).stream("grüße", max_tokens=3)
        self.assertEqual("You said:", stream.content())
        self.assertEqual("length", stream.choices()[-1]["finish_reason"])

    def test_headers_before_the_prompt(self) -> None:
        """Headers go out at once, tokens after the prompt phase at their pace."""
        bench = Bench(A, prompt_seconds=2, token_seconds=1)
        stream = bench.stream()
        self.assertEqual((200, b""), (stream.status, stream.body))
        bench.advance(2)
        self.assertEqual("You", stream.content())
        bench.advance(1)
        self.assertEqual("You said:", stream.content())
        self.assertEqual("", stream.ended)
        bench.advance(1)
        self.assertEqual("clean", stream.ended)
        self.assertEqual(2, stream.chunks()[-1]["usage"]["total_completion_time_sec"])

    def test_without_waiting(self) -> None:
        """Without any pace a stream is written whole, and leaves no timer."""
        bench = Bench(A)
        bench.stream(ignore_eos=True, max_tokens=2_000)
        self.assertEqual([], bench.clock.getDelayedCalls())
        (ended,) = bench.node.journal.of("stream_ended")
        self.assertEqual(2_000, ended.detail["chunks"])

    def test_keep_alive(self) -> None:
        """Comments fill a silence once the headers are out, and restart with each chunk."""
        bench = Bench(A, prompt_seconds=25, token_seconds=6, keepalive_seconds=10)
        stream = bench.stream()
        bench.advance(10)
        bench.advance(10)
        self.assertEqual(b":\n\n:\n\n", stream.body)
        bench.advance(5)
        bench.advance(6)
        bench.advance(6)
        self.assertEqual(2, stream.body.count(b":\n\n"))

    def test_reasoning(self) -> None:
        """Reasoning comes first, with null content beside it."""
        stream = Bench(SimulatedModel(id="acme/chat", thinks=True)).stream(enable_thinking=True)
        deltas = [choice["delta"] for choice in stream.choices()]
        reasoning = [delta for delta in deltas if "reasoning_content" in delta]
        self.assertEqual(reasoning, deltas[: len(reasoning)])
        self.assertEqual(
            "The user said 1 words.", "".join(delta["reasoning_content"] for delta in reasoning)
        )
        self.assertEqual({None}, {delta["content"] for delta in reasoning})
        self.assertEqual("You said: hi", stream.content())

    def test_tool_call(self) -> None:
        """A tool call comes whole in the finish chunk, and nothing before it."""
        bench = Bench(A, token_seconds=1)
        stream = bench.stream("call:clock", tools=[CLOCK_TOOL])
        self.assertEqual([], stream.chunks())
        bench.advance(1)
        (choice,) = stream.choices()
        self.assertEqual("tool_calls", choice["finish_reason"])
        self.assertIsNone(choice["delta"]["content"])
        (call,) = choice["delta"]["tool_calls"]
        self.assertEqual({"name": "clock", "arguments": "{}"}, call["function"])
        self.assertIsNotNone(stream.chunks()[0]["usage"])

    def test_logprobs(self) -> None:
        """A chunk's log probabilities are one bare object, not a list."""
        stream = Bench(A).stream(logprobs=True, top_logprobs=1)
        first = stream.choices()[0]["logprobs"]
        self.assertEqual("You", first["token"])
        self.assertNotIn("content", first)

    def test_several_choices(self) -> None:
        """Streaming several choices is broken: mixed order, and only one is ever finished."""
        stream = Bench(A).stream(n=2)
        choices = stream.choices()
        self.assertEqual([0, 1, 1, 0], [choice["index"] for choice in choices[:4]])
        finished = [choice["index"] for choice in choices if choice["finish_reason"]]
        self.assertEqual([0], finished)
        self.assertEqual("[DONE]", stream.events()[-1])

    def test_prompt_too_long(self) -> None:
        """A prompt beyond the context is an error inside the stream, in plain text up to v0.9.2."""
        small = SimulatedModel(id="acme/chat", context_tokens=1)
        stream = Bench(small).stream("one two")
        self.assertEqual(200, stream.status)
        error, done = stream.events()
        self.assertIn("greater than 1", error)
        self.assertRaises(ValueError, json.loads, error)
        self.assertEqual("[DONE]", done)

    def test_seats(self) -> None:
        """A stream without a seat has its headers and waits."""
        bench = Bench(A, token_seconds=1, max_sequences=1)
        bench.stream()
        second = bench.stream()
        self.assertEqual((200, b""), (second.status, second.body))
        bench.advance(1)
        bench.advance(1)
        self.assertEqual("You", second.content())


class BackpressureTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Open a stream at a token a second on a connection that can be stopped."""
        self.clock = Clock()
        self.node = SimulatedNode(self.clock, models=[A], token_seconds=1, keepalive_seconds=3)
        site = Site(self.node.resource(), reactor=self.clock, timeout=None)
        channel = site.buildProtocol(None)
        assert channel is not None
        self.transport = StringTransport()
        channel.makeConnection(self.transport)
        self.client: Any = self.transport.producer
        body = b'{"messages": "one two three", "stream": true}'
        channel.dataReceived(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: node\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )

    def chunks(self) -> int:
        """Give how many chunks were written."""
        written: bytes = self.transport.value()
        return written.count(b'"chat.completion.chunk"')

    def test_pause(self) -> None:
        """While the client does not read nothing is made, and no comment is written."""
        self.clock.advance(1)
        self.assertEqual(2, self.chunks())
        self.client.pauseProducing()
        written = self.transport.value()
        self.clock.pump([1] * 9)
        self.assertEqual(written, self.transport.value())
        self.client.resumeProducing()
        self.assertEqual(6, self.chunks())
        self.assertEqual("finished", self.node.journal.of("stream_ended")[0].detail["reason"])


class EndTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Set up a node that makes a token a second."""
        self.bench = Bench(A, SimulatedModel(id="acme/other"), token_seconds=1)

    def ending(self) -> tuple[float, object]:
        """Give when and why the only stream ended."""
        (ended,) = self.bench.node.journal.of("stream_ended", "acme/chat")
        return ended.at, ended.detail["reason"]

    def test_journal(self) -> None:
        """A stream is journalled when it opens and when it ends, and counted meanwhile."""
        self.bench.stream()
        self.assertEqual(1, self.bench.node.open_streams)
        self.assertEqual(1, len(self.bench.node.journal.of("stream_opened", "acme/chat")))
        self.bench.advance(1)
        self.bench.advance(1)
        self.assertEqual((2.0, "finished"), self.ending())
        self.assertEqual(0, self.bench.node.open_streams)

    def test_unload_cuts(self) -> None:
        """An unload ends a stream cleanly, without finish reason, error or [DONE]."""
        stream = self.bench.stream()
        self.bench.operate("unload", "acme/chat")
        self.bench.advance(0)
        self.assertEqual("clean", stream.ended)
        self.assertEqual(["You"], [choice["delta"]["content"] for choice in stream.choices()])
        self.assertEqual(1, len(stream.events()))
        self.assertEqual((0.0, "cut"), self.ending())
        self.assertEqual([], self.bench.clock.getDelayedCalls())

    def test_unload_cuts_who_waits(self) -> None:
        """An unload cuts a stream that has no seat yet."""
        self.bench = Bench(A, token_seconds=1, max_sequences=1)
        self.bench.stream()
        second = self.bench.stream()
        self.bench.operate("unload", "acme/chat")
        self.bench.advance(0)
        self.assertEqual(("clean", b""), (second.ended, second.body))

    def test_client_gone(self) -> None:
        """A client that leaves ends its stream at once, its sequence with the next token."""
        stream = self.bench.stream("one two three")
        self.bench.advance(0.5)
        self.bench.leave(stream)
        self.assertEqual((0.5, "client_gone"), self.ending())
        self.assertEqual(0, self.bench.node.open_streams)
        self.assertEqual(1, self.bench.node.running_process.sequences_running)
        self.bench.advance(0.5)
        self.assertEqual(0, self.bench.node.running_process.sequences_running)
        (ended,) = self.bench.node.journal.of("generation_ended")
        self.assertEqual({"tokens": 1, "reason": "canceled"}, ended.detail)
        self.assertEqual([], self.bench.clock.getDelayedCalls())

    def test_client_gone_while_waiting(self) -> None:
        """A client that leaves before its turn gives up its place when that comes."""
        self.bench = Bench(A, token_seconds=1, max_sequences=1)
        self.bench.stream()
        self.bench.leave(self.bench.stream())
        self.bench.advance(1)
        self.bench.advance(1)
        reasons = [e.detail["reason"] for e in self.bench.node.journal.of("generation_ended")]
        self.assertEqual(["finished", "canceled"], reasons)
        self.assertEqual([], self.bench.clock.getDelayedCalls())


class FaultTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Set up a node that waits for nothing."""
        self.bench = Bench(A)
        self.faults = self.bench.node.faults

    def test_reset(self) -> None:
        """A reset breaks the connection after so many chunks."""
        self.faults.reset_after_chunks = 2
        stream = self.bench.stream()
        self.assertEqual(("broken", "You said:"), (stream.ended, stream.content()))
        (ended,) = self.bench.node.journal.of("stream_ended")
        self.assertEqual(("fault", 2), (ended.detail["reason"], ended.detail["chunks"]))

    def test_reset_before_the_first(self) -> None:
        """A reset after 0 chunks comes right after the headers."""
        self.faults.reset_after_chunks = 0
        stream = self.bench.stream()
        self.assertEqual((200, "broken", b""), (stream.status, stream.ended, stream.body))

    def test_eof(self) -> None:
        """A stream may end cleanly without finish reason and [DONE]."""
        self.faults.eof_after_chunks = 2
        stream = self.bench.stream()
        self.assertEqual(("clean", "You said:"), (stream.ended, stream.content()))
        self.assertEqual(2, len(stream.events()))

    def test_plain_error(self) -> None:
        """Up to v0.9.2 an error inside a stream is bare text, each line of it as data."""
        self.faults.error_after_chunks = 1
        self.faults.error_message = "CUDA\nout of memory"
        stream = self.bench.stream()
        self.assertIn(b"data: CUDA\ndata: out of memory\n\n", stream.body)
        self.assertEqual(["CUDA\nout of memory", "[DONE]"], stream.events()[1:])

    def test_json_error(self) -> None:
        """Later versions wrap it in JSON."""
        self.bench = Bench(A, version="0.9.3")
        self.bench.node.faults.error_after_chunks = 1
        self.assertEqual(
            {
                "error": {
                    "message": "simulated engine failure",
                    "type": "server_error",
                    "param": None,
                    "code": None,
                }
            },
            json.loads(self.bench.stream().events()[1]),
        )

    def test_struck_in_the_middle(self) -> None:
        """A fault may be turned on while a stream runs, and leaves nothing running."""
        self.bench = Bench(A, token_seconds=1)
        stream = self.bench.stream("one two three")
        self.bench.node.faults.eof_after_chunks = 1
        self.bench.advance(1)
        self.assertEqual(("clean", "You said:"), (stream.ended, stream.content()))
        self.bench.advance(1)
        self.assertEqual([], self.bench.clock.getDelayedCalls())
