"""Summaries of planned restarts, for control: pure, as those of ``cortexd.control.answers``."""

from __future__ import annotations

from cortexd.control.summaries import EndedRestartSummary, RestartPlanSummary, RestartSummary
from cortexd.fleet.agents import EngineLife
from cortexd.fleet.nodes import Node
from cortexd.scheduling.repairs.events import RestartEnded
from cortexd.scheduling.repairs.plans import RestartPlan
from cortexd.scheduling.repairs.restarts import Restart


def given_up_words(node: Node) -> str:
    """Return why a node's agent no longer starts its engine, empty while it does."""
    report = node.report
    if report is None or report.life is not EngineLife.GIVEN_UP:
        return ""
    return report.reason or "it ended again and again"


def restart_summary(restart: Restart, now: float) -> RestartSummary:
    """Return the summary of a restart that is planned or under way."""
    return RestartSummary(
        number=restart.number,
        phase=restart.phase.value,
        reason=restart.reason,
        age_seconds=round(max(0.0, now - restart.since), 3),
        waits_for=restart.waits_for,
        is_ordered=restart.is_ordered,
        leases=restart.node.leases,
    )


def ended_summary(ended: RestartEnded) -> EndedRestartSummary:
    """Return the summary of a restart that is over."""
    return EndedRestartSummary(
        number=ended.number,
        failure=ended.failure,
        seconds=round(ended.seconds, 3),
        models=list(ended.models),
    )


def restart_plan_summary(plan: RestartPlan) -> RestartPlanSummary:
    """Return the summary of what a restart would do."""
    return RestartPlanSummary(
        node=plan.node,
        reason=plan.reason,
        leases=plan.leases,
        moving=plan.moving,
        after=list(plan.after),
        begun=plan.begun,
        budget=plan.budget,
        models=list(plan.models),
        pins=list(plan.pins),
        alone=list(plan.alone),
        planned=plan.planned,
    )
