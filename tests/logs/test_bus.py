"""What reaches the bus."""

import sys

from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from cortexd.logs import fields_of, get_logger
from tests.support.failures import raised


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
