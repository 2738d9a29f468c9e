"""The log while the daemon runs."""

import os

from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from cortexd.logs import lines
from cortexd.logs.outputs import DescriptorOutput
from cortexd.service.log_lines import IDLE_SECONDS, WAITING_SECONDS, LogLines


class LogLinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(lines._Threshold, "level", LogLevel.info)
        self.clock = Clock()
        self.dropped: list[int] = []
        self.service = LogLines(self.clock, "warning", self.dropped.append)

    def test_level(self) -> None:
        """The start sets the level that the configuration has."""
        self.service.startService()
        assert lines._Threshold.level is LogLevel.warn
        self.service.stopService()
        assert [] == self.clock.getDelayedCalls()

    def test_waiting_lines(self) -> None:
        """Lines that wait are tried again soon, without any new line; dropped ones are counted."""
        reader, writer = os.pipe()
        for end in (reader, writer):
            self.addCleanup(os.close, end)
        output = DescriptorOutput(writer, lambda count: b"gap\n", limit=1_000)
        self.addCleanup(output.close)
        self.service.startService()
        self.clock.advance(IDLE_SECONDS)
        for _ in range(1_000):
            output.write(b"x" * 99 + b"\n")
        self.clock.advance(IDLE_SECONDS)
        assert [output.dropped] == self.dropped
        received = os.read(reader, 1_000_000)

        self.clock.advance(WAITING_SECONDS)
        received += os.read(reader, 1_000_000)
        assert received.endswith(b"x\ngap\n")
        assert 1_000 == received.count(b"x\n") + output.dropped
        self.service.stopService()
        assert [] == self.clock.getDelayedCalls()
        assert [output.dropped] == self.dropped
