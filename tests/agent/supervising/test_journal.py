"""The engine's output in the agent's log."""

from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.journal import (
    BURST_LINES,
    LINES_PER_SECOND,
    Allowance,
    EngineLog,
)
from cortexd.logs import fields_of


class AllowanceTests(SynchronousTestCase):
    def test_a_flood(self) -> None:
        """A burst gets through, then so many lines a second, and each gap is counted once."""
        allowance = Allowance()
        assert (BURST_LINES, 0) == allowance.admit(10 * BURST_LINES, 0.0)
        assert (0, 0) == allowance.admit(5, 0.0)
        missing = 9 * BURST_LINES + 5
        assert (int(LINES_PER_SECOND), missing) == allowance.admit(1000, 1.0)
        assert (1, 1000 - int(LINES_PER_SECOND)) == allowance.admit(1, 2.0)
        assert (BURST_LINES, 0) == allowance.admit(BURST_LINES, 1000.0)

    def test_a_clock_that_goes_back(self) -> None:
        """It makes no room, and takes none."""
        allowance = Allowance()
        allowance.admit(BURST_LINES, 100.0)
        assert (0, 0) == allowance.admit(1, 50.0)


class EngineLogTests(SynchronousTestCase):
    def test_lines_keep_their_levels(self) -> None:
        """Each line is an event; what is missing is one too."""
        now = [0.0]
        engine_log = EngineLog(lambda: now[0])
        with capturedLogs() as events:
            engine_log([b"<3>no memory", b"loading"])
            engine_log([b"x"] * BURST_LINES)
            now[0] = 1.0
            engine_log([b"after"])
        found = [(event["log_level"], fields_of(event)) for event in events]
        assert (LogLevel.error, {"event": "engine", "line": "no memory"}) == found[0]
        assert (LogLevel.info, {"event": "engine", "line": "loading"}) == found[1]
        assert (LogLevel.warn, {"event": "engine_lines_left_out", "lines": 2}) == found[-2]
        assert (LogLevel.info, {"event": "engine", "line": "after"}) == found[-1]
