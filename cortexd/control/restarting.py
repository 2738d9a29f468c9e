"""The daemon's side of the commands that restart a node's engine, let it sleep and wake it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cortexd.control.agent_commands import (
    PlanRestart,
    RestartNode,
    ShowRestart,
    SleepNode,
    WakeNode,
)
from cortexd.control.agents import AgentsControl
from cortexd.control.contract import fitted, refusing
from cortexd.control.repair_answers import ended_summary, restart_plan_summary, restart_summary
from cortexd.control.summaries import RestartPlanSummary
from cortexd.scheduling.powering.events import SleepWanted, WakeWanted
from cortexd.scheduling.repairs.events import RestartEnded, RestartWanted


class RestartControl(AgentsControl):
    """The part of a ControlProtocol that answers these commands."""

    @RestartNode.responder
    def restart_node(
        self, node: str, now: bool | None, cold: bool | None, defrag: bool | None
    ) -> Mapping[str, Any]:
        """Begin to restart a node's engine, and return what follows from it."""
        plan = self._planned(node)
        with refusing():
            self._dispatcher.dispatch(RestartWanted(node, now=bool(now), cold=bool(cold)))
        command = "defrag" if defrag else "restart"
        self.changed(command, node=node, now=now or None, cold=cold or None)
        restart = self._dispatcher.scheduler.restarts.on(node)
        return {"plan": plan, "number": restart.number if restart is not None else 0}

    @PlanRestart.responder
    def plan_restart(self, node: str) -> Mapping[str, Any]:
        """Return what a restart would do now."""
        return {"plan": self._planned(node)}

    @ShowRestart.responder
    def show_restart(self, node: str) -> Mapping[str, Any]:
        """Return the restart that is planned or under way, and the last one that is over."""
        self._node(node)
        restart = self._dispatcher.scheduler.restarts.on(node)
        ended: RestartEnded | None = self.factory.ended.get(node)
        return {
            "restart": fitted(restart_summary(restart, self._clock.seconds())) if restart else None,
            "ended": fitted(ended_summary(ended)) if ended is not None else None,
        }

    def _planned(self, node: str) -> RestartPlanSummary:
        self._node(node)
        with refusing():
            plan = self._dispatcher.scheduler.plan_restart(node, self._clock.seconds())
        return fitted(restart_plan_summary(plan))


class PowerControl(AgentsControl):
    """The part of a ControlProtocol that answers these commands."""

    @SleepNode.responder
    def sleep_node(self, node: str) -> Mapping[str, Any]:
        """Let a node sleep."""
        return self._power("sleep", SleepWanted(node))

    @WakeNode.responder
    def wake_node(self, node: str) -> Mapping[str, Any]:
        """Wake a node."""
        return self._power("wake", WakeWanted(node))

    def _power(self, command: str, wanted: SleepWanted | WakeWanted) -> Mapping[str, Any]:
        self._node(wanted.node)
        with refusing():
            self._dispatcher.dispatch(wanted)
        self.changed(command, node=wanted.node)
        return {}
