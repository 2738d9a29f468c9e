"""``cortexctl reload`` and ``cortexctl plan reload``: what changes, in words and as data."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from cortexd.control.contract import LAST_PAGE, ListReloaded, PlanReload, Reload
from cortexd.control.summaries import ChangeSummary, PlanSummary
from cortexd.ctl.client import ControlClient
from cortexd.ctl.output import plan_data, plan_text
from cortexd.ctl.progress import Done, Tell
from cortexd.ctl.restarting import RESTARTS
from cortexd.text import one_line

NOTHING: Final = "nothing differs from the configuration in effect"
AT_RESTART: Final = "; takes effect at the next restart"
PLANNED: Final = ("load", "reload", *RESTARTS)


async def reload(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Reload the configuration, and fetch what has changed."""
    answer = await client.ask(Reload)
    changes: list[ChangeSummary] = list(answer["items"])
    while answer["next"] != LAST_PAGE:
        answer = await client.ask(ListReloaded, offset=answer["next"])
        changes += answer["items"]
    return Done(reload_text("reloaded", changes), _data(changes))


async def plan_reload(client: ControlClient) -> Done:
    """Fetch what a reload would change."""
    changes: list[ChangeSummary] = await client.ask_all(PlanReload)
    return Done(reload_text("a reload would change", changes), _data(changes))


def reload_text(title: str, changes: Sequence[ChangeSummary]) -> str:
    """Show changes, one on each line."""
    if not changes:
        return f"{title}: {NOTHING}\n"
    lines = [
        one_line(f"{each.key}: {each.words}{AT_RESTART if each.at_restart else ''}")
        for each in changes
    ]
    return "\n  ".join([f"{title}:", *lines]) + "\n"


def planned_text(planned: PlanSummary | Done, now: float) -> str:
    """Show the consequences of a load, or those of a reload."""
    return planned.text if isinstance(planned, Done) else plan_text(planned, now)


def planned_data(planned: PlanSummary | Done) -> Mapping[str, Any]:
    """Return the same as data."""
    return planned.data if isinstance(planned, Done) else plan_data(planned)


def _data(changes: Sequence[ChangeSummary]) -> Mapping[str, Any]:
    return {"changes": msgspec.to_builtins(changes)}


def plan_options(parser: ArgumentParser) -> None:
    """Add the options of ``plan``: what is planned, the model of a load, the node of a restart."""
    parser.add_argument("change", choices=PLANNED, metavar="|".join(PLANNED), help="what to plan")
    parser.add_argument(
        "model",
        metavar="MODEL|NODE",
        nargs="?",
        help="the model to load, by its id or an alias, or the node to restart",
    )
    parser.add_argument("--node", metavar="NODE", help="only on this node (default: the best node)")


def plan_problem(arguments: Namespace) -> str | None:
    """Return what is wrong with the arguments of ``plan``, ``None`` if nothing is."""
    if arguments.change == "load":
        return None if arguments.model else "plan load needs a MODEL"
    if arguments.change in RESTARTS:
        if arguments.node:
            return f"plan {arguments.change} takes the node without --node"
        return None if arguments.model else f"plan {arguments.change} needs a NODE"
    if arguments.model or arguments.node:
        return "plan reload takes no model and no node"
    return None
