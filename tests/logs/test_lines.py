"""What a line of text has, which events get a line, and severities."""

from __future__ import annotations

import json
from collections.abc import Sequence

from twisted.logger import LogEvent, Logger, LogLevel, capturedLogs
from twisted.python import log as legacy_log
from twisted.trial.unittest import SynchronousTestCase

from cortexd.logs import get_logger, lines
from cortexd.logs.lines import LEVELS, dropped, json_line, set_level, text_line, with_priority
from tests.support.failures import raised

STARTING = "Starting factory {factory!r}"
ACCESS = '"127.0.0.1" - - [01/Jan/2026:00:00:00 +0000] "GET /v1/models HTTP/1.1" 200'


def only(events: Sequence[LogEvent]) -> LogEvent:
    (event,) = events
    return event


class LineTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(lines._Threshold, "level", LogLevel.info)
        with capturedLogs() as self.events:
            log = get_logger("cortexd.test")
            log.debug("a")
            Logger("twisted.web").debug("b")
            log.info("c")
            Logger("twisted").info(STARTING, factory="d")
            legacy_log.msg(ACCESS)
            log.warning("e")
            log.error("f")
            Logger("twisted").critical("g")
        self.flushLoggedErrors()


class LevelTests(LineTestCase):
    def shown(self) -> str:
        """Return the ends of the lines that there are, the same in both forms."""
        texts = [text_line(event) for event in self.events]
        objects = [json_line(event) for event in self.events]
        assert [text is None for text in texts] == [line is None for line in objects]
        return " ".join(text.split()[-1] for text in texts if text is not None)

    def test_levels(self) -> None:
        """The level is from which on events have a line; noise only has one at level debug."""
        for name, expected in (
            ("debug", "a b c 'd' 200 e f g"),
            ("info", "c e f g"),
            ("warning", "e f g"),
            ("error", "f g"),
        ):
            set_level(name)
            assert expected == self.shown(), name
        assert LEVELS.keys() == {"debug", "info", "warning", "error"}

    def test_severities(self) -> None:
        """Each line begins with the severity of syslog, which journald takes off."""
        set_level("debug")
        begun = [(with_priority(text_line)(event) or "")[:3] for event in self.events]
        assert ["<7>", "<7>", "<6>", "<6>", "<6>", "<4>", "<3>", "<2>"] == begun
        line = with_priority(json_line)(self.events[-1]) or ""
        assert ("<2>", "g") == (line[:3], json.loads(line[3:])["event"])
        set_level("info")
        assert with_priority(text_line)(self.events[0]) is None


class TextTests(SynchronousTestCase):
    def text(self, event: LogEvent) -> str:
        line = text_line(event)
        assert line is not None
        return line

    def test_own_event(self) -> None:
        """Time, module, level, name and fields, with quotes where they are needed."""
        with capturedLogs() as events:
            get_logger("cortexd.poller").info(
                "node_down", node="gpu-large", reason="connection refused", tries=2, note="a\nb"
            )
        text = self.text({**only(events), "log_time": None})

        assert (
            "- [cortexd.poller#info] node_down node=gpu-large reason='connection refused' tries=2"
            " note='a\\nb'"
        ) == text

    def test_time(self) -> None:
        """The time is the one that Twisted's own observer writes."""
        assert self.text({"log_format": "x", "log_time": 0.0}).startswith("1970-01-01T")

    def test_traceback(self) -> None:
        """It follows on lines of its own, each with a tab, and each with the severity."""
        with capturedLogs() as events:
            get_logger("cortexd.poller").error("poll_crashed", failure=raised("no such node"))
        self.flushLoggedErrors(ValueError)
        first, *others = self.text(only(events)).split("\n")

        assert first.endswith("[cortexd.poller#error] poll_crashed")
        assert others[-1] == "\tbuiltins.ValueError: no such node"
        assert all(line.startswith("\t") for line in others)
        marked = with_priority(text_line)(only(events)) or ""
        assert all(line.startswith("<3>") for line in marked.split("\n"))

    def test_nothing_steers_a_terminal(self) -> None:
        """Control characters are escaped, in texts of Twisted's and in fields."""
        text = self.text({"log_format": "a\x1b]0;title\x07b\tc\rd"})
        assert text.endswith("a\\x1b]0;title\\x07b\tc d")
        with capturedLogs() as events:
            get_logger("x").info("e", node="\x1b[31m")
        assert self.text(only(events)).endswith("e node='\\x1b[31m'")

    def test_queries_are_left_out(self) -> None:
        """A URI that Twisted logs loses its query, in a traceback too."""
        with capturedLogs() as events:
            Logger("twisted.web").failure("At /a?key=sk-1 now", raised("GET /b?key=sk-2 failed"))
        self.flushLoggedErrors(ValueError)
        text = self.text(only(events))

        assert ("/a?[redacted] now" in text, "/b?[redacted] failed" in text) == (True, True)
        assert "sk-" not in text

    def test_context(self) -> None:
        """The name of the connection stands in the place of the module, as Twisted has it."""
        assert self.text({"log_format": "x", "log_system": "Node,4"}).endswith("[Node,4] x")

    def test_dropped(self) -> None:
        """The line in the place of lines that were dropped has their number."""
        assert self.text(dropped(7)).endswith("[cortexd.logs#warn] log_lines_dropped lines=7")
