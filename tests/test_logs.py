"""What reaches the log, in which shape, and what never does."""

import dataclasses
import io
import json
import sys
import threading
from typing import Any, NoReturn

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    capturedLogs,
    globalLogPublisher,
    textFileLogObserver,
)
from twisted.protocols.amp import AMP
from twisted.python import context
from twisted.python import log as legacy_log
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from zope.interface.verify import verifyObject

from cortexd import logs
from cortexd.logs import (
    Fields,
    FlatContextTracker,
    fields_of,
    get_logger,
    json_observer,
    redacted,
)


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


@dataclasses.dataclass
class Letter:
    """Stands for any typed value that holds what a client wrote."""

    model: str
    prompt: str


class Parcel(msgspec.Struct):
    """The same as a msgspec Struct, which is what requests are decoded into."""

    model: str
    messages: list[str]


class Unprintable:
    """A value whose repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def raised(message: str) -> Failure:
    """Return a Failure with a traceback of its own."""

    def fail() -> NoReturn:
        raise ValueError(message)

    try:
        fail()
    except ValueError:
        return Failure()


class LoggerTests(SynchronousTestCase):
    def test_event_carries_its_fields(self) -> None:
        """An event reaches Twisted's publisher with namespace, level and fields."""
        with capturedLogs() as events:
            get_logger("cortexd.poller").info("node_down", node="gpu-large", failures=2)

        (event,) = events
        self.assertEqual("cortexd.poller", event["log_namespace"])
        assert event["log_level"] is LogLevel.info
        self.assertEqual(
            {"event": "node_down", "node": "gpu-large", "failures": 2}, fields_of(event)
        )

    def test_every_level(self) -> None:
        """Each level of structlog becomes Twisted's level of that rank."""
        log = get_logger("cortexd.test")
        with capturedLogs() as events:
            log.debug("a")
            log.info("b")
            log.warning("c")
            log.error("d")
            log.critical("e")
        self.flushLoggedErrors()

        expected = [LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error, LogLevel.critical]
        self.assertEqual(expected, [event["log_level"] for event in events])

    def test_bound_fields(self) -> None:
        """A bound logger adds its fields to each event, and the logger it came from does not."""
        log = get_logger("cortexd.test")
        with capturedLogs() as events:
            log.bind(request_id="r-1").info("routed", node="a")
            log.info("idle")

        self.assertEqual(
            [
                {"event": "routed", "request_id": "r-1", "node": "a"},
                {"event": "idle"},
            ],
            [fields_of(event) for event in events],
        )

    def test_text_observer_prints_one_readable_line(self) -> None:
        """Twistd's default observer prints name and fields, with quotes where they are needed."""
        stream = io.StringIO()
        observer = textFileLogObserver(stream)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

        get_logger("cortexd.poller").info(
            "node_down", node="gpu-large", reason="connection refused", tries=2, note="a\nb"
        )

        assert stream.getvalue().endswith(
            "[cortexd.poller#info] node_down node=gpu-large reason='connection refused' tries=2"
            " note='a\\nb'\n"
        )

    def test_failure_becomes_log_failure(self) -> None:
        """A Failure, an exception and exc_info all arrive as the event's log_failure."""
        log = get_logger("cortexd.test")
        failure = raised("one")
        with capturedLogs() as events:
            log.error("a", failure=failure, node="n")
            log.error("b", failure=failure.value)
            log.error("c", exc_info=failure.value)
            try:
                int("four")
            except ValueError:
                log.exception("d")
                log.error("e", exc_info=sys.exc_info())

        messages = [str(event["log_failure"].value) for event in events]
        self.assertEqual(["one", "one", "one"], messages[:3])
        self.assertEqual(["'four'", "'four'"], [message.split()[-1] for message in messages[3:]])
        self.assertEqual({"event": "a", "node": "n"}, fields_of(events[0]))
        self.assertEqual(5, len(self.flushLoggedErrors(ValueError)))

    def test_failure_that_is_none(self) -> None:
        """A field called failure that holds no error stays a field."""
        with capturedLogs() as events:
            get_logger("cortexd.test").error("load_failed", failure="out of memory", exc_info=None)

        self.assertEqual({"event": "load_failed", "failure": "out of memory"}, fields_of(events[0]))
        assert "log_failure" not in events[0]

    def test_secrets_never_reach_the_bus(self) -> None:
        """Fields named like keys and prompts are redacted before any observer sees them."""
        with capturedLogs() as events:
            get_logger("cortexd.test").bind(authorization="Bearer sk-1").info(
                "request", body={"model": "m"}, headers={"X-Api-Key": "sk-2", "accept": "*/*"}
            )

        self.assertEqual(
            {
                "event": "request",
                "authorization": "[redacted]",
                "body": "[redacted]",
                "headers": {"X-Api-Key": "[redacted]", "accept": "*/*"},
            },
            fields_of(events[0]),
        )
        assert "sk-" not in repr(events[0])


class RedactedTests(SynchronousTestCase):
    def test_every_spelling_of_a_key(self) -> None:
        """Case, dashes and bytes in a key make no difference."""
        keys: list[Any] = ["Authorization", b"x-api-key", "API_KEY", "Set-Cookie", "input"]

        self.assertEqual({"[redacted]"}, set(redacted(dict.fromkeys(keys, "sk-1")).values()))

    def test_words_that_only_contain_a_key(self) -> None:
        """Counts such as prompt_tokens are no prompts."""
        counts = {"prompt_tokens": 3, "content_length": 5, "input_tokens": 7}

        self.assertEqual(counts, redacted(counts))

    def test_typed_values(self) -> None:
        """Dataclasses, Structs, header collections and pairs are looked into as dicts are."""
        headers = Headers({b"cookie": [b"sk-1"]})

        self.assertEqual({"model": "m", "prompt": "[redacted]"}, redacted(Letter("m", "hush")))
        self.assertEqual({"model": "m", "messages": "[redacted]"}, redacted(Parcel("m", ["hush"])))
        self.assertEqual({"Cookie": "[redacted]"}, redacted(headers))
        self.assertEqual([["b'X-Api-Key'", "[redacted]"]], redacted([(b"X-Api-Key", b"sk-1")]))
        self.assertEqual([{"model": "m", "prompt": "[redacted]"}], redacted((Letter("m", "hush"),)))

    def test_value_that_holds_itself(self) -> None:
        """A structure without end is cut off at a depth."""
        endless: dict[str, object] = {}
        endless["again"] = endless

        assert "[too deep]" in json.dumps(redacted(endless))

    def test_long_text_is_cut(self) -> None:
        """A client cannot fill the log with one value."""
        text = redacted("x" * 1_000_000)

        assert len(text) < logs.MAX_TEXT_LENGTH + 100
        assert text.endswith("[1000000 characters]")

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.text() | st.integers(), inner)
                | st.dictionaries(st.sampled_from(["Prompt", "x-api-key"]), st.just("hush-hush"))
            ),
        )
    )
    def test_any_value_is_safe(self, value: object) -> None:
        """Whatever is logged comes out as JSON that hides the secrets in it."""
        encoded = msgspec.json.encode(redacted(value))

        json.loads(encoded)
        assert b"hush-hush" not in encoded


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


class FlatContextTrackerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.tracker = FlatContextTracker()

    def seen(self) -> object:
        return self.tracker.getContext("system", "none")

    def test_the_innermost_context_counts(self) -> None:
        """Until it is left, be it by an error."""

        def fail() -> None:
            raise ValueError

        def inner_and_outer() -> tuple[object, object]:
            self.assertRaises(ValueError, self.tracker.callWithContext, {"system": "bad"}, fail)
            return self.tracker.callWithContext({"system": "inner"}, self.seen), self.seen()

        found = self.tracker.callWithContext({"system": "outer"}, inner_and_outer)

        self.assertEqual((("inner", "outer"), "none"), (found, self.seen()))

    def test_each_thread_has_its_own(self) -> None:
        """Another one sees nothing of this one's, and Twisted's pool finds what to hand on."""
        found: list[object] = []

        def elsewhere() -> None:
            thread = threading.Thread(target=lambda: found.append(self.seen()))
            thread.start()
            thread.join(5)
            found.append(self.tracker.currentContext().contexts[-1])

        self.tracker.callWithContext({"system": "here"}, elsewhere)

        self.assertEqual(["none", {"system": "here"}], found)

    def test_twisted_logs_under_it(self) -> None:
        """Once installed, a line of Twisted's has the name of the connection that it is about."""
        for name in ("theContextTracker", "call", "get"):
            self.patch(context, name, getattr(context, name))
        context.installContextTracker(self.tracker)

        with capturedLogs() as events:
            legacy_log.callWithContext({"system": "Node,4"}, legacy_log.msg, "hello")

        self.assertEqual(["Node,4"], [event["log_system"] for event in events])
