"""What an old daemon reports to its successor about the keys of the requests that it still has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ClassVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.protocols import amp

from cortexd.logs import get_logger
from cortexd.metering.meters import Meters, Report

log = get_logger("cortexd.handover")


class ReportUsage(amp.Command):
    """Report what was begun, ended or used with a key: a Report, as JSON.

    It has an answer, by which a successor of an older version can refuse it.
    """

    arguments: ClassVar[list[tuple[bytes, amp.Argument]]] = [(b"report", amp.Unicode())]


class UsageSender:
    """The part of an old daemon's end that sends these reports; see ``handover.Successor``."""

    _connection: amp.AMP
    _is_lost: bool

    def _send(self, send: Callable[[], None]) -> None:
        """Send once the connection is open; the class that this is a part of does it."""
        raise NotImplementedError

    def report(self, report: Report) -> None:
        """Report what this process does for a key. What cannot be reported is in the log."""

        def send() -> None:
            if self._is_lost:
                unreported()
                return
            encoded = msgspec.json.encode(report).decode()
            told: Deferred[Any] = self._connection.callRemote(ReportUsage, report=encoded)
            told.addErrback(lambda _: unreported())

        def unreported() -> None:
            if report.usage:
                log.warning("usage_unreported", key=report.name, usage=asdict(report.usage))

        self._send(send)


class UsageReceiver(amp.AMP):
    """The part of a successor's end that takes these reports to the ``meters``."""

    meters: Meters | None = None

    @ReportUsage.responder
    def report_usage(self, report: str) -> dict[str, Any]:
        """Count what the old daemon reports."""
        if self.meters is not None:
            self.meters.take(msgspec.json.decode(report, type=Report))
        return {}
