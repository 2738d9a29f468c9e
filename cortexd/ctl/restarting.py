"""``cortexctl restart``, ``defrag`` and ``plan restart``: restarts of engines, and their plans."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from cortexd.control.agent_commands import PlanRestart, RestartNode, ShowRestart
from cortexd.control.contract import Refused
from cortexd.control.summaries import EndedRestartSummary, RestartPlanSummary, RestartSummary
from cortexd.ctl.client import ControlClient
from cortexd.ctl.options import node
from cortexd.ctl.output import count, in_lines
from cortexd.ctl.progress import POLL_SECONDS, Done, Tell
from cortexd.ctl.spans import duration
from cortexd.text import one_line

RESTARTS: Final = ("restart", "defrag")
"""The commands that restart an engine, as ``plan`` knows them."""


async def restart(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Restart a node's engine, and wait until it is over."""
    name = arguments.node
    answer = await client.ask(
        RestartNode,
        node=name,
        now=arguments.now or None,
        cold=arguments.cold or None,
        defrag=arguments.subcommand == "defrag" or None,
    )
    plan: RestartPlanSummary = answer["plan"]
    text = restarting_text(plan, now=arguments.now, cold=arguments.cold)
    if not arguments.wait:
        return Done(text, plan_data(plan))
    tell(text)
    ended = await _ended(client, name, answer["number"], tell)
    words = f"{name} is restarted; it took no work for {duration(ended.seconds)}"
    if ended.models:
        words += f"; loaded: {', '.join(ended.models)}"
    return Done(in_lines(words), {**plan_data(plan), "ended": msgspec.to_builtins(ended)})


async def _ended(client: ControlClient, name: str, number: int, tell: Tell) -> EndedRestartSummary:
    """Return how a restart ended, once it has; Refused if it failed or is no longer planned."""
    shown = ""
    while True:
        answer = await client.ask(ShowRestart, node=name)
        ended: EndedRestartSummary | None = answer["ended"]
        if ended is not None and ended.number == number:
            if ended.failure:
                raise Refused(f"the restart of {name} failed: {ended.failure}")
            return ended
        current: RestartSummary | None = answer["restart"]
        if current is None or current.number != number:
            raise Refused(
                f"the restart of {name} is no longer planned; 'cortexctl events' shows why"
            )
        words = restart_words(current)
        if words != shown:
            tell(in_lines(f"{name} {words}"))
            shown = words
        await client.pause(POLL_SECONDS)


def restart_words(restart: RestartSummary) -> str:
    """Say what a planned restart waits for or does now, of its node."""
    left = f"{count(restart.leases, 'request')} left" if restart.leases else "nothing runs there"
    match restart.phase:
        case "due":
            waits = f", and waits: {restart.waits_for}" if restart.waits_for else ""
            return f"is to be restarted{waits}"
        case "draining":
            return f"gets no new work until its restart: {left}"
        case "restarting":
            return "is being restarted by its agent"
        case "trimming":
            return "has restarted, and unloads what should not stay loaded"
        case "loading":
            return "takes work again, and loads what is missing"
        case other:
            return f"is in its restart: {other}"


async def plan_restart(client: ControlClient, name: str) -> Done:
    """Fetch what a restart of a node would do."""
    plan: RestartPlanSummary = (await client.ask(PlanRestart, node=name))["plan"]
    return Done(plan_text(plan), plan_data(plan))


def plan_data(plan: RestartPlanSummary) -> Mapping[str, Any]:
    """Return what a restart would do."""
    return {"plan": msgspec.to_builtins(plan)}


def plan_text(plan: RestartPlanSummary) -> str:
    """Show what a restart would do, and what speaks for it and against it."""
    lines = [
        f"the engine of {plan.node} would be restarted; it "
        + (f"needs that: {plan.reason}" if plan.reason else "does not need that by itself")
    ]
    if plan.planned:
        lines.append(f"a restart is planned there already ({plan.planned})")
    if plan.after:
        lines.append(f"it waits until the restart of {', '.join(plan.after)} is over")
    if plan.leases:
        lines.append(
            f"{count(plan.leases, 'request')} on it would end first; --now would abort "
            + ("it" if plan.leases == 1 else "them")
        )
    if plan.moving:
        lines.append(f"{plan.moving} is being loaded or unloaded there, which would end first")
    if plan.models:
        pins = ", ".join(plan.pins) or "nothing"
        lines.append(f"afterwards it has {', '.join(plan.models)}; with --cold {pins}")
    if plan.alone:
        lines.append(
            f"no other node has {', '.join(plan.alone)} loaded: their requests would wait, or load "
            "them elsewhere"
        )
    hour = f"{count(plan.begun, 'restart')} in the last hour"
    lines.append(f"{plan.node} had {hour}, and may have {plan.budget} without an operator")
    return in_lines(*lines)


def restarting_text(plan: RestartPlanSummary, *, now: bool, cold: bool) -> str:
    """Say that a restart has been ordered, and what it does to requests and models."""
    words = f"restarting the engine of {plan.node}"
    requests = count(plan.leases, "request")
    if plan.leases and now:
        words += f", which aborts {requests}"
    elif plan.leases:
        words += f" after {requests} on it {'has' if plan.leases == 1 else 'have'} ended"
    models = plan.pins if cold else plan.models
    back = ", ".join(models) if models else "nothing"
    return one_line(f"{words}; loaded afterwards: {back}") + "\n"


def restart_options(parser: ArgumentParser) -> None:
    """Add the options of ``restart``."""
    node(parser)
    parser.add_argument("--now", action="store_true", help="abort the requests that run there")
    parser.add_argument(
        "--cold", action="store_true", help="load only what is pinned there afterwards"
    )
    _wait_option(parser)


def defrag_options(parser: ArgumentParser) -> None:
    """Add the options of ``defrag``, a restart that keeps requests and models."""
    node(parser)
    parser.set_defaults(now=False, cold=False)
    _wait_option(parser)


def _wait_option(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--no-wait", dest="wait", action="store_false", help="do not wait for its end"
    )
