"""What the modules of cortexd log during a test."""

from __future__ import annotations

from typing import Any, cast

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from cortexd.logs import fields_of


def lines_of(case: SynchronousTestCase, *events: str) -> list[dict[str, Any]]:
    """Return a list that gets the fields of each line of these events, until the test ends."""
    lines: list[dict[str, Any]] = []

    def note(event: LogEvent) -> None:
        fields = dict(fields_of(event) or {})
        if fields.get("event") in events:
            lines.append(fields)

    observer = cast("ILogObserver", note)
    globalLogPublisher.addObserver(observer)
    case.addCleanup(globalLogPublisher.removeObserver, observer)
    return lines
