"""Makes the control of an engine of what the agent's file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed

from cortexd.agent.engine_control import HealthCheck
from cortexd.agent.supervising import commands
from cortexd.agent.supervising.control import Control
from cortexd.agent.supervising.elsewhere import Elsewhere
from cortexd.agent.supervising.kernel import Kernel, LinuxKernel
from cortexd.agent.supervising.runner import Runner
from cortexd.agent.supervising.supervised import Supervised
from cortexd.agent.supervising.tailing import Logs
from cortexd.agent.supervising.terms import ProcessTerms
from cortexd.service.guard import ANSWER_SECONDS, job_of, systemctl_command


def engine_control(
    reactor: Any,
    terms: ProcessTerms,
    health: HealthCheck,
    environ: Mapping[str, str],
    kernel: Kernel | None = None,
    outlives: Callable[[], Deferred[bool]] | None = None,
) -> Control:
    """Return the control of an engine under the terms of the agent's file.

    ``outlives`` decides at the stop of the agent whether an engine that it runs goes on: by default
    it does if systemd restarts the agent's unit, whose name is in CORTEX_UNIT.
    """
    kernel = kernel or LinuxKernel(reactor)
    cgroup = _text_of(Path("/proc/self/cgroup"))
    if terms.command:
        unit = environ.get("CORTEX_UNIT", "")
        manager = systemctl_command(unit, cgroup)
        runner: Runner
        runner = supervised = Supervised(
            reactor,
            kernel,
            terms,
            environ,
            outlives or (lambda: is_restarted(reactor, kernel, environ, unit, manager)),
        )
        logs = Logs(reactor, kernel, supervised.output, environ)
    else:
        systemctl = systemctl_command(terms.unit or "", cgroup)
        runner = Elsewhere(reactor, kernel, terms, environ, systemctl)
        logs = Logs(reactor, kernel, terms.log_command, environ)
    return Control(reactor, kernel, terms, health, environ, runner, logs)


def is_restarted(
    reactor: Any,
    kernel: Kernel,
    environ: Mapping[str, str],
    unit: str,
    systemctl: list[str] | None,
) -> Deferred[bool]:
    """Return whether systemd stops the agent's own unit in order to start it again at once.

    ``systemctl`` is the command that asks the systemd of the unit, ``None`` if there is none.
    """
    if systemctl is None:
        return succeed(False)
    command = [*systemctl, "list-jobs", "--no-legend", "--plain", "--full"]
    asked = commands.run(reactor, kernel, command, environ, ANSWER_SECONDS)

    def read(ran: commands.Ran) -> bool:
        return not ran.failure and job_of(ran.output.decode("utf-8", "replace"), unit) == "restart"

    return asked.addCallback(read)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
