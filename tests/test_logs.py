"""What reaches the log, in which shape, and what never does."""

import dataclasses
import io
import json
import sys
import threading
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import (
    LogLevel,
    capturedLogs,
    globalLogPublisher,
    textFileLogObserver,
)
from twisted.python import context
from twisted.python import log as legacy_log
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from cortexd import logs
from cortexd.logs import (
    FlatContextTracker,
    fields_of,
    get_logger,
    redacted,
)
from tests.support.failures import raised


@dataclasses.dataclass
class Letter:
    """Stands for any typed value that holds what a client wrote."""

    model: str
    prompt: str


class Parcel(msgspec.Struct):
    """The same as a msgspec Struct, which is what requests are decoded into."""

    model: str
    messages: list[str]


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
            thread.join(30)
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
