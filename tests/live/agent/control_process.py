"""A process that does nothing but control one engine, for tests of real processes.

``python -m tests.live.agent.control_process TERMS`` takes the terms as JSON. It reads orders from
its standard input, one JSON list on each line, the name of a method and its arguments, and writes
each answer on a line. It stops at the end of its input. Its log goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from cortexd.agent.engine_control import Health
from cortexd.agent.supervising.control import Control
from cortexd.agent.supervising.making import engine_control
from cortexd.agent.supervising.terms import ProcessTerms
from cortexd.logs import json_observer


class AlwaysWell:
    """An engine whose process alone counts."""

    def look(self) -> Deferred[Health]:
        """Return that it is well."""
        return succeed(Health(True))


class Orders(LineOnlyReceiver):
    """Carries out the orders of the test."""

    delimiter = b"\n"

    def __init__(self, control: Control, reactor: Any) -> None:
        self._control = control
        self._reactor = reactor

    def lineReceived(self, line: bytes) -> None:
        """Carry out one order."""
        name, *arguments = json.loads(line)
        maybeDeferred(getattr(self, f"do_{name}"), *arguments).addCallbacks(
            lambda result: self._answer([name, result]), self._failed
        )

    def do_state(self) -> dict[str, object]:
        """Return what is seen of the engine, and of this process."""
        control = self._control
        return {
            "pids": control.pids(),
            "reason": control.reason,
            "restarts": control.restarts,
            "given_up": control.is_given_up,
            "notes": control.notes,
            "memory": _resident_mb(),
        }

    def do_restart(self, order: str, limit: float) -> Deferred[float]:
        """Restart the engine."""
        return self._control.restart(order, "a test", limit)

    def do_tail(self, lines: int) -> Deferred[Sequence[str]]:
        """Return the last lines."""
        return self._control.tail(1, lines, None)

    def connectionLost(self, reason: Failure = Failure(ValueError())) -> None:  # noqa: B008 - Twisted's
        """Stop: the test is over."""
        stopped = maybeDeferred(self._control.service.stopService)
        stopped.addBoth(lambda _: self._reactor.stop())

    def _failed(self, failure: Failure) -> None:
        self._answer(["failed", failure.getErrorMessage()])

    def _answer(self, answer: object) -> None:
        self.sendLine(json.dumps(answer).encode())


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1024 / 1024


def main() -> None:
    """Control an engine until the end of the input."""
    from twisted.internet import reactor

    globalLogBeginner.beginLoggingTo([json_observer(sys.stderr)], redirectStandardIO=False)
    given = json.loads(sys.argv[1])
    given["run_directory"] = Path(given["run_directory"])
    control = engine_control(reactor, ProcessTerms(**given), AlwaysWell(), os.environ)
    control.service.startService()
    StandardIO(Orders(control, reactor))
    reactor.run()


if __name__ == "__main__":
    main()
