"""Records agents, restarts, sleep and nodes over their budget, as ``cortexd.store.recorder``.

The log of agents is that of their links, which know more of them, but log each kind of change once
a minute: one that flaps has a line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from cortexd.fleet.sleep.power import PowerState
from cortexd.logs import get_logger
from cortexd.scheduling.events import Effect
from cortexd.scheduling.powering.events import PowerChanged
from cortexd.scheduling.repairs.events import (
    AgentChanged,
    BudgetExceeded,
    RestartEnded,
    RestartPlanned,
    StartRestart,
)
from cortexd.telemetry.metrics import Metrics

QUIET_SECONDS: Final = 60.0
"""The least time between two entries about one node's agent: a bad link may flap all night."""

log = get_logger("cortexd.fleet")


class Note(Protocol):
    """Appends an entry to the journal."""

    def __call__(self, kind: str, node: str | None, model: str | None, **fields: object) -> None:
        """Append it."""


@dataclass(slots=True)
class _Heard:
    """When an entry about a node's agent was last written, and the changes since then.

    ``later`` writes the ``latest`` of them once QUIET_SECONDS have passed.
    """

    written_at: float
    latest: AgentChanged
    unwritten: int = 0
    later: IDelayedCall | None = None


class RepairRecord:
    """Records these effects in the log, the ``metrics`` and, by ``note``, the journal."""

    def __init__(self, metrics: Metrics, note: Note, clock: IReactorTime) -> None:
        self._metrics = metrics
        self._note = note
        self._clock = clock
        self._heard: dict[str, _Heard] = {}

    def stop(self) -> None:
        """Write nothing any more."""
        for node in list(self._heard):
            self.forget(node)

    def forget(self, node: str) -> None:
        """Write nothing more about the agent of a node that leaves."""
        heard = self._heard.pop(node, None)
        if heard is not None and heard.later is not None:
            heard.later.cancel()

    def tell(self, effect: Effect) -> None:
        """Record an effect, if it is one of these."""
        match effect:
            case RestartPlanned(node, number, reason, kind):
                log.warning("restart_planned", node=node, reason=reason, decision=number)
                self._metrics.restarts_planned.labels(node, kind.value).inc()
                self._note("restart_planned", node, None, reason=reason)
            case StartRestart(node, number, reason):
                log.info("restart_started", node=node, reason=reason, decision=number)
                self._note("restart_started", node, None, reason=reason)
            case RestartEnded(node):
                self._ended(effect)
            case BudgetExceeded(node, over_mb):
                log.warning("node_over_budget", node=node, over_mb=over_mb)
                self._note("over_budget", node, None, over_mb=over_mb)
            case PowerChanged():
                self._power_changed(effect)
            case AgentChanged(node):
                self._changed(effect)

    def _ended(self, effect: RestartEnded) -> None:
        node, failure = effect.node, effect.failure
        if not effect.begun:
            log.info("restart_withdrawn", node=node, reason=failure)
            self._note("restart_withdrawn", node, None, reason=failure)
            return
        fields = {"seconds": round(effect.seconds, 3), "models": list(effect.models)}
        if failure:
            log.warning("restart_failed", node=node, reason=failure, **fields)
            self._note("restart_failed", node, None, reason=failure, **fields)
        else:
            log.info("restart_ended", node=node, **fields)
            self._note("restart_ended", node, None, **fields)
        self._metrics.planned_restarts.labels(node, "failed" if failure else "ok").inc()

    def _power_changed(self, effect: PowerChanged) -> None:
        node, before, failure = effect.node, effect.before, effect.failure
        fields = {"reason": effect.reason, **({"failure": failure} if failure else {})}
        level = log.warning if failure else log.info
        level(f"node_{effect.after.value}", node=node, before=before.value, **fields)
        self._note(f"node_{effect.after.value}", node, None, **fields)
        result = "failed" if failure else "ok"
        if effect.after is PowerState.ASLEEP or (failure and before is PowerState.SUSPENDING):
            self._metrics.suspends.labels(node, result).inc()
        elif before is PowerState.WAKING:
            self._metrics.wakes.labels(node, result).inc()

    def _changed(self, change: AgentChanged) -> None:
        heard = self._heard.get(change.node)
        if heard is None:
            self._write(change, changes=0)
            return
        left = heard.written_at + QUIET_SECONDS - self._clock.seconds()
        if left <= 0 and heard.later is None:
            self._write(change, changes=0)
            return
        heard.latest = change
        heard.unwritten += 1
        if heard.later is None:
            heard.later = self._clock.callLater(left, self._write_latest, change.node)

    def _write(self, change: AgentChanged, changes: int) -> None:
        """Write a change, with the number of ``changes`` since the entry before if it has any."""
        node = change.node
        self._heard[node] = _Heard(self._clock.seconds(), change)
        flaps = {"changes": changes} if changes > 1 else {}
        if flaps:
            connected = bool(change.version)
            log.warning("agent_flaps", node=node, changes=changes, connected=connected)
        if change.version:
            self._note("agent_connected", node, None, version=change.version, **flaps)
        else:
            self._note("agent_gone", node, None, reason=change.reason, **flaps)

    def _write_latest(self, node: str) -> None:
        heard = self._heard[node]
        self._write(heard.latest, heard.unwritten)
