"""One end of a link, against another one and against bytes of all kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.protocols import amp
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.agents import AgentReport, EngineLife
from cortexd.link.contract import (
    BEAT_SECONDS,
    DEAD_SECONDS,
    Beat,
    EndLog,
    Failed,
    ReadMemory,
    Report,
    TailLog,
)
from cortexd.link.end import CLOSED, LOST, LinkEnd, LinkEnded, words_for
from cortexd.link.limits import BURST, CLOSE_SECONDS, MAX_GREETING_BYTES
from tests.support.fleets import RawClient
from tests.support.network import End, Network

PORT = 9443
REPORT = AgentReport(life=EngineLife.ANSWERS)


class Noting(LinkEnd):
    """An end that notes what it is asked, and answers as the test wants."""

    commands: ClassVar = {Beat: "note_beat", ReadMemory: "look", Report: "take", EndLog: "fail"}

    def __init__(self, clock: Any, **given: Any) -> None:
        super().__init__(clock, **given)
        self.beats = 0
        self.taken: list[AgentReport] = []
        self.looking: Callable[[], Any] | None = None
        self.left: list[str] = []

    def note_beat(self) -> None:
        """Count."""
        self.beats += 1

    def look(self) -> Any:
        """Answer, or fail as a command may."""
        if self.looking is None:
            raise Failed("no\nengine")
        return self.looking()

    def take(self, report: AgentReport) -> dict[str, Any]:
        """Note."""
        self.taken.append(report)
        return {}

    def fail(self, stream: int) -> None:
        """Have a fault."""
        raise RuntimeError(f"stream {stream}")

    def lost(self, words: str) -> None:
        """Note."""
        self.left.append(words)


class EndTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a network."""
        self.clock = Clock()
        self.network = Network(self.clock)
        self.servers: list[Noting] = []

        def build() -> Noting:
            self.servers.append(Noting(self.network, beat_seconds=BEAT_SECONDS + 2))
            return self.servers[-1]

        self.network.listenTCP(PORT, _quiet(build))
        self.addCleanup(self.check)

    def check(self) -> None:
        """Check that no timer is left."""
        for end in self.network.ends:
            end.abortConnection()
        self.network.flush()
        assert [] == self.clock.getDelayedCalls()

    def joined(self) -> tuple[Noting, Noting]:
        """Return both ends of a new link."""
        client = Noting(self.network)
        self.connect(client)
        return client, self.servers[-1]

    def raw(self) -> RawClient:
        """Return a client that sends bytes."""
        client = RawClient()
        self.connect(client)
        return client

    def connect(self, protocol: Any) -> None:
        """Connect a protocol to the other end."""
        factory: Any = _quiet(lambda: protocol)
        factory.startedConnecting = lambda connector: None
        self.network.connectTCP("127.0.0.1", PORT, factory)
        self.network.flush()

    def send(self, client: RawClient, data: bytes) -> None:
        """Send bytes."""
        assert client.transport is not None
        client.transport.write(data)
        self.network.flush()

    def ask(self, end: LinkEnd, command: type[amp.Command], **arguments: Any) -> Any:
        """Return the answer to a command, or its failure."""
        found: list[Any] = []
        end.ask(command, **arguments).addBoth(found.append)
        self.network.flush()
        assert found, "no answer yet"
        return found[0].value if isinstance(found[0], Failure) else found[0]


def _quiet(build: Any) -> Factory:
    factory = Factory.forProtocol(build)
    factory.noisy = False
    return factory


def box(**values: bytes) -> bytes:
    """Return the bytes of a box."""
    return bytes(amp.AmpBox({key.encode(): value for key, value in values.items()}).serialize())


class CommandTests(EndTestCase):
    def test_an_unknown_command(self) -> None:
        """It is answered as unknown, without a line in the log, and the link goes on."""
        client, server = self.joined()

        assert isinstance(
            self.ask(client, TailLog, stream=1, lines=1, follow=False), amp.UnhandledCommand
        )
        assert {} == self.ask(client, Report, report=REPORT)
        assert [REPORT] == server.taken

    def test_a_value_that_cannot_be_read(self) -> None:
        """It is answered with an error, and the link goes on."""
        client, server = self.joined()
        asked = client.callRemoteString(b"Report", report=b'{"life": 7}')
        failures: list[Any] = []
        asked.addErrback(failures.append)
        self.network.flush()

        assert "cannot be read" in failures[0].getErrorMessage()
        assert failures[0].check(amp.RemoteAmpError)
        assert ([], []) == (server.taken, server.left)

    def test_a_value_is_missing(self) -> None:
        """A command without one of its values is answered in the same way."""
        client, server = self.joined()
        failures: list[Any] = []
        client.callRemoteString(b"Report").addErrback(failures.append)
        self.network.flush()

        assert 1 == len(failures)
        assert [] == server.left

    def test_an_error_of_the_command(self) -> None:
        """The error arrives as itself, with its message on one line."""
        client, _ = self.joined()
        found = self.ask(client, ReadMemory)

        assert isinstance(found, Failed)
        assert "no\\nengine" == str(found)

    def test_a_fault(self) -> None:
        """A fault of ours is in the log, and the other side learns nothing of it."""
        client, server = self.joined()
        found = self.ask(client, EndLog, stream=3)

        assert isinstance(found, amp.UnknownRemoteError)
        assert "stream 3" not in str(found)
        assert 1 == len(self.flushLoggedErrors(RuntimeError))
        assert [] == server.left

    def test_tls_is_not_begun(self) -> None:
        """AMP's own command for TLS is unknown here."""
        client, server = self.joined()
        found: list[Any] = []
        client.callRemoteString(b"StartTLS").addErrback(found.append)
        self.network.flush()

        assert found[0].check(amp.UnhandledCommand)
        assert server.is_open

    def test_a_value_too_long_to_send(self) -> None:
        """It fails at once, and the link goes on."""
        client, server = self.joined()
        long = AgentReport(life=EngineLife.ANSWERS, notes=("x" * 70_000,))
        found = self.ask(client, Report, report=long)

        assert isinstance(found, amp.TooLong)
        assert server.is_open

    def test_the_end_fails_what_was_asked(self) -> None:
        """Whoever waits for an answer hears how the link ended."""
        client, server = self.joined()
        server.looking = Deferred
        failures: list[Any] = []
        client.ask(ReadMemory).addErrback(failures.append)
        self.network.flush()
        server.close("enough")
        self.network.flush()

        assert failures[0].check(LinkEnded)
        assert CLOSED == failures[0].getErrorMessage()
        assert ([CLOSED], ["enough"]) == (client.left, server.left)
        assert isinstance(self.ask(client, ReadMemory), LinkEnded)

    def test_an_answer_too_long_to_send(self) -> None:
        """It is a fault of ours: the log has it, the other side an error, and the link goes on."""
        client, server = self.joined()
        server.looking = lambda: {
            "report": AgentReport(life=EngineLife.ANSWERS, notes=("x" * 70_000,))
        }

        assert isinstance(self.ask(client, ReadMemory), amp.UnknownRemoteError)
        assert 1 == len(self.flushLoggedErrors(ValueError))
        assert server.is_open

    def test_a_fault_in_taking_an_answer(self) -> None:
        """An error that no caller takes is in the log, and ends the link."""
        client, _ = self.joined()

        def fail(answer: dict[str, Any]) -> object:
            return answer["missing"]

        client.ask(Report, report=REPORT).addCallback(fail)
        self.network.flush()

        assert ["a fault in cortexd; its log has it"] == client.left
        assert 1 == len(self.flushLoggedErrors(KeyError))


class EndTests(EndTestCase):
    def test_before_the_connection(self) -> None:
        """An end that has no connection yet can end, and then sends nothing."""
        end = Noting(self.network)
        end.end("enough")

        assert ["enough"] == end.left
        assert not end.is_open
        assert isinstance(self.ask(end, ReadMemory), LinkEnded)

    def test_closed_twice(self) -> None:
        """The first reason for the end is the one that counts."""
        client, server = self.joined()
        server.close("enough")
        server.close("too late")
        server.end("later still")
        self.network.flush()

        assert ["enough"] == server.left
        assert 1 == len(client.left)

    def test_what_comes_after_the_end(self) -> None:
        """Neither bytes nor boxes that arrive after the end of a link are taken."""
        report = box(_command=b"Report", report=b'{"life":"answers"}')
        _, server = self.joined()
        server.dataReceived(report)
        assert 1 == len(server.taken)
        server.close("enough")
        server.dataReceived(report)
        _, other = self.joined()
        other.dataReceived(box(_answer=b"7") + report)

        assert 1 == len(server.taken)
        assert [] == other.taken

    def test_words(self) -> None:
        """The reason of an end says what TLS objects to, also where OpenSSL gives no reason."""
        wrong_name = VerificationError(errors=[])

        assert "the certificate of the other side is for another name" == words_for(
            Failure(wrong_name)
        )
        assert "TLS has failed: no reason" == words_for(Failure(SSL.Error()))
        assert "TLS has failed: unknown ca" == words_for(
            Failure(SSL.Error([("SSL routines", "", "Unknown CA")]))
        )
        assert LOST == words_for(Failure(ConnectionAborted()))
        assert "no\\nroute" == words_for(Failure(OSError("no\nroute")))


class GarbageTests(EndTestCase):
    def test_plain_http(self) -> None:
        """A request of HTTP ends the link."""
        client = self.raw()
        self.send(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

        assert "lost" == client.closed

    def test_no_box(self) -> None:
        """An empty box, one without a command, and an answer to nothing end the link quietly."""
        for sent in (b"\0\0", box(hello=b"x"), box(_answer=b"7"), box(_error=b"7")):
            client = self.raw()
            self.send(client, sent)

            assert "lost" == client.closed, sent

    def test_too_large_before_the_greeting(self) -> None:
        """A peer that is not admitted sends small boxes only, however it divides them."""
        one = box(_command=b"Report", _ask=b"1", report=b"x" * MAX_GREETING_BYTES)
        keys = {f"k{n}": b"x" * 100 for n in range(MAX_GREETING_BYTES // 100)}
        for sent in (one, box(_command=b"Report", **keys)):
            client = self.raw()
            self.send(client, sent)

            assert "lost" == client.closed
            assert b"" == client.received

    def test_too_large_after_it(self) -> None:
        """An agent's boxes have a limit too; one value of the longest kind is within it."""
        client = self.raw()
        self.servers[-1].admit()
        self.send(client, box(_command=b"Unknown", _ask=b"1", a=b"x" * 65_535))
        assert "" == client.closed
        self.send(client, box(_command=b"Unknown", a=b"x" * 65_535, b=b"x" * 20_000))

        assert "lost" == client.closed

    @settings(max_examples=60, deadline=None)
    @given(
        st.one_of(
            st.binary(max_size=60),
            st.dictionaries(
                st.sampled_from(["_command", "_ask", "_answer", "_error", "report", "stream"]),
                st.sampled_from([b"", b"1", b"Report", b"Beat", b"EndLog2", b"{}", b"\xff"]),
            ).map(lambda values: box(**values)),
        )
    )
    def test_no_bytes_cause_a_traceback(self, sent: bytes) -> None:
        """Whatever comes, the end answers or ends the link, and logs nothing."""
        client = self.raw()
        self.send(client, sent)
        if client.closed == "" and client.transport is not None:
            client.transport.loseConnection()
        self.network.flush()

        assert [] == self.flushLoggedErrors()
        assert [] == [end for end in self.network.ends if not end.closed]


class SilenceTests(EndTestCase):
    def test_beats(self) -> None:
        """After some silence the client sends a beat; its answer is the server's sign of life."""
        client, server = self.joined()
        self.network.advance(DEAD_SECONDS * 4)

        assert 9 <= server.beats <= 10
        assert 0 == client.beats
        assert ([], []) == (client.left, server.left)

    def test_silence_is_noticed_by_both(self) -> None:
        """Where no byte passes any more, both ends end the link after DEAD_SECONDS."""
        client, server = self.joined()
        for end in self.network.ends:
            end.reads = False  # as if the cable were cut
        self.network.advance(DEAD_SECONDS - 1)
        assert ([], []) == (client.left, server.left)
        self.network.advance(1)

        assert ["silent for 25 s"] * 2 == client.left + server.left

    def test_a_peer_that_does_not_close(self) -> None:
        """It is cut off after a while."""
        _, server = self.joined()
        held = _server_end(self.network)
        held.__dict__["turn"] = lambda: False  # TLS may wait for its peer
        server.close("enough")
        self.network.flush()
        assert ["enough"] == server.left
        assert not server.gone.called
        del held.__dict__["turn"]
        self.network.advance(CLOSE_SECONDS)

        assert server.gone.called


class FloodTests(EndTestCase):
    def test_a_flood_is_read_slowly(self) -> None:
        """Boxes beyond the burst wait, and all are taken in the end."""
        client, server = self.joined()
        for _ in range(int(BURST) * 3):
            client.callRemoteString(b"Beat", requiresAnswer=False)
        self.network.flush()
        at_once = server.beats
        self.network.advance(5)

        assert BURST + 1 == at_once
        assert BURST * 3 == server.beats
        assert [] == server.left

    def test_unread_answers(self) -> None:
        """An end that does not read its answers is not read either."""
        client, server = self.joined()
        client.admit()
        notes = tuple("x" * 300 for _ in range(100))
        seen = {"report": AgentReport(life=EngineLife.ANSWERS, notes=notes)}
        server.looking = lambda: seen
        ours = next(end for end in self.network.ends if end is client.transport)
        ours.reads = False
        for _ in range(20):
            client.ask(ReadMemory).addErrback(lambda failure: None)
        self.network.flush()

        assert len(_server_end(self.network).unread) < 128 * 1024
        ours.reads = True
        self.network.flush()
        assert [] == server.left

    def test_two_reasons_to_read_nothing(self) -> None:
        """After a flood, an end whose answers are unread reads on only when they are read."""
        client, server = self.joined()
        for _ in range(int(BURST) * 2):
            client.callRemoteString(b"Beat", requiresAnswer=False)
        self.network.flush()
        at_once = server.beats
        server.pauseProducing()
        self.network.advance(5)
        assert at_once == server.beats
        server.resumeProducing()
        self.network.advance(3)

        assert BURST * 2 == server.beats
        assert [] == server.left


def _server_end(network: Network) -> End:
    (found,) = network.open_ends(PORT)
    return found
