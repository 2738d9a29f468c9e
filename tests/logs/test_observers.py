"""What a log line has as JSON, and how the observer writes it."""

import io
import json
import os
import socket
import sys
from typing import Any

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    globalLogPublisher,
)
from twisted.protocols.amp import AMP
from twisted.python import log as legacy_log
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from cortexd.logs import (
    Fields,
    get_logger,
    json_observer,
    text_observer,
)
from tests.support.failures import raised


@implementer(IStreamClientEndpoint)
class Refusing:
    """Where no connection can be made."""

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803 - IStreamClientEndpoint's name
        return fail(ConnectionDone())


class GoneReader(io.StringIO):
    """Standard output whose reader has gone."""

    def write(self, _text: str) -> int:
        """Fail as a pipe does."""
        raise BrokenPipeError(32, "Broken pipe")


class CountingStream(io.StringIO):
    """Keeps each write apart and counts the flushes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.flushes = 0

    def write(self, text: str) -> int:
        """Keep the text."""
        self.writes.append(text)
        return len(text)

    def flush(self) -> None:
        """Count the call."""
        self.flushes += 1


class Unprintable:
    """A value whose repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class JSONObserverTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Listen to everything that is logged."""
        self.stream = io.StringIO()
        self.observe(json_observer(self.stream))

    def observe(self, observer: ILogObserver) -> None:
        """Have the observer see what is logged during this test."""
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def lines(self) -> list[dict[str, Any]]:
        """Return what was written, one JSON object a line."""
        return [json.loads(line) for line in self.stream.getvalue().split("\n")[:-1]]

    def test_observer_provides_twisted_interface(self) -> None:
        """Twistd takes the factory's product as a new-style observer."""
        assert verifyObject(ILogObserver, json_observer(self.stream))

    def test_own_event(self) -> None:
        """An event becomes time, level, logger and event, then its own fields, in this order."""
        event: LogEvent = {
            "log_time": 1_700_000_000.1234,
            "log_level": LogLevel.warn,
            "log_namespace": "cortexd.poller",
            "log_format": "{fields}",
            "fields": Fields(event="node_down", node="gpu-large"),
        }
        json_observer(self.stream)(event)

        self.assertEqual(
            '{"time":"2023-11-14T22:13:20.123Z","level":"warning","logger":"cortexd.poller",'
            '"event":"node_down","node":"gpu-large"}\n',
            self.stream.getvalue(),
        )

    def test_line_breaks_stay_inside(self) -> None:
        """One event is one line, whatever breaks its values hold."""
        get_logger("cortexd.test").info("a\nb", note="one\r\ntwo\u2028three")

        written = self.stream.getvalue()
        self.assertEqual(1, written.count("\n"))
        self.assertEqual(0, written.count("\r"))
        loaded = json.loads(written)
        self.assertEqual(("a\nb", "one\r\ntwo\u2028three"), (loaded["event"], loaded["note"]))

    def test_field_called_like_one_of_ours(self) -> None:
        """A field cannot pass itself off as the line's time, level or logger."""
        get_logger("cortexd.test").info("x", level="none", logger="other")

        (line,) = self.lines()
        self.assertEqual(("info", "cortexd.test"), (line["level"], line["logger"]))
        self.assertEqual(("none", "other"), (line["level_"], line["logger_"]))

    def test_values_that_are_no_json(self) -> None:
        """A value that cannot be serialised becomes its repr, and never an exception."""
        get_logger("cortexd.test").info(
            "odd", kind=int, bytes=b"x", big=2**70, lone="\ud800", bad=Unprintable(), ratio=1e999
        )

        (line,) = self.lines()
        self.assertEqual(
            ("<class 'int'>", "b'x'", str(2**70)), (line["kind"], line["bytes"], line["big"])
        )
        self.assertEqual(("\\ud800", None), (line["lone"], line["ratio"]))
        assert "Unprintable" in line["bad"]

    def test_fields_put_on_the_bus_by_hand(self) -> None:
        """Even fields that never went through get_logger cannot break the line."""
        Logger("x").info("{fields}", fields=Fields(event="raw", value=int))

        self.assertEqual(["<class 'int'>"], [line["value"] for line in self.lines()])

    def test_failure_of_ours(self) -> None:
        """A failure becomes a traceback in its line."""
        get_logger("cortexd.poller").error("poll_crashed", failure=raised("no such node"))
        self.flushLoggedErrors(ValueError)

        (line,) = self.lines()
        self.assertEqual(("poll_crashed", "error"), (line["event"], line["level"]))
        assert line["traceback"].startswith("Traceback (most recent call last):\n")
        assert line["traceback"].endswith("ValueError: no such node")

    def test_failure_of_twisted(self) -> None:
        """Twisted's failures, new and legacy, have their text as event and a traceback."""
        Logger("twisted.web").failure("Request {what}", raised("one"), what="lost")
        Logger("twisted.web").failure("", raised("two"))
        legacy_log.err(raised("three"), "Poll went wrong")
        self.flushLoggedErrors(ValueError)

        self.assertEqual(
            [
                ("twisted.web", "Request lost"),
                ("twisted.web", "Unhandled Error"),
                ("twisted", "Poll went wrong"),
            ],
            [(line["logger"], line["event"]) for line in self.lines()],
        )
        self.assertEqual(
            ["one", "two", "three"], [line["traceback"].split()[-1] for line in self.lines()]
        )

    def test_failure_whose_text_fails(self) -> None:
        """An exception that cannot even be printed still leaves a line."""

        class MuteError(Exception):
            def __str__(self) -> str:
                raise RuntimeError("mute")

        get_logger("cortexd.test").error("crashed", failure=Failure(MuteError()))
        self.flushLoggedErrors(MuteError)

        (line,) = self.lines()
        self.assertEqual(("crashed", True), (line["event"], "MuteError" in line["traceback"]))

    def test_twisted_text(self) -> None:
        """Twisted's own events, new and legacy, have their text as event."""
        Logger("twisted.web").info("Timing out client: {peer}", peer="203.0.113.1")
        legacy_log.msg("Site starting on 8080")

        self.assertEqual(
            [
                ("info", "twisted.web", "Timing out client: 203.0.113.1"),
                ("info", "twisted", "Site starting on 8080"),
            ],
            [(line["level"], line["logger"], line["event"]) for line in self.lines()],
        )

    def test_noise_is_left_out(self) -> None:
        """Debug events, comings and goings, access lines and empty events are no news."""
        get_logger("cortexd.test").debug("detail")
        Logger("twisted.web").debug("detail")
        factory = Factory()
        factory.doStart()
        factory.doStop()
        amp = AMP()
        amp.makeConnection(StringTransport())
        amp.connectionLost(Failure(ConnectionDone()))
        service = ClientService(Refusing(), factory, clock=Clock())
        service.startService()
        service.stopService()
        legacy_log.msg('"127.0.0.1" - - [01/Jan/2026:00:00:00 +0000] "GET /v1/models HTTP/1.1" 200')
        legacy_log.msg("")

        self.assertEqual([], self.lines())

    def test_queries_are_left_out(self) -> None:
        """A URI that Twisted logs keeps its path and loses its query, in a traceback too."""
        Logger("twisted.web").info("Lost {uri}", uri="http://node:1234/v1/models?key=sk-1")
        Logger("twisted.web").failure("Oops", raised("GET /v1/files?key=sk-2 failed"))
        self.flushLoggedErrors(ValueError)

        self.assertEqual("Lost http://node:1234/v1/models?[redacted]", self.lines()[0]["event"])
        assert "GET /v1/files?[redacted] failed" in self.lines()[1]["traceback"]
        assert "sk-" not in self.stream.getvalue()

    def test_event_without_time_or_level(self) -> None:
        """An event that says little of itself still makes a whole line."""
        json_observer(self.stream)({"log_format": "bare"})

        (line,) = self.lines()
        self.assertEqual(
            ("info", "twisted", "bare"), (line["level"], line["logger"], line["event"])
        )
        assert line["time"].endswith("Z")

    def test_one_write_and_flush_for_each_line(self) -> None:
        """A line goes out whole and at once, so that lines of two writers do not mix."""
        stream = CountingStream()
        self.observe(json_observer(stream))

        get_logger("cortexd.test").info("a")
        get_logger("cortexd.test").info("b")

        self.assertEqual(["a", "b"], [json.loads(text)["event"] for text in stream.writes])
        assert all(text.endswith("}\n") for text in stream.writes)
        self.assertEqual(2, stream.flushes)

    def test_reader_gone(self) -> None:
        """A log nobody reads any more stops nobody: the next observer sees each event once."""
        self.observe(json_observer(GoneReader()))
        closed = io.StringIO()
        closed.close()
        self.observe(json_observer(closed))

        get_logger("cortexd.test").info("a")
        get_logger("cortexd.test").info("b")

        self.assertEqual(["a", "b"], [line["event"] for line in self.lines()])

    def test_standard_output_is_taken_when_the_factory_is_called(self) -> None:
        """The observer goes on writing to the stdout of its birth: twistd puts its own in place."""
        stream = io.StringIO()
        self.patch(sys, "stdout", stream)
        observer = json_observer()
        self.patch(sys, "stdout", io.StringIO())

        observer({"log_format": "started"})

        self.assertEqual("started", json.loads(stream.getvalue())["event"])

    def test_output_is_utf_8(self) -> None:
        """JSON goes out as UTF-8 under whatever locale the daemon was started."""
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii")
        json_observer(stream)({"log_format": "façade"})

        self.assertEqual("façade", json.loads(raw.getvalue().decode("utf-8"))["event"])

    def test_journald_gets_severities(self) -> None:
        """Lines to the stream that systemd names in JOURNAL_STREAM begin with their severity."""
        ours, theirs = socket.socketpair()
        with ours, theirs, os.fdopen(os.dup(ours.fileno()), "w") as stream:
            status = os.fstat(stream.fileno())
            journal = f"{status.st_dev}:{status.st_ino}"
            self.patch(os, "environ", {"JOURNAL_STREAM": journal})
            for observer in (json_observer(stream), text_observer(stream)):
                observer({"log_format": "started", "log_level": LogLevel.warn})
            self.patch(os, "environ", {})
            json_observer(stream)({"log_format": "started", "log_level": LogLevel.warn})
            lines = theirs.recv(65536).decode().splitlines()

        assert ["<4>{", "<4>-", '{"ti'] == [line[:4] for line in lines]
